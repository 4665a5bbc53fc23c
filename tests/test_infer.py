"""Inference of the preprocessing, on tiny nets fitted here for each convention, and on real ones where they are."""

import functools
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit import graph
from edgekit.data.folder import scan
from edgekit.errors import EdgekitError
from edgekit.measure import synthetic
from edgekit.measure.classes import Classes, resolve
from edgekit.measure.infer import decide
from edgekit.measure.preprocess import METADATA_KEY, PRESETS, Preprocess, preset

SIDE = 20
CLASSES = ("ant", "bee", "cow", "dog")
# How much of red, green and blue each class has, and how bright it is.
TINTS = np.array([[1.0, 0.6, 0.4], [0.4, 0.6, 1.0], [0.35, 0.3, 0.3], [0.8, 1.0, 0.5]])


@functools.cache
def draw(number, side=SIDE):
    """Draw picture `number`; its class is `number` modulo 4."""
    noise = synthetic.picture(number, (side, side), seed=7).astype(np.float64)
    return np.clip(40 + noise * TINTS[number % 4] * 0.75, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for number in range(160):
        path = root / CLASSES[number % 4] / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cv2.imencode(".png", draw(number)[..., ::-1])[1].tobytes())
    return scan(root).sources


def unlabelled(sources):
    return [replace(source, key=source.key.replace("/", "_")) for source in sources]


def features(wanted, weights, bias):
    """Compute what the net below computes before its last layer, on training pictures that the tests do not show."""
    rows = []
    for number in range(1000, 1240):
        array = replace(wanted, layout="NHWC").apply(draw(number))[0]
        shifted = np.lib.stride_tricks.sliding_window_view(array, (3, 3), axis=(0, 1))
        made = np.einsum("hwcij,ocij->hwo", shifted, weights) + bias
        rows.append(np.maximum(made, 0).mean(axis=(0, 1)))
    return np.array(rows)


def net(wanted, *, before=(), constants=(), source="x", shape=None, kind=TensorProto.FLOAT):
    """Fit a tiny classifier to pictures fed as `wanted`: convolution, ReLU, mean, linear.

    Its first layer's outputs deviate by about 1, as in nets that were trained.
    """
    rng = np.random.default_rng(3)
    channels = wanted.channels
    arrays = np.concatenate([replace(wanted, layout="NCHW").apply(draw(number)) for number in range(1000, 1040)])
    center, spread = arrays.mean(axis=(0, 2, 3)), arrays.std()
    weights = (rng.standard_normal((24, channels, 3, 3)) / np.sqrt(9 * channels) * 2 / spread).astype(np.float32)
    bias = (rng.standard_normal(24) * 0.5 - np.einsum("ocij,c->o", weights, center)).astype(np.float32)
    inner = features(wanted, weights, bias)
    goal = np.eye(4)[np.arange(1000, 1240) % 4]
    mean = inner.mean(axis=0)
    last = np.linalg.solve((inner - mean).T @ (inner - mean) + 0.01 * np.eye(24), (inner - mean).T @ (goal - 0.25))
    tensors = {"w": weights, "b": bias, "l": (8 * last).astype(np.float32), "c": (-8 * mean @ last).astype(np.float32)}
    tensors |= dict(constants)
    turned = wanted.layout == "NHWC" and source == "x"
    nodes = [
        *before,
        *([helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 3, 1, 2])] if turned else []),
        helper.make_node("Conv", ["turned" if turned else source, "w", "b"], ["conv"]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "l", "c"], ["y"]),
    ]
    sides = {"N": "N", "C": channels, "H": SIDE, "W": SIDE}
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", kind, shape or [sides[axis] for axis in wanted.layout])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def same(found, wanted):
    fields = ("size", "range", "mean", "std", "color", "layout", "dtype")
    return all(getattr(found, field) == getattr(wanted, field) for field in fields)


def origin(decision, field):
    return next(entry for entry in decision.origins if entry.field == field)


SURE = Classes({name: number for number, name in enumerate(CLASSES)}, CLASSES, 4, "a file", True)


