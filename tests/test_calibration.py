"""Which input takes pictures, and the streams that feed it: pictures, synthetic ones, arrays."""

import itertools
import os
import tracemalloc

import numpy as np
import pytest

from conftest import picture, save
from edgekit.data.folder import scan
from edgekit.errors import EdgekitError
from edgekit.graph import Input
from edgekit.measure import synthetic
from edgekit.measure.calibration import from_pictures, from_synthetic, picture_input
from edgekit.measure.infer import Decision
from edgekit.measure.preprocess import Preprocess, preset
from edgekit.measure.readymade import from_feeds


def decision(*members, batch=1):
    members = members or (Preprocess(size=(16, 16)),)
    return Decision(members[0], members, (), "x", batch)


def folder(root, count):
    for number in range(count):
        save(root / "ab"[number % 2] / f"{number}.png", picture(number))
    return scan(root).sources


def test_pictures_come_again_in_the_same_order(tmp_path):
    stream = from_pictures(folder(tmp_path, 6), decision())
    first, second = list(stream), list(stream)
    assert len(first) == stream.count == 6 and stream.origin == "real"
    for a, b in zip(first, second, strict=True):
        assert list(a) == ["x"] and a["x"].shape == (1, 3, 16, 16)
        assert (a["x"] == b["x"]).all()


def test_the_family_is_fed_in_turn(tmp_path):
    members = [Preprocess(size=(16, 16), **preset(name)) for name in ("unit", "signed", "raw")]
    stream = from_pictures(folder(tmp_path, 6), decision(*members))
    assert [feed["x"].max() > 2 for feed in stream] == [False, False, True] * 2


def test_synthetic_kinds_meet_every_member():
    raw, caffe = (Preprocess(size=(16, 16), **preset(name)) for name in ("raw", "caffe"))
    feeds = list(from_synthetic(decision(raw, caffe), 8))
    signs = [bool(feed["x"].min() < 0) for feed in feeds]
    assert signs == [False, False, True, True] * 2


def test_unreadable_pictures_are_skipped_and_counted(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    sources = folder(tmp_path, 3)
    stream = from_pictures(sources, decision())
    assert len(list(stream)) == 3 and list(stream.unreadable) == ["a/broken.png"]
    assert "1 unreadable" in str(stream)
    (tmp_path / "b" / "1.png").unlink()
    assert len(list(stream)) == 2 and "b/1.png" in stream.unreadable


def test_no_readable_picture_is_an_error(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(EdgekitError, match=r"broken\.png"):
        list(from_pictures(scan(tmp_path).sources, decision()))


def test_a_fixed_batch_is_filled(tmp_path):
    feeds = list(from_pictures(folder(tmp_path, 5), decision(batch=4)))
    assert [feed["x"].shape[0] for feed in feeds] == [4, 4]
    assert (feeds[1]["x"][0] == feeds[1]["x"][1]).all()


def test_digests_tell_streams_apart(tmp_path):
    sources = folder(tmp_path, 3)
    one = from_pictures(sources, decision())
    digests = {
        one.digest,
        from_pictures(sources[:2], decision()).digest,
        from_pictures(sources, decision(Preprocess(size=(16, 16), **preset("raw")))).digest,
        from_synthetic(decision(), 3).digest,
        from_synthetic(decision(), 3, seed=1).digest,
        from_synthetic(decision(), 4).digest,
    }
    assert len(digests) == 6
    assert from_pictures(sources, decision()).digest == one.digest
    save(sources[0].path, picture(99))
    assert from_pictures(sources, decision()).digest != one.digest


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (28, 28), (96, 64), (224, 224)])
def test_synthetic_pictures_are_always_the_same(size):
    first = list(synthetic.pictures(4, size, seed=3))
    assert all(pixels.shape == (*size, 3) and pixels.dtype == np.uint8 for pixels in first)
    assert all((a == b).all() for a, b in zip(first, synthetic.pictures(4, size, seed=3), strict=True))
    assert (synthetic.picture(2, size, seed=3) == first[2]).all()
    if size != (1, 1):
        assert any((a != b).any() for a, b in zip(first, synthetic.pictures(4, size, seed=4), strict=True))
        assert all(pixels.std() > 5 for pixels in first)


def test_memory_does_not_grow_with_samples():
    def peak(count):
        tracemalloc.start()
        for _ in from_synthetic(decision(Preprocess(size=(64, 64))), count):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(4)
    assert peak(64) < peak(8) * 1.5


# Ready-made inputs.

PICTURE = Input("image", "float32", (None, 3, 8, 8))


def arrays(path, **values):
    np.savez(path, **values)
    return path


