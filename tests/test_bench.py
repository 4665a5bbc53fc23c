"""`edgekit bench` as a person runs it: alone, side by side, against another machine's report, disagreements."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest

from conftest import SAMPLES, tree_digest
from edgekit.bench import against, disagree
from edgekit.bench.settings import bench
from edgekit.compress.settings import compress
from edgekit.errors import EdgekitError
from nets import NETS, Net

MODEL = SAMPLES / "fashion_resnet.onnx"
VAL = SAMPLES / "fashion" / "val"
QUICK = ("--seconds", "0.5", "--no-config")


def noisy(path, strength=0.35, seed=0):
    """The sample model with noise on its weights, so that it answers some pictures differently."""
    model = onnx.load(MODEL)
    rng = np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1 and tensor.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor)
            values = values + strength * values.std() * rng.standard_normal(values.shape).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return noisy(tmp_path_factory.mktemp("noisy") / "noisy.onnx")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Six pictures of each class."""
    root = tmp_path_factory.mktemp("few") / "val"
    for folder in sorted(VAL.iterdir()):
        for picture in sorted(folder.iterdir())[:6]:
            (root / folder.name).mkdir(parents=True, exist_ok=True)
            (root / folder.name / picture.name).write_bytes(picture.read_bytes())
    return root


def test_one_model_alone(edgekit, pictures, tmp_path):
    done = edgekit("bench", MODEL, "--data", pictures, *QUICK)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("fashion_resnet.onnx    ")
    for word in ("size", "latency", "load", "memory", "top-1", "did", "pictures", "machine"):
        assert any(line.startswith(word) for line in lines), word
    assert "all 60 pictures" in done.out
    assert max(map(len, lines)) <= 100
    assert not list(tmp_path.iterdir())  # nothing is written unasked


def test_two_models_side_by_side(edgekit, pictures, other, tmp_path):
    rules = ("--gate", "accuracy.drop<=1", "--gate", "size.ratio<=1.01")
    done = edgekit("bench", MODEL, other, "--data", pictures, *QUICK, *rules, "--report", "b.json", "--report", "b.md")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("fashion_resnet.onnx -> noisy.onnx    ")
    assert ["fashion_resnet.onnx", "noisy.onnx", "change"] in [line.split() for line in lines]
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith("gate ") and line.endswith("pass") for line in lines) == 2
    document = json.loads((tmp_path / "b.json").read_text())
    assert document["schema"] == "edgekit.bench/1"
    assert [model["path"] for model in document["models"]] == [str(MODEL), str(other)]
    pair = document["pairs"][0]
    assert pair["schema"] == "edgekit.report/1"
    assert pair["accuracy"]["n"] == 60
    assert pair["latency"]["low"] <= pair["latency"]["speedup"] <= pair["latency"]["high"]
    assert document["models"][1]["score"] == pair["accuracy"]["after"]
    assert (tmp_path / "b.md").read_text().startswith("```\nfashion_resnet.onnx -> noisy.onnx")


def test_json_is_the_only_thing_on_stdout(edgekit, other):
    done = edgekit("bench", MODEL, other, *QUICK, "--json")
    assert done.code == 0, done.err
    assert done.json["pairs"][0]["drift"]["agreement"] <= 1
    assert "synthetic pictures" in done.json["pairs"][0]["drift"]["on"]


def test_three_models_are_compared_with_the_first(edgekit, other, tmp_path):
    second = noisy(tmp_path / "noisier.onnx", 0.6, 1)
    done = edgekit("bench", MODEL, other, second, *QUICK, "--json")
    assert done.code == 0, done.err
    assert [pair["out"]["path"] for pair in done.json["pairs"]] == [str(other), str(second)]
    assert {pair["model"]["path"] for pair in done.json["pairs"]} == {str(MODEL)}
    assert len(done.json["models"]) == 3


def test_a_failed_gate_is_exit_code_1(edgekit, other):
    done = edgekit("bench", MODEL, other, *QUICK, "--gate", "size.ratio<=0.5")
    assert done.code == 1
    assert any(line.startswith("gate") and line.endswith("FAIL") for line in done.out.splitlines())
    done = edgekit("bench", MODEL, *QUICK, "--gate", "latency.after>=1000", "--json")
    assert done.code == done.json["exit_code"] == 1
    assert not done.json["passed"]


def test_a_quantised_reference_is_fine_and_its_preprocessing_is_taken(edgekit, tmp_path):
    assert edgekit("compress", MODEL, "--static", *QUICK, "--out", "q.onnx").code == 0
    bare = onnx.load(MODEL)
    del bare.metadata_props[:]
    onnx.save(bare, tmp_path / "bare.onnx")
    done = edgekit("bench", "q.onnx", "bare.onnx", *QUICK, "--json")
    assert done.code == 0, done.err
    assert done.json["pairs"][0]["latency"]["verdict"] == "slower"
    # Only the second model says how it is fed.
    swapped = edgekit("bench", "bare.onnx", "q.onnx", *QUICK, "--json")
    assert swapped.json["pairs"][0]["preprocess"]["mean"] == done.json["pairs"][0]["preprocess"]["mean"] == [0.286]