@pytest.mark.parametrize(("color", "layout"), [("rgb", "NCHW"), ("bgr", "NHWC")])
@pytest.mark.parametrize("name", PRESETS)
def test_labels_find_every_preset(pictures, name, color, layout):
    wanted = Preprocess(size=(SIDE, SIDE), layout=layout, **preset(name, 3, color))
    for classes in (SURE, None):
        found = decide(net(wanted), pictures=pictures, classes=classes)
        assert same(found.preprocess, wanted), found.sentences()
        assert wanted in found.family
        assert origin(found, "range").source == "inferred" and "accuracy" in origin(found, "range").reason
        assert found.runner_up


@pytest.mark.parametrize("name", PRESETS)
def test_without_labels_the_family_holds_the_right_one(pictures, name):
    wanted = Preprocess(size=(SIDE, SIDE), layout="NHWC", **preset(name))
    for sources in (unlabelled(pictures), ()):
        found = decide(net(wanted), pictures=sources)
        assert {member.range[1] == 255 for member in found.family} == {name in ("raw", "caffe")}
        assert any(same(member, wanted) for member in found.family)
        assert found.preprocess in found.family


@pytest.mark.parametrize("name", ["unit", "signed", "raw"])
def test_grey_nets(pictures, name):
    wanted = Preprocess(size=(SIDE, SIDE), **preset(name, 1))
    found = decide(net(wanted), pictures=pictures, classes=SURE)
    assert same(found.preprocess, wanted), found.sentences()


def test_a_grey_net_with_its_own_mean_and_std(pictures):
    greys = [Preprocess(size=(SIDE, SIDE), color="grey", range=(0, 255)).apply(draw(n)) for n in range(60)]
    mean, std = float(np.mean(greys)) / 255, float(np.std(greys)) / 255
    wanted = Preprocess(size=(SIDE, SIDE), color="grey", mean=(mean,), std=(std,))
    found = decide(net(wanted), pictures=pictures, classes=SURE).preprocess
    assert found.mean[0] == pytest.approx(mean, rel=0.1) and found.std[0] == pytest.approx(std, rel=0.1)


def test_a_grey_net_with_the_scaling_of_the_mnist_example(pictures):
    wanted = Preprocess(size=(SIDE, SIDE), color="grey", mean=(0.1307,), std=(0.3081,))
    found = decide(net(wanted), pictures=pictures, classes=SURE)
    assert same(found.preprocess, wanted), found.sentences()


def inside(kind=TensorProto.FLOAT, pad=False):
    """Give a net with its normalisation in the graph: it takes 0..255."""
    inner = Preprocess(size=(SIDE, SIDE), **preset("imagenet"))
    nodes, source = [], "x"
    if kind != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", ["x"], ["cast"], to=TensorProto.FLOAT))
        source = "cast"
    nodes += [
        helper.make_node("Div", [source, "full"], ["unit"]),
        helper.make_node("Sub", ["unit", "average"], ["centred"]),
        helper.make_node("Mul", ["centred", "scale"], ["scaled"]),
    ]
    constants = {
        "full": np.float32(255),
        "average": np.float32(inner.mean).reshape(1, 3, 1, 1),
        "scale": np.float32(1 / np.array(inner.std)).reshape(1, 3, 1, 1),
    }
    if pad:
        nodes.append(helper.make_node("Pad", ["scaled", "pads"], ["padded"]))
        constants["pads"] = np.zeros(8, np.int64)
    return net(inner, before=nodes, constants=constants, source="padded" if pad else "scaled", kind=kind)


@pytest.mark.parametrize("pad", [False, True])
def test_normalisation_inside_the_graph_means_raw(pictures, pad):
    for sources in (pictures, unlabelled(pictures)):
        found = decide(inside(pad=pad), pictures=sources)
        assert found.preprocess.range == (0.0, 255.0) and found.preprocess.mean == (0.0,)
    assert all(member.range == (0.0, 255.0) for member in decide(inside(pad=pad)).family)


def test_bytes_are_fed_as_they_are(pictures):
    found = decide(inside(TensorProto.UINT8), pictures=pictures)
    assert found.preprocess.dtype == "uint8" and found.preprocess.range == (0.0, 255.0)
    assert found.family == (found.preprocess,) and found.preprocess.color == "rgb"


def test_half_precision_inputs(pictures):
    wanted = Preprocess(size=(SIDE, SIDE), **preset("signed"))
    cast = helper.make_node("Cast", ["x"], ["cast"], to=TensorProto.FLOAT)
    made = net(wanted, before=[cast], source="cast", kind=TensorProto.FLOAT16)
    found = decide(made, pictures=pictures).preprocess
    assert same(replace(found, dtype="float32"), wanted) and found.dtype == "float16"


def test_what_is_given_wins_and_the_rest_is_inferred(pictures):
    wanted = Preprocess(size=(SIDE, SIDE), **preset("imagenet", 3, "bgr"))
    found = decide(net(wanted), pictures=pictures, given={"mean": "103.5,116.3,123.7", "std": "57.4,57.1,58.4"})
    assert origin(found, "mean").source == "given" and origin(found, "range").value == (0.0, 255.0)
    assert "above 1" in origin(found, "range").reason
    assert origin(found, "color").source == "inferred" and len(found.family) == 1


def test_everything_given_asks_nothing(pictures):
    wanted = Preprocess(size=(SIDE, SIDE), **preset("raw"))
    found = decide(net(wanted), pictures=pictures, given={"preset": "signed", "resize": "crop", "crop_ratio": 0.9})
    assert found.preprocess == replace(wanted, range=(-1.0, 1.0), resize="crop", crop_ratio=0.9)
    assert origin(found, "mean").reason == "preset signed"


def test_metadata_then_sidecar(tmp_path, pictures):
    wanted = Preprocess(size=(SIDE, SIDE), **preset("unit"))
    made = net(wanted)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    found = decide(made, model_path=tmp_path / "m.onnx", pictures=pictures)
    assert found.preprocess.mean == (0.5,) * 3 and origin(found, "std").source == "sidecar"
    said = Preprocess(size=(SIDE, SIDE), range=(0.0, 255.0), mean=(1.0,), resize="letterbox", color="bgr")
    graph.set_metadata(made, METADATA_KEY, said.to_json())
    found = decide(made, model_path=tmp_path / "m.onnx", pictures=pictures)
    assert found.preprocess == said and origin(found, "mean").source == "metadata"
    assert decide(made, given={"preset": "raw"}).preprocess.mean == (0.0,)


def test_labels_choose_how_to_resize(tmp_path):
    wanted = Preprocess(size=(SIDE, SIDE), **preset("unit"))
    for number in range(160):
        path = tmp_path / CLASSES[number % 4] / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        # Wide pictures with sides of another class.
        other = draw(number + 1, 2 * SIDE)[:, :SIDE]
        whole = np.concatenate([other, draw(number, 2 * SIDE), other], axis=1)
        path.write_bytes(cv2.imencode(".png", whole[..., ::-1])[1].tobytes())
    found = decide(net(wanted), pictures=scan(tmp_path).sources, classes=SURE)
    assert found.preprocess.resize == "crop", found.sentences()
    assert "accuracy" in origin(found, "resize").reason


def test_an_open_size_is_that_of_the_pictures_or_a_usual_one(pictures):
    wanted = Preprocess(size=(SIDE, SIDE), **preset("unit"))
    made = net(wanted, shape=["N", 3, None, None])
    assert decide(made, pictures=pictures).preprocess.size == (SIDE, SIDE)
    found = decide(made)
    assert found.preprocess.size == (224, 224) and origin(found, "size").source == "assumed"
    assert decide(made, given={"size": "48x32"}).preprocess.size == (32, 48)


def test_a_fixed_batch(pictures):
    wanted = Preprocess(size=(SIDE, SIDE), **preset("raw"))
    found = decide(net(wanted, shape=[4, 3, SIDE, SIDE]), pictures=pictures, classes=SURE)
    assert found.batch == 4 and same(found.preprocess, replace(wanted, color=found.preprocess.color))


def test_models_without_convolutions():
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "w"], ["y"])]
    for scale, is_raw in ((0.1, False), (0.0005, True)):
        weights = (np.random.default_rng(0).standard_normal((400, 10)) * scale).astype(np.float32)
        made = helper.make_model(
            helper.make_graph(
                nodes,
                "g",
                [helper.make_tensor_value_info("x", 1, ["N", 20, 20])],
                [helper.make_tensor_value_info("y", 1, ["N", 10])],
                [numpy_helper.from_array(weights, "w")],
            ),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=9,
        )
        found = decide(made)
        assert found.preprocess.layout == "NHW" and found.preprocess.color == "grey"
        assert {member.range[1] == 255 for member in found.family} == {is_raw}


