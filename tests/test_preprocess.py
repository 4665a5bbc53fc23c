"""Preprocess: pixels to model input, its JSON, its flags, its ten lines of Python."""

import json

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import picture, save
from edgekit.errors import EdgekitError
from edgekit.measure.preprocess import METADATA_KEY, PRESETS, Preprocess, declared, parse, preset

IMAGENET = preset("imagenet")


def test_values_follow_the_formula():
    pixels = picture(1, 24, 32)
    got = Preprocess(size=(24, 32), **IMAGENET).apply(pixels)
    wanted = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert got.shape == (1, 3, 24, 32) and got.dtype == np.float32 and got.flags.c_contiguous
    np.testing.assert_allclose(got[0].transpose(1, 2, 0), wanted, atol=1e-5)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_map_black_and_white(name):
    wanted = Preprocess(size=(2, 2), **preset(name))
    black, white = (wanted.apply(np.full((2, 2, 3), value, np.uint8))[0, :, 0, 0] for value in (0, 255))
    ends = {
        "imagenet": (-0.485 / 0.229, (1 - 0.485) / 0.229),
        "unit": (0, 1),
        "signed": (-1, 1),
        "raw": (0, 255),
        "caffe": (-103.939, 255 - 103.939),
    }[name]
    np.testing.assert_allclose((black[0], white[0]), ends, rtol=1e-5, atol=1e-6)


def test_bgr_swaps_channels_and_keeps_means_in_their_order():
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[..., 0] = 200  # red
    got = Preprocess(size=(4, 4), **preset("caffe")).apply(pixels)[0, :, 0, 0]
    np.testing.assert_allclose(got, [-103.939, -116.779, 200 - 123.68], rtol=1e-5)


@pytest.mark.parametrize(
    ("layout", "shape"),
    [("NCHW", (1, 3, 6, 8)), ("NHWC", (1, 6, 8, 3)), ("CHW", (3, 6, 8)), ("HWC", (6, 8, 3))],
)
def test_layouts(layout, shape):
    got = Preprocess(size=(6, 8), layout=layout).apply(picture(2))
    assert got.shape == shape


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("NCHW", (1, 1, 6, 8)),
        ("NHWC", (1, 6, 8, 1)),
        ("CHW", (1, 6, 8)),
        ("HWC", (6, 8, 1)),
        ("NHW", (1, 6, 8)),
        ("HW", (6, 8)),
    ],
)
def test_layouts_of_grey(layout, shape):
    assert Preprocess(size=(6, 8), layout=layout, color="grey").apply(picture(2)).shape == shape


def test_grey_and_colour_convert_both_ways():
    grey = picture(3, channels=1)
    as_rgb = Preprocess(size=grey.shape[:2], range=(0, 255)).apply(grey)[0]
    assert (as_rgb == grey[..., 0]).all()
    color = picture(3)
    as_grey = Preprocess(size=color.shape[:2], range=(0, 255), color="grey").apply(color)[0, 0]
    np.testing.assert_allclose(as_grey, color @ [0.299, 0.587, 0.114], atol=1)


def test_alpha_is_dropped_unless_the_model_takes_it():
    pixels = picture(4, channels=4)
    plain = Preprocess(size=pixels.shape[:2]).apply(pixels)
    assert (plain == Preprocess(size=pixels.shape[:2]).apply(pixels[..., :3])).all()
    four = Preprocess(size=pixels.shape[:2], color="rgba", range=(0, 255))
    assert (four.apply(pixels)[0].transpose(1, 2, 0) == pixels).all()
    assert (four.apply(pixels[..., :3])[0, 3] == 255).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_fill_the_same_range_without_clipping(channels):
    shallow = picture(5, channels=channels)
    deep = shallow.astype(np.uint16) * 257
    wanted = Preprocess(size=shallow.shape[:2], range=(0, 255))
    np.testing.assert_allclose(wanted.apply(deep), wanted.apply(shallow), atol=1e-3)
    white = np.full((4, 4, channels), 65535, np.uint16)
    assert np.allclose(Preprocess(size=(4, 4)).apply(white), 1)
    half = Preprocess(size=(4, 4), range=(0, 255)).apply(np.full((4, 4, channels), 32767, np.uint16))
    assert np.allclose(half, 32767 / 257)


