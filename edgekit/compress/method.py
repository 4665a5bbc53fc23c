"""Method: one compression step, ModelProto -> ModelProto; Workbench: what a step may ask while it works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from edgekit.spec import Registry, Spec, spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from onnx import ModelProto

    from edgekit.compress.search import Budget, Trial

    Feed = Mapping[str, np.ndarray]

T = TypeVar("T")
STEPS: Registry[Method] = Registry(
    "step",
    "edgekit.compress.quantize.int8",
    "edgekit.compress.quantize.weights",
    "edgekit.compress.prune.channels",
    "edgekit.compress.prune.sparsity",
    "edgekit.compress.lowrank.rank",
    "edgekit.compress.compose",
)


class Drift(Protocol):
    """How far a model's outputs are from another's, on held-back pictures."""

    @property
    def sqnr_db(self) -> float:
        """Signal to quantisation noise of the outputs, in dB; higher is nearer."""

    @property
    def agreement(self) -> float | None:
        """Share of pictures with the same top answer, for classifiers; None for everything else."""

    @property
    def drop(self) -> float | None:
        """How much lower the score is, 0..1: against labels, else against the other model; None without a score."""

    @property
    def low(self) -> float | None:
        """Lower end of the paired 95% interval of `drop`: what is certainly lost."""

    @property
    def n(self) -> int:
        """On how many pictures."""

    @property
    def metric(self) -> str:
        """What `drop` is a drop of: `top-1`, `mAP`, `agreement` ..."""


class Speed(Protocol):
    """How one model's latency compares with another's, measured on whole graphs, interleaved."""

    @property
    def speedup(self) -> float:
        """before / after."""

    @property
    def low(self) -> float:
        """Lower end of its 95% interval."""

    @property
    def high(self) -> float:
        """Upper end of its 95% interval."""

    @property
    def verdict(self) -> str:
        """`faster`, `slower` or `no difference shown`."""

    @property
    def after_ms(self) -> float:
        """Median milliseconds of one inference, after."""


class Workbench(Protocol):
    """What a step may ask. Made by `run.py` from `measure`; tests make one without a clock."""

    seed: int
    int8: str  # the CPU's int8 instructions: vnni, avx2, arm-dot, arm, none
    only: tuple[str, ...]  # globs over node names and operator types
    exclude: tuple[str, ...]
    budget: Budget
    max_bytes: int  # of values that a run over a calibration input may hold
    form: str  # what models are timed as: `int8` where a later step makes them that, else `as it is`
    effort: float  # share of a long computation worth doing, 0..1: less for what is only to be compared

    @property
    def foreign(self) -> bool:
        """Whether the model is for a CPU of another kind, so that times measured here say nothing."""

    def feeds(self, samples: int) -> Iterator[Feed]:
        """At most `samples` calibration inputs (one picture each), always the same ones in the same order."""

    def remember(self, key: str, make: Callable[[], Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
        """What `make` gives from the calibration inputs, or gave under the same key in an earlier run."""

    def once(self, key: str, make: Callable[[], T]) -> T:
        """What `make` gives, or gave under the same key shortly before: for steps that are tried at many strengths."""

    def drift(self, before: ModelProto, after: ModelProto, most: int | None = None) -> Drift:
        """Compare outputs on the held-back pictures, at most `most` of them."""

    def speed(self, before: ModelProto, after: ModelProto) -> Speed:
        """Compare latency, shortly, of the models as they will run."""

    def node_times(self, model: ModelProto) -> Mapping[str, float]:
        """Microseconds that each node takes, by its name, once onnxruntime has rewritten the graph for this CPU.

        Of the model as it will run.
        """

    def has_time(self) -> bool:
        """Whether the time to try candidates is not over yet."""

    def remaining(self) -> float:
        """Seconds for which candidates may still be begun."""

    def settled(self, name: str) -> Any:
        """What a recipe that is replayed decided under `name` in this step; None when there is none."""

    def settle(self, name: str, value: Any) -> None:
        """Record a decision (plain values) in the recipe, so that it can be replayed without measuring."""

    def searched(self, trials: Sequence[tuple[Trial, bool, bool, bool]]) -> None:
        """Leave for the report what was tried: each trial, and whether it is within the budgets, Pareto, taken."""

    def kept(self) -> Sequence[Mapping[str, Any]]:
        """What was kept of this run so far, and of the same one when it was cut off."""

    def keep(self, record: Mapping[str, Any]) -> None:
        """Keep plain values until the run is finished, should it be cut off and begun again."""

    def say(self, text: str, /) -> None:
        """Tell the person who waits what was just done."""

    def note(self, text: str) -> None:
        """Leave one sentence for the report: what was tried and measured."""

    def decide(self, text: str) -> None:
        """Say in a few words what an automatic step chose, for the report's first line."""


@spec
class Method(Spec):
    """One step. Never changes its input, reads or writes files, or prints."""

    def apply(self, model: ModelProto, bench: Workbench) -> ModelProto:
        """Give a new model; raise EdgekitError when there is nothing it can do."""
        raise NotImplementedError