def test_nothing_to_go_by_is_said():
    made = helper.make_model(
        helper.make_graph(
            [helper.make_node("GlobalAveragePool", ["x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", 1, [1, 3, 32, 32])],
            [helper.make_tensor_value_info("y", 1, [1, 3, 1, 1])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    found = decide(made)
    assert origin(found, "range").source == "assumed" and "tells nothing" in origin(found, "range").reason


def test_labels_that_fit_nothing_are_said(pictures):
    made = net(Preprocess(size=(SIDE, SIDE), **preset("unit")))
    rng = np.random.default_rng(0)
    shuffled = [replace(s, key=f"{CLASSES[rng.integers(4)]}/{number}.png") for number, s in enumerate(pictures)]
    found = decide(made, pictures=shuffled, classes=SURE)
    assert any("none of the ways" in note for note in found.notes) and len(found.family) > 1


def test_wrong_sizes_and_colours_are_refused():
    made = net(Preprocess(size=(SIDE, SIDE)))
    for given, words in (({"size": "32"}, "takes 20x20"), ({"color": "grey"}, "takes 3 channel")):
        with pytest.raises(EdgekitError, match=words):
            decide(made, given=given)


def test_unreadable_pictures_do_not_matter(tmp_path, pictures):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"broken")
    wanted = Preprocess(size=(SIDE, SIDE), **preset("unit"))
    assert same(decide(net(wanted), pictures=(*scan(tmp_path).sources, *pictures)).preprocess, wanted)
    assert decide(net(wanted), pictures=scan(tmp_path).sources).preprocess.range[1] == 1


def test_sentences_name_every_field(pictures):
    found = decide(net(Preprocess(size=(SIDE, SIDE), **preset("unit"))), pictures=pictures)
    text = "\n".join(found.sentences())
    assert all(f"{field} " in text for field in ("size", "range", "mean", "std", "color", "layout", "resize"))
    assert f"{SIDE}x{SIDE}" in text and "runner-up" in text


# Real models.

REAL = {
    "models/resnet8_cifar10_jpegft.onnx": ("images/cifar10_jpeg/calib", "NHWC", preset("raw")),
    "models/resnet20_cifar10.onnx": ("images/cifar10_jpeg/calib", "NCHW", preset("imagenet")),
    "models/mobilenetv1_025_vww96.onnx": ("images/vww96/calib", "NHWC", preset("unit")),
    "sample_data_candidate/digits_dwcnn.onnx": ("sample_data_candidate/digits/calib", "NCHW", preset("unit", 1)),
}


@pytest.mark.parametrize("name", REAL)
def test_real_classifiers(assets, name):
    folder, layout, values = REAL[name]
    made, sources = graph.load(assets / name), scan(assets / folder).sources
    size = decide(made).preprocess.size
    wanted = Preprocess(size=size, layout=layout, **values)
    labels = sorted({source.label for source in sources})
    classes = resolve(labels, len(labels), metadata=graph.metadata(made))
    for found in (decide(made, pictures=sources, classes=classes), decide(made, pictures=unlabelled(sources))):
        assert same(found.preprocess, wanted), found.sentences()


def test_real_net_with_its_own_scaling_and_order_of_classes(assets):
    made = graph.load(assets / "models/vit_fmnist.onnx")
    sources = scan(assets / "images/fashion_mnist/calib").sources
    classes = resolve(sorted({source.label for source in sources}), 10)
    assert not classes.sure
    found = decide(made, pictures=sources, classes=classes).preprocess
    assert found.range == (0.0, 1.0)
    assert found.mean[0] == pytest.approx(72.94 / 255, abs=0.01) and found.std[0] == pytest.approx(
        90.02 / 255, abs=0.01
    )


def test_real_detectors(assets):
    sources = scan(assets / "images/coco_calib64").sources
    found = decide(graph.load(assets / "models/yolox_nano_416.onnx"), pictures=sources[:24]).preprocess
    assert same(found, Preprocess(size=(416, 416), **preset("raw", 3, "bgr")))
    assert (found.resize, found.where) == ("letterbox", "top-left")
    found = decide(graph.load(assets / "models/ultraface_rfb320_opset9.onnx"), pictures=sources[:24]).preprocess
    assert same(found, Preprocess(size=(240, 320), **preset("signed")))
