"""Inference of how pictures are fed: what was given, what the model's files say, what accuracy or its weights show."""

from __future__ import annotations

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
from edgekit.measure.roles import Gallery, moments
from edgekit.measure.synthetic import Standing, commonest

if TYPE_CHECKING:
    from pathlib import Path

    from numpy import ndarray
    from onnx import ModelProto

    from edgekit.data.folder import Source

OPEN_SIZES = (224, 256, 299, 320, 384, 416, 512, 640, 160, 128, 96, 64, 32, 28, 48)
FIRST = 48  # pictures after which candidates that are clearly worse are dropped
ENOUGH = 16  # unlabelled pictures below which predictions say too little


@dataclass(frozen=True)
class Origin:
    """Where a field's value comes from: `given`, `metadata`, `sidecar`, `inferred` or `assumed`, and why."""

    field: str
    value: Any
    source: str
    reason: str = ""

    @property
    def shown(self) -> str:
        """The value as it would be typed."""
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        words = [f"{value + 0.0:g}" if isinstance(value, float) else str(value) for value in values]
        return "x".join(reversed(words)) if self.field == "size" else ",".join(words)


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
        """Say it in lines: fields by where they come from, then the runner-up and the notes."""
        grouped: dict[str, list[str]] = {}
        for origin in self.origins:
            why = f"{origin.source}, {origin.reason}" if origin.reason else origin.source
            grouped.setdefault(why, []).append(f"{origin.field} {origin.shown}")
        second = [f"runner-up: {self.runner_up}"] if self.runner_up else []
        return [*(f"input: {', '.join(shown)} ({why})" for why, shown in grouped.items()), *second, *self.notes]


def decide(
    model: ModelProto,
    *,
    given: Mapping[str, Any] | None = None,
    model_path: Path | None = None,
    pictures: Sequence[Source] = (),
    classes: Classes | None = None,
    threads: int = 1,
) -> Decision:
    """Decide how pictures are fed to `model`; each field comes from the first of these that has it.

    `given` (as `preprocess.parse` takes it), the model's metadata, preprocessor_config.json beside `model_path`, then
    inference: the graph; fp32 accuracy on `pictures` with folder labels, through `classes` where these are sure, else
    through the best assignment of folders to outputs; the information unlabelled pictures carry over to the prediction;
    the first layer's response. Raises EdgekitError when the model does not take pictures, or not such ones.
    """
    said, reasons = preprocess.parse(given or {})
    target = picture_input(model, said.get("layout"))
    known = _Known(target)
    known.add("given", said, reasons)
    known.add_graph()
    for source, values, reason in preprocess.declared(graph.metadata(model), model_path):
        known.add(source, values, dict.fromkeys(values, reason))
    bench = _Bench(model, target, threads)
    gallery = Gallery(pictures)
    _settle_size(known, bench, gallery)
    resizes = _settle_resize(known, bench, gallery)
    is_decided = "range" in known and "color" in known and len(resizes) < 2
    evidence = _Evidence(bench, Gallery(()) if is_decided else gallery, known.preprocess(), classes)
    family, runner_up, notes = _settle_scaling(known, evidence, model)
    if "color" not in known:
        _settle_color(known, evidence)
    _compare_resizes(known, evidence, gallery, resizes)
    chosen = known.preprocess()
    bench.blank(chosen)
    members = tuple(_beside(chosen, name, member) for name, member in family.items()) or (chosen,)
    return Decision(chosen, members, tuple(known.origins.values()), target.name, target.batch, runner_up, notes)


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
        """Take what the model's input says; raise EdgekitError when it contradicts what was given."""
        size, dtype = self.target.size, self.target.dtype
        self.target.require(**{name: self.origins[name].value for name in ("size", "color") if name in self})
        self.add("inferred", {"layout": self.target.layout, "dtype": dtype})
        if self.target.channels != 3:
            self.add("inferred", {"color": self.color}, {"color": "by the number of channels"})
        if dtype in ("uint8", "int8"):
            raw = {"range": (0.0, 255.0), "mean": (128.0 if dtype == "int8" else 0.0,), "std": (1.0,)}
            self.add("inferred", raw, dict.fromkeys(SCALING, f"the input is {dtype}"))
        if None not in size:
            self.add("inferred", {"size": size})

    def open(self, *names: str) -> tuple[str, ...]:
        """Give those of the fields that nobody has decided."""
        return tuple(name for name in names if name not in self)

    def settle(self, wanted: Preprocess, names: Sequence[str], source: str, reason: str) -> None:
        """Take fields from a preprocessing, instead of what was there."""
        for name in names:
            self.origins[name] = Origin(name, getattr(wanted, name), source, reason)

    @property
    def color(self) -> str:
        """What is known of the colour, or the plain one for the number of channels."""
        origin = self.origins.get("color")
        return str(origin.value) if origin else {1: "grey", 3: "rgb", 4: "rgba"}[self.target.channels]

    def preprocess(self, **changes: Any) -> Preprocess:
        """Make the preprocessing of what is known, plain where nothing is."""
        values = {name: origin.value for name, origin in self.origins.items()}
        return Preprocess(**{**values, "color": self.color, **changes})