def test_integer_and_half_inputs():
    pixels = picture(6)
    plain = Preprocess(size=pixels.shape[:2], range=(0, 255), dtype="uint8").apply(pixels)
    assert plain.dtype == np.uint8 and (plain[0].transpose(1, 2, 0) == pixels).all()
    shifted = Preprocess(size=pixels.shape[:2], range=(0, 255), mean=(128.0,), dtype="int8").apply(pixels)
    assert shifted.dtype == np.int8 and (shifted[0].transpose(1, 2, 0) == pixels.astype(int) - 128).all()
    assert Preprocess(size=(8, 8), dtype="float16").apply(pixels).dtype == np.float16


def test_crop_takes_the_centre():
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[16:48, 32:64] = 255
    got = Preprocess(size=(32, 32), resize="crop", crop_ratio=0.5).apply(pixels)
    assert (got == 1).all()


def test_crop_of_classic_proportions():
    assert Preprocess(size=(224, 224), resize="crop", crop_ratio=0.875).placement(480, 640) == (256, 341, 16, 58)


def test_letterbox_keeps_the_whole_picture():
    pixels = np.full((30, 60, 3), 255, np.uint8)
    wanted = Preprocess(size=(40, 40), resize="letterbox", range=(0, 255))
    got = wanted.apply(pixels)[0, 0]
    assert (got[:10] == 114).all() and (got[10:30] == 255).all() and (got[30:] == 114).all()
    corner = Preprocess(size=(40, 40), resize="letterbox", range=(0, 255), where="top-left", fill=0).apply(pixels)[0, 0]
    assert (corner[:20] == 255).all() and (corner[20:] == 0).all()


def test_shrinking_averages():
    pixels = np.indices((64, 64)).sum(axis=0)[..., None].astype(np.uint8) % 2 * 255
    got = Preprocess(size=(16, 16), color="grey").apply(pixels)
    np.testing.assert_allclose(got, 0.5, atol=0.01)


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    resize=st.sampled_from(["squash", "crop", "letterbox"]),
    ratio=st.floats(0.1, 1),
)
def test_every_size_fits(height, width, size, resize, ratio):
    got = Preprocess(size=size, resize=resize, crop_ratio=ratio).apply(np.full((height, width, 3), 255, np.uint8))
    assert got.shape == (1, 3, *size) and np.isfinite(got).all()


def test_the_picture_is_left_alone():
    pixels = picture(7)
    before = pixels.copy()
    Preprocess(size=pixels.shape[:2], **IMAGENET).apply(pixels)
    assert (pixels == before).all()


def test_json_round_trip():
    for wanted in (
        Preprocess(size=(28, 28), color="grey", mean=(0.28,), std=(0.35,)),
        Preprocess(size=(8, 9), resize="letterbox", where="top-left", fill=0, **preset("caffe")),
    ):
        assert Preprocess.from_dict(json.loads(wanted.to_json())) == wanted


def test_the_metadata_of_the_sample_model_is_read():
    text = (
        '{"size":[28,28],"resize":"squash","crop_ratio":1.0,"range":[0.0,1.0],"mean":[0.2860],"std":[0.3530],'
        '"color":"grey","layout":"NCHW"}'
    )
    found = declared({METADATA_KEY: text}, None)
    assert found[0][0] == "metadata"
    assert Preprocess(**found[0][1]).apply(picture(1)).shape == (1, 1, 28, 28)


@pytest.mark.parametrize("text", ["{", "[]", '{"size": 0}', '{"sizes": [1, 1]}', '{"std": [0]}', '{"color": "pink"}'])
def test_broken_metadata_says_where(text):
    with pytest.raises(EdgekitError, match=METADATA_KEY):
        declared({METADATA_KEY: text}, None)