def images(count, *shape):
    return np.random.default_rng(0).random((count, *(shape or (3, 8, 8))), dtype=np.float32)


@pytest.mark.parametrize("name", ["image", "anything"])
@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_arrays_are_fed_sample_by_sample(tmp_path, name, write):
    values = images(5)
    write(tmp_path / "x.npz", **{name: values})
    stream = from_feeds(tmp_path / "x.npz", [PICTURE])
    for _ in range(2):
        fed = [feed["image"] for feed in stream]
        assert len(fed) == stream.count == 5 and fed[0].shape == (1, 3, 8, 8)
        assert (np.concatenate(fed) == values).all()


def test_fixed_batches_constants_and_inputs_without_batch(tmp_path):
    inputs = [
        Input("a", "float32", (2, 3)),
        Input("b", "int64", (4,)),
        Input("scale", "float32", (1, 2)),
        Input("flag", "bool", ()),
    ]
    path = arrays(
        tmp_path / "x.npz",
        a=images(6, 3),
        b=np.arange(12, dtype=np.int64).reshape(3, 4),
        scale=np.ones((1, 2), np.float32),
        flag=np.array(True),
    )
    feeds = list(from_feeds(path, inputs))
    assert [feed["a"].shape for feed in feeds] == [(2, 3)] * 3
    assert feeds[2]["b"].tolist() == [8, 9, 10, 11]
    assert all(feed["scale"].shape == (1, 2) and feed["flag"].shape == () for feed in feeds)


def test_fortran_order_is_read_right(tmp_path):
    values = np.asfortranarray(images(4))
    feeds = list(from_feeds(arrays(tmp_path / "x.npz", image=values), [PICTURE]))
    assert (np.concatenate([feed["image"] for feed in feeds]) == values).all()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"image": images(2).astype(np.float64)}, "float64, the model takes float32"),
        ({"image": images(2, 8, 8, 3)}, "2x8x8x3"),
        ({"image": images(0)}, "no samples"),
        ({"image": images(2), "other": images(2)}, "no input other"),
        ({"imag": images(2), "more": images(2)}, "no array for the input image"),
        ({"image": np.array([object()])}, "not an .npz file"),
        ({}, "no array for the input image"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, values, words):
    with pytest.raises(EdgekitError, match=words) as caught:
        from_feeds(arrays(tmp_path / "x.npz", **values), [PICTURE])
    assert caught.value.hint


def test_a_near_name_is_proposed(tmp_path):
    with pytest.raises(EdgekitError) as caught:
        from_feeds(arrays(tmp_path / "x.npz", imag=images(2), b=images(2)), [PICTURE])
    assert "imag" in caught.value.hint


def test_different_numbers_of_samples(tmp_path):
    inputs = [PICTURE, Input("b", "float32", (None, 2))]
    with pytest.raises(EdgekitError, match="different numbers of samples: image has 3, b has 4"):
        from_feeds(arrays(tmp_path / "x.npz", image=images(3), b=images(4, 2)), inputs)


def test_a_batch_that_does_not_divide(tmp_path):
    with pytest.raises(EdgekitError, match="the shape 3x3x8x8"):
        from_feeds(arrays(tmp_path / "x.npz", image=images(3)), [Input("image", "float32", (2, 3, 8, 8))])


def test_nan_is_refused_while_reading(tmp_path):
    values = images(3)
    values[2, 0, 0, 0] = np.nan
    stream = iter(from_feeds(arrays(tmp_path / "x.npz", image=values), [PICTURE]))
    next(stream), next(stream)
    with pytest.raises(EdgekitError, match="NaN"):
        next(stream)


@pytest.mark.parametrize("data", [b"", b"text", b"PK\x05\x06" + b"\0" * 18])
def test_files_that_are_no_npz(tmp_path, data):
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(EdgekitError, match="x.npz"):  # noqa: RUF043
        from_feeds(tmp_path / "x.npz", [PICTURE])
    with pytest.raises(EdgekitError, match="no such file"):
        from_feeds(tmp_path / "none.npz", [PICTURE])


def test_parts_of_a_stream_share_nothing(tmp_path):
    stream = from_feeds(arrays(tmp_path / "x.npz", image=images(9)), [PICTURE])
    one, two = stream.part((0, 1)), stream.part((2, 3))
    assert (one.count, two.count) == (len(list(one)), len(list(two))) == (5, 4)
    assert one.digest != two.digest
    pairs = itertools.product(one, two)
    assert not any((a["image"] == b["image"]).all() for a, b in pairs)


# A folder of ready-made inputs.

