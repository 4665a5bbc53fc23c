"""Material: everything a model is fed with and judged on, gathered once: pictures by role, preprocessing, classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgekit import graph
from edgekit.data import layout
from edgekit.data.folder import Listing, Source, scan
from edgekit.errors import EdgekitError
from edgekit.measure import calibration, classes, evaluate, heads, infer, readymade, roles
from edgekit.measure.calibration import Calibration
from edgekit.measure.metric import Metric, load

if TYPE_CHECKING:
    from onnx import ModelProto

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
    def task(self) -> str | None:
        """What the model does: classify or detect; None to find out."""

    @property
    def head(self) -> str | None:
        """How a detector's outputs are decoded; None to find out."""

    @property
    def metric(self) -> str | None:
        """A score of one's own: module:function."""

    @property
    def seed(self) -> int:
        """Seed of every random choice."""


@dataclass(frozen=True)
class Material:
    """What a run works with. The three streams share no picture.

    pictures: those of the report role. decision: how pictures are fed; None when inputs came ready-made. labelled: how
    the folders map to outputs; None without labels. objects: what a detector is judged on; None for anything else.
    choosers: the pictures of the choose role. sought: what a detector is judged on when choosing. metric: a score of
    one's own, instead of all that is made of labels.
    sentences: what was given, found or assumed, for the report.
    """

    calibrate: Calibration
    choose: Calibration
    report: Calibration
    pictures: tuple[Source, ...] = ()
    decision: infer.Decision | None = None
    labelled: classes.Classes | None = None
    objects: evaluate.Objects | None = None
    class_names: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()
    choosers: tuple[Source, ...] = ()
    sought: evaluate.Objects | None = None
    metric: Metric | None = None


def gather(model: ModelProto, path: Path, given: Given, samples: int) -> Material:
    """Gather everything; raise EdgekitError when pictures, classes or inputs do not fit the model."""
    scorer = _scorer(given)
    if given.feeds is not None:
        return _ready_made(model, Path(given.feeds), scorer)
    if given.task == "detect":
        return _detection(model, path, given, samples)
    calib, data = (scan(Path(folder)) if folder is not None else None for folder in (given.calib, given.data))
    shared = roles.split_roles(calib, data, samples, given.seed)
    labelled = _labelled(model, data or calib, given) if scorer is None else None
    known = (*shared.choose, *shared.calibrate)
    decision = infer.decide(model, given=_flags(given), model_path=path, pictures=known, classes=labelled)
    if labelled is not None:
        _check_assignment(model, decision, known or shared.report, labelled)
    names = labelled.names if labelled is not None else _names(model, given)
    calibrate, choose, report = _streams(shared, decision, given.seed)
    sentences = [*decision.sentences(), *shared.notes]
    if labelled is not None:
        sentences.append(f"classes: {labelled.source}")
    elif scorer is not None:
        sentences.append(f"scored by {given.metric}")
    elif (listing := data or calib) is not None and listing.labels:
        sentences.append(f"no accuracy: {_unlabelled(listing)}")
    return Material(
        calibrate,
        choose,
        report,
        pictures=shared.report,
        decision=decision,
        labelled=labelled,
        class_names=names,
        sentences=tuple(sentences),
        choosers=shared.choose,
        metric=scorer,
    )


def _scorer(given: Given) -> Metric | None:
    """Import the metric of one's own; raise EdgekitError when it is not there, or there is nothing to score."""
    if given.metric is None:
        return None
    if given.task == "detect":
        raise EdgekitError("--metric and --task detect exclude each other", "leave one of them out")
    if given.data is None and given.feeds is None:
        raise EdgekitError(f"--metric {given.metric}: nothing to score", "give samples with --data or --feeds")
    return load(given.metric)


def _detection(model: ModelProto, path: Path, given: Given, samples: int) -> Material:
    """Gather what a detector is fed with and judged on: pictures with boxes, whose labels are not their folders."""
    labels = layout.read(Path(given.data)) if given.data is not None else None
    data = _annotated(labels) if labels is not None else None
    known = _read_labels(Path(given.calib)) if given.calib is not None else None
    calib = _annotated(known) if known is not None else scan(Path(given.calib)) if given.calib is not None else None
    shared = roles.split_roles(calib, data, samples, given.seed)
    decision = infer.decide(model, given=_flags(given), model_path=path, pictures=shared.choose)
    head = given.head or heads.guess(evaluate.output_shapes(model), decision.preprocess.size)
    if head is None:
        raise EdgekitError(
            "the model's outputs are not those of a detector that is known",
            f"say which: --head {'|'.join(heads.HEADS)}",
        )
    calibrate, choose, report = _streams(shared, decision, given.seed)
    names = _names(model, given) or (labels.names if labels is not None else ())
    sentences = [*decision.sentences(), *shared.notes, f"head: {head}, {'given' if given.head else 'by the outputs'}"]
    objects = None
    if labels is not None:
        objects = evaluate.Objects(head, {one.source.key: one for one in labels.pictures}, graph.output_names(model))
        sentences += [f"labels: {labels.kind}", *labels.warnings[:3]]
    return Material(
        calibrate,
        choose,
        report,
        pictures=shared.report,
        decision=decision,
        objects=objects,
        class_names=names,
        sentences=tuple(sentences),
        choosers=shared.choose,
        sought=_sought(model, head, shared.choose, (labels, known)),
    )