class _Bench:
    """The model as a function of one picture."""

    def __init__(self, model: ModelProto, target: Target, threads: int) -> None:
        self.target = target
        self._session = session.open_session(model, threads=threads)
        self.shapes = [tuple(output.shape) for output in self._session.get_outputs()]

    def outputs(self, wanted: Preprocess, image: ndarray) -> list[ndarray]:
        """Run on what `Preprocess.fit` gave for RGB or grey; a fixed batch holds copies, of which the first counts."""
        array = wanted.scale(image[..., ::-1] if wanted.color == "bgr" else image)
        if self.target.batch > 1:
            array = np.repeat(array, self.target.batch, axis=0)
        answers = session.run(self._session, {self.target.name: array})
        return [np.nan_to_num(answer[:1] if np.ndim(answer) else np.full((1, 1, 1), answer)) for answer in answers]

    def blank(self, wanted: Preprocess) -> list[ndarray]:
        """Run on a plain grey picture; raise EdgekitError when the model cannot be fed like this."""
        return self.outputs(wanted, np.full((*wanted.size, wanted.channels), 114, np.uint8))

    def sample(self, answers: Sequence[ndarray]) -> ndarray:
        """Give some values of those outputs that are of fixed shape: at most 20,000, always the same ones."""
        pairs = zip(answers, self.shapes, strict=True)
        fixed = [answer.reshape(-1) for answer, shape in pairs if all(isinstance(side, int) for side in shape[1:])]
        values = np.concatenate([np.zeros(1, np.float32), *fixed])
        return np.take(values, np.linspace(0, len(values) - 1, min(20_000, len(values))).astype(np.int64))


