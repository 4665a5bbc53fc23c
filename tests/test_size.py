from __future__ import annotations

import zlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.errors import EdgekitError
from edgekit.measure.memory import peak_memory
from edgekit.measure.size import MEGABYTE, file_bytes, model_files, zipped_bytes


def _model(side: int = 64) -> onnx.ModelProto:
    weight = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", side]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "one",
        value[:1],
        value[1:],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _save_external(path, **options):
    onnx.save_model(_model(), path, save_as_external_data=True, size_threshold=0, **options)


def test_one_file(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(_model(), path)
    assert file_bytes(path) == file_bytes(str(path)) == path.stat().st_size
    assert zipped_bytes(path) == zipped_bytes(path.read_bytes()) == len(zlib.compress(path.read_bytes(), 6))


def test_external_data_counts(tmp_path):
    path = tmp_path / "model.onnx"
    _save_external(path, location="weights.bin")
    assert [file.name for file in model_files(path)] == ["model.onnx", "weights.bin"]
    assert file_bytes(path) == path.stat().st_size + 64 * 64 * 4
    assert zipped_bytes(path) > 0.8 * 64 * 64 * 4


def test_external_data_inside_nested_graphs(tmp_path):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="inner.bin")
    inner = helper.make_graph([helper.make_node("Constant", [], ["y"], value=tensor)], "inner", [], [])
    node = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    (tmp_path / "model.onnx").write_bytes(helper.make_model(helper.make_graph([node], "g", [], [])).SerializeToString())
    (tmp_path / "inner.bin").write_bytes(bytes(8))
    assert [file.name for file in model_files(tmp_path / "model.onnx")] == ["model.onnx", "inner.bin"]


def test_missing_external_data_is_named(tmp_path):
    path = tmp_path / "model.onnx"
    _save_external(path, location="weights.bin")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(EdgekitError, match=r"weights\.bin"):
        file_bytes(path)


def test_other_files(tmp_path):
    with pytest.raises(EdgekitError, match="there is no file"):
        file_bytes(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"\xff" * 50)
    with pytest.raises(EdgekitError, match="not an ONNX model"):
        file_bytes(tmp_path / "bad.onnx")
    (tmp_path / "other.tflite").write_bytes(bytes(50))
    assert file_bytes(tmp_path / "other.tflite") == 50


def test_zip_streams_more_than_a_chunk(tmp_path):
    path = tmp_path / "zeros.bin"
    path.write_bytes(bytes(5 * MEGABYTE))
    assert zipped_bytes(path) == len(zlib.compress(path.read_bytes(), 6)) < 10_000


def test_peak_memory_counts_the_weights(tmp_path):
    small, large = tmp_path / "small.onnx", tmp_path / "large.onnx"
    onnx.save(_model(64), small)
    onnx.save(_model(3000), large)  # 36 MB of weights
    ballast = np.ones(40_000_000)  # 320 MB in this process, which must not show in its child
    little = peak_memory(small, [{"x": np.zeros((1, 64), np.float32)}])
    much = peak_memory(large, [{"x": np.zeros((1, 3000), np.float32)}] * 2)
    if little is None or much is None:
        pytest.skip("this system does not report peak memory")
    assert little.bytes < ballast.nbytes
    assert much.above_runtime - little.above_runtime > 30 * MEGABYTE
    assert set(tmp_path.iterdir()) == {small, large}


def test_peak_memory_of_what_does_not_run_is_none(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(_model(), path)
    assert peak_memory(path, [{"wrong": np.zeros((1, 64), np.float32)}]) is None
    assert peak_memory(tmp_path / "none.onnx", []) is None
