"""Inference of how pictures are fed: what was given, what the model's files say, what accuracy or its weights show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgekit import graph, session
from edgekit.errors import EdgekitError
from edgekit.lazy import np
from edgekit.measure import preprocess, synthetic
from edgekit.measure.calibration import Target, picture_input
from edgekit.measure.classes import Classes, Folders, detections, information
from edgekit.measure.drift import is_scores
from edgekit.measure.preprocess import SCALING, Preprocess
from edgekit.measure.roles import Gallery

if TYPE_CHECKING:
    from pathlib import Path

    from numpy import ndarray
    from onnx import ModelProto

    from edgekit.data.folder import Source

FAMILIES = {"unit-like": ("imagenet", "unit", "signed"), "raw-like": ("raw", "caffe")}
OWN = "own"  # the pictures' own mean and std
# Where the evidence does not tell candidates apart the commoner one is taken: the first of these.
ORDER = {1: ("unit", "signed", OWN, "imagenet", "raw", "caffe"), 3: ("imagenet", "unit", "signed", OWN, "raw", "caffe")}
OPEN_SIZES = (224, 256, 299, 320, 384, 416, 512, 640, 160, 128, 96, 64, 48, 32, 28)
FIRST = 48  # pictures after which candidates that are clearly worse are dropped
ENOUGH = 8  # unlabelled pictures below which predictions say nothing


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

    def sentences(self) -> list[str]:
        """Say it in lines: each field with its origin, then the runner-up and the notes."""
        second = [f"runner-up: {self.runner_up}"] if self.runner_up else []
        return [*(f"input {origin}" for origin in self.origins), *second, *self.notes]


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
    known = _Known(target)
    known.add("given", said, reasons)
    known.add_graph()
    for source, values, reason in preprocess.declared(graph.metadata(model), model_path):
        known.add(source, values, dict.fromkeys(values, reason))
    bench = _Bench(model, target, extra or {}, threads)
    gallery = Gallery(pictures)
    _settle_size(known, bench, gallery)
    resizes = _settle_resize(known, bench, gallery)
    evidence = _Evidence(bench, gallery, known.preprocess(), classes)
    color_is_open = target.channels == 3 and "color" not in known
    family, runner_up, notes = _settle_scaling(known, evidence, model)
    if color_is_open:
        _settle_color(known, evidence)
    _compare_resizes(known, evidence, gallery, resizes)
    chosen = known.preprocess()
    bench.blank(chosen)
    members = tuple(_like(member, chosen, color_is_open and name != "caffe") for name, member in family.items())
    origins = tuple(known.origins.values())
    return Decision(chosen, members or (chosen,), origins, target.name, target.batch, runner_up, notes)


class _Known:
    """The fields decided so far, each by the first who said something."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.origins: dict[str, Origin] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.origins

    def add(self, source: str, values: Mapping[str, Any], reasons: Mapping[str, str] | None = None) -> None:
        """Take the fields that nobody has decided yet; range, mean and std only together."""
        said, reasons = dict(values), dict(reasons or {})
        if "preset" in said:
            name = said.pop("preset")
            expanded = preprocess.preset(name, self.target.channels, said.get("color"))
            said, reasons = {**expanded, **said}, {**dict.fromkeys(expanded, f"preset {name}"), **reasons}
        closed = SCALING if "range" in self else ()
        for name, value in said.items():
            if name not in self and name not in closed:
                self.origins[name] = Origin(name, value, source, reasons.get(name, ""))

    def add_graph(self) -> None:
        """Take what the model's input says; raise EdgekitError when it contradicts a given size."""
        size, dtype = self.target.size, self.target.dtype
        self.add("inferred", {"layout": self.target.layout, "dtype": dtype})
        if self.target.channels != 3:
            self.add("inferred", {"color": self.preprocess(size=(1, 1)).color}, {"color": "by the number of channels"})
        if dtype in ("uint8", "int8"):
            raw = {"range": (0.0, 255.0), "mean": (128.0 if dtype == "int8" else 0.0,), "std": (1.0,)}
            self.add("inferred", raw, dict.fromkeys(SCALING, f"the input is {dtype}"))
        if "size" in self:
            height, width = self.origins["size"].value
            if size[0] not in (None, height) or size[1] not in (None, width):
                what = f"--size {width}x{height}: the model takes {size[1] or 'any'}x{size[0] or 'any'}"
                raise EdgekitError(f"{what} (width x height)", "leave --size out")
        elif None not in size:
            self.add("inferred", {"size": size})

    def settle(self, wanted: Preprocess, names: Sequence[str], source: str, reason: str) -> None:
        """Take fields from a preprocessing, instead of what was there."""
        for name in names:
            self.origins[name] = Origin(name, getattr(wanted, name), source, reason)

    def preprocess(self, **changes: Any) -> Preprocess:
        """Make the preprocessing of what is known, plain where nothing is."""
        plain = {"color": {1: "grey", 3: "rgb", 4: "rgba"}[self.target.channels]}
        return Preprocess(**{**plain, **{name: origin.value for name, origin in self.origins.items()}, **changes})


