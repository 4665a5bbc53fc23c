"""`edgekit inspect` as a person runs it."""

import json

import numpy as np
import onnx
import pytest

from conftest import SAMPLES
from nets import NETS, Net

MODEL = SAMPLES / "fashion_resnet.onnx"
QUICK = ("--seconds", "0.1", "--no-config")


def saved(tmp_path, name, made=None):
    path = tmp_path / f"{name}.onnx"
    onnx.save(made if made is not None else NETS[name](), path)
    return path


def test_the_sample_model_on_one_screen(edgekit):
    done = edgekit("inspect", MODEL, *QUICK)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("fashion_resnet.onnx    920.1 kB; 228,346 parameters; ")
    assert " MACs; " in lines[0]
    assert "(1 thread)" in lines[0]
    for word in ("input", "output", "format", "operators", "quantised", "metadata", "time", "fed", "  layer"):
        assert any(line.startswith(word) for line in lines), word
    assert max(map(len, lines)) <= 100
    assert len(lines) <= 45
    assert lines[-1].startswith("and ")


def test_the_document_has_every_layer_and_its_sums(edgekit):
    document = edgekit("inspect", MODEL, *QUICK, "--json").json
    model = onnx.load(MODEL)
    assert document["schema"] == "edgekit.inspect/1"
    assert document["inputs"] == [{"name": "input", "dtype": "float32", "shape": ["N", 1, 28, 28]}]
    assert document["operators"]["Conv"] == sum(node.op_type == "Conv" for node in model.graph.node)
    assert sum(layer["macs"] for layer in document["layers"]) == document["macs"] > 1e6
    assert sum(layer["share"] for layer in document["layers"]) == pytest.approx(1)
    assert sum(layer["ms"] for layer in document["layers"]) == pytest.approx(document["ms"])
    assert [layer["name"] for layer in document["layers"] if not layer["added"]] == [n.name for n in model.graph.node]
    assert document["quantized"] == "no"
    assert "edgekit.preprocess" in document["metadata"]
    assert document["bytes"] == MODEL.stat().st_size


