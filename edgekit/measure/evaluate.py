"""Two models over the same pictures, once: accuracy where there are labels, drift always."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any

from edgekit.data.folder import Source, read
from edgekit.data.headers import Unreadable
from edgekit.data.images import decode
from edgekit.lazy import np
from edgekit.measure import heads
from edgekit.measure.accuracy import Tally
from edgekit.measure.calibration import LARGEST, Beside, Calibration
from edgekit.measure.detect import DetectionTally
from edgekit.measure.drift import Drift, DriftResult
from edgekit.measure.metric import Metric, Sample, Scores
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgekit.data.layout import Annotated
    from edgekit.measure.classes import Classes
    from edgekit.measure.infer import Decision
    from edgekit.session import Feed


@dataclass(frozen=True)
class Objects:
    """What a detector is judged on: how its outputs are decoded, the labels by picture, the names of its outputs."""

    head: str
    labels: Mapping[str, Annotated]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """What both models answered: their tallies (None without labels), and the drift between them."""

    classified: tuple[Tally, Tally] | None
    detected: tuple[DetectionTally, DetectionTally] | None
    drift: DriftResult
    unreadable: int
    scored: tuple[Scores, Scores] | None = None


def evaluate(
    before: Any,
    after: Any,
    sources: Sequence[Source],
    decision: Decision,
    classes: Classes | None = None,
    objects: Objects | None = None,
    metric: Metric | None = None,
) -> Evaluation:
    """Run the sessions `before` and `after` over pictures, one at a time; memory does not grow with their number.

    With `classes`, pictures are labelled by their folder and the first output is taken as scores; with `objects`, the
    outputs are decoded to boxes; `metric` scores the outputs as they are.
    """
    classified = (Tally(), Tally()) if classes is not None else None
    detected = (DetectionTally(), DetectionTally()) if objects is not None else None
    scored = (Scores(), Scores()) if metric is not None else None
    drift = Drift()
    unreadable = 0
    for source in sources:
        feed = feed_of(source, decision)
        if feed is None:
            unreadable += 1
            continue
        answers = [[output[:1] if np.ndim(output) else output for output in run(s, feed)] for s in (before, after)]
        drift.add(*answers)
        if scored is not None and metric is not None:
            _score(metric, scored, (before, after), answers, Sample(source.path, source.label, feed))
        if classified is not None and classes is not None and source.label is not None:
            for tally, answer in zip(classified, answers, strict=True):
                tally.add(answer[0], [classes.index[source.label]])
        if detected is not None and objects is not None:
            annotated = objects.labels[source.key]
            size = (annotated.height, annotated.width)
            for found, answer in zip(detected, answers, strict=True):
                boxes = heads.detect(objects.head, answer, decision.preprocess, size, objects.outputs)
                found.add(annotated, boxes)
    return Evaluation(classified, detected, drift.result(), unreadable, scored)


def evaluate_feeds(before: Any, after: Any, feeds: Calibration, metric: Metric | None = None) -> Evaluation:
    """Run the sessions `before` and `after` over ready-made or synthetic inputs, one at a time."""
    scored = (Scores(), Scores()) if metric is not None else None
    drift = Drift()
    beside = feeds.beside() if metric is not None else repeat(Beside())
    for feed, known in zip(feeds, beside, strict=False):
        answers = [run(session, feed) for session in (before, after)]
        drift.add(*answers)
        if scored is not None and metric is not None:
            sample = Sample(known.path, None, feed, known.arrays, known.number)
            _score(metric, scored, (before, after), answers, sample)
    return Evaluation(None, None, drift.result(), 0, scored)


def _score(
    metric: Metric, scored: tuple[Scores, Scores], sessions: tuple[Any, Any], answers: Sequence[Any], sample: Sample
) -> None:
    for scores, session, answer in zip(scored, sessions, answers, strict=True):
        names = [output.name for output in session.get_outputs()]
        scores.add(metric.score(dict(zip(names, answer, strict=True)), sample))


def feed_of(source: Source, decision: Decision) -> Feed | None:
    """Make the model's input of one picture (a fixed batch is filled with copies); None when it cannot be read."""
    try:
        pixels = decode(read(source, LARGEST)).pixels
    except (Unreadable, OSError):
        return None
    array = decision.preprocess.apply(pixels)
    if decision.batch > 1:
        array = np.repeat(array, decision.batch, axis=0)
    return {decision.input_name: array}


def output_shapes(model: ModelProto) -> list[list[int | str | None]]:
    """Give the declared shapes of a model's outputs, as onnxruntime knows them."""
    return [output.shape for output in open_session(model).get_outputs()]


def score_count(model: ModelProto) -> int | None:
    """Give the number of class scores of the first output; None when it is not that of a classifier."""
    shape = open_session(model).get_outputs()[0].shape
    sides = [side if isinstance(side, int) else 0 for side in shape]
    if len(sides) not in (2, 4) or any(side != 1 for side in sides[2:]):
        return None
    return sides[1] or None


def confusion(
    model: ModelProto, sources: Sequence[Source], decision: Decision, classes: Classes
) -> dict[tuple[int, int], int]:
    """Count how often each label got each answer, over some labelled pictures."""
    session = open_session(model)
    tally = Tally()
    for source in sources:
        feed = feed_of(source, decision)
        if feed is not None and source.label is not None:
            tally.add(run(session, feed)[0][:1], [classes.index[source.label]])
    return tally.confusion