@pytest.mark.parametrize(
    ("given_values", "wanted"),
    [
        ({"size": "224"}, {"size": (224, 224)}),
        ({"size": "320x240"}, {"size": (240, 320)}),  # width x height, as everywhere it is written with an x
        ({"size": 64}, {"size": (64, 64)}),
        ({"size": [240, 320]}, {"size": (240, 320)}),  # height, width, as in the metadata
        ({"crop-ratio": "0.9"}, {"crop_ratio": 0.9}),
        ({"resize": None}, {}),
        ({"mean": "72.94"}, {"mean": (72.94,), "std": (1.0,), "range": (0.0, 255.0)}),
        ({"mean": "0.5", "std": "0.5"}, {"mean": (0.5,), "std": (0.5,), "range": (0.0, 1.0)}),
        ({"std": "255"}, {"mean": (0.0,), "std": (255.0,), "range": (0.0, 255.0)}),
        ({"mean": "0.5", "range": "255"}, {"mean": (0.5,), "std": (1.0,), "range": (0.0, 255.0)}),
        ({"range": "1"}, {"mean": (0.0,), "std": (1.0,), "range": (0.0, 1.0)}),
        ({"range": "-1,1"}, {"mean": (0.0,), "std": (1.0,), "range": (-1.0, 1.0)}),
        ({"range": 255}, {"mean": (0.0,), "std": (1.0,), "range": (0.0, 255.0)}),
        ({"preset": "caffe", "color": "rgb"}, {"preset": "caffe", "color": "rgb"}),
    ],
)
def test_flags(given_values, wanted):
    assert parse(given_values)[0] == wanted


def test_a_guessed_range_says_why():
    assert parse({"mean": "120"})[1]["range"] == "since mean is above 1"


@pytest.mark.parametrize(
    ("given_values", "words"),
    [
        ({"size": "0"}, "size"),
        ({"size": "9000"}, "8192"),
        ({"size": "12x"}, "12x"),
        ({"size": "1x2x3"}, "1x2x3"),
        ({"std": "0"}, "std"),
        ({"std": "-1"}, "std"),
        ({"mean": "a"}, "mean=a"),
        ({"mean": "nan"}, "mean"),
        ({"mean": "1,2"}, "1,2"),
        ({"mean": ""}, "mean"),
        ({"range": "1,0"}, "1,0"),
        ({"range": "1,2,3"}, "range"),
        ({"resize": "crp"}, "crp"),
        ({"layout": "WHCN"}, "WHCN"),
        ({"color": "pink"}, "pink"),
        ({"preset": "imgnet"}, "imgnet"),
        ({"crop_ratio": "2"}, "crop-ratio"),
        ({"wrong": "1"}, "wrong"),
    ],
)
def test_wrong_flags_say_what_and_how(given_values, words):
    with pytest.raises(EdgekitError) as caught:
        parse(given_values)
    assert words in caught.value.message and caught.value.hint


def test_as_many_means_as_channels():
    with pytest.raises(EdgekitError, match="3 values for 1 channel"):
        Preprocess(size=(8, 8), color="grey", mean=(0.1, 0.2, 0.3))
    with pytest.raises(EdgekitError, match="has no channels"):
        Preprocess(size=(8, 8), color="rgb", layout="NHW")


HUGGING_FACE = {
    "vit": (
        {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 224},
        Preprocess(size=(224, 224), mean=(0.5,) * 3, std=(0.5,) * 3),
    ),
    "mobilenet": (
        {
            "crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225], "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 256},
        },
        Preprocess(size=(224, 224), resize="crop", crop_ratio=0.875, **IMAGENET),
    ),
    "convnext": (
        {"crop_pct": 0.875, "do_resize": True, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
         "size": {"shortest_edge": 224}},
        Preprocess(size=(224, 224), resize="crop", crop_ratio=0.875, **IMAGENET),
    ),
    "efficientnet": (
        {"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False,
         "size": {"height": 10, "width": 20}},
        Preprocess(size=(10, 20), range=(-1.0, 1.0)),
    ),
    "mobilevit": (
        {"do_flip_channel_order": True, "do_normalize": False, "do_resize": False, "size": 8},
        Preprocess(size=(1, 1), color="bgr"),
    ),
    "raw": ({"do_rescale": False, "do_normalize": False, "size": 8}, Preprocess(size=(8, 8), range=(0.0, 255.0))),
}  # fmt: skip


