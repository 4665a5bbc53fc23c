"""The judge: what choices are made by, with labels, without, and for detectors."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from conftest import picture, save
from edgekit.data.folder import scan
from edgekit.data.layout import Annotated
from edgekit.measure import calibration, infer, judge
from edgekit.measure.classes import resolve
from edgekit.measure.evaluate import Objects
from edgekit.measure.judge import Judge
from nets import Net


def classifier(turned=0.0):
    """Answers the brightest channel; `turned` mixes the channels up."""
    net = Net()
    weight = np.eye(3, dtype=np.float32) + np.float32(turned) * np.roll(np.eye(3, dtype=np.float32), 1, 0)
    x = net.add("GlobalAveragePool", "input")
    net.add("Gemm", net.add("Flatten", x), net.constant(weight), outputs=["scores"], transB=1)
    return net.model({"input": [1, 3, 8, 8]}, {"scores": [1, 3]})


@pytest.fixture
def coloured(tmp_path):
    """Two folders of pictures: mostly red and mostly green."""
    for number in range(8):
        image = picture(number, 8, 8) // 4
        image[..., 2 - number % 2] += 150
        save(tmp_path / "pictures" / ("red", "green")[number % 2] / f"{number}.png", image)
    return scan(tmp_path / "pictures")


def decided(model, listing):
    return infer.decide(model, given={"preset": "unit"}, pictures=listing.sources)


def judged(model, listing, *candidates, **facts):
    decision = decided(model, listing)
    stream = calibration.from_pictures(listing.sources, decision)
    made = Judge(model, stream, listing.sources, decision, **facts)
    return [made.judge(candidate) for candidate in candidates]


def test_without_labels_the_score_is_agreement(coloured):
    model = classifier()
    same, other = judged(model, coloured, model, classifier(turned=3.0))
    assert (same.drop, same.metric, same.n, same.agreement) == (0.0, "agreement", 8, 1.0)
    assert other.drop == 1 - other.agreement > 0 and other.sqnr_db < same.sqnr_db


def test_with_labels_the_score_is_top1(coloured):
    model = classifier()
    known = resolve(coloured.labels, 3, file=classes_file(coloured))
    same, other = judged(model, coloured, model, classifier(turned=3.0), classes=known)
    assert (same.drop, same.metric) == (0.0, "top-1")
    assert other.drop > 0.4


def classes_file(listing):
    path = listing.root.parent / "names.txt"
    path.write_text("red\ngreen\nblue\n")
    return path


def test_what_is_not_kept_is_computed_again(coloured, monkeypatch):
    model, other = classifier(), classifier(turned=0.3)
    whole = judged(model, coloured, other, other)
    monkeypatch.setattr(judge, "KEPT_BYTES", 2000)
    assert judged(model, coloured, other, other) == whole
    monkeypatch.setattr(judge, "KEPT_BYTES", 0)
    assert judged(model, coloured, other, other) == whole
    assert whole[0] == whole[1]


def test_at_most_so_many(coloured):
    model = classifier()
    stream = calibration.from_pictures(coloured.sources, decided(model, coloured))
    assert Judge(model, stream).judge(model, most=3).n == 3


def spotter(shift=0.0):
    """An end-to-end detector whose only box is around the brightest column, `shift` pixels beside it."""
    columns = np.arange(16, dtype=np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["columns"], axes=[1, 2], keepdims=0),
        helper.make_node("ArgMax", ["columns"], ["place"], axis=1, keepdims=1),
        helper.make_node("Gather", ["x", "place"], ["left"]),
        helper.make_node("Add", ["left", "wide"], ["right"]),
        helper.make_node("Concat", ["left", "zero", "right", "high", "sure", "zero"], ["row"], axis=1),
        helper.make_node("Unsqueeze", ["row", "one"], ["out"]),
    ]
    constants = {"x": columns - 1.5 + shift, "wide": [[4.0]], "zero": [[0.0]], "high": [[16.0]], "sure": [[0.9]]}
    weights = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()]
    weights.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("input", 1, [1, 3, 16, 16])], [value("out", 1, [1, 1, 6])], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize("labelled", [False, True])
def test_detectors_are_judged_on_labels_or_on_their_own_mirrored_answers(tmp_path, labelled):
    pytest.importorskip("pycocotools", reason="mAP needs the extra edgekit[detect]")
    labels = {}
    for number, column in enumerate((3, 7, 11)):
        image = np.zeros((16, 16, 3), np.uint8)
        image[:, column] = 255
        save(tmp_path / "pictures" / f"{number}.png", image)
        box = np.array([[column - 1.5, 0, column + 2.5, 16]])
        labels[f"{number}.png"] = (box, np.zeros(1, np.int64), np.zeros(1, bool))
    listing = scan(tmp_path / "pictures")
    known = {s.key: Annotated(s, *labels[s.path.name], 16, 16) for s in listing.sources} if labelled else {}
    model = spotter()
    onnx.checker.check_model(model)
    same, near, far = judged(
        model, listing, model, spotter(1.0), spotter(9.0), objects=Objects("end2end", known, ("out",))
    )
    assert same.metric == ("mAP" if labelled else "mAP against the original's own detections, mirrored")
    assert same.drop == 0 and 0 < near.drop < far.drop
