"""Mean average precision by the COCO evaluator, and the paired difference of two detectors on the same pictures."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError
from edgekit.lazy import np
from edgekit.measure import bootstrap
from edgekit.report.report import ClassFigures, Counts

if TYPE_CHECKING:
    from numpy import ndarray

    from edgekit.data.layout import Annotated
    from edgekit.measure.heads import Detected

COUNTED_FROM = 0.3  # the score from which a box counts as an answer in the counts of a class, at IoU 0.5
_RECALLS = 101  # points of the precision-recall curve that COCO averages over
_AT_ONCE = 1 << 21  # values of a bootstrap's table that are held at a time


@dataclass(frozen=True)
class Detection:
    """Mean average precision on `n` pictures with `objects` objects (crowds not counted) of `classes` classes.

    `map`: COCO's, 0..1, the mean over classes and over IoU 0.50, 0.55 .. 0.95, at most 100 boxes a picture; `map50`: at
    IoU 0.50 alone.
    """

    map: float
    map50: float
    n: int
    objects: int
    classes: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class DetectionDelta:
    """Paired difference in mean average precision of two models on the same `n` pictures.

    `drop`: map before minus after, -1..1, positive when `after` is worse, with its 95% interval `low`..`high`;
    `drop50`, `low50`, `high50`: the same of map50.
    """

    drop: float
    low: float
    high: float
    drop50: float
    low50: float
    high50: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Matches:
    """What the evaluator found for one class: its detections in all pictures, best first, against its objects.

    number: the class's. picture: the number of each detection's picture, int64 (D,). scores: float64 (D,). right,
    ignored: bool (T, D), for each of the T = 10 IoU thresholds, whether it is a right answer, or counts neither way
    (crowds). objects: those that count in each picture, int64 (n,).
    """

    number: int
    picture: ndarray
    scores: ndarray
    right: ndarray
    ignored: ndarray
    objects: ndarray


class DetectionTally:
    """Gather detections picture by picture: of each its boxes and labels are kept, and no pixels."""

    def __init__(self) -> None:
        self._pictures: list[tuple[Annotated, Detected]] = []
        self._evaluated: tuple[Detection, list[Matches]] | None = None

    def add(self, annotated: Annotated, detected: Detected) -> None:
        """Take one picture: its labels, and what was found, in the same pixels and with the same class numbers."""
        self._pictures.append((annotated, detected))
        self._evaluated = None

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the pictures in the order added."""
        return tuple(annotated.source.key for annotated, _ in self._pictures)

    def result(self) -> Detection:
        """Return the mean average precision over everything added so far.

        Raises EdgekitError when there was no object to be found, or pycocotools is not installed.
        """
        return self._evaluate()[0]

    def matches(self) -> list[Matches]:
        """Return which detections the evaluator calls right, class by class; raise as `result` does."""
        return self._evaluate()[1]

    def counts(self) -> dict[int, Counts]:
        """Count boxes of score COUNTED_FROM and above at IoU 0.5, class by class; raise as `result` does.

        Detections are matched best first, so what lies below that score changes no match above it. Classes that are
        found, though no picture has an object of them, have wrong answers only.
        """
        found = {one.number: _counts(one) for one in self.matches()}
        stray = Counter(
            number
            for _, detected in self._pictures
            for number in detected.classes[detected.scores >= COUNTED_FROM].tolist()
            if number not in found
        )
        found |= {number: Counts.of(0, wrong, 0) for number, wrong in stray.items()}
        return dict(sorted(found.items()))

    def _evaluate(self) -> tuple[Detection, list[Matches]]:
        if self._evaluated is None:
            if not any((~annotated.crowd).any() for annotated, _ in self._pictures):
                raise EdgekitError(
                    "there are no labelled objects to measure mAP on", "give pictures with labelled boxes"
                )
            self._evaluated = _evaluate(self._pictures)
        return self._evaluated