@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_hugging_face_sidecars(tmp_path, kind):
    said, wanted = HUGGING_FACE[kind]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    for path in (tmp_path / "model.onnx", tmp_path / "onnx" / "model.onnx"):
        ((source, fields, where),) = declared({}, path)
        assert source == "sidecar" and where.endswith("preprocessor_config.json")
        got = Preprocess(**{"size": (1, 1), **fields})
        assert np.allclose(got.range, wanted.range) and np.allclose(got.std, wanted.std)
        assert (got.size, got.resize, got.crop_ratio, got.color) == (
            wanted.size, wanted.resize, wanted.crop_ratio, wanted.color,
        )  # fmt: skip


def test_a_sidecar_of_something_else_says_nothing(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text('{"feature_size": 80, "sampling_rate": 16000}')
    assert declared({}, tmp_path / "model.onnx")[0][1] == {}


def test_ultralytics_metadata():
    common = {"author": "Ultralytics", "imgsz": "[480, 640]", "names": "{0: 'person'}"}
    fields = declared(common | {"task": "detect"}, None)[0][1]
    assert fields["size"] == (480, 640) and fields["resize"] == "letterbox" and fields["range"] == (0.0, 1.0)
    assert declared(common | {"task": "classify"}, None)[0][1]["resize"] == "crop"


SNIPPETS = [
    Preprocess(size=(24, 40), **IMAGENET),
    Preprocess(size=(20, 20), resize="crop", crop_ratio=0.875, **preset("caffe")),
    Preprocess(size=(90, 70), resize="crop", crop_ratio=1.0, layout="NHWC"),
    Preprocess(size=(32, 48), resize="letterbox", range=(0.0, 255.0), color="bgr"),
    Preprocess(size=(64, 32), resize="letterbox", where="top-left", fill=0),
    Preprocess(size=(28, 28), color="grey", mean=(72.94,), std=(90.02,), range=(0.0, 255.0)),
    Preprocess(size=(28, 28), color="grey", layout="NHWC", range=(-1.0, 1.0)),
    Preprocess(size=(28, 28), color="grey", layout="NHW"),
    Preprocess(size=(28, 28), layout="CHW"),
    Preprocess(size=(16, 16), layout="HWC", range=(0.0, 255.0), dtype="uint8"),
    Preprocess(size=(16, 16), range=(0.0, 255.0), mean=(128.0,), dtype="int8"),
    Preprocess(size=(16, 16), dtype="float16"),
    Preprocess(size=(12, 12), color="rgba"),
]


@pytest.mark.parametrize("wanted", SNIPPETS, ids=lambda wanted: f"{wanted.color}-{wanted.resize}-{wanted.layout}")
@pytest.mark.parametrize("shape", [(40, 56), (17, 90), (64, 9)])
def test_the_python_feeds_the_same_input(tmp_path, monkeypatch, capsys, wanted, shape):
    pixels = picture(8, *shape)
    path = save(tmp_path / "picture.png", pixels[..., ::-1])
    fed = {}

    class Session:
        def __init__(self, name, providers):
            assert name == "nets/model.onnx"

        def get_inputs(self):
            return [type("Input", (), {"name": "picture"})]

        def run(self, outputs, feed):
            fed.update(feed)
            return [np.array([[0.1, 0.7, 0.2]])]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr("sys.argv", ["run.py", str(path)])
    program = wanted.python("nets/model.onnx", names=("a", "b's", "c"))
    exec(compile(program, "snippet", "exec"), {})
    mine = wanted.apply(pixels)
    assert fed["picture"].shape == mine.shape and fed["picture"].dtype == mine.dtype
    np.testing.assert_allclose(fed["picture"].astype(float), mine.astype(float), atol=1e-5, rtol=1e-3)
    assert capsys.readouterr().out == "b's\n"
    assert len(program.strip().splitlines()) <= 20


def test_the_python_fills_a_fixed_batch_and_runs_for_real(tmp_path):
    import subprocess
    import sys

    from onnx import TensorProto, helper

    node = helper.make_node("GlobalAveragePool", ["x"], ["y"])
    info = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [2, 3, 8, 8]), ("y", [2, 3, 1, 1]))
    ]
    graph = helper.make_graph([node], "g", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    pixels = np.zeros((10, 12, 3), np.uint8)
    pixels[..., 1] = 255
    path = save(tmp_path / "green.png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    program = Preprocess(size=(8, 8)).python(str(tmp_path / "m.onnx"), batch=2)
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr
