"""Heads: from a detector's raw outputs to boxes in the picture: decoding, suppression, undoing the resize.

`yolox`    (N, A, 5+C)  xy in cells, log of wh in strides, objectness, classes; as YOLOX exports it (sigmoid applied)
`yolov5`   (N, A, 5+C)  centre and size in input pixels, objectness, classes; also YOLOX's with --decode_in_inference
`yolov8`   (N, 4+C, A)  centre and size in input pixels, classes; YOLOv8 and its followers
`end2end`  (N, K, 6)    x0 y0 x1 y1 in input pixels, score, class, after suppression; or outputs for boxes, scores and
                        labels, or (K, 7) with the batch number first, class and score last (YOLOv7)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError
from edgekit.lazy import np

if TYPE_CHECKING:
    from numpy import ndarray

    from edgekit.measure.preprocess import Preprocess

    Size = tuple[int, int]

STRIDES = (8, 16, 32)
CONFIDENCE = 0.01
OVERLAP = 0.65
MOST = 100
# More candidates than this are noise: a broken model would take seconds.
_MOST_CANDIDATES = 30_000


@dataclass(frozen=True, eq=False)
class Detected:
    """What a detector found in one picture, best first once suppressed.

    boxes: Kx4 float64, x0 y0 x1 y1 in pixels of the frame that the giver names. scores: K float64. classes: K int64.
    """

    boxes: ndarray
    scores: ndarray
    classes: ndarray

    def part(self, chosen: ndarray) -> Detected:
        """Give some of them, by number or flag, in that order."""
        return Detected(self.boxes[chosen], self.scores[chosen], self.classes[chosen])


def detect(
    head: str,
    outputs: Sequence[ndarray],
    preprocess: Preprocess,
    size: Size,
    names: Sequence[str] = (),
    classes: int | None = None,
) -> Detected:
    """Give what a model found in one picture (the first of its batch), in pixels of the upright picture.

    outputs: as the model gives them, `names` being theirs. size: the picture's height and width in pixels. classes:
    their number where it is known, so that a head's further values (masks, keypoints) are not taken for classes.
    """
    found = decode(head, outputs, preprocess.size, names, classes)[0]
    if head != "end2end":
        found = suppress(found)
    return place(best(found), preprocess, size)


def decode(
    head: str,
    outputs: Sequence[ndarray],
    size: Size,
    names: Sequence[str] = (),
    classes: int | None = None,
    confidence: float = CONFIDENCE,
) -> list[Detected]:
    """Decode raw outputs, one result for each picture of the batch, in pixels of the model's input.

    size: the input's height and width. Every (box, class) whose score exceeds `confidence` is a candidate; what is not
    finite is none. Raises EdgekitError when there is no such head or the outputs do not fit it.
    """
    if head not in HEADS:
        raise EdgekitError(f"--head {head}: no such head", f"use one of {', '.join(HEADS)}")
    if head == "end2end":
        return _end2end(outputs, names, confidence)
    output = next((output for output in outputs if np.ndim(output) == 3), None)
    if output is None or not _fits(head, output.shape, size):
        raise _misfit(head, [np.shape(output) for output in outputs], size)
    pictures = output.astype(np.float32, copy=False)  # half precision would overflow in products
    with np.errstate(over="ignore", invalid="ignore"):
        return [_candidates(*_DECODERS[head](picture, size), classes, confidence) for picture in pictures]


def guess(shapes: Sequence[Sequence[int | str | None]], size: Size) -> str | None:
    """Tell the head from the shapes of a model's outputs and its input's height and width; None when none fits.

    The number of boxes decides: a cell each (`yolox`), three a cell (`yolov5`), classes first (`yolov8`). YOLOv7's
    (K, 7) is not told, for so does a classifier look.
    """
    fixed = [tuple(side if isinstance(side, int) else 0 for side in shape) for shape in shapes]
    raw = next((shape for shape in fixed if len(shape) == 3), None)
    for head in ("yolox", "yolov5", "yolov8"):
        if raw is not None and _fits(head, raw, size) and (head != "yolov5" or raw[1] in _anchors(size, 3)):
            return head
    if raw is not None and len(fixed) == 1 and raw[2] == 6:
        return "end2end"
    lasts = [shape[-1] for shape in fixed if len(shape) >= 2]
    return "end2end" if len(fixed) >= 3 and 4 in lasts else None


# ---- decoders: (values of one picture, input size) -> boxes (A, 4) x0 y0 x1 y1 and scores (A, C)


def _yolox(output: ndarray, size: Size) -> tuple[ndarray, ndarray]:
    cells, strides = _grid(size)
    boxes = _corners((output[:, :2] + cells) * strides, np.exp(output[:, 2:4]) * strides)
    return boxes, output[:, 5:] * output[:, 4:5]


def _yolov5(output: ndarray, size: Size) -> tuple[ndarray, ndarray]:
    return _corners(output[:, :2], output[:, 2:4]), output[:, 5:] * output[:, 4:5]


def _yolov8(output: ndarray, size: Size) -> tuple[ndarray, ndarray]:
    return _corners(output[:2].T, output[2:4].T), output[4:].T


def _corners(centres: ndarray, sides: ndarray) -> ndarray:
    return np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)


@lru_cache(maxsize=4)
def _grid(size: Size) -> tuple[ndarray, ndarray]:
    """Give column and row (A, 2), and stride (A, 1), of each cell, finest level first, row by row."""
    cells, strides = [], []
    for stride in STRIDES:
        rows, columns = np.mgrid[: size[0] // stride, : size[1] // stride]
        cells.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        strides.append(np.full((rows.size, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)


def _candidates(boxes: ndarray, scores: ndarray, classes: int | None, confidence: float) -> Detected:
    scores = scores[:, :classes]
    rows, columns = np.nonzero(scores > confidence)
    found = Detected(boxes[rows].astype(np.float64), scores[rows, columns].astype(np.float64), columns)
    return _finite(found)


def _finite(found: Detected) -> Detected:
    fine = np.isfinite(found.boxes).all(axis=1) & np.isfinite(found.scores)
    return found if fine.all() else found.part(fine)


# ---- detections that come out of the model as such


def _end2end(outputs: Sequence[ndarray], names: Sequence[str], confidence: float) -> list[Detected]:
    found = _tables(outputs) if len(outputs) == 1 else _separate(outputs, names)
    return [_finite(one.part(one.scores > confidence)) for one in found]


def _tables(outputs: Sequence[ndarray]) -> list[Detected]:
    table = outputs[0].astype(np.float64)
    if table.ndim == 3 and table.shape[2] == 6:
        return [Detected(rows[:, :4], rows[:, 4], _whole(rows[:, 5])) for rows in table]
    if table.ndim == 2 and table.shape[1] == 7:
        count = max(1, int(table[:, 0].max(initial=0)) + 1)
        parts = [table[table[:, 0] == number] for number in range(count)]
        return [Detected(rows[:, 1:5], rows[:, 6], _whole(rows[:, 5])) for rows in parts]
    raise _misfit("end2end", [table.shape], None)


def _separate(outputs: Sequence[ndarray], names: Sequence[str]) -> list[Detected]:
    """Tell boxes (N, K, 4) by their last side, labels by type, name or whole values; further values count the boxes."""
    named = [*zip([*names, *[""] * len(outputs)], outputs, strict=False)]
    position = next((i for i, one in enumerate(outputs) if np.ndim(one) in (2, 3) and one.shape[-1] == 4), None)
    if position is None:
        raise _misfit("end2end", [np.shape(output) for output in outputs], None)
    _, boxes = named.pop(position)
    boxes = boxes[None] if boxes.ndim == 2 else boxes
    batch, most = boxes.shape[:2]
    flat = [(name.lower(), np.reshape(output, (batch, output.size // batch))) for name, output in named]
    others = [(name, values) for name, values in flat if values.shape[1] in (most, 1)]
    each = [(name, values) for name, values in others if values.shape[1] == most]
    each.sort(key=lambda pair: _is_labels(*pair))
    if len(each) < 2:
        raise _misfit("end2end", [np.shape(output) for output in outputs], None)
    (_, scores), (_, labels) = each[0], each[-1]
    counts = next((values[:, 0] for _, values in others if values.shape[1] != most), np.full(batch, most))
    return [
        Detected(
            boxes[one, :count].astype(np.float64), scores[one, :count].astype(np.float64), _whole(labels[one, :count])
        )
        for one, count in enumerate(np.clip(counts, 0, most).astype(int))
    ]


def _is_labels(name: str, values: ndarray) -> int:
    """Say how surely an output holds labels, 0..2."""
    if values.dtype.kind in "iu" or "label" in name or "class" in name or "cls" in name:
        return 2
    return int("score" not in name and "conf" not in name and bool((values == np.rint(values)).all()))


def _whole(values: ndarray) -> ndarray:
    return np.nan_to_num(values, nan=-1, posinf=-1, neginf=-1).astype(np.int64)


# ---- suppression and placement


def suppress(found: Detected, overlap: float = OVERLAP, most: int = MOST) -> Detected:
    """Keep the best of the boxes of one class whose IoU exceeds `overlap`, greedily; at most `most` of all classes."""
    found = best(found, _MOST_CANDIDATES)
    x0, y0, x1, y1 = np.ascontiguousarray(found.boxes.T)
    areas = np.maximum(x1 - x0, 0) * np.maximum(y1 - y0, 0)
    rest = np.arange(len(areas))
    kept: list[int] = []
    while len(rest) and len(kept) < most:
        first, rest = rest[0], rest[1:]
        kept.append(int(first))
        # Only the same class is compared, and it alone can lose members.
        rivals = np.flatnonzero(found.classes[rest] == found.classes[first])
        if not len(rivals):
            continue
        others = rest[rivals]
        across = np.minimum(x1[others], x1[first]) - np.maximum(x0[others], x0[first])
        down = np.minimum(y1[others], y1[first]) - np.maximum(y0[others], y0[first])
        shared = np.maximum(across, 0) * np.maximum(down, 0)
        lost = shared > overlap * (areas[others] + areas[first] - shared)
        if lost.any():
            rest = np.delete(rest, rivals[lost])
    return found.part(np.array(kept, np.int64))


def best(found: Detected, most: int = MOST) -> Detected:
    """Give the `most` with the highest scores, best first, the earlier first among equals."""
    return found.part(np.argsort(-found.scores, kind="stable")[:most])


def place(found: Detected, preprocess: Preprocess, size: Size) -> Detected:
    """Bring boxes from the model's input to the picture, of `size` height and width, and clip them to it.

    What lies wholly in the padding is left out.
    """
    height, width = size
    tall, wide, top, left = preprocess.placement(height, width)
    # A crop's corner is where the input begins in the picture, a letterbox's where the picture begins in the input.
    sign = 1 if preprocess.resize == "crop" else -1
    x = np.clip((found.boxes[:, ::2] + sign * left) * (width / wide), 0, width)
    y = np.clip((found.boxes[:, 1::2] + sign * top) * (height / tall), 0, height)
    boxes = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1)
    inside = (x[:, 0] < x[:, 1]) & (y[:, 0] < y[:, 1])
    return Detected(boxes, found.scores, found.classes).part(inside)


# ---- what fits


def _anchors(size: Size, each: int) -> set[int]:
    """Count the boxes of a net with `each` in a cell, for the strides that nets have."""
    cells = {stride: (size[0] // stride) * (size[1] // stride) for stride in (4, *STRIDES, 64)}
    three = sum(cells[stride] for stride in STRIDES)
    return {each * three, each * (three + cells[64]), each * (three + cells[4])}


def _fits(head: str, shape: Sequence[int], size: Size) -> bool:
    if head == "yolox":
        return shape[2] > 5 and shape[1] == len(_grid(size)[0])
    if head == "yolov5":
        return shape[2] > 5 and (shape[1] > shape[2] or shape[1] in _anchors(size, 3))
    return shape[1] > 4 and (shape[2] > shape[1] or shape[2] in _anchors(size, 1))


def _misfit(head: str, shapes: Sequence[Sequence[int]], size: Size | None) -> EdgekitError:
    shown = ", ".join("x".join(map(str, shape)) for shape in shapes)
    other = guess(shapes, size) if size is not None else None
    wanted = f"use --head {other}" if other else f"the heads are {', '.join(HEADS)}, as models are exported for them"
    return EdgekitError(f"--head {head}: the model's output does not fit it: {shown}", wanted)


_DECODERS: dict[str, Callable[[ndarray, Size], tuple[ndarray, ndarray]]] = {
    "yolox": _yolox,
    "yolov5": _yolov5,
    "yolov8": _yolov8,
}
HEADS = (*_DECODERS, "end2end")