def paired(
    before: DetectionTally, after: DetectionTally, resamples: int = bootstrap.RESAMPLES, seed: int = 0
) -> DetectionDelta:
    """Return the difference in mean average precision of two models on the same pictures.

    The interval is the percentile bootstrap over pictures (Efron 1979): they are drawn with replacement `resamples`
    times, both models on the same draws, and precision is averaged anew each time; matches do not change, for they are
    found picture by picture. Raises EdgekitError when the pictures differ, and as `DetectionTally.result` does.
    """
    if before.keys != after.keys:
        what = f"on {len(before.keys)} pictures before and {len(after.keys)} after"
        raise EdgekitError(f"mAP was measured {what}, not the same", "measure both models on the same pictures")
    first, second = before.result(), after.result()
    weights = bootstrap.draws(first.n, resamples, seed)
    drops = average_precision(before.matches(), weights) - average_precision(after.matches(), weights)
    drop, low, high = bootstrap.interval(first.map - second.map, drops.mean(axis=1))
    drop50, low50, high50 = bootstrap.interval(first.map50 - second.map50, drops[:, 0])
    return DetectionDelta(drop, low, high, drop50, low50, high50, first.n)


def by_class(before: DetectionTally, after: DetectionTally, names: Sequence[str]) -> tuple[ClassFigures, ...]:
    """Set two models beside each other class by class: those that occur, in the order of their numbers.

    Classes beyond `names` are called by their number.
    """
    old, new = before.counts(), after.counts()
    nothing = Counts.of(0, 0, 0)
    found = []
    for number in sorted(old.keys() | new.keys()):
        first, second = old.get(number, nothing), new.get(number, nothing)
        name = names[number] if 0 <= number < len(names) else str(number)
        found.append(ClassFigures(name, first.tp + first.fn, first, second))
    return tuple(found)


def _counts(one: Matches) -> Counts:
    counted = (one.scores >= COUNTED_FROM) & ~one.ignored[0]
    right, answers = int(np.count_nonzero(counted & one.right[0])), int(np.count_nonzero(counted))
    objects = int(one.objects.sum())
    precision = average_precision([one], np.ones((1, len(one.objects)))) if objects else None
    ap = float(precision.mean()) if precision is not None else None
    return Counts.of(right, answers - right, objects - right, ap=ap)


