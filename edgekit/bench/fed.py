"""What the models of `edgekit bench` are fed with and judged on: every picture of --data, or made-up inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.data.folder import scan
from edgekit.errors import EdgekitError
from edgekit.measure import invented
from edgekit.measure.calibration import picture_input
from edgekit.measure.material import Material, gather

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto

    from edgekit.bench.settings import bench

SAMPLES = 256  # pictures that preprocessing is found out on, where neither flags nor the model say it
PREPROCESS = "edgekit.preprocess"


def material(models: Sequence[ModelProto], paths: Sequence[Path], settings: bench) -> Material:
    """Gather pictures, preprocessing and labels for all models; they are those of the first that says how it is fed.

    Nothing is calibrated here, so the report is on all pictures. Raises EdgekitError as `gather` does.
    """
    index = next((i for i, model in enumerate(models) if PREPROCESS in graph.metadata(model)), 0)
    if settings.feeds is None and settings.data is None and not _takes_pictures(models[0]):
        stream, said = invented.invent(models[0], size=settings.size, seed=settings.seed)
        return Material(stream, stream, stream, sentences=(f"no pictures: {said}",))
    found = gather(models[index], paths[index], settings, SAMPLES)
    sentences = tuple(line for line in found.sentences if "calibrat" not in line)
    if settings.feeds is not None:
        return replace(found, sentences=(f"the inputs in {settings.feeds}",))
    if settings.data is None:
        return replace(found, sentences=(*sentences, "no pictures were given: synthetic ones"))
    if found.objects is not None:
        pictures = tuple(one.source for one in found.objects.labels.values())
    else:
        pictures = scan(Path(settings.data)).sources
    said = f"all {len(pictures):,} pictures in {settings.data} are reported on"
    return replace(found, pictures=pictures, sentences=(*sentences, said))


def _takes_pictures(model: ModelProto) -> bool:
    try:
        picture_input(model)
    except EdgekitError:
        return False
    return True


def check_alike(models: Sequence[ModelProto], paths: Sequence[Path]) -> None:
    """Raise EdgekitError unless all models take the same inputs and give as many outputs as the first."""
    first, hint = models[0], "compare models that were made from one another"
    for model, path in zip(models[1:], paths[1:], strict=True):
        ours, theirs = (sorted(graph.inputs(one), key=lambda entry: entry.name) for one in (first, model))
        same = len(ours) == len(theirs) and all(_alike(a, b) for a, b in zip(ours, theirs, strict=True))
        if not same:
            raise EdgekitError(f"{path} takes {_shown(theirs)}, but {paths[0]} takes {_shown(ours)}", hint)
        if len(model.graph.output) != len(first.graph.output):
            counts = len(model.graph.output), len(first.graph.output)
            raise EdgekitError(f"{path} has {counts[0]} outputs, but {paths[0]} has {counts[1]}", hint)


def _alike(a: graph.Input, b: graph.Input) -> bool:
    sides = list(zip(a.shape, b.shape, strict=False))
    fits = all(x == y or not isinstance(x, int) or not isinstance(y, int) for x, y in sides)
    return (a.name, a.dtype, len(a.shape)) == (b.name, b.dtype, len(b.shape)) and fits


def _shown(inputs: Sequence[graph.Input]) -> str:
    return "; ".join(
        f"{one.name} {one.dtype} {'x'.join('?' if side is None else str(side) for side in one.shape)}" for one in inputs
    )
