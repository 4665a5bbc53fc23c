from __future__ import annotations

import contextlib
import io
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.data import images, layout
from edgekit.data.folder import Source
from edgekit.data.layout import Annotated
from edgekit.errors import EdgekitError
from edgekit.measure import detect, heads
from edgekit.measure.detect import DetectionTally, average_precision, paired
from edgekit.measure.heads import Detected
from edgekit.measure.preprocess import Preprocess

SIZE = (64, 96)  # height, width
CELLS = 8 * 12 + 4 * 6 + 2 * 3


def pycocotools():
    pytest.importorskip("pycocotools", reason="mAP needs the extra edgekit[detect]")


# ---- decoding: boxes are put into raw outputs and have to come out again


BOXES = np.array([[10.0, 12, 30, 40], [50, 4, 90, 60], [0, 0, 8, 8]])
CLASSES = [2, 0, 1]
SCORES = [0.9, 0.5, 0.3]


def centres(boxes):
    return (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]


def rows(classes=3):
    """One row a box: centre, size, objectness 0.5, class scores that give SCORES times 2."""
    table = np.zeros((3, 5 + classes), np.float32)
    table[:, :2], table[:, 2:4] = centres(BOXES)
    table[:, 4] = 0.5
    table[range(3), [5 + number for number in CLASSES]] = np.array(SCORES) * 2
    return table


def yolov5():
    output = np.zeros((1, 3 * CELLS, 8), np.float32)
    output[0, [5, 100, 377]] = rows()
    return output


def yolov8():
    output = np.zeros((1, 7, CELLS), np.float32)
    table = rows()
    output[0, :4, [5, 100, 77]] = table[:, :4]
    output[0, 4:, [5, 100, 77]] = table[:, 5:] / 2
    return output


