"""A metric of one's own: a Python function that scores what a model answers for one sample, higher is better."""

from __future__ import annotations

import importlib
import math
import sys
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError
from edgekit.lazy import np
from edgekit.measure import bootstrap

if TYPE_CHECKING:
    from numpy import ndarray

FORM = "write --metric module:function, with module.py in this folder or installed"


@dataclass(frozen=True)
class Sample:
    """What a metric is told of a sample.

    path: its file. label: the folder the picture lies in, None for a flat one. inputs: what the model was fed with, by
    name. arrays: the arrays of the .npz whose names are no inputs of the model, such as the right answer. number: its
    place in the .npz, from 0; None for a picture.
    """

    path: Path | None
    label: str | None = None
    inputs: Mapping[str, ndarray] = field(default_factory=dict)
    arrays: Mapping[str, ndarray] = field(default_factory=dict)
    number: int | None = None

    def __str__(self) -> str:
        """Name it as errors do."""
        return f"{self.path}" if self.number is None else f"{self.path}, sample {self.number}"


@dataclass(frozen=True)
class Metric:
    """A function that gives a number for the outputs of one sample."""

    name: str
    function: Callable[[dict[str, ndarray], Sample], Any]

    def score(self, outputs: Mapping[str, ndarray], sample: Sample) -> float:
        """Score the outputs, by name; raise EdgekitError when the function raises or gives no finite number."""
        try:
            value = self.function(dict(outputs), sample)
        except Exception as error:  # the user's own code
            raise EdgekitError(
                f"--metric {self.name}: raises {type(error).__name__} on {sample}: {error}", "mend the function"
            ) from error
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise EdgekitError(
                f"--metric {self.name}: gives {_shown(value)} for {sample}, not a number",
                "let it return a float, higher for better",
            )
        return number


class Scores:
    """The scores of one model, sample by sample: eight bytes each."""

    def __init__(self) -> None:
        self._values = array("d")

    def add(self, value: float) -> None:
        """Take the score of the next sample."""
        self._values.append(value)

    @property
    def values(self) -> ndarray:
        """The scores in the order added: float64 (n,)."""
        return np.frombuffer(self._values.tobytes(), np.float64)


@dataclass(frozen=True)
class ScoreDelta:
    """Mean scores of two models on the same `n` samples; `drop` = before - after, with its 95% interval."""

    before: float
    after: float
    drop: float
    low: float
    high: float
    n: int


def paired(before: Scores, after: Scores, seed: int = 0) -> ScoreDelta:
    """Return the difference of the mean scores, its interval by the bootstrap over samples.

    Raises EdgekitError when there are none.
    """
    old, new = before.values, after.values
    n = len(old)
    if n == 0 or n != len(new):
        raise EdgekitError("there are no samples to score with --metric", "give them with --data or --feeds")
    gaps = old - new
    drop, low, high = bootstrap.interval(float(gaps.mean()), bootstrap.draws(n, seed=seed) @ gaps / n)
    return ScoreDelta(float(old.mean()), float(new.mean()), drop, low, high, n)


def load(name: str) -> Metric:
    """Import `module:function`, from the current folder or what is installed; raise EdgekitError when it is not there.

    The module is run as Python runs any import.
    """
    module, separator, function = name.partition(":")
    if not (separator and module and function):
        raise EdgekitError(f"--metric {name}: not of the form module:function", FORM)
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module + ".").startswith(error.name + "."):
            raise _broken(name, module, error) from error
        raise EdgekitError(f"--metric {name}: no module {module} in {folder} or installed", FORM) from None
    except (Exception, SystemExit) as error:  # the user's own code
        raise _broken(name, module, error) from error
    finally:
        sys.path.remove(folder)
    target = getattr(found, function, None)
    if not callable(target):
        near = [one for one in vars(found) if callable(getattr(found, one)) and not one.startswith("_")]
        hint = f"it has {', '.join(near)}" if near else "define it there"
        raise EdgekitError(f"--metric {name}: no function {function} in {module}", hint)
    return Metric(function, target)


def _broken(name: str, module: str, error: BaseException) -> EdgekitError:
    return EdgekitError(f"--metric {name}: importing {module} raises {type(error).__name__}: {error}", "mend it")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else type(value).__name__