class _Bench:
    """The model as a function of one picture."""

    def __init__(self, model: ModelProto, target: Target, extra: Mapping[str, ndarray], threads: int) -> None:
        self.target = target
        self._session = session.open_session(model, threads=threads)
        self._extra = extra
        self.shapes = [tuple(output.shape) for output in self._session.get_outputs()]

    def outputs(self, wanted: Preprocess, image: ndarray) -> list[ndarray]:
        """Run on what `Preprocess.fit` gave for RGB or grey; a fixed batch holds copies, of which the first counts."""
        array = wanted.scale(image[..., ::-1] if wanted.color == "bgr" else image)
        if self.target.batch > 1:
            array = np.repeat(array, self.target.batch, axis=0)
        return [
            np.nan_to_num(answer[:1] if np.ndim(answer) else np.reshape(answer, (1, 1, 1)))
            for answer in session.run(self._session, {self.target.name: array, **self._extra})
        ]

    def blank(self, wanted: Preprocess) -> list[ndarray]:
        """Run on a plain grey picture; raise EdgekitError when the model cannot be fed like this."""
        return self.outputs(wanted, np.full((*wanted.size, wanted.channels), 114, np.uint8))

    def sample(self, wanted: Preprocess, image: ndarray) -> ndarray:
        """Give some values of all outputs of fixed shape, flat: at most 20,000, always the same ones."""
        answers = self.outputs(wanted, image)
        fixed = [all(isinstance(side, int) for side in shape[1:]) for shape in self.shapes]
        flat = [answer.reshape(-1) for answer, is_fixed in zip(answers, fixed, strict=True) if is_fixed]
        values = np.concatenate([np.zeros(1, np.float32), *flat])
        taken: ndarray = values[np.linspace(0, len(values) - 1, min(20_000, len(values))).astype(np.int64)]
        return taken


@dataclass(frozen=True)
class _Standing:
    """How one candidate did: its figure, and a score for each picture (higher is better)."""

    name: str
    wanted: Preprocess
    figure: float
    scores: ndarray

    def is_beaten_by(self, other: _Standing) -> bool:
        """Tell whether `other` is better by more than two standard errors of the paired difference."""
        gap = other.scores - self.scores
        return len(gap) > 1 and bool(gap.mean() > 2 * gap.std(ddof=1) / np.sqrt(len(gap)))


class _Evidence:
    """What the pictures say of candidates: accuracy where they have labels, else information."""

    def __init__(self, bench: _Bench, gallery: Gallery, wanted: Preprocess, classes: Classes | None) -> None:
        self._bench = bench
        self.images, labels = gallery.fitted(wanted)
        first = bench.blank(wanted)[0]
        self.is_classifier = is_scores(first.shape)
        self.is_enough = len(self.images) >= ENOUGH
        self.folders = Folders.of(labels, classes)
        self.labelled = self.is_classifier and self.is_enough and self.folders.can_judge(first.size)

    def rank(
        self, candidates: Mapping[str, Preprocess], images: Mapping[str, list[ndarray]] | None = None
    ) -> list[_Standing]:
        """Order candidates, the best first; those clearly beaten on the first pictures see no more and are left out."""
        judge = self.folders.judge if self.labelled else information if self.is_classifier else detections
        answers: dict[str, list[ndarray]] = {name: [] for name in candidates}
        standings: list[_Standing] = []
        for part in (slice(0, FIRST), slice(FIRST, None)) if self.is_classifier else (slice(0, FIRST),):
            for name, rows in answers.items():
                rows += [self._answer(candidates[name], image) for image in (images or {}).get(name, self.images)[part]]
            standings = [_Standing(name, candidates[name], *judge(np.stack(rows))) for name, rows in answers.items()]
            standings.sort(key=lambda standing: -float(standing.scores.mean()))
            standings = [s for place, s in enumerate(standings) if place < 2 or not s.is_beaten_by(standings[0])]
            answers = {standing.name: answers[standing.name] for standing in standings}
        return standings

    def _answer(self, wanted: Preprocess, image: ndarray) -> ndarray:
        if self.is_classifier:
            return self._bench.outputs(wanted, image)[0].reshape(-1)
        return self._bench.sample(wanted, image)

    def figure(self, standing: _Standing) -> str:
        """Say how a candidate did."""
        if self.labelled:
            return f"{standing.name} {standing.figure:.1%}"
        return f"{standing.name} {standing.figure:.3g} nats"

    @property
    def basis(self) -> str:
        """Say what candidates are judged by."""
        count = len(self.images) if self.is_classifier else min(FIRST, len(self.images))
        what = "fp32 accuracy on" if self.labelled else "information in the predictions on"
        return f"{what} {count} {'labelled' if self.labelled else 'unlabelled'} pictures"