def test_top_bounds_the_table_and_the_costliest_come_first(edgekit):
    lines = edgekit("inspect", MODEL, *QUICK, "-n", "3").out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("  layer"))
    rows, last = lines[start + 1 : -1], lines[-1]
    assert len(rows) == 3
    shares = [float(row.split(" %")[0].split()[-1]) for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert last.endswith("shows all")


def test_long_names_are_cut_so_that_every_layer_has_one_line(edgekit, tmp_path):
    model = NETS["upsampler"]()
    for number, node in enumerate(model.graph.node):
        node.name = f"/a/module/of/a/module/of/a/module/of/a/module/{node.op_type}_{number}"
    done = edgekit("inspect", saved(tmp_path, "long", model), *QUICK, "--top", "100")
    lines = done.out.splitlines()
    rows = lines[next(n for n, line in enumerate(lines) if line.startswith("  layer")) + 1 :]
    assert any("added by onnxruntime" in row for row in rows)
    assert all(row.startswith("  ") and len(row.split("  ")) > 4 for row in rows)
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", list(NETS))
def test_every_difficult_net_can_be_inspected(edgekit, tmp_path, name):
    done = edgekit("inspect", saved(tmp_path, name), *QUICK, "--json")
    assert done.code == 0, done.err
    document = done.json
    assert document["fed"].startswith("random numbers")
    assert document["ms"] > 0
    assert None not in [layer["macs"] for layer in document["layers"]]


def test_what_is_quantised_says_so(edgekit, tmp_path):
    for step, said in (
        ("--static", "8-bit arithmetic: "),
        ("--int8-weights", "weights stored in 8 bits"),
        ("--fp16", "f"),
    ):
        out = tmp_path / f"{step}.onnx"
        assert edgekit("compress", MODEL, step, "--seconds", "0.5", "--no-config", "--out", out).code == 0
        document = edgekit("inspect", out, *QUICK, "--json").json
        assert said in document["quantized"]
        assert "edgekit.recipe" in document["metadata"]
    assert "float16" in document["quantized"]


def test_external_data_is_named_and_counted(edgekit, tmp_path):
    path = tmp_path / "big.onnx"
    onnx.save(NETS["residual"](), path, save_as_external_data=True, location="big.data", size_threshold=0)
    document = edgekit("inspect", path, *QUICK, "--json").json
    assert document["external"] == [str(tmp_path / "big.data")]
    assert document["bytes"] == path.stat().st_size + (tmp_path / "big.data").stat().st_size
    assert "external" in edgekit("inspect", path, *QUICK).out


def test_inputs_of_ones_own(edgekit, tmp_path):
    path = saved(tmp_path, "perceptron", NETS["gemm-plain"]())
    np.savez(tmp_path / "x.npz", input=np.ones((3, 48), np.float32))
    document = edgekit("inspect", path, *QUICK, "--json", "--feeds", tmp_path / "x.npz").json
    assert document["fed"] == f"the inputs in {tmp_path / 'x.npz'}"
    np.savez(tmp_path / "y.npz", input=np.ones((3, 47), np.float32))
    done = edgekit("inspect", path, *QUICK, "--feeds", tmp_path / "y.npz")
    assert done.code == 2
    assert "47" in done.err


def test_what_cannot_be_run_is_shown_without_times(edgekit, tmp_path):
    net = Net()
    net.add("Strange", net.conv("input", 3, 4), outputs=["y"], domain="my.own")
    path = saved(tmp_path, "strange", net.model({"input": [1, 3, 8, 8]}, {"y": [1, 4, 8, 8]}, domains=("my.own",)))
    done = edgekit("inspect", path, *QUICK)
    assert done.code == 0, done.err
    assert "note       not run, so neither timed nor counted: " in done.out
    document = edgekit("inspect", path, *QUICK, "--json").json
    assert document["ms"] is None
    assert document["macs"] is None
    assert document["operators"]["Strange"] == 1


@pytest.mark.parametrize(
    ("arguments", "what", "how"),
    [
        (["folder"], "folder: no pictures in it", "jpg, png"),
        (["notes.onnx"], "is a text file, not an ONNX model", "export"),
        (["empty.onnx"], "is an empty file", "again"),
        (["cut.onnx"], "cut", "again"),
        (["missing.onnx"], "no such file", ""),
        ([], "TARGET is missing", "--help"),
        (["m.onnx", "--top", "0"], "top=0 is below 1", "at least 1"),
        (["m.onnx", "--size", "17", "--feeds", "x.npz"], "exclude each other", "one or the other"),
        (["m.onnx", "--size", "999"], "the model cannot run on the inputs", "--feeds"),
        (["m.onnx", "--data", "x"], "no such option: --data", ""),
    ],
)
def test_every_mistake_has_one_sentence_and_a_way_out(edgekit, tmp_path, arguments, what, how):
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.onnx").write_text("not a model")
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "cut.onnx").write_bytes(MODEL.read_bytes()[:5000])
    net = Net()
    net.add("Relu", net.add("Reshape", "input", net.constant(np.int64([1, 192]))), outputs=["y"])
    saved(tmp_path, "m", net.model({"input": [1, 3, "H", "W"]}, {"y": [1, 192]}))
    done = edgekit("inspect", *arguments)
    assert done.code == 2, done.out
    assert what in done.err
    assert how in done.err
    assert done.out == ""
    assert len(done.err.strip().splitlines()) == 2


def test_an_error_is_a_document_too(edgekit, tmp_path):
    done = edgekit("inspect", "missing.onnx", "--json")
    assert done.code == 2
    assert json.loads(done.out)["schema"] == "edgekit.error/1"


def test_its_section_of_the_configuration_holds(edgekit, tmp_path):
    (tmp_path / "edgekit.toml").write_text("[inspect]\ntop = 2\nseconds = 0.1\n")
    assert edgekit("inspect", MODEL).out.splitlines()[-3].split()[0] != "layer"
    assert "[inspect]\ntop = 2" in edgekit("config").out
    (tmp_path / "edgekit.toml").write_text("[inspect]\ntopp = 2\n")
    assert "inspect.topp" in edgekit("inspect", MODEL).err