def yolox():
    """Cells of three levels, written out: level, column, row."""
    output = np.zeros((1, CELLS, 8), np.float32)
    for values, (stride, column, row) in zip(rows(), [(8, 2, 3), (32, 1, 1), (16, 5, 0)], strict=True):
        start = {8: 0, 16: 96, 32: 120}[stride]
        values[:2] = values[:2] / stride - (column, row)
        values[2:4] = np.log(values[2:4] / stride)
        output[0, start + row * (96 // stride) + column] = values
    return output


def table():
    output = np.zeros((1, 20, 6), np.float32)
    output[0, :3, :4], output[0, :3, 4], output[0, :3, 5] = BOXES, SCORES, CLASSES
    return output


def separate(**options):
    padded = table()[0]
    return [padded[None, :, :4], padded[None, :, 4], padded[None, :, 5]]


EXAMPLES = {
    "yolox": ("yolox", [yolox()], ()),
    "yolov5": ("yolov5", [yolov5()], ()),
    "yolov5 with its maps": ("yolov5", [np.zeros((1, 3, 8, 12, 8)), yolov5()], ()),
    "yolov8": ("yolov8", [yolov8()], ()),
    "end2end": ("end2end", [table()], ()),
    "end2end yolov7": ("end2end", [np.insert(table()[0, :3][:, [0, 1, 2, 3, 5, 4]], 0, 0, axis=1)], ()),
    "end2end boxes scores labels": ("end2end", separate(), ()),
    "end2end torchvision": ("end2end", [one[0] for one in separate()][::-1], ()),
    "end2end named": ("end2end", [one * 1.0 for one in separate()], ("dets", "scores", "classes")),
    "end2end integers": ("end2end", [separate()[0], separate()[2].astype(np.int64), separate()[1]], ()),
    "end2end counted": (
        "end2end", [np.array([[3]], np.int32), separate()[0], np.maximum(separate()[1], 0.3), separate()[2]],
        ("num_dets", "det_boxes", "det_scores", "det_classes"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("example", EXAMPLES)
def test_boxes_come_out_of_every_head(example):
    head, outputs, names = EXAMPLES[example]
    (found,) = heads.decode(head, outputs, SIZE, names)
    found = heads.best(found)
    assert found.boxes == pytest.approx(BOXES, abs=1e-4)
    assert found.scores == pytest.approx(SCORES)
    assert found.classes.tolist() == CLASSES
    assert (found.boxes.dtype, found.scores.dtype, found.classes.dtype) == (np.float64, np.float64, np.int64)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_head_is_guessed_from_shapes(example):
    head, outputs, _ = EXAMPLES[example]
    assert heads.guess([one.shape for one in outputs], SIZE) == (None if "yolov7" in example else head)


def test_no_head_for_other_shapes():
    assert heads.guess([(1, 1000)], SIZE) is None
    assert heads.guess([], SIZE) is None
    assert heads.guess([("batch", None, 85)], SIZE) is None
    assert heads.guess([(1, 3549, 85)], (416, 416)) == "yolox"
    assert heads.guess([(1, 25200, 85)], (640, 640)) == "yolov5"
    assert heads.guess([("N", 84, 8400)], (640, 640)) == "yolov8"
    assert heads.guess([(1, 300, 6)], (640, 640)) == "end2end"


def test_a_wrong_head_is_an_error_that_names_the_right_one():
    with pytest.raises(EdgekitError, match="--head yolox: the model's output does not fit it: 1x7x126") as caught:
        heads.decode("yolox", [yolov8()], SIZE)
    assert caught.value.hint == "use --head yolov8"
    with pytest.raises(EdgekitError, match="no such head") as caught:
        heads.decode("yolo", [yolov8()], SIZE)
    assert "end2end" in caught.value.hint
    for outputs in ([np.zeros((1, 10))], [np.zeros((1, 3, 4)), np.zeros((1, 7)), np.zeros((1, 9))], []):
        for head in heads.HEADS:
            with pytest.raises(EdgekitError, match="does not fit"):
                heads.decode(head, outputs, SIZE)


def test_pictures_of_a_batch_are_apart():
    both = heads.decode("yolov8", [np.concatenate([yolov8(), np.zeros_like(yolov8())])], SIZE)
    assert [len(one.scores) for one in both] == [3, 0]
    assert both[1].boxes.shape == (0, 4)


def test_further_values_are_not_classes():
    masks = np.concatenate([yolov8(), np.ones((1, 32, CELLS), np.float32)], axis=1)
    assert len(heads.decode("yolov8", [masks], SIZE, classes=3)[0].scores) == 3


def test_a_box_may_be_of_several_classes():
    output = yolov8()
    output[0, 4, 5] = 0.2
    found = heads.decode("yolov8", [output], SIZE)[0]
    assert sorted(found.classes.tolist()) == [0, 0, 1, 2]


def test_a_broken_model_finds_nothing_rather_than_failing():
    for value in (np.nan, np.inf, -np.inf):
        assert len(heads.decode("yolox", [np.full_like(yolox(), value)], SIZE)[0].scores) == 0
        assert len(heads.decode("end2end", [np.full_like(table(), value)], SIZE)[0].scores) == 0
    huge = yolox()
    huge[..., 2:4] = 1000
    assert len(heads.decode("yolox", [huge], SIZE)[0].scores) == 0


def test_half_precision_does_not_overflow():
    found = heads.best(heads.decode("yolox", [yolox().astype(np.float16)], SIZE)[0])
    assert found.boxes == pytest.approx(BOXES, abs=0.2)


def test_no_detections_at_all():
    empty = [np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32)]
    for outputs in (empty, [np.zeros((0, 7), np.float32)], [np.zeros((1, 0, 6), np.float32)]):
        (found,) = heads.decode("end2end", outputs, SIZE)
        assert found.boxes.shape == (0, 4)
    assert len(heads.suppress(found).scores) == 0


# ---- suppression


def brute_force(found, overlap, most):
    """The textbook's loop, one pair at a time."""

    def iou(a, b):
        across = min(a[2], b[2]) - max(a[0], b[0])
        down = min(a[3], b[3]) - max(a[1], b[1])
        shared = max(across, 0) * max(down, 0)
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
        return shared / union if union > 0 else 0

    order = sorted(range(len(found.scores)), key=lambda i: -found.scores[i])
    kept = []
    for one in order:
        rivals = [other for other in kept if found.classes[other] == found.classes[one]]
        if all(iou(found.boxes[one], found.boxes[other]) <= overlap for other in rivals):
            kept.append(one)
    return kept[:most]


def crowded(seed, count, classes, ties=False):
    rng = np.random.default_rng(seed)
    corners, sides = rng.uniform(0, 60, (count, 2)), rng.uniform(0, 40, (count, 2))
    scores = rng.integers(1, 5, count) / 5 if ties else rng.random(count)
    return Detected(np.concatenate([corners, corners + sides], axis=1), scores, rng.integers(0, classes, count))


@given(st.integers(0, 10_000), st.integers(0, 80), st.integers(1, 4), st.sampled_from([0.1, 0.3, 0.65, 1.0]),
       st.integers(1, 30), st.booleans())  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_suppression_is_the_textbooks(seed, count, classes, overlap, most, ties):
    found = crowded(seed, count, classes, ties)
    kept = heads.suppress(found, overlap, most)
    expected = brute_force(found, overlap, most)
    assert kept.boxes.tolist() == found.boxes[expected].tolist()
    assert kept.scores.tolist() == found.scores[expected].tolist()
    assert kept.classes.tolist() == found.classes[expected].tolist()


def test_boxes_without_an_area_do_no_harm():
    found = Detected(np.array([[5.0, 5, 5, 5]] * 3 + [[9, 9, 2, 2]]), np.array([0.9, 0.8, 0.7, 0.6]), np.zeros(4, int))
    assert len(heads.suppress(found).scores) == 4


def test_decoding_is_fast():
    output = np.random.default_rng(0).random((1, 3549, 85), np.float32) ** 8
    preprocess = Preprocess((416, 416), resize="letterbox")
    heads.detect("yolox", [output], preprocess, (480, 640))
    best = []
    for _ in range(5):
        start = time.perf_counter()
        heads.detect("yolox", [output], preprocess, (480, 640))
        best.append(time.perf_counter() - start)
    assert min(best) < 0.1  # far below on an idle machine; a loop over boxes takes seconds


# ---- placement


@pytest.mark.parametrize("where", ["centre", "top-left"])
@pytest.mark.parametrize("resize", ["squash", "crop", "letterbox"])
@pytest.mark.parametrize("size", [(480, 640), (640, 427), (31, 17)])
def test_a_bright_box_is_found_where_it_was(resize, where, size):
    """Draw a rectangle, preprocess the picture, take the rectangle's box in the input and bring it back."""
    height, width = size
    pixels = np.zeros((height, width, 3), np.uint8)
    x0, y0, x1, y1 = int(0.4 * width), int(0.45 * height), int(0.65 * width), int(0.6 * height)
    pixels[y0:y1, x0:x1] = 255
    preprocess = Preprocess((208, 320), resize=resize, where=where, fill=0)
    fed = preprocess.fit(pixels)[..., 0] > 127
    inside_rows, columns = np.nonzero(fed)
    box = np.array([[columns.min(), inside_rows.min(), columns.max() + 1, inside_rows.max() + 1]], np.float64)
    found = heads.place(Detected(box, np.ones(1), np.zeros(1, int)), preprocess, size)
    tall, wide = preprocess.placement(height, width)[:2]
    assert np.abs(found.boxes - [[x0, y0, x1, y1]]).max() <= max(width / wide, height / tall)


def test_boxes_are_clipped_and_padding_is_dropped():
    preprocess = Preprocess((100, 100), resize="letterbox")  # the picture fills rows 25 to 75
    boxes = np.array([[-10.0, 20, 50, 80], [10, 0, 40, 20], [0, 80, 100, 100]])
    found = heads.place(Detected(boxes, np.array([0.9, 0.8, 0.7]), np.array([1, 2, 3])), preprocess, (100, 200))
    assert found.boxes.tolist() == [[0, 0, 100, 100]]
    assert (found.scores.tolist(), found.classes.tolist()) == ([0.9], [1])


# ---- mAP


def scene(seed, number, classes=4, crowds=True):
    """A picture with labels, and detections that are mostly near them."""
    rng = np.random.default_rng([seed, number])
    count = int(rng.integers(0, 7))
    corners, sides = rng.uniform(0, 70, (count, 2)), rng.uniform(3, 40, (count, 2))
    boxes = np.concatenate([corners, corners + sides], axis=1)
    labels = rng.integers(0, classes, count)
    crowd = (rng.random(count) < 0.15) & crowds
    source = Source(Path(f"{number}.jpg"), f"{number}.jpg", 0)
    annotated = Annotated(source, boxes, labels, crowd, 120, 120)
    again = rng.integers(0, count, 2 * count) if count else np.zeros(0, int)
    wobble = rng.normal(0, 2, (len(again), 4)) + boxes[again]
    wobble[:, 2:] = np.maximum(wobble[:, 2:], wobble[:, :2] + 1)
    noise = crowded(int(rng.integers(1 << 30)), 5, classes + 1)
    guessed = np.where(rng.random(len(again)) < 0.85, labels[again], rng.integers(0, classes, len(again)))
    detected = Detected(
        np.concatenate([wobble, noise.boxes]),
        np.concatenate([rng.beta(4, 2, len(again)), noise.scores * 0.6]),
        np.concatenate([guessed, noise.classes]),
    )
    return annotated, detected


def tally(scenes):
    result = DetectionTally()
    for one in scenes:
        result.add(*one)
    return result


def reference(scenes, counts=None):
    """pycocotools as its documentation uses it, every picture as often as it counts."""
    pycocotools()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    counts = np.ones(len(scenes), int) if counts is None else counts
    drawn = [one for one, count in zip(scenes, counts, strict=True) for _ in range(count)]
    objects, results = [], []
    for number, (annotated, detected) in enumerate(drawn):
        for box, label, crowd in zip(annotated.boxes, annotated.classes, annotated.crowd, strict=True):
            sides = [*box[:2], *(box[2:] - box[:2])]
            area = sides[2] * sides[3]
            objects.append({"id": len(objects) + 1, "image_id": number, "category_id": int(label), "bbox": sides,
                            "area": area, "iscrowd": int(crowd)})  # fmt: skip
        for box, label, score in zip(detected.boxes, detected.classes, detected.scores, strict=True):
            sides = [*box[:2], *(box[2:] - box[:2])]
            results.append({"image_id": number, "category_id": int(label), "bbox": sides, "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {}, "images": [{"id": number} for number in range(len(drawn))], "annotations": objects,
            "categories": [{"id": number} for number in range(5)],
        }  # fmt: skip
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats[:2]


@pytest.mark.parametrize("seed", range(4))
def test_it_is_pycocotools_figure(seed, capfd):
    scenes = [scene(seed, number) for number in range(25)]
    expected = reference(scenes)
    result = tally(scenes).result()
    assert (result.map, result.map50) == pytest.approx(tuple(expected), abs=1e-12)
    assert 0.2 < result.map < result.map50 < 1
    assert result.n == 25
    assert result.objects == sum(int((~one.crowd).sum()) for one, _ in scenes)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("seed", range(4))
def test_the_own_average_is_pycocotools(seed):
    pycocotools()
    judged = tally([scene(seed, number) for number in range(25)])
    own = average_precision(judged.matches(), np.ones((1, 25), int))
    assert own.shape == (1, 10)
    assert own.mean() == pytest.approx(judged.result().map, abs=1e-9)
    assert own[0, 0] == pytest.approx(judged.result().map50, abs=1e-9)


def test_weights_are_pictures_counted_several_times():
    scenes = [scene(7, number) for number in range(12)]
    weights = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), size=6)
    own = average_precision(tally(scenes).matches(), weights)
    for row, counts in zip(own, weights, strict=True):
        assert (row.mean(), row[0]) == pytest.approx(tuple(reference(scenes, counts)), abs=1e-9)


def test_the_table_may_be_made_in_parts(monkeypatch):
    pycocotools()
    matches = tally([scene(1, number) for number in range(20)]).matches()
    weights = np.random.default_rng(0).multinomial(20, np.full(20, 1 / 20), size=50)
    whole = average_precision(matches, weights)
    monkeypatch.setattr(detect, "_AT_ONCE", 100)
    assert (average_precision(matches, weights) == whole).all()


def test_draws_without_objects_do_not_count():
    pycocotools()
    matches = tally([scene(1, number, crowds=False) for number in range(3)]).matches()
    nothing = np.array([[int(not any(one.objects[number] for one in matches)) for number in range(3)], [1, 1, 1]])
    own = average_precision(matches, nothing * 0 + [[0], [1]])
    assert np.isnan(own[0]).all()
    assert np.isfinite(own[1]).all()


def test_perfect_and_hopeless():
    pycocotools()
    scenes = [scene(3, number, crowds=False)[0] for number in range(10)]
    perfect = tally([(one, Detected(one.boxes, np.ones(len(one.classes)), one.classes)) for one in scenes])
    nothing = tally([(one, Detected(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))) for one in scenes])
    elsewhere = tally([(one, Detected(one.boxes + 500, np.ones(len(one.classes)), one.classes)) for one in scenes])
    assert (perfect.result().map, perfect.result().map50) == pytest.approx((1, 1))
    assert (nothing.result().map, elsewhere.result().map50) == (0, 0)
    delta = paired(perfect, nothing)
    assert (delta.drop, delta.low, delta.high, delta.drop50) == pytest.approx((1, 1, 1, 1))


def test_a_detection_of_a_crowd_is_neither_right_nor_wrong():
    one = Annotated(
        Source(Path("a"), "a", 0), np.array([[0.0, 0, 10, 10], [20, 20, 90, 90]]), np.zeros(2, int),
        np.array([False, True]), 100, 100,
    )  # fmt: skip
    pycocotools()
    found = Detected(np.array([[30.0, 30, 60, 60], [0, 0, 10, 10]]), np.array([0.9, 0.8]), np.zeros(2, int))
    result = tally([(one, found)]).result()
    assert (result.map, result.objects) == (pytest.approx(1), 1)


def test_no_objects_is_an_error():
    one = Annotated(
        Source(Path("a"), "a", 0), np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, bool), 9, 9
    )  # fmt: skip
    for judged in (DetectionTally(), tally([(one, crowded(0, 3, 2))])):
        with pytest.raises(EdgekitError, match="no labelled objects"):
            judged.result()


def test_without_pycocotools_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(EdgekitError, match="mAP needs pycocotools") as caught:
        tally([scene(0, number) for number in range(5)]).result()
    assert caught.value.hint == "pip install 'edgekit-onnx[detect]'"


# ---- the paired difference


def blurred(scenes, amount):
    """The same pictures, boxes found a little off."""
    rng = np.random.default_rng(5)
    return [
        (one, Detected(found.boxes + rng.normal(0, amount, (len(found.boxes), 1)), found.scores, found.classes))
        for one, found in scenes
    ]


def test_equal_models_do_not_differ():
    pycocotools()
    scenes = [scene(2, number) for number in range(20)]
    delta = paired(tally(scenes), tally(scenes))
    assert (delta.drop, delta.low, delta.high, delta.n) == (0, 0, 0, 20)
    assert (delta.drop50, delta.low50, delta.high50) == (0, 0, 0)


def test_a_worse_model_is_worse_beyond_doubt():
    pycocotools()
    scenes = [scene(2, number) for number in range(40)]
    before, after = tally(scenes), tally(blurred(scenes, 4))
    delta = paired(before, after)
    assert delta.drop == pytest.approx(before.result().map - after.result().map)
    assert delta.drop50 == pytest.approx(before.result().map50 - after.result().map50)
    assert 0 < delta.low < delta.drop < delta.high < 1
    opposite = paired(after, before)
    assert (opposite.drop, opposite.low, opposite.high) == pytest.approx((-delta.drop, -delta.high, -delta.low))
    assert paired(before, after) == delta
    assert set(delta.to_dict()) == {"drop", "low", "high", "drop50", "low50", "high50", "n"}


def test_the_interval_is_that_of_evaluating_anew():
    scenes = [scene(9, number) for number in range(12)]
    other = blurred(scenes, 3)
    delta = paired(tally(scenes), tally(other), resamples=40, seed=3)
    weights = np.random.default_rng(3).multinomial(12, np.full(12, 1 / 12), size=40)
    drops = [reference(scenes, row)[0] - reference(other, row)[0] for row in weights]
    assert (delta.low, delta.high) == pytest.approx(tuple(np.quantile(drops, (0.025, 0.975))), abs=1e-9)


def test_other_pictures_cannot_be_paired():
    scenes = [scene(2, number) for number in range(6)]
    for other in (scenes[:5], scenes[::-1]):
        with pytest.raises(EdgekitError, match="not the same"):
            paired(tally(scenes), tally(other))


# ---- the real pair


def test_yolox_reaches_its_figure(assets):
    """34.7 mAP and 52.2 mAP50 with Pillow's bilinear; other ways to shrink are within a point on 64 pictures."""
    pycocotools()
    from edgekit.session import open_session, run

    session = open_session(str(assets / "models" / "yolox_nano_416_opset11.onnx"))
    preprocess = Preprocess((416, 416), resize="letterbox", range=(0, 255), color="bgr", where="top-left")
    found = layout.read(assets / "images" / "coco_val64")
    judged = DetectionTally()
    for one in found.pictures:
        outputs = run(session, {"images": preprocess.apply(images.decode(one.source.path.read_bytes()).pixels)})
        assert heads.guess([output.shape for output in outputs], preprocess.size) == "yolox"
        judged.add(one, heads.detect("yolox", outputs, preprocess, (one.height, one.width)))
    result = judged.result()
    assert (result.n, result.objects) == (64, 461)
    assert result.map == pytest.approx(0.347, abs=0.015)
    assert result.map50 == pytest.approx(0.522, abs=0.015)