@pytest.mark.parametrize("name", ["attention", "awkward", "recurrent"])
def test_models_that_take_no_pictures(edgekit, tmp_path, name):
    onnx.save(NETS[name](), tmp_path / "m.onnx")
    done = edgekit("bench", "m.onnx", "m.onnx", *QUICK, "--json")
    assert done.code == 0, done.err
    assert "random numbers" in done.json["pictures"][0]
    assert done.json["pairs"][0]["drift"]["on"] == "random inputs"
    assert done.json["pairs"][0]["drift"]["sqnr_db"] == 200


def test_inputs_ready_made(edgekit, tmp_path):
    onnx.save(NETS["gemm-plain"](), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", input=np.ones((8, 48), np.float32))
    done = edgekit("bench", "m.onnx", "m.onnx", "--feeds", "x.npz", *QUICK, "--json")
    assert done.code == 0, done.err
    assert done.json["pictures"] == ["the inputs in x.npz"]


def test_against_the_report_of_another_machine(edgekit, pictures, tmp_path):
    report = ("--report", "r.json")
    assert (
        edgekit("compress", MODEL, "--int8-weights", "--data", pictures, *QUICK, "--out", "w.onnx", *report).code == 0
    )
    there = json.loads((tmp_path / "r.json").read_text())
    there["machine"]["cpu"] = "Cortex-A72"
    (tmp_path / "r.json").write_text(json.dumps(there))
    done = edgekit("bench", MODEL, "w.onnx", "--data", pictures, "--against", "r.json", *QUICK)
    assert done.code == 0, done.err
    table = done.out[done.out.index("this machine") :]
    for word in ("CPU", "Cortex-A72", "latency", "speed-up", "points", "agreement", "drift"):
        assert word in table
    assert "another model file" not in table
    assert max(map(len, done.out.splitlines())) <= 100
    changed = edgekit("bench", "w.onnx", MODEL, "--against", "r.json", *QUICK, "--json").json
    assert [row["differs"] for row in changed["against"]["rows"] if row["name"] == "model"] == [False, False]
    alone = noisy(tmp_path / "n.onnx")
    done = edgekit("bench", alone, "--against", "r.json", *QUICK)
    assert "! another model file there" in done.out
    assert "(its SHA-256 differs)" in done.out


def test_against_a_report_of_bench(edgekit, tmp_path):
    assert edgekit("bench", MODEL, *QUICK, "--report", "b.json").code == 0
    done = edgekit("bench", MODEL, *QUICK, "--threads", "2", "--against", "b.json")
    assert done.code == 0, done.err
    assert "! measured otherwise there: threads" in done.out
    assert "another model file" not in done.out


def test_disagreements_are_copied_with_their_answers(edgekit, pictures, other, tmp_path):
    before = tree_digest(pictures)
    command = ("bench", MODEL, other, "--data", pictures, *QUICK, "--disagreements", "d")
    done = edgekit(*command)
    assert done.code == 0, done.err
    folder = tmp_path / "d"
    rows = [json.loads(line) for line in (folder / "disagreements.jsonl").read_text().splitlines()]
    assert 0 < len(rows) < 60
    assert f"{len(rows)} of 60 pictures are answered differently by noisy.onnx: d" in done.out
    assert [row["confidence"] for row in rows] == sorted((row["confidence"] for row in rows), reverse=True)
    for row in rows:
        assert row["before"]["name"] != row["after"]["name"]
        assert (folder / row["file"]).read_bytes() == (pictures / row["source"]).read_bytes()
        assert row["before"]["name"] in row["file"]
        assert row["label"] == row["source"].split("/")[0]
    assert (folder / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in folder.iterdir()} == {row["file"] for row in rows} | {
        "sheet.png",
        "disagreements.jsonl",
        "run.json",
    }
    agreement = 1 - len(rows) / 60
    assert f"{100 * agreement:.2f} %" in done.out
    assert tree_digest(pictures) == before
    digest = tree_digest(folder)
    again = edgekit(*command)
    assert again.code == 2
    assert "exists already" in again.err
    assert edgekit(*command, "--force").code == 0
    assert tree_digest(folder) == digest
    (folder / "run.json").unlink()
    foreign = edgekit(*command, "--force")
    assert foreign.code == 2
    assert "not made by edgekit" in foreign.err


def test_no_disagreement_is_an_empty_manifest(edgekit, pictures, tmp_path):
    done = edgekit("bench", MODEL, MODEL, "--data", pictures, *QUICK, "--disagreements", "d")
    assert done.code == 0, done.err
    assert "0 of 60 pictures" in done.out
    assert (tmp_path / "d" / "disagreements.jsonl").read_text() == ""


@pytest.mark.parametrize("unit", [True, False])
def test_shares_are_probabilities(unit):
    for scores in (np.array([0.2, 0.7, 0.1]), np.array([0.9])):
        found = disagree.shares(scores, unit=unit)
        assert found.sum() == pytest.approx(1)
        assert found.argmax() == (scores.argmax() if len(scores) > 1 else 1)
    assert disagree.shares(np.array([-900.0, 900.0]), unit=False)[1] == 1


def other_inputs(tmp_path):
    onnx.save(NETS["attention"](), tmp_path / "text.onnx")
    net = Net()
    x = net.add("Relu", "input", outputs=["a"])
    net.add("Neg", x, outputs=["b"])
    onnx.save(
        net.model({"input": ["N", 1, 28, 28]}, {"a": ["N", 1, 28, 28], "b": ["N", 1, 28, 28]}), tmp_path / "o.onnx"
    )


@pytest.mark.parametrize(
    ("arguments", "what", "how"),
    [
        ([], "MODEL... is missing", "--help"),
        (["folder"], "folder: is a folder", ".onnx"),
        (["notes.onnx"], "is a text file, not an ONNX model", "export"),
        (["missing.onnx"], "no such file", ""),
        ([MODEL, "missing.onnx"], "no such file", ""),
        ([MODEL, "text.onnx"], "text.onnx takes input float32 Nx8x32, but", "made from one another"),
        ([MODEL, "o.onnx"], "o.onnx has 2 outputs, but", "made from one another"),
        ([MODEL, "--against", "missing.json"], "no such file", "--report x.json"),
        ([MODEL, "--against", "folder"], "is a folder", "--report x.json"),
        ([MODEL, "--against", "notes.onnx"], "not a JSON document", "--report x.json"),
        ([MODEL, "--against", "schema.json"], "its schema is edgekit.augment/1", "edgekit.report/1"),
        ([MODEL, "--against", "list.json"], "its schema is missing", "edgekit.report/1"),
        ([MODEL, "--against", "part.json"], "no whole report: 'latency' is missing", "--report x.json"),
        ([MODEL, "--gate", "latency.speedup>=1"], "compares two models", "latency.after"),
        ([MODEL, MODEL, "--gate", "accuracy.drop<=0"], "needs labelled pictures", "--data"),
        ([MODEL, "--gate", "latency.fast>=1"], "no such number: latency.fast", ""),
        ([MODEL, "--disagreements", "d", "--data", VAL], "one was given", "a.onnx b.onnx"),
        ([MODEL, MODEL, "--disagreements", "d"], "needs pictures", "--data DIR"),
        ([MODEL, MODEL, "--disagreements", "folder2", "--data", VAL], "exists already", "--force"),
        ([MODEL, MODEL, "--disagreements", VAL / "new", "--data", VAL], "in or around the pictures", "another"),
        ([MODEL, "--data", "nowhere"], "no such folder", "pictures"),
        ([MODEL, "--data", VAL, "--feeds", "x.npz"], "exclude each other", "one or the other"),
        ([MODEL, "--report", "x.html"], "no renderer for .html", ".json"),
        ([MODEL, "--report", "notes.json"], "exists already", "--force"),
        ([MODEL, "--int8"], "no such option: --int8", ""),
    ],
)
def test_every_mistake_has_one_sentence_and_a_way_out(edgekit, tmp_path, arguments, what, how):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder2").mkdir()
    (tmp_path / "folder2" / "mine.txt").write_text("mine")
    (tmp_path / "notes.onnx").write_text("not a model")
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / "schema.json").write_text('{"schema": "edgekit.augment/1"}')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "part.json").write_text('{"schema": "edgekit.report/1"}')
    other_inputs(tmp_path)
    done = edgekit("bench", *arguments, "--seconds", "0.5")
    assert done.code == 2, done.out
    assert what in done.err
    assert how in done.err
    assert done.out == ""
    assert not (VAL / "new").exists()


def test_ctrl_c_leaves_nothing(tmp_path, pictures, other):
    command = [sys.executable, "-m", "edgekit", "bench", MODEL, other, "--data", pictures, "--seconds", "60"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("EDGEKIT_")}
    outputs = ["--report", "r.json", "--disagreements", "d"]
    running = subprocess.Popen(
        [*map(str, command), *outputs], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    )
    while b"measuring" not in running.stderr.readline():
        assert running.poll() is None
    time.sleep(1.5)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert b"interrupted" in err
    assert out == b""
    assert not list(tmp_path.iterdir())


def test_what_the_commands_share_is_said_once():
    ours, theirs = ({f.name: f for f in cls.options()} for cls in (bench, compress))
    for name in ours.keys() & theirs.keys() - {"report"}:
        assert ours[name] == theirs[name]
    assert {"data", "feeds", "gate", "mean", "threads", "seconds"} <= ours.keys() & theirs.keys()


def test_a_report_that_lies_about_its_types_is_no_report(tmp_path):
    for text in (
        '{"schema": "edgekit.bench/1", "pairs": 3}',
        '{"schema": "edgekit.bench/1", "pairs": [], "models": []}',
    ):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(EdgekitError, match="no whole report"):
            against.read(tmp_path / "r.json")
