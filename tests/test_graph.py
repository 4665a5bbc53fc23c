"""ONNX files in and out, and the small edits."""

import numpy as np
import onnx
import pytest

from edgekit import graph
from edgekit.errors import EdgekitError
from edgekit.session import open_session, run
from nets import NETS, Net, awkward, branching, feeds, residual


def refused(path, *words):
    with pytest.raises(EdgekitError) as caught:
        graph.load(path)
    assert caught.value.hint and str(path) in caught.value.message
    for word in words:
        assert word in caught.value.message + " " + caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", NETS)
def test_save_and_load_give_the_same_model(name, tmp_path):
    model = NETS[name]()
    graph.save(model, tmp_path / "m.onnx")
    loaded = graph.load(tmp_path / "m.onnx")
    assert loaded.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_large_models_keep_their_weights_beside(tmp_path):
    model = residual()
    before = model.SerializeToString(deterministic=True)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        graph.save(model, tmp_path / folder / "m.onnx", largest=1000)
    assert model.SerializeToString(deterministic=True) == before
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == ["m.onnx", "m.onnx.data"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a" / "m.onnx").stat().st_size < 8000
    feed = next(feeds(model))
    outputs = [
        run(open_session(m), feed)[0] for m in (model, tmp_path / "a" / "m.onnx", graph.load(tmp_path / "a/m.onnx"))
    ]
    assert np.array_equal(outputs[0], outputs[1]) and np.array_equal(outputs[0], outputs[2])
    (tmp_path / "a" / "m.onnx.data").write_bytes(b"short")
    refused(tmp_path / "a" / "m.onnx", "m.onnx.data")
    (tmp_path / "a" / "m.onnx.data").unlink()
    refused(tmp_path / "a" / "m.onnx", "m.onnx.data", "not beside")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ["empty"]),
        (b"\x1c\0\0\0TFL3" + b"\0" * 100, ["TensorFlow Lite"]),
        (b"PK\x03\x04" + b"\0" * 100, ["torch.save"]),
        (b"\x89HDF\r\n\x1a\n", ["HDF5"]),
        (b"ftrt" + b"\1" * 100, ["TensorRT"]),
        (b"<!doctype html><html>", ["web page"]),
        (b"version https://git-lfs.github.com/spec/v1\n", ["Git LFS"]),
        (b"hello, this is a text", ["text"]),
        (bytes(range(200, 256)) * 9, ["not an ONNX"]),
    ],
)
def test_other_files_are_named(data, words, tmp_path):
    (tmp_path / "m.onnx").write_bytes(data)
    refused(tmp_path / "m.onnx", *words)