SEQUENCE = [Input("tokens", "int64", ("N", "L")), Input("mask", "float32", ("N", "L"))]


def sequences(root, lengths=(3, 5, 1), **more):
    root.mkdir()
    for number, length in enumerate(lengths):
        tokens = np.full((1, length), number, np.int64)
        np.savez(root / f"{9 - number}.npz", tokens=tokens, mask=np.ones((1, length), np.float32), **more)
    return root


def test_a_folder_is_streamed_by_name_whatever_the_lengths(tmp_path):
    root = sequences(tmp_path / "samples")
    (root / "notes.txt").write_text("not a sample")
    stream = from_feeds(root, SEQUENCE)
    for _ in range(2):
        fed = list(stream)
        assert stream.count == len(fed) == 3
        assert [feed["tokens"].shape for feed in fed] == [(1, 1), (1, 5), (1, 3)]
        assert [int(feed["tokens"][0, 0]) for feed in fed] == [2, 1, 0]


def test_files_of_a_folder_hold_one_sample_or_several(tmp_path):
    values = images(6)
    for number, part in enumerate((values[:1], values[1:5], values[5:])):
        np.savez(tmp_path / f"{number}.npz", image=part)
    stream = from_feeds(tmp_path, [PICTURE])
    assert stream.count == 6
    assert (np.concatenate([feed["image"] for feed in stream]) == values).all()
    batches = from_feeds(arrays(tmp_path / "batch.npz", image=values), [Input("image", "float32", (2, 3, 8, 8))])
    assert [feed["image"].shape[0] for feed in batches] == [2, 2, 2]


def test_digests_of_folders_tell_contents_apart(tmp_path):
    one = from_feeds(sequences(tmp_path / "one"), SEQUENCE).digest
    assert from_feeds(sequences(tmp_path / "two"), SEQUENCE).digest == one
    assert from_feeds(sequences(tmp_path / "three", (3, 5, 2)), SEQUENCE).digest != one
    assert from_feeds(sequences(tmp_path / "four", (3, 5)), SEQUENCE).digest != one


def test_one_sample_of_a_folder_is_in_memory_at_a_time(tmp_path):
    def peak(count):
        for number in range(count):
            np.savez(tmp_path / f"{number}.npz", image=np.ones((1, 3, 128, 128), np.float32))
        stream = from_feeds(tmp_path, [Input("image", "float32", (None, 3, 128, 128))])
        tracemalloc.start()
        for _ in stream:
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(2)
    assert peak(60) < peak(10) + 100_000


def test_other_arrays_lie_beside_the_inputs(tmp_path):
    root = tmp_path / "samples"
    root.mkdir()
    np.savez(root / "a.npz", image=images(3), target=np.arange(3), scale=np.float32(7))
    np.savez(root / "b.npz", image=images(1), target=np.arange(5))
    with pytest.raises(EdgekitError, match="has no input target, scale") as caught:
        from_feeds(root, [PICTURE])
    assert "--metric" in caught.value.hint
    stream = from_feeds(root, [PICTURE], others=True)
    assert all(list(feed) == ["image"] for feed in stream)
    beside = list(stream.beside())
    assert [(one.path.name, one.number) for one in beside] == [("a.npz", 0), ("a.npz", 1), ("a.npz", 2), ("b.npz", 0)]
    assert [one.arrays["target"].tolist() for one in beside] == [0, 1, 2, [0, 1, 2, 3, 4]]
    assert beside[1].arrays["scale"] == 7 and list(beside[3].arrays) == ["target"]
    part = stream.part((1,), 2)
    assert [one.number for one in part.beside()] == [1, 0] and len(list(part)) == 2


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("mask", {"tokens": np.ones((1, 3), np.int64)}, "no array for the input mask"),
        ("dtype", {"tokens": np.ones((1, 3)), "mask": np.ones((1, 3), np.float32)}, "tokens is float64"),
        (
            "shape",
            {"tokens": np.ones((1, 3, 3, 3), np.int64), "mask": np.ones((1, 3), np.float32)},
            "the shape 1x3x3x3",
        ),
        (
            "extra",
            {"tokens": np.ones((1, 3), np.int64), "mask": np.ones((1, 3), np.float32), "x": np.ones(1)},
            "no input x",
        ),
    ],
)
def test_the_file_of_a_folder_that_does_not_fit_is_named(tmp_path, name, values, says):
    root = sequences(tmp_path / "samples")
    np.savez(root / f"{name}.npz", **values)
    with pytest.raises(EdgekitError) as caught:
        from_feeds(root, SEQUENCE)
    assert f"{name}.npz" in caught.value.message and says in caught.value.message
    (root / f"{name}.npz").write_bytes(b"no zip")
    with pytest.raises(EdgekitError, match=f"{name}.npz: not an .npz file"):
        from_feeds(root, SEQUENCE)