class _Evidence:
    """What the pictures say of candidates: accuracy where they have labels, else information."""

    def __init__(self, bench: _Bench, gallery: Gallery, wanted: Preprocess, classes: Classes | None) -> None:
        self._bench = bench
        self.images, labels = gallery.fitted(wanted)
        self.is_classifier = is_scores(bench.blank(wanted)[0].shape)
        self.is_enough = len(self.images) >= ENOUGH
        self.folders = Folders.of(labels, classes)
        self.labelled = self.is_classifier and self.folders.can_judge(bench.blank(wanted)[0].size)

    def rank(
        self, candidates: Mapping[str, Preprocess], images: Mapping[str, list[ndarray]] | None = None
    ) -> list[Standing]:
        """Order candidates, the best first; those clearly beaten on the first pictures see no more and are left out."""
        judge = self.folders.judge if self.labelled else information if self.is_classifier else detections
        answers: dict[str, list[ndarray]] = {name: [] for name in candidates}
        standings: list[Standing] = []
        for part in (slice(0, FIRST), slice(FIRST, None)) if self.is_classifier else (slice(0, FIRST),):
            for name, rows in answers.items():
                rows += [self._answer(candidates[name], image) for image in (images or {}).get(name, self.images)[part]]
            standings = [Standing(name, candidates[name], *judge(np.stack(rows))) for name, rows in answers.items()]
            standings.sort(key=lambda standing: -float(standing.scores.mean()))
            standings = [s for place, s in enumerate(standings) if place < 2 or not s.is_beaten_by(standings[0], 3)]
            answers = {standing.name: answers[standing.name] for standing in standings}
        return standings

    def _answer(self, wanted: Preprocess, image: ndarray) -> ndarray:
        answers = self._bench.outputs(wanted, image)
        return answers[0].reshape(-1) if self.is_classifier else self._bench.sample(answers)

    def figure(self, standing: Standing) -> str:
        """Say how a candidate did."""
        return f"{standing.name} " + (f"{standing.figure:.1%}" if self.labelled else f"{standing.figure:.3g} nats")

    @property
    def basis(self) -> str:
        """Say what candidates are judged by."""
        count = len(self.images) if self.is_classifier else min(FIRST, len(self.images))
        if self.labelled:
            return f"fp32 accuracy on {count} labelled pictures"
        return f"information in the predictions on {count} unlabelled pictures"