def test_an_output_without_a_shape_gets_one(tmp_path):
    model = residual()
    shape = [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    loaded = graph.load(tmp_path / "m.onnx")
    assert len(loaded.graph.output[0].type.tensor_type.shape.dim) == len(shape)


def test_missing_files_and_folders(tmp_path):
    graph.save(residual(), tmp_path / "model.onnx")
    refused(tmp_path / "modle.onnx", "no such file", "model.onnx")
    refused(tmp_path, "folder")


def test_every_truncation_is_noticed(tmp_path):
    data = residual().SerializeToString()
    for cut in (1, 2, 10, len(data) // 3, len(data) // 2, len(data) - 1):
        (tmp_path / "m.onnx").write_bytes(data[:cut])
        refused(tmp_path / "m.onnx")


def test_short_tensors_and_invalid_graphs_are_noticed(tmp_path):
    model = residual()
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    refused(tmp_path / "m.onnx", "shorter than its shape")
    model = residual()
    model.graph.node[0].input[0] = "nowhere"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    refused(tmp_path / "m.onnx", "not a valid ONNX model")


def test_harmless_faults_are_mended(tmp_path):
    model = residual()
    model.graph.name = ""
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert len(graph.load(tmp_path / "m.onnx").graph.node) == len(nodes)


def test_inputs_are_what_has_to_be_fed():
    found = graph.inputs(residual(weights_as_inputs=True))
    assert [(i.name, i.dtype, i.shape) for i in found] == [("input", "float32", ("N", 3, 16, 16))]


def test_captured_names_count_as_read():
    model = branching()
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    conditional = next(node for node in model.graph.node if node.op_type == "If")
    assert graph.captured(conditional) == {relu.input[0], relu.output[0]}
    assert conditional.op_type in {node.op_type for node in graph.consumers(model)[relu.input[0]]}
    before = len(model.graph.node)
    graph.remove_dead(model)
    assert len(model.graph.node) == before


def test_depths_count_named_nodes_on_the_longest_way():
    model = residual()
    names = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert graph.depths(model, names) == {name: depth for depth, name in enumerate(names)}  # past the shortcut
    assert graph.depths(model, {names[3], names[0]}) == {names[0]: 0, names[3]: 1}
    assert graph.depths(model, ()) == {}
    # What nested graphs capture lies before their node.
    model = branching()
    first, conditional = model.graph.node[0], next(node for node in model.graph.node if node.op_type == "If")
    assert graph.depths(model, {first.name, conditional.name})[conditional.name] == 1


def test_a_part_makes_the_values_asked_for_and_nothing_else():
    model = residual()
    kept = model.SerializeToString(deterministic=True)
    nodes = list(model.graph.node)
    wanted = [nodes[3].output[0], nodes[0].output[0]]
    part = graph.part_making(model, wanted)
    assert graph.output_names(part) == tuple(wanted)
    assert [node.name for node in part.graph.node] == [node.name for node in nodes[: len(part.graph.node)]]
    assert len(part.graph.node) < len(nodes) and len(part.graph.initializer) < len(model.graph.initializer)
    assert model.SerializeToString(deterministic=True) == kept
    feed = next(feeds(model))
    whole = run(open_session(graph.with_outputs(model, wanted)), feed, wanted)
    for one, other in zip(run(open_session(part), feed, wanted), whole, strict=True):
        assert np.array_equal(one, other)
    # An output of the model stays as it was declared, before the others.
    (shown,) = graph.output_names(model)
    part = graph.part_making(model, [*wanted, shown])
    assert graph.output_names(part) == (shown, *wanted) and part.graph.output[0] == model.graph.output[0]


def test_names_become_unique_and_stay_put():
    model = awkward()
    model.graph.node[2].name = "same"
    graph.unique_names(model)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names) and all(names) and names.count("same") == 1
    again = graph.copy(model)
    graph.unique_names(again)
    assert [node.name for node in again.graph.node] == names


def test_select_by_name_and_by_type():
    model = residual()
    convolutions = {node.name for node in model.graph.node if node.op_type == "Conv"}
    everything = {node.name for node in model.graph.node}
    assert graph.select(model, (), ()) == everything
    assert graph.select(model, ("Conv",), ()) == convolutions
    assert graph.select(model, ("Conv",), ("conv0",)) == convolutions - {"conv0"}
    assert graph.select(model, ("conv[0-9]",), ()) <= convolutions
    assert {n.op_type for n in model.graph.node if n.name not in graph.select(model, (), ("G*",))} == {
        "Gemm",
        "GlobalAveragePool",
    }
    with pytest.raises(EdgekitError, match="'conv'") as caught:
        graph.select(model, ("conv",), ())
    assert "Conv" in caught.value.hint or "conv" in caught.value.hint


def test_brackets_and_slashes_in_names_match_themselves():
    net = Net()
    net.add("Relu", "input", name="/a[0]/b,c", outputs=["out"])
    model = net.model({"input": [1]}, {"out": [1]})
    assert graph.select(model, ("/a[0]/b,c",), ()) == {"/a[0]/b,c"}
    assert graph.select(model, ("/a*",), ()) == {"/a[0]/b,c"}


def test_metadata_round_trip():
    model = residual()
    graph.set_metadata(model, "key", "one")
    graph.set_metadata(model, "key", "two")
    assert graph.metadata(model) == {"key": "two"}
    graph.set_metadata(model, "key", None)
    assert graph.metadata(model) == {}


def test_storage_in_8_bits_does_not_count_as_quantised():
    net = Net()
    stored = net.constant(np.ones((4, 3, 1, 1), np.int8))
    weight = net.add("DequantizeLinear", stored, net.constant(np.float32(0.1)))
    net.add("Conv", "input", weight, outputs=["out"])
    model = net.model({"input": [1, 3, 4, 4]}, {"out": [1, 4, 4, 4]})
    assert not graph.is_quantized(model)
    net = Net()
    net.add("QuantizeLinear", "input", net.constant(np.float32(0.1)), outputs=["out"])
    model = net.model({"input": [1]}, {"out": (onnx.TensorProto.UINT8, [1])})
    assert graph.is_quantized(model)