def _annotated(labels: layout.Detections) -> Listing:
    """Give the labelled pictures as a listing, without what else lies in the folder (masks, say)."""
    sources = tuple(one.source for one in labels.pictures)
    if not sources:
        raise EdgekitError(f"{labels.origin}: none of its pictures can be read", "give pictures with boxes")
    return Listing(labels.origin, sources, 0)


def _read_labels(root: Path) -> layout.Detections | None:
    return layout.read(root) if layout.recognise(root) is not None else None


def _sought(
    model: ModelProto, head: str, pictures: Sequence[Source], sets: Sequence[layout.Detections | None]
) -> evaluate.Objects | None:
    """Give what choices about a detector are made by; None when mAP cannot be measured, which choices do without."""
    if find_spec("pycocotools") is None:
        return None
    return evaluate.Objects(head, _labels_among(pictures, sets), graph.output_names(model))


def _labels_among(pictures: Sequence[Source], sets: Sequence[layout.Detections | None]) -> dict[str, layout.Annotated]:
    """Give the labels of these pictures by key; none at all when one of them has none."""
    known = {one.source.path: one for labels in sets if labels is not None for one in labels.pictures}
    if not all(source.path in known for source in pictures):
        return {}
    return {source.key: known[source.path] for source in pictures}


def _flags(given: Given) -> dict[str, Any]:
    return {name: value for name in PICTURE_FLAGS if (value := getattr(given, name)) is not None}


def _ready_made(model: ModelProto, path: Path, scorer: Metric | None) -> Material:
    """Deal ready-made samples into the three roles, every fourth to choose, every fourth to the report."""
    whole = readymade.from_feeds(path, graph.inputs(model), others=scorer is not None)
    if whole.count < 3:
        note = f"--feeds holds {whole.count} sample(s): the same calibrate, choose and are reported on"
        return Material(whole, whole, whole, sentences=(note,), metric=scorer)
    if whole.count == 3:
        calibrate, choose, report = (whole.part((number,), 3) for number in range(3))
    else:
        calibrate, choose, report = whole.part((0, 1)), whole.part((2,)), whole.part((3,))
    note = f"ready-made inputs: {calibrate.count} calibrate, {choose.count} choose, {report.count} are reported on"
    return Material(calibrate, choose, report, sentences=(note,), metric=scorer)


def _streams(shared: roles.Roles, decision: infer.Decision, seed: int) -> tuple[Calibration, Calibration, Calibration]:
    """Stream the pictures of each role; a role without pictures gets synthetic ones of its own.

    Raises EdgekitError when there are pictures to report on and none of them can be read.
    """
    if shared.report and all(evaluate.feed_of(source, decision) is None for source in shared.report):
        first = shared.report[0]
        raise EdgekitError(
            f"no picture to report on can be read ({len(shared.report)} were tried, {first.key} first)",
            "give pictures that are whole, or leave --data out",
        )
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


def _unlabelled(listing: Listing) -> str:
    """Say why pictures in folders do not count as labelled."""
    loose = sum(source.label is None for source in listing.sources)
    if loose:
        return f"{loose} of the pictures in {listing.root} are in no class folder"
    if len(listing.labels) < 2:
        return f"{listing.root} has a single class folder"
    return "the model's first output is not that of a classifier with a fixed number of classes"


def _names(model: ModelProto, given: Given) -> tuple[str, ...]:
    if given.classes is not None:
        names, outputs = classes.read_names(Path(given.classes)), evaluate.score_count(model)
        if outputs is not None and len(names) != max(2, outputs):
            raise classes.miscounted(given.classes, len(names), max(2, outputs))
        return names
    found = classes.names_in(graph.metadata(model))
    return found[0] if found is not None else ()


def _check_assignment(
    model: ModelProto, decision: infer.Decision, sources: Sequence[Source], labelled: classes.Classes
) -> None:
    """Raise EdgekitError when another assignment of folders to outputs would score far higher."""
    better = classes.reassignment(evaluate.confusion(model, sources, decision, labelled), labelled)
    if better is not None:
        raise better.error()