def test_folders_without_samples_and_pipes_are_told(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EdgekitError, match=r"no \.npz file in it"):
        from_feeds(tmp_path / "empty", SEQUENCE)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "empty" / "pipe.npz")
        with pytest.raises(EdgekitError, match=r"no \.npz file in it"):
            from_feeds(tmp_path / "empty", SEQUENCE)
        with pytest.raises(EdgekitError, match="not a regular file"):
            from_feeds(tmp_path / "empty" / "pipe.npz", SEQUENCE)


# The picture input.


def model(shape, nodes=(), dtype=1, constants=(), extra=()):
    from onnx import helper, numpy_helper

    infos = [
        helper.make_tensor_value_info("x", dtype, shape),
        *(helper.make_tensor_value_info(n, 1, [1]) for n in extra),
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants]
    outputs = [helper.make_tensor_value_info("y", 1, None)]
    made = [helper.make_node(kind, inputs, outs, **options) for kind, inputs, outs, options in nodes]
    graph = helper.make_graph(made or [helper.make_node("Identity", ["x"], ["y"])], "g", infos, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def conv(source, channels, out="y"):
    return ("Conv", [source, "w"], [out], {}), ("w", np.ones((4, channels, 3, 3), np.float32))


@pytest.mark.parametrize(
    ("shape", "layout", "size", "channels"),
    [
        (["N", 3, 32, 40], "NCHW", (32, 40), 3),
        ([1, 32, 40, 3], "NHWC", (32, 40), 3),
        (["N", 1, 28, 28], "NCHW", (28, 28), 1),
        (["N", 28, 28, 1], "NHWC", (28, 28), 1),
        ([1, 4, 64, 64], "NCHW", (64, 64), 4),
        ([2, 3, None, None], "NCHW", (None, None), 3),
        ([3, 32, 40], "CHW", (32, 40), 3),
        ([32, 40, 3], "HWC", (32, 40), 3),
        (["N", 28, 28], "NHW", (28, 28), 1),
        ([1, 28, 28], "NHW", (28, 28), 1),
        ([1, 1, 28, 1], "NCHW", (28, 1), 1),
    ],
)
def test_the_shape_tells_the_layout(shape, layout, size, channels):
    found = picture_input(model(shape))
    assert (found.layout, found.size, found.channels) == (layout, size, channels)
    assert found.batch == (shape[0] if isinstance(shape[0], int) and "N" in layout else 1)


@pytest.mark.parametrize("channels", [1, 3, 12])
def test_the_way_to_the_first_convolution_tells_the_rest(channels):
    wanted = {1: 1, 3: 3, 12: 3}[channels]
    node, weights = conv("x", channels)
    found = picture_input(model([None] * 4, [node], constants=[weights]))
    assert (found.layout, found.channels) == ("NCHW", wanted)
    turn = ("Transpose", ["x"], ["t"], {"perm": [0, 3, 1, 2]})
    scale = ("Mul", ["t", "s"], ["m"], {})
    node, weights = conv("m", channels)
    found = picture_input(model([None] * 4, [turn, scale, node], constants=[weights, ("s", np.float32(2))]))
    assert (found.layout, found.channels) == ("NHWC", wanted)


def test_a_given_layout_counts():
    assert picture_input(model([None] * 4), "NHWC").layout == "NHWC"


@pytest.mark.parametrize(
    ("shape", "dtype", "extra"),
    [
        (["N", 128], 1, ()),
        (["N", 16, 3], 1, ()),
        (["N", 64, 32, 32], 1, ()),
        ([None] * 4, 1, ()),
        (["N", 3, 8, 8], 7, ()),
        (["N", 3, 8, 8], 1, ("scale",)),
        (["N", 3, 8, 8, 8], 1, ()),
        ([], 1, ()),
    ],
)
def test_what_is_no_picture_is_told_of_feeds(shape, dtype, extra):
    with pytest.raises(EdgekitError) as caught:
        picture_input(model(shape, dtype=dtype, extra=extra))
    assert "--feeds" in caught.value.hint


def test_inputs_that_initializers_fill_do_not_count():
    from onnx import helper

    node, weights = conv("x", 3)
    made = model(["N", 3, 8, 8], [node], constants=[weights])
    made.graph.input.append(helper.make_tensor_value_info("w", 1, [4, 3, 3, 3]))
    assert picture_input(made).name == "x"