def _settle_size(known: _Known, bench: _Bench, gallery: Gallery) -> None:
    if "size" in known:
        return
    fixed = known.target.size
    common = [size for size in gallery.shapes if len(gallery.shapes) == 1 and max(size) <= max(OPEN_SIZES)]
    for height, width in [*common, *((side, side) for side in OPEN_SIZES)]:
        size = (fixed[0] or height, fixed[1] or width)
        try:
            bench.blank(known.preprocess(size=size))
        except EdgekitError:
            continue
        why = "the model leaves it open and " + ("the pictures have it" if size in common else "runs with it")
        known.add("assumed", {"size": size}, {"size": why})
        return
    raise EdgekitError("the model leaves its input size open and runs with none of the usual ones", "give --size")


def _settle_resize(known: _Known, bench: _Bench, gallery: Gallery) -> dict[str, dict[str, Any]]:
    """Decide how pictures get their size; give the alternatives that labels could choose from."""
    if "resize" in known:
        if known.preprocess().resize == "crop":
            known.add("assumed", {"crop_ratio": 0.875}, {"crop_ratio": "usual"})
        return {}
    wanted = known.preprocess()
    if gallery.shapes == {wanted.size}:
        known.add("inferred", {"resize": "squash"}, {"resize": "the pictures have the model's size"})
        return {}
    cells = sum((wanted.size[0] // stride) * (wanted.size[1] // stride) for stride in (8, 16, 32))
    if any(side in (cells, 3 * cells) for shape in bench.shapes for side in shape[1:]):
        # One row a cell, and one box a cell, is what YOLOX writes; it puts pictures at the top left.
        where = "top-left" if any(shape[1:2] == (cells,) for shape in bench.shapes) else "centre"
        reason = f"the output has the {cells} cells of a YOLO head"
        known.add(
            "inferred", {"resize": "letterbox", "where": where}, {"resize": reason, "where": "usual for its kind"}
        )
        return {}
    options: dict[str, dict[str, Any]] = {"squash": {"resize": "squash"}}
    if is_scores(bench.blank(wanted)[0].shape):
        crops = {f"crop {share:g}": {"resize": "crop", "crop_ratio": share} for share in (0.875, 1.0)}
        options = {**crops, **options} if min(wanted.size) >= 160 else {**options, **crops}
    first = next(iter(options.values()))
    known.add("assumed", first, dict.fromkeys(first, "usual for such a model"))
    return options


def _settle_scaling(
    known: _Known, evidence: _Evidence, model: ModelProto
) -> tuple[dict[str, Preprocess], str, tuple[str, ...]]:
    """Decide range, mean and std; give the family to calibrate on, the runner-up and notes."""
    if "range" in known:
        return {}, "", ()
    candidates = _candidates(known, evidence.images)
    notes: tuple[str, ...] = ()
    if evidence.labelled:
        standings = evidence.rank(candidates)
        if standings[0].figure > evidence.folders.chance():
            return _settle_on(known, evidence, standings, tuple(candidates))
        evidence.labelled = False
        best = f"at best {standings[0].figure:.1%} right ({standings[0].name})"
        notes = (f"fed in no way that was tried does the model recognise the labelled pictures: {best}",)
    target = known.target
    responses = {
        name: synthetic.response(model, target.name, wanted, target.batch) or 0.0 for name, wanted in candidates.items()
    }
    kin, why = _kin(responses)
    members = {name: candidates[name] for name in candidates if name in (*FAMILIES[kin], OWN)}
    if evidence.is_classifier and evidence.is_enough:
        _, runner_up, _ = _settle_on(known, evidence, evidence.rank(members), tuple(members))
    else:
        nearest = min(FAMILIES[kin], key=lambda name: _distance(responses[name]))
        known.settle(candidates[nearest], (*SCALING, "color"), "assumed", f"{nearest}: {why}")
        runner_up = ""
    scaling = known.preprocess()
    family = {n: c for n, c in members.items() if n != OWN or c.mean == scaling.mean}
    return family, runner_up, (*notes, f"calibrated as {', '.join(family)} in turn: {why}")


def _settle_on(
    known: _Known, evidence: _Evidence, standings: list[_Standing], order: Sequence[str]
) -> tuple[dict[str, Preprocess], str, tuple[str, ...]]:
    """Take the commonest of those the evidence does not tell apart; give all of these, the runner-up and a note."""
    chosen, tied = _commonest(standings, order)
    known.settle(chosen.wanted, (*SCALING, "color"), "inferred", f"{evidence.basis}: {evidence.figure(chosen)}")
    others = [evidence.figure(standing) for standing in standings if standing is not chosen]
    family = {s.name: s.wanted for s in tied if s is chosen or s.name != OWN}
    note = (f"not told apart, so calibrated in turn: {', '.join(family)}",) if len(family) > 1 else ()
    return family, others[0] if others else "", note


def _commonest(standings: Sequence[_Standing], order: Sequence[str]) -> tuple[_Standing, list[_Standing]]:
    """Of the candidates that the best does not clearly beat give the one that comes first in `order`, and all."""
    tied = [standing for standing in standings if not standing.is_beaten_by(standings[0])]
    return min(tied, key=lambda standing: order.index(standing.name)), tied


def _candidates(known: _Known, images: Sequence[ndarray]) -> dict[str, Preprocess]:
    """Give the presets, and the pictures' own mean and std, the commoner ones first."""
    channels = known.target.channels
    color = known.preprocess().color if "color" in known else None
    found = {}
    for name in ORDER[1 if channels == 1 else 3]:
        if name != OWN:
            found[name] = known.preprocess(**preprocess.preset(name, channels, color))
        elif images:
            pixels = np.concatenate([image.reshape(-1, channels) for image in images])
            mean, std = (np.round(values, 2).tolist() for values in (pixels.mean(axis=0), pixels.std(axis=0) + 0.01))
            order = -1 if color == "bgr" else 1
            own = {"range": (0.0, 255.0), "mean": tuple(mean[::order]), "std": tuple(std[::order])}
            found[name] = known.preprocess(**own)
    return found


def _kin(responses: Mapping[str, float]) -> tuple[str, str]:
    """Tell from the first layer's responses whether the model is fed small values or 0..255, and why."""
    small, large = responses["signed"], responses["raw"]
    if not small or not large:
        return "unit-like", "the first layer tells nothing, and values around 0..1 are the commonest"
    why = f"the first layer's outputs deviate by {small:.2g} when fed -1..1, {large:.3g} when fed 0..255"
    return ("unit-like" if _distance(small) <= _distance(large) else "raw-like"), f"{why}; 1 is usual"


def _distance(response: float) -> float:
    return abs(math.log(response)) if response > 0 else math.inf


def _settle_color(known: _Known, evidence: _Evidence) -> None:
    """Decide RGB or BGR: by the evidence where it tells them apart, else by what is usual for the kind of model."""
    chosen = known.preprocess()
    # Models fed plain 0..255 with channels first come from Caffe and OpenCV, whose pictures are BGR.
    usual = "bgr" if chosen.range[1] == 255 and chosen.mean[0] in (0.0, 103.939) and chosen.layout == "NCHW" else "rgb"
    options = {color: _like(chosen, chosen, True, color) for color in (usual, "bgr" if usual == "rgb" else "rgb")}
    reason, source, picked = "usual for such a model", "assumed", usual
    if evidence.is_enough:
        first, second = evidence.rank(options)[:2]
        if second.is_beaten_by(first):
            reason = f"{evidence.basis}: {evidence.figure(first)}, {evidence.figure(second)}"
            source, picked = "inferred", first.name
    known.settle(options[picked], ("color",), source, reason)
    for name in ("mean", "std"):
        known.settle(options[picked], (name,), known.origins[name].source, known.origins[name].reason)


def _compare_resizes(
    known: _Known, evidence: _Evidence, gallery: Gallery, options: Mapping[str, Mapping[str, Any]]
) -> None:
    """Let labels choose between ways to resize."""
    if not evidence.labelled or len(options) < 2:
        return
    candidates = {name: known.preprocess(**{"crop_ratio": 1.0, **option}) for name, option in options.items()}
    images = {name: gallery.fitted(wanted)[0] for name, wanted in candidates.items()}
    standings = evidence.rank(candidates, images)
    chosen, tied = _commonest(standings, list(options))
    reason = f"{evidence.basis}: {', '.join(evidence.figure(standing) for standing in standings)}"
    known.settle(chosen.wanted, ("resize", "crop_ratio"), "inferred" if len(tied) == 1 else "assumed", reason)


def _like(member: Preprocess, chosen: Preprocess, recolor: bool, color: str = "") -> Preprocess:
    """Give `member` with the resizing of `chosen`, and with its colour (or `color`) when it may be changed."""
    color = color or chosen.color
    same = {name: getattr(chosen, name) for name in ("resize", "crop_ratio", "where", "fill")}
    if not recolor or member.color == color:
        return replace(member, **same)
    return replace(member, **same, color=color, mean=member.mean[::-1], std=member.std[::-1])
