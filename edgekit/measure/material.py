"""Material: everything a model is fed with and judged on, gathered once: pictures by role, preprocessing, classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgekit import graph
from edgekit.data.folder import Listing, Source, scan
from edgekit.measure import calibration, classes, evaluate, infer, roles
from edgekit.measure.calibration import Calibration

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgekit.measure.preprocess import Preprocess

SYNTHETIC_CALIBRATE = 128
SYNTHETIC_CHOOSE = 48
SYNTHETIC_REPORT = 64
PICTURE_FLAGS = ("preset", "size", "resize", "crop_ratio", "mean", "std", "range", "layout", "color")


class Given(Protocol):
    """The settings that say what a model is fed with."""

    @property
    def data(self) -> str | None:
        """Folder to report on."""

    @property
    def calib(self) -> str | None:
        """Folder to calibrate on."""

    @property
    def feeds(self) -> str | None:
        """Ready-made inputs."""

    @property
    def classes(self) -> str | None:
        """File of class names."""

    @property
    def seed(self) -> int:
        """Seed of every random choice."""


@dataclass(frozen=True)
class Material:
    """What a run works with. The three streams share no picture.

    pictures: those of the report role. decision: how pictures are fed; None when inputs came ready-made. labelled: how
    the folders map to outputs; None without labels. sentences: what was given, found or assumed, for the report.
    """

    calibrate: Calibration
    choose: Calibration
    report: Calibration
    pictures: tuple[Source, ...] = ()
    decision: infer.Decision | None = None
    labelled: classes.Classes | None = None
    class_names: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()


def gather(model: ModelProto, path: Path, given: Given, samples: int) -> Material:
    """Gather everything; raise EdgekitError when pictures, classes or inputs do not fit the model."""
    if given.feeds is not None:
        return _ready_made(model, Path(given.feeds))
    calib, data = (scan(Path(folder)) if folder is not None else None for folder in (given.calib, given.data))
    shared = roles.split_roles(calib, data, samples, given.seed)
    labelled = _labelled(model, data or calib, given)
    flags = {name: value for name in PICTURE_FLAGS if (value := getattr(given, name)) is not None}
    known = (*shared.choose, *shared.calibrate)
    decision = infer.decide(model, given=flags, model_path=path, pictures=known, classes=labelled)
    if labelled is not None:
        _check_assignment(model, decision, known or shared.report, labelled)
    names = labelled.names if labelled is not None else _names(model, given)
    calibrate, choose, report = _streams(shared, decision, given.seed)
    sentences = [*_sentences(decision), *shared.notes]
    if labelled is not None:
        sentences.append(f"classes: {labelled.source}")
    return Material(calibrate, choose, report, shared.report, decision, labelled, names, tuple(sentences))


def _sentences(decision: infer.Decision) -> list[str]:
    """Say how pictures are fed, and which fields were given, found out or assumed, those of one origin together."""
    together: dict[tuple[str, str], list[str]] = {}
    for origin in decision.origins:
        together.setdefault((origin.source, origin.reason), []).append(origin.field)
    origins = [
        f"{', '.join(fields)}: {source}" + (f", {reason}" if reason else "")
        for (source, reason), fields in together.items()
    ]
    second = [f"runner-up: {decision.runner_up}"] if decision.runner_up else []
    return [_in_words(decision.preprocess), *origins, *second, *decision.notes]


def _in_words(preprocess: Preprocess) -> str:
    """Say a preprocessing in a line: `32x32 squash, rgb, 0..1, mean 0.5, std 0.5, NCHW float32`."""
    height, width = preprocess.size
    resize = f"crop {preprocess.crop_ratio:g}" if preprocess.resize == "crop" else preprocess.resize
    low, high = preprocess.range
    mean, std = (",".join(f"{part:g}" for part in values) for values in (preprocess.mean, preprocess.std))
    scaling = f"{low:g}..{high:g}, mean {mean}, std {std}"
    return f"{width}x{height} {resize}, {preprocess.color}, {scaling}, {preprocess.layout} {preprocess.dtype}"


def _ready_made(model: ModelProto, path: Path) -> Material:
    """Deal the samples of an .npz into the three roles, every fourth to choose, every fourth to the report."""
    whole = calibration.from_feeds(path, graph.inputs(model))
    if whole.count < 3:
        note = f"--feeds holds {whole.count} sample(s): the same calibrate, choose and are reported on"
        return Material(whole, whole, whole, sentences=(note,))
    if whole.count == 3:
        calibrate, choose, report = (whole.part((number,), 3) for number in range(3))
    else:
        calibrate, choose, report = whole.part((0, 1)), whole.part((2,)), whole.part((3,))
    note = f"ready-made inputs: {calibrate.count} calibrate, {choose.count} choose, {report.count} are reported on"
    return Material(calibrate, choose, report, sentences=(note,))


def _streams(shared: roles.Roles, decision: infer.Decision, seed: int) -> tuple[Calibration, Calibration, Calibration]:
    """Stream the pictures of each role; a role without pictures gets synthetic ones of its own."""
    counts = (SYNTHETIC_CALIBRATE, SYNTHETIC_CHOOSE, SYNTHETIC_REPORT)
    parts = (shared.calibrate, shared.choose, shared.report)
    made = [
        calibration.from_pictures(part, decision)
        if part
        else calibration.from_synthetic(decision, count, seed * 3 + role)
        for role, (part, count) in enumerate(zip(parts, counts, strict=True))
    ]
    return made[0], made[1], made[2]


def _labelled(model: ModelProto, listing: Listing | None, given: Given) -> classes.Classes | None:
    """Map class folders to outputs: those of --data, or of --calib alone; None when nothing is labelled."""
    if listing is None or len(listing.labels) < 2 or any(source.label is None for source in listing.sources):
        return None
    outputs = evaluate.score_count(model)
    if outputs is None:
        return None
    file = Path(given.classes) if given.classes is not None else None
    return classes.resolve(listing.labels, outputs, file=file, metadata=graph.metadata(model))


def _names(model: ModelProto, given: Given) -> tuple[str, ...]:
    if given.classes is not None:
        return classes.read_names(Path(given.classes))
    found = classes.names_in(graph.metadata(model))
    return found[0] if found is not None else ()


def _check_assignment(
    model: ModelProto, decision: infer.Decision, sources: Sequence[Source], labelled: classes.Classes
) -> None:
    """Raise EdgekitError when another assignment of folders to outputs would score far higher."""
    better = classes.reassignment(evaluate.confusion(model, sources, decision, labelled), labelled)
    if better is not None:
        raise better.error()