def average_precision(matches: Sequence[Matches], weights: ndarray) -> ndarray:
    """Return the precision, averaged over recall and classes, of weighted pictures: (B, T) float64.

    weights: (B, n), how often each picture counts in each of B draws. A class none of whose objects was drawn does not
    count, as in COCO; NaN where no class has any. With weights of one the mean is COCO's mAP.
    """
    total = np.zeros((len(weights), len(matches[0].right) if matches else 1))
    classes = np.zeros((len(weights), 1))
    for one in matches:
        objects = weights @ one.objects
        step = max(1, _AT_ONCE // max(1, len(one.picture)))
        for start in range(0, len(weights), step):
            rows = slice(start, start + step)
            total[rows] += _class_precision(one, weights[rows], objects[rows])
        classes[:, 0] += objects > 0
    with np.errstate(invalid="ignore"):
        mean: ndarray = total / classes
    return mean


def _class_precision(one: Matches, weights: ndarray, objects: ndarray) -> ndarray:
    """Average precision of one class at each threshold, (B, T); 0 in draws without objects."""
    result = np.zeros((len(weights), len(one.right)))
    if not one.right.any():
        return result
    drawn = weights[:, one.picture].astype(np.float64)
    answered = np.cumsum(drawn, axis=1)
    present = np.maximum(objects, 1)[:, None]
    recalls = np.linspace(0.0, 1.0, _RECALLS)
    for threshold, (right, ignored) in enumerate(zip(one.right, one.ignored, strict=True)):
        # Precision is highest right after a right answer, so those are the only points of the curve that matter.
        points = np.flatnonzero(right)
        if not len(points):
            continue
        hits = np.cumsum(drawn[:, points], axis=1)
        answers = answered[:, points]
        if ignored.any():
            answers = answers - np.cumsum(drawn * ignored, axis=1)[:, points]
        precision = hits / (answers + np.spacing(1))
        highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        # How many of the recall levels each point is the first to reach.
        reached = np.searchsorted(recalls, hits / present, side="right")
        steps = np.diff(reached, axis=1, prepend=0)
        result[:, threshold] = (highest * steps).sum(axis=1) / _RECALLS
    result[objects == 0] = 0
    return result


# ---- the COCO evaluator


def _evaluate(pictures: Sequence[tuple[Annotated, Detected]]) -> tuple[Detection, list[Matches]]:
    """Match all detections to objects, of all sizes, at most 100 a picture and class: COCO's main figure."""
    labelled = np.unique(np.concatenate([annotated.classes for annotated, _ in pictures]))
    # A class without objects has no precision in COCO: what is found of it changes nothing.
    wanted = frozenset(labelled.tolist())
    images = [{"id": number} for number in range(1, len(pictures) + 1)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _coco(images, wanted, _objects(annotated for annotated, _ in pictures))
        found = _coco(images, wanted, _found((detected for _, detected in pictures), wanted))
        evaluator = _pycocotools("cocoeval").COCOeval(truth, found, "bbox")
        evaluator.params.areaRng, evaluator.params.areaRngLbl = evaluator.params.areaRng[:1], ["all"]
        evaluator.params.maxDets = [100]
        evaluator.evaluate()
        evaluator.accumulate()
    n, precision = len(pictures), evaluator.eval["precision"]
    # The evaluator goes through the classes in order.
    rows = [evaluator.evalImgs[start : start + n] for start in range(0, len(wanted) * n, n)]
    matches = [_matches(number, one) for number, one in zip(sorted(wanted), rows, strict=True)]
    counts = [int(one.objects.sum()) for one in matches]
    classes = sum(count > 0 for count in counts)
    return Detection(_mean(precision), _mean(precision[0]), n, sum(counts), classes), matches


def _coco(images: list[dict[str, Any]], classes: frozenset[int], annotations: Iterator[dict[str, Any]]) -> Any:
    coco = _pycocotools("coco").COCO()
    # Its ids begin at 1: the evaluator takes a match with the object 0 for none.
    numbered = [{"id": number, **annotation} for number, annotation in enumerate(annotations, 1)]
    coco.dataset = {"images": images, "annotations": numbered, "categories": [{"id": one} for one in sorted(classes)]}
    coco.createIndex()
    return coco


def _objects(pictures: Iterator[Annotated]) -> Iterator[dict[str, Any]]:
    for number, one in enumerate(pictures, 1):
        for box, label, crowd in zip(one.boxes.tolist(), one.classes.tolist(), one.crowd.tolist(), strict=True):
            yield _annotation(number, label, box) | {"iscrowd": int(crowd)}


def _found(pictures: Iterator[Detected], wanted: frozenset[int]) -> Iterator[dict[str, Any]]:
    for number, one in enumerate(pictures, 1):
        for box, label, score in zip(one.boxes.tolist(), one.classes.tolist(), one.scores.tolist(), strict=True):
            if label in wanted:
                yield _annotation(number, label, box) | {"iscrowd": 0, "score": score}


def _annotation(image: int, label: int, box: list[float]) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    width, height = x1 - x0, y1 - y0
    return {"image_id": image, "category_id": label, "bbox": [x0, y0, width, height], "area": width * height}


def _matches(number: int, evaluated: Sequence[dict[str, Any] | None]) -> Matches:
    """Gather one class's results, a dictionary a picture (None where there is nothing of it), best detection first."""
    there = [(place, one) for place, one in enumerate(evaluated) if one is not None]
    scores = np.concatenate([one["dtScores"] for _, one in there] or [np.zeros(0)])
    order = np.argsort(-scores, kind="mergesort")  # as pycocotools sorts
    picture = np.repeat([place for place, _ in there], [len(one["dtScores"]) for _, one in there])
    matched = np.concatenate([one["dtMatches"] for _, one in there], axis=1)[:, order] > 0
    ignored = np.concatenate([one["dtIgnore"] for _, one in there], axis=1)[:, order].astype(bool)
    objects = np.zeros(len(evaluated), np.int64)
    for place, one in there:
        objects[place] = np.count_nonzero(np.asarray(one["gtIgnore"]) == 0)
    return Matches(number, picture[order].astype(np.int64), scores[order], matched & ~ignored, ignored, objects)


def _mean(precision: ndarray) -> float:
    there = precision[precision > -1]
    return float(there.mean()) if there.size else 0.0


def _pycocotools(module: str) -> Any:
    try:
        return importlib.import_module(f"pycocotools.{module}")
    except ImportError as error:
        raise EdgekitError(f"mAP needs pycocotools: {error}", "pip install 'edgekit-onnx[detect]'") from error