def _settle_size(known: _Known, bench: _Bench, gallery: Gallery) -> None:
    """Find a size where nothing says one: that of the pictures, or the first usual one that the model runs with."""
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
        why = "the pictures have it" if size in common else "runs with it"
        known.add("assumed", {"size": size}, {"size": f"the model leaves it open and {why}"})
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
    options: dict[str, dict[str, Any]] = {"squash": {"resize": "squash"}}
    cells = sum((wanted.size[0] // stride) * (wanted.size[1] // stride) for stride in (8, 16, 32))
    if any(side in (cells, 3 * cells) for shape in bench.shapes if len(shape) == 3 for side in shape[1:]):
        # One row and one box a cell is what YOLOX writes; it puts pictures at the top left.
        where = "top-left" if any(shape[1:2] == (cells,) for shape in bench.shapes) else "centre"
        options = {"letterbox": {"resize": "letterbox", "where": where}}
    elif is_scores(bench.blank(wanted)[0].shape):
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
    scalings = moments(evidence.images) if evidence.images else None
    candidates = synthetic.candidates(known.preprocess(), "color" not in known, scalings)
    name, batch = known.target.name, known.target.batch
    responses = {
        n: synthetic.response(model, name, candidates[n], batch) for n in (*synthetic.UNIT_LIKE, *synthetic.RAW_LIKE)
    }
    is_raw, why = synthetic.is_raw_like(responses["signed"], responses["raw"])
    likely = {n: c for n, c in candidates.items() if synthetic.is_raw(n) == is_raw}
    notes: tuple[str, ...] = ()
    if evidence.labelled:
        standings = evidence.rank(candidates)
        if standings[0].figure > evidence.folders.chance():
            order = sorted(filter(synthetic.is_usual, candidates), key=lambda n: n not in likely)
            family, runner_up, notes = _settle_on(known, evidence, standings, order)
            doubt = (f"{why}, which speaks against it: give --mean and --std if you know them",)
            return family, runner_up, notes if likely.keys() & family.keys() else (*notes, *doubt)
        evidence.labelled = False
        best = f"{standings[0].figure:.1%} at best"
        notes = (f"the model recognises the labelled pictures in none of the ways of feeding that were tried: {best}",)
    family = {n: candidates[n] for n in (synthetic.RAW_LIKE if is_raw else synthetic.UNIT_LIKE)}
    runner_up = ""
    if evidence.is_classifier and evidence.is_enough:
        near = synthetic.OWN in likely and synthetic.is_near(likely[synthetic.OWN], likely["imagenet"])
        standings = evidence.rank({n: c for n, c in likely.items() if not near or synthetic.base(n) != synthetic.OWN})
        order = [standing.name for standing in standings if synthetic.is_usual(standing.name)]
        chosen, runner_up, _ = _settle_on(known, evidence, standings, order)
        family |= dict(list(chosen.items())[:1])
    else:
        # Mean subtraction does not show in a response.
        name = "raw" if is_raw else min(synthetic.UNIT_LIKE, key=lambda name: synthetic.unlikelihood(responses[name]))
        known.settle(candidates[name], SCALING, "assumed", f"{name}: {why}")
    return family, runner_up, (*notes, f"calibrated as {', '.join(family)} in turn: {why}")


def _settle_on(
    known: _Known, evidence: _Evidence, standings: list[Standing], order: Sequence[str]
) -> tuple[dict[str, Preprocess], str, tuple[str, ...]]:
    """Take the commonest of those the evidence does not tell apart; give it and those, the runner-up and a note."""
    chosen, tied = commonest(standings, order)
    fields, reason = known.open(*SCALING, "color"), f"{evidence.basis}: {evidence.figure(chosen)}"
    known.settle(chosen.wanted, fields, "inferred", reason)
    others = [evidence.figure(standing) for standing in standings if standing is not chosen]
    alike = [
        s
        for s in tied
        if synthetic.is_raw(s.name) == synthetic.is_raw(chosen.name) and synthetic.base(s.name) != synthetic.OWN
    ]
    family = {synthetic.base(s.name): s.wanted for s in (chosen, *alike)} | {synthetic.base(chosen.name): chosen.wanted}
    note = (f"not told apart, so calibrated in turn: {', '.join(family)}",) if len(family) > 1 else ()
    return family, others[0] if others else "", note


def _settle_color(known: _Known, evidence: _Evidence) -> None:
    """Decide RGB or BGR for a known scaling, by the evidence where it tells them apart."""
    plain = known.preprocess()
    usual = synthetic.usual_color(plain)
    options = {color: plain.recolored(color) for color in (usual, "rgb" if usual == "bgr" else "bgr")}
    picked, source, reason = options[usual], "assumed", "usual for such a model"
    if evidence.is_enough or evidence.labelled:
        first, second = evidence.rank(options)[:2]
        if second.is_beaten_by(first):
            figures = f"{evidence.figure(first)}, {evidence.figure(second)}"
            picked, source, reason = first.wanted, "inferred", f"{evidence.basis}: {figures}"
    known.settle(picked, ("color",), source, reason)
    for name in ("mean", "std"):
        known.origins[name] = replace(known.origins[name], value=getattr(picked, name))


def _compare_resizes(
    known: _Known, evidence: _Evidence, gallery: Gallery, options: Mapping[str, Mapping[str, Any]]
) -> None:
    """Let labels choose between ways to resize: none is much commoner than the others, so the best is taken."""
    if evidence.labelled and len(options) > 1:
        candidates = {name: known.preprocess(**{"crop_ratio": 1.0, **option}) for name, option in options.items()}
        images = {name: gallery.fitted(wanted)[0] for name, wanted in candidates.items()}
        standings = evidence.rank(candidates, images)
        reason = f"{evidence.basis}: {', '.join(evidence.figure(standing) for standing in standings)}"
        known.settle(standings[0].wanted, ("resize", "crop_ratio"), "inferred", reason)


def _beside(chosen: Preprocess, name: str, member: Preprocess) -> Preprocess:
    """Give a member of the family with the resizing and the colour of `chosen`."""
    resized = replace(member, **{field: getattr(chosen, field) for field in ("resize", "crop_ratio", "where", "fill")})
    alike = resized.recolored(chosen.color)
    # Caffe's means belong to BGR pictures, whatever the others are fed.
    return resized if name == "caffe" and alike != chosen else alike
