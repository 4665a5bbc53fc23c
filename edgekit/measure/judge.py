"""Judge: how good a model still is, on the pictures that choices are made on, against the original or its labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.data.layout import Annotated
from edgekit.lazy import np
from edgekit.measure import accuracy, detect, evaluate, heads
from edgekit.measure.accuracy import Tally
from edgekit.measure.detect import DetectionTally
from edgekit.measure.drift import Drift, DriftResult
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import ModelProto

    from edgekit.data.folder import Source
    from edgekit.measure.calibration import Calibration
    from edgekit.measure.classes import Classes
    from edgekit.measure.evaluate import Objects
    from edgekit.measure.infer import Decision
    from edgekit.session import Feed

# What the original was fed with and answered is kept as far as it fits; the rest is computed again for each model.
KEPT_BYTES = 32_000_000
# The original's own detections on the mirrored picture stand for labels where there are none, from this score on.
CONFIDENT = 0.3


@dataclass(frozen=True)
class Judged:
    """How near a model is to the original on `n` pictures.

    `sqnr_db`, `agreement`: as in `drift.DriftResult`. `drop`: how much lower its score is, 0..1, `metric` saying which:
    top-1 or mAP against labels, mAP against the original's detections in the mirrored picture, or agreement (its drop
    is 1 - agreement); None where nothing of that kind can be measured. `low`: the lower end of its paired 95% interval.
    """

    sqnr_db: float
    agreement: float | None
    drop: float | None
    low: float | None
    metric: str
    n: int


@dataclass(frozen=True)
class _Known:
    """One picture: what goes in, what the original answers, and what would be right."""

    feed: Feed
    answer: list[Any]
    label: int | None = None
    objects: Annotated | None = None


class Judge:
    """Compares models with one original, on the same pictures every time.

    Labels are used where the pictures have any. Memory is bounded by KEPT_BYTES and one picture.
    """

    def __init__(
        self,
        original: ModelProto,
        feeds: Calibration,
        pictures: tuple[Source, ...] = (),
        decision: Decision | None = None,
        classes: Classes | None = None,
        objects: Objects | None = None,
        threads: int = 1,
    ) -> None:
        self._session = open_session(original, threads=threads)
        self._feeds, self._pictures, self._decision = feeds, pictures, decision
        known = classes.index if classes is not None else {}
        labelled = bool(pictures) and all(source.label in known for source in pictures)
        self._classes = classes if labelled and decision is not None else None
        self._objects = objects if pictures and decision is not None else None
        self._threads = threads
        self._kept: list[_Known] = []
        self._whole = False  # whether everything is kept

    def judge(self, model: ModelProto, most: int | None = None) -> Judged:
        """Compare `model` with the original, on at most `most` pictures."""
        session = open_session(model, threads=self._threads)
        drift, tallies, found = Drift(), (Tally(), Tally()), (DetectionTally(), DetectionTally())
        objects = 0
        for number, known in enumerate(self._known()):
            if most is not None and number >= most:
                break
            answers = (known.answer, self._answer(session, known.feed))
            drift.add(*answers)
            if known.label is not None:
                for tally, answer in zip(tallies, answers, strict=True):
                    tally.add(answer[0], [known.label])
            if known.objects is not None:
                objects += int(np.count_nonzero(~known.objects.crowd))
                for each, answer in zip(found, answers, strict=True):
                    each.add(known.objects, self._boxes(answer, known.objects))
        return self._judged(drift.result(), tallies, found if objects else None)

    def _judged(
        self, drift: DriftResult, tallies: tuple[Tally, Tally], found: tuple[DetectionTally, DetectionTally] | None
    ) -> Judged:
        drop, low, metric = None, None, ""
        if self._classes is not None:
            delta = accuracy.paired(*(tally.correct for tally in tallies))
            drop, low, metric = delta.drop, delta.low, "top-1"
        elif self._objects is not None and found is not None:
            gap = detect.paired(*found)
            drop, low = gap.drop, gap.low
            metric = "mAP" if self._objects.labels else "mAP against the original's own detections, mirrored"
        elif drift.agreement is not None:
            drop = low = 1 - drift.agreement
            metric = "agreement"
        return Judged(drift.sqnr_db, drift.agreement, drop, low, metric, drift.n)

    def _known(self) -> Iterator[_Known]:
        yield from self._kept
        if self._whole:
            return
        size = sum(_bytes(known) for known in self._kept)
        room = True
        for number, known in enumerate(self._made()):
            if number < len(self._kept):
                continue
            size += _bytes(known)
            room = room and size <= KEPT_BYTES
            if room:
                self._kept.append(known)
            yield known
        self._whole = room

    def _made(self) -> Iterator[_Known]:
        if self._classes is None and self._objects is None:
            for feed in self._feeds:
                yield _Known(feed, run(self._session, feed))
            return
        assert self._decision is not None
        for source in self._pictures:
            made = evaluate.feed_of(source, self._decision)
            if made is None:
                continue
            answer = self._answer(self._session, made)
            label = self._classes.index[source.label] if self._classes is not None and source.label else None
            yield _Known(made, answer, label, self._objects_in(source, made))

    def _answer(self, session: Any, feed: Feed) -> list[Any]:
        outputs = run(session, feed)
        if self._classes is None and self._objects is None:
            return outputs
        return [output[:1] if np.ndim(output) else output for output in outputs]  # a fixed batch is filled with copies

    def _objects_in(self, source: Source, feed: Feed) -> Annotated | None:
        if self._objects is None:
            return None
        if source.key in self._objects.labels:
            return self._objects.labels[source.key]
        return self._mirrored(source, feed)

    def _mirrored(self, source: Source, feed: Feed) -> Annotated:
        """Give what the original is sure of in the mirrored picture, in the pixels of the model's input."""
        assert self._decision is not None
        wanted = self._decision.preprocess
        axis = wanted.layout.index("W")
        turned = {name: np.ascontiguousarray(np.flip(array, axis)) for name, array in feed.items()}
        boxes = self._boxes(self._answer(self._session, turned), None)
        boxes = boxes.part(boxes.scores >= CONFIDENT)
        height, width = wanted.size
        upright = boxes.boxes.copy()
        upright[:, [0, 2]] = width - boxes.boxes[:, [2, 0]]
        return Annotated(source, upright, boxes.classes, np.zeros(len(upright), bool), width, height)

    def _boxes(self, answer: list[Any], objects: Annotated | None) -> heads.Detected:
        assert self._objects is not None and self._decision is not None
        labelled = objects is not None and self._objects.labels
        wanted = self._decision.preprocess
        if labelled and objects is not None:
            size = (objects.height, objects.width)
            return heads.detect(self._objects.head, answer, wanted, size, self._objects.outputs)
        found = heads.decode(self._objects.head, answer, wanted.size, self._objects.outputs)[0]
        return heads.best(found if self._objects.head == "end2end" else heads.suppress(found))


def _bytes(known: _Known) -> int:
    return sum(np.asarray(array).nbytes for array in (*known.feed.values(), *known.answer))
