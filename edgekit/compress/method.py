"""Method: one compression step, ModelProto -> ModelProto; Workbench: what a step may ask while it works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from edgekit.spec import Registry, Spec, spec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from onnx import ModelProto

    Feed = Mapping[str, np.ndarray]

STEPS: Registry[Method] = Registry(
    "step",
    "edgekit.compress.quantize.int8",
    "edgekit.compress.quantize.weights",
    "edgekit.compress.prune.sparsity",
)


class Drift(Protocol):
    """How far a model's outputs are from another's, on held-back pictures."""

    @property
    def sqnr_db(self) -> float:
        """Signal to quantisation noise of the outputs, in dB; higher is nearer."""

    @property
    def agreement(self) -> float | None:
        """Share of pictures with the same top answer, for classifiers; None for everything else."""


class Speed(Protocol):
    """How one model's latency compares with another's, measured on whole graphs, interleaved."""

    @property
    def speedup(self) -> float:
        """before / after."""

    @property
    def verdict(self) -> str:
        """`faster`, `slower` or `no difference shown`."""


class Workbench(Protocol):
    """What a step may ask. Made by `run.py` from `measure`; tests make one without a clock."""

    seed: int
    int8: str  # the CPU's int8 instructions: vnni, avx2, arm-dot, arm, none
    only: tuple[str, ...]  # globs over node names and operator types
    exclude: tuple[str, ...]

    def feeds(self, samples: int) -> Iterator[Feed]:
        """At most `samples` calibration inputs (one picture each), always the same ones in the same order."""

    def drift(self, before: ModelProto, after: ModelProto) -> Drift:
        """Compare outputs on the held-back pictures."""

    def speed(self, before: ModelProto, after: ModelProto) -> Speed:
        """Compare latency, shortly."""

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
