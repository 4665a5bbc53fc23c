"""Inference of how pictures are fed: what was given, what the model's files say, what accuracy or its weights show."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import graph, session
from edgekit.data.images import decode
from edgekit.errors import EdgekitError
from edgekit.lazy import np
from edgekit.measure import preprocess, synthetic
from edgekit.measure.classes import Classes, assign
from edgekit.measure.drift import is_scores
from edgekit.measure.preprocess import CHANNELS, SCALING, Preprocess

if TYPE_CHECKING:
    from numpy import ndarray
    from onnx import ModelProto

    from edgekit.data.folder import Source

    Judge = Callable[[ndarray], tuple[float, ndarray]]

OWN = "own"  # the pictures' own mean and std
FAMILIES = {"unit-like": ("imagenet", "unit", "signed"), "raw-like": ("raw", "caffe")}
# Where the evidence does not tell candidates apart, the commoner one is taken: the first of these.
ORDER = {1: ("unit", "signed", OWN, "imagenet", "raw", "caffe"), 3: ("imagenet", "unit", "signed", OWN, "raw", "caffe")}
DYNAMIC_SIZES = (224, 256, 299, 320, 384, 416, 512, 640, 160, 128, 96, 64, 48, 32, 28)
FEEDS = "give its inputs ready-made, one array for each: --feeds inputs.npz"
FIRST = 48  # pictures after which candidates that are clearly worse are dropped


@dataclass(frozen=True)
class Origin:
    """Where a field's value comes from: `given`, `metadata`, `sidecar`, `inferred` or `assumed`, and why."""

    field: str
    value: Any
    source: str
    reason: str = ""

    def __str__(self) -> str:
        value = self.value[::-1] if self.field == "size" else self.value
        if isinstance(value, tuple):
            value = ("x" if self.field == "size" else ",").join(f"{part:g}" for part in value)
        return f"{self.field} {value}: {self.source}" + (f", {self.reason}" if self.reason else "")


@dataclass(frozen=True)
class Decision:
    """How pictures are fed to `input_name` in batches of `batch`, with the origin of every field.

    family: what calibration feeds in turn: `preprocess` alone where that is certain, else all that may be right.
    runner_up: what came second, with its figure. notes: sentences for the report.
    """

    preprocess: Preprocess
    family: tuple[Preprocess, ...]
    origins: tuple[Origin, ...]
    input_name: str
    batch: int = 1
    runner_up: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """The model's picture input; height and width are None where the graph leaves them open."""

    name: str
    layout: str
    size: tuple[int | None, int | None]
    channels: int
    dtype: str
    batch: int


def decide(
    model: ModelProto,
    *,
    given: Mapping[str, Any] | None = None,
    model_path: Path | None = None,
    pictures: Sequence[Source] = (),
    classes: Classes | None = None,
    extra: Mapping[str, ndarray] | None = None,
    threads: int = 1,
) -> Decision:
    """Decide how pictures are fed to `model`; each field comes from the first of these that has it.

    `given` (as `preprocess.parse` takes it), the model's metadata, preprocessor_config.json beside `model_path`, then
    inference: the graph; fp32 accuracy on `pictures` with folder labels, through `classes` where these are sure, else
    through the best assignment of folders to outputs; the information unlabelled pictures carry over to the prediction;
    the first layer's response. `extra` feeds the model's other inputs. Raises EdgekitError when the model does not take
    pictures, or not such ones.
    """
    said, reasons = preprocess.parse(given or {})
    target = picture_input(model, tuple(extra or ()), said.get("layout"))
    known = _Known(target, said, reasons, preprocess.declared(graph.metadata(model), model_path))
    bench = _Bench(model, target, extra or {}, threads)
    gallery = _Gallery(pictures)
    known.set_size(bench, gallery)
    known.set_resize(graph.outputs_shapes(model), gallery)
    evidence = _Evidence(bench, gallery, classes, known.base())
    family, runner_up, notes = _decide_scaling(known, evidence, model)
    return known.decision(...)
