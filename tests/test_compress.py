"""`edgekit compress` from file to file, as a person runs it, on the sample model."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from conftest import SAMPLES, picture, save, tree_digest
from edgekit.compress import verdict
from nets import Net

MODEL = SAMPLES / "fashion_resnet.onnx"
TRAIN, VAL = SAMPLES / "fashion" / "train", SAMPLES / "fashion" / "val"
QUICK = ("--seconds", "0.5", "--search-seconds", "3", "--no-config")


@pytest.fixture
def model(tmp_path):
    """The sample model in a folder of its own."""
    path = tmp_path / "m.onnx"
    path.write_bytes(MODEL.read_bytes())
    return path


def test_int8_with_nothing_but_the_model(edgekit, model, tmp_path):
    done = edgekit("compress", "m.onnx", "--int8")
    assert done.code == 0, done.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.int8.onnx", "m.onnx"]
    first = done.out.splitlines()[0]
    assert "m.onnx -> m.int8.onnx" in first
    assert "faster" in first
    for word in ("size", "latency", "load", "memory", "agreement", "drift", "did", "pictures", "calibrated", "machine"):
        assert any(line.startswith(word) for line in done.out.splitlines()), word
    assert "synthetic pictures" in done.out
    assert done.out.splitlines()[-1].startswith("wrote m.int8.onnx")


def test_the_report_has_every_number_under_its_gate_name(edgekit, model, tmp_path):
    arguments = ["--static", "--calib", TRAIN, "--data", VAL, *QUICK, "--report", "r.json", "--report", "r.md"]
    done = edgekit(
        "compress", "m.onnx", *arguments, "--json", "--gate", "accuracy.drop<=0.05", "--gate", "size.ratio<=0.5"
    )
    assert done.code == 0, done.err
    report = done.json
    assert report["schema"] == "edgekit.report/1"
    assert report["size"]["ratio"] < 0.4
    assert report["accuracy"]["n"] == 300
    assert report["accuracy"]["before"] > 0.85
    assert abs(report["accuracy"]["drop"]) <= 0.02
    assert report["latency"]["low"] <= report["latency"]["speedup"] <= report["latency"]["high"]
    assert [gate["passed"] for gate in report["gates"]] == [True, True]
    assert report["exit_code"] == 0
    on_disk = json.loads((tmp_path / "r.json").read_text())
    assert on_disk == report
    markdown = (tmp_path / "r.md").read_text()
    assert markdown.startswith("**m.onnx -> m.static.onnx")
    assert "<details>" in markdown
    made = onnx.load(tmp_path / "m.static.onnx")
    metadata = {entry.key: entry.value for entry in made.metadata_props}
    assert json.loads(metadata["edgekit.preprocess"])["size"] == [28, 28]
    assert len(json.loads(metadata["edgekit.classes"])) == 10


def test_the_ten_lines_of_python_run(edgekit, model, tmp_path):
    done = edgekit("compress", "m.onnx", "--int8-weights", *QUICK, "--json")
    (tmp_path / "use.py").write_text(done.json["python"])
    source = next((VAL / "trouser").glob("*.png"))
    answer = subprocess.run([sys.executable, "use.py", source], cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == "trouser"


@pytest.mark.parametrize(
    ("flags", "smaller"),
    [
        (["--int8-weights"], 0.35),
        (["--fp16"], 0.6),
        (["--static"], 0.4),
        (["--sparsity", "0.5", "--static"], 0.4),
        (["--fp16", "--static"], 0.4),
        (["--sparsity", "0.3", "--int8-weights"], 0.4),
    ],
)
def test_steps_and_their_combinations(edgekit, model, flags, smaller):
    done = edgekit("compress", "m.onnx", *flags, "--data", VAL, *QUICK, "--json", "--out", "o.onnx")
    assert done.code == 0, done.err
    assert done.json["size"]["ratio"] < smaller
    assert done.json["drift"]["agreement"] >= (0.7 if "--sparsity" in flags else 0.9)


def test_a_step_with_nothing_left_to_do_says_so(edgekit, model):
    done = edgekit("compress", "m.onnx", "--static", "--fp16", *QUICK)
    assert done.code == 2
    assert "put it first" in done.err


def test_sparsity_is_smaller_only_when_zipped(edgekit, model):
    size = edgekit("compress", "m.onnx", "--sparsity", "0.5", *QUICK, "--json").json["size"]
    assert size["ratio"] > 0.95
    assert size["zipped_ratio"] < 0.75


def test_same_bytes_twice_whatever_the_hash_seed(edgekit, model, tmp_path):
    for number in range(3):
        env = {"PYTHONHASHSEED": str(number)}
        assert edgekit("compress", "m.onnx", "--static", *QUICK, "--out", f"{number}.onnx", env=env).code == 0
    assert len({(tmp_path / f"{number}.onnx").read_bytes() for number in range(3)}) == 1


def test_only_convolutions(edgekit, model, tmp_path):
    done = edgekit("compress", "m.onnx", "--static", "--only", "Conv", *QUICK, "--json")
    assert done.code == 0, done.err
    names = done.json["nodes"]["float_names"]
    assert any(kind in names for kind in ("Gemm", "MatMul", "FusedGemm"))
    done = edgekit(
        "compress", "m.onnx", "--static", "--exclude", "Conv", "--exclude", "Gemm", "--exclude", "MatMul", *QUICK
    )
    assert done.code == 2


def test_a_failed_gate(edgekit, model, tmp_path):
    done = edgekit("compress", "m.onnx", "--int8-weights", *QUICK, "--gate", "size.ratio<=0.01")
    assert done.code == 1
    assert "gate failed: size.ratio<=0.01" in done.out.splitlines()[-1]
    assert (tmp_path / "m.int8-weights.rejected.onnx").exists()
    assert not (tmp_path / "m.int8-weights.onnx").exists()


def test_gates_from_the_configuration(edgekit, model, tmp_path):
    (tmp_path / "edgekit.toml").write_text(
        '[compress]\nsteps = ["int8-weights"]\nseconds = 0.5\n[gate]\nsize.ratio = "<=0.01"\n'
    )
    done = edgekit("compress", "m.onnx", "--json")
    assert (done.code, done.json["passed"]) == (1, False)


def test_up_to_date_and_force(edgekit, model, tmp_path):
    assert edgekit("compress", "m.onnx", "--int8-weights", *QUICK).code == 0
    again = edgekit("compress", "m.onnx", "--int8-weights", *QUICK)
    assert (again.code, "up to date" in again.out) == (0, True)
    other = edgekit("compress", "m.onnx", "--fp16", "--out", "m.int8-weights.onnx", *QUICK)
    assert (other.code, "--force" in other.err) == (2, True)
    assert edgekit("compress", "m.onnx", "--fp16", "--out", "m.int8-weights.onnx", "--force", *QUICK).code == 0
    (tmp_path / "mine.onnx").write_bytes(b"precious")
    assert edgekit("compress", "m.onnx", "--fp16", "--out", "mine.onnx", "--force", *QUICK).code == 2
    assert (tmp_path / "mine.onnx").read_bytes() == b"precious"


def test_preview_shows_what_the_model_sees(edgekit, model, tmp_path):
    done = edgekit("compress", "m.onnx", "--int8", "--data", VAL, "--preview", "x.png", "--dry-run")
    assert done.code == 0, done.err
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "m.int8.onnx").exists()
    assert "would apply int8" in done.out


def test_unlabelled_pictures_give_agreement_and_no_accuracy(edgekit, model, tmp_path):
    for number, source in enumerate(sorted(VAL.rglob("*.png"))[::10]):
        (tmp_path / "flat").mkdir(exist_ok=True)
        (tmp_path / "flat" / f"{number}.png").write_bytes(source.read_bytes())
    done = edgekit("compress", "m.onnx", "--static", "--data", "flat", *QUICK, "--json")
    assert done.code == 0, done.err
    assert done.json["accuracy"] is None
    assert done.json["drift"]["agreement"] > 0.8


def text_model(path):
    """A little model over token ids: embedding, mean, dense."""
    table = onnx.numpy_helper.from_array(np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32), "table")
    weight = onnx.numpy_helper.from_array(
        np.random.default_rng(1).standard_normal((64, 256)).astype(np.float32), "weight"
    )
    nodes = [
        onnx.helper.make_node("Gather", ["table", "ids"], ["rows"]),
        onnx.helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[1], keepdims=0),
        onnx.helper.make_node("MatMul", ["mean", "weight"], ["scores"]),
    ]
    ids = onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n", "t"])
    scores = onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["n", 256])
    graph = onnx.helper.make_graph(nodes, "text", [ids], [scores], [table, weight])
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, path)


def test_other_inputs_come_from_feeds(edgekit, tmp_path):
    text_model(tmp_path / "t.onnx")
    done = edgekit("compress", "t.onnx", "--int8", *QUICK)
    assert done.code == 2
    assert "--feeds" in done.err
    np.savez(tmp_path / "f.npz", ids=np.random.default_rng(2).integers(0, 50, (12, 1, 9)))
    done = edgekit("compress", "t.onnx", "--int8", "--feeds", "f.npz", *QUICK)
    assert done.code == 0, done.err
    assert "ready-made inputs" in done.out
    done = edgekit("compress", "t.onnx", "--dynamic", "--feeds", "f.npz", *QUICK, "--out", "d.onnx")
    assert done.code == 0, done.err


def test_classes_that_do_not_fit(edgekit, model, tmp_path):
    for name in ("one", "two", "three"):
        save(tmp_path / "three" / name / "a.png", picture(1, 28, 28, 1))
    done = edgekit("compress", "m.onnx", "--int8", "--data", "three", *QUICK)
    assert done.code == 2
    assert "three" in done.err
    shuffled = sorted(p.name for p in VAL.iterdir())
    (tmp_path / "c.txt").write_text("\n".join(shuffled))
    done = edgekit("compress", "m.onnx", "--int8", "--data", VAL, "--calib", TRAIN, "--classes", "c.txt", *QUICK)
    assert done.code == 2
    assert "in another order" in done.err
    assert "--classes classes.txt" in done.err


@pytest.mark.parametrize(
    ("arguments", "what", "how"),
    [
        (["nope.onnx", "--int8"], "nope.onnx: no such file", "ONNX"),
        ([".", "--int8"], "is a folder", "ONNX"),
        (["m.onnx"], "no step was given", "edgekit steps"),
        (["page.onnx", "--int8"], "page.onnx", ""),
        (["cut.onnx", "--int8"], "cut.onnx", ""),
        (["empty.onnx", "--int8"], "empty", ""),
        (["m.onnx", "--int9"], "no such option: --int9", "did you mean --int8?"),
        (["m.onnx", "--prune=1"], "prune: share=1 is above 0.95", "from 0 to 0.95"),
        (["m.onnx", "--sparsity", "1.5"], "sparsity: share=1.5 is above 0.99", "from 0 to 0.99"),
        (["m.onnx", "--step", "int8 sample=3"], "no such field: sample", "samples"),
        (["m.onnx", "--int8", "--data", "nowhere"], "nowhere: no such folder", "folder"),
        (["m.onnx", "--int8", "--out", "m.onnx"], "is the model itself", "--out"),
        (["m.onnx", "--int8", "--out", "no/where/x.onnx"], "no such folder to write into", "mkdir"),
        (["m.onnx", "--int8", "--gate", "acuracy.drop<=1"], "no such number: acuracy.drop", "accuracy.drop"),
        (["m.onnx", "--int8", "--gate", "size.ratio"], "no comparison", "accuracy.drop<=0.01"),
        (["m.onnx", "--int8", "--gate", "accuracy.drop<=0.01"], "needs labelled pictures", "--data"),
        (["m.onnx", "--int8", "--report", "x.pdf"], "no renderer for .pdf", ".json"),
        (["m.onnx", "--int8", "--only", "Cnv"], "Cnv", "Conv"),
        (["m.onnx", "--int8", "--mean", "a,b"], "mean", ""),
        (["m.onnx", "--int8", "--size", "0"], "size", ""),
        (["m.onnx", "--int8", "--resize", "crp"], "resize=crp is not one of", "did you mean resize=crop?"),
        (["m.onnx", "--int8", "--feeds", "none.npz"], "none.npz", ""),
        (["m.onnx", "--int8", "--classes", "none.txt", "--data", "."], "none.txt", ""),
        (["m.onnx", "--int8", "--seconds", "0"], "seconds=0 is below 0.5", "from 0.5"),
        ([], "MODEL is missing", "--help"),
    ],
)
def test_mistakes(edgekit, model, tmp_path, arguments, what, how):
    (tmp_path / "page.onnx").write_text("<html>404</html>")
    (tmp_path / "cut.onnx").write_bytes(model.read_bytes()[:-1000])
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("a", "b"):
        save(tmp_path / "p" / name / "x.png", picture(3, 28, 28, 1))
    before = tree_digest(tmp_path)
    done = edgekit("compress", *arguments)
    assert done.code == 2, (done.out, done.err)
    lines = [line for line in done.err.strip().splitlines() if line.startswith(("error: ", " hint: "))]
    assert len(lines) == 2, done.err
    assert what in lines[0]
    assert how in lines[1]
    assert "Traceback" not in done.err
    assert done.out == ""
    assert tree_digest(tmp_path) == before


def test_nothing_but_the_output_is_written(edgekit, model, tmp_path):
    os.chmod(tmp_path, 0o755)  # noqa: PTH101
    assert edgekit("compress", "m.onnx", "--static", *QUICK, "--out", "o.onnx").code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "o.onnx"]


def test_an_already_quantised_model_is_refused(edgekit, model):
    assert edgekit("compress", "m.onnx", "--static", "--out", "q.onnx", *QUICK).code == 0
    done = edgekit("compress", "q.onnx", "--int8", "--out", "qq.onnx", *QUICK)
    assert done.code == 2
    assert "quanti" in done.err


def test_a_detector_is_judged_by_map(edgekit, assets, tmp_path):
    pytest.importorskip("pycocotools")
    model, images = assets / "models/yolox_nano_416_opset11.onnx", assets / "images/coco_val64"
    arguments = ["--int8-weights", "--task", "detect", "--preset", "raw", "--color", "bgr", "--data", images]
    done = edgekit("compress", model, *arguments, "--out", "y.onnx", *QUICK, "--json")
    assert done.code == 0, done.err
    accuracy = done.json["accuracy"]
    assert accuracy["metric"] == "mAP"
    assert 0.30 < accuracy["before"] < 0.40
    assert accuracy["map50_before"] > accuracy["before"]
    assert abs(accuracy["drop"]) < 0.05
    assert accuracy["low"] <= accuracy["drop"] <= accuracy["high"]


def test_a_gate_that_cannot_be_judged_is_refused_before_the_work(edgekit, model, tmp_path):
    for number in range(4):
        save(tmp_path / "flat" / f"{number}.png", picture(number))
    done = edgekit("compress", "m.onnx", "--fp16", "--data", "flat", *QUICK, "--gate", "accuracy.drop<=0.01")
    assert (done.code, "are not labelled" in done.err, "applying" in done.err) == (2, True, False)
    done = edgekit("compress", "m.onnx", "--fp16", "--data", VAL, *QUICK, "--gate", "accuracy.map50_drop<=0.01")
    assert (done.code, "is for detectors" in done.err, "applying" in done.err) == (2, True, False)
    done = edgekit("compress", "m.onnx", "--fp16", *QUICK, "--gate", "size.ratio<=nan")
    assert (done.code, "'nan' is not a number" in done.err) == (2, True)


def test_a_failed_gate_replaces_nothing_but_edgekits_own(edgekit, model, tmp_path):
    (tmp_path / "m.fp16.rejected.onnx").write_bytes(b"precious")
    done = edgekit("compress", "m.onnx", "--fp16", *QUICK, "--gate", "size.ratio<=0.01")
    assert (done.code, "not made by edgekit" in done.err) == (2, True)
    assert (tmp_path / "m.fp16.rejected.onnx").read_bytes() == b"precious"


def test_new_external_weights_are_not_up_to_date(edgekit, model, tmp_path):
    net = onnx.load(model)
    onnx.save(net, model, save_as_external_data=True, location="m.data", size_threshold=0)
    assert edgekit("compress", "m.onnx", "--fp16", *QUICK).code == 0
    assert "up to date" in edgekit("compress", "m.onnx", "--fp16", *QUICK).out
    weights = np.fromfile(tmp_path / "m.data", np.float32) * np.float32(0.5)
    weights.tofile(tmp_path / "m.data")
    assert edgekit("compress", "m.onnx", "--fp16", *QUICK).code == 2


def test_pictures_that_do_not_count_as_labelled_are_mentioned(edgekit, model, tmp_path):
    for number in range(4):
        save(tmp_path / "imgs" / f"c{number % 2}" / f"{number}.png", picture(number))
    save(tmp_path / "imgs" / "stray.png", picture(9))
    done = edgekit("compress", "m.onnx", "--fp16", "--data", "imgs", *QUICK, "--json")
    assert done.json["accuracy"] is None
    assert any("no accuracy: 1 of the pictures" in line for line in done.json["preprocess"]["sentences"])


def tiny(path, classes, last=None):
    """Save a net of one convolution with so many scores, and one operator after them."""
    net = Net()
    pooled = net.add("GlobalAveragePool", net.conv("x", 3, 32))
    net.add("Gemm", net.add("Flatten", pooled), net.weight(classes, 32), transB=1, outputs=["l" if last else "y"])
    if last:
        net.add(last, "l", outputs=["y"])
    onnx.save(net.model({"x": [1, 3, 16, 16]}, {"y": [1, classes]}), path)


def test_the_python_of_a_model_with_a_single_score(edgekit, tmp_path):
    source = save(tmp_path / "p.png", picture(3))
    for last, limit in (("Sigmoid", "0.5"), (None, "0")):
        tiny(tmp_path / "one.onnx", 1, last)
        done = edgekit("compress", "one.onnx", "--fp16", "--force", *QUICK, "--json")
        assert f"> {limit})" in done.json["python"]
        program = [sys.executable, "-c", done.json["python"], str(source)]
        answer = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True)
        assert answer.stdout.strip() in ("0", "1"), answer.stderr
        (tmp_path / "one.fp16.onnx").unlink()


def test_an_original_that_answers_nan_is_mentioned(edgekit, tmp_path):
    tiny(tmp_path / "nan.onnx", 4, "Log")
    done = edgekit("compress", "nan.onnx", "--fp16", *QUICK, "--json")
    assert done.code == 0, done.err
    assert any("the original itself answers NaN" in note for note in done.json["notes"])


def test_names_that_are_too_few_are_refused_without_pictures_too(edgekit, model, tmp_path):
    (tmp_path / "few.txt").write_text("a\nb\n")
    done = edgekit("compress", "m.onnx", "--fp16", "--classes", "few.txt", *QUICK)
    assert (done.code, "2 class names, but the model has 10 outputs" in done.err) == (2, True)


def test_pictures_none_of_which_can_be_read_are_not_reported_on(edgekit, model, tmp_path):
    for number in range(4):
        save(tmp_path / "good" / f"{number}.png", picture(number))
        (tmp_path / "bad").mkdir(exist_ok=True)
        (tmp_path / "bad" / f"{number}.png").write_bytes(b"nothing %d" % number)
    done = edgekit("compress", "m.onnx", "--fp16", "--calib", "good", "--data", "bad", *QUICK)
    assert (done.code, "can be read" in done.err) == (2, True)


def test_a_report_never_replaces_the_model(edgekit, model, tmp_path):
    done = edgekit("compress", "m.onnx", "--fp16", *QUICK, "--out", "x.json", "--report", "./x.json")
    assert (done.code, "something else is to be written there" in done.err) == (2, True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


def test_a_recipe_makes_the_same_model_without_measuring(edgekit, model, tmp_path):
    pictures = ("--calib", TRAIN, "--data", VAL, *QUICK)
    first = edgekit("compress", "m.onnx", "--int8", "--search-seconds", "2", *pictures, "--report", "r.json")
    assert first.code == 0, first.err
    made = (tmp_path / "m.int8.onnx").read_bytes()
    for out in ("a.onnx", "b.onnx"):
        done = edgekit("compress", "m.onnx", "--recipe", "r.json", "--out", out, *pictures, "--json")
        assert done.code == 0, done.err
        assert (tmp_path / out).read_bytes() == made
    assert "replayed" in done.json["headline"] and done.json["search"] == []
    assert done.json["recipe"] == json.loads((tmp_path / "r.json").read_text())["recipe"]
    again = edgekit("compress", "m.onnx", "--recipe", "r.json", "--out", "a.onnx", *pictures)
    assert again.code == 0 and "up to date" in again.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "none.json"], "none.json: No such file"),
        (["--recipe", "broken.json"], "not a report of edgekit compress"),
        (["--recipe", "other.json"], "not a report of edgekit compress"),
        (["--recipe", "other.json", "--int8"], "has steps of its own"),
        (["--recipe", "other.json", "--seed", "3"], "has --seed of its own"),
    ],
)
def test_recipes_that_cannot_be_replayed(edgekit, model, tmp_path, arguments, message):
    (tmp_path / "broken.json").write_bytes(b"\xff{")
    (tmp_path / "other.json").write_text('{"schema": "edgekit.report/1", "recipe": {"steps": ["int8"]}}')
    done = edgekit("compress", "m.onnx", *arguments)
    assert done.code == 2 and message in done.err and len(done.err.splitlines()) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.json", "m.onnx", "other.json"]


def test_budgets_guide_the_choice_and_are_gates(edgekit, model, tmp_path):
    tight = ("--max-mb", "0.001", "--max-drop", "0.5", "--search-seconds", "1")
    done = edgekit("compress", "m.onnx", "--int8", "--calib", TRAIN, "--data", VAL, *tight, *QUICK, "--json")
    assert done.code == 1, done.err
    assert [gate["rule"] for gate in done.json["gates"]] == ["accuracy.drop<=0.5", "size.after<=1000"]
    assert (tmp_path / "m.int8.rejected.onnx").exists() and not (tmp_path / "m.int8.onnx").exists()
    assert any("no candidate" in note for note in done.json["notes"])
    wide = ("--max-ms", "1000", "--search-seconds", "1")
    done = edgekit("compress", "m.onnx", "--int8", "--calib", TRAIN, *wide, *QUICK, "--json")
    assert done.code == 0 and done.json["gates"][0]["passed"], done.err


@pytest.mark.parametrize(
    ("agreement", "sqnr_db", "said"),
    [
        (0.96, 31.0, "; 96.0 % same answers"),
        (0.96, 7.4, "; 96.0 % same answers, outputs at 7 dB"),
        (None, 7.4, "; THE OUTPUTS DIFFER STRONGLY (7.4 dB)"),
    ],
)
def test_the_first_line_says_when_outputs_are_far_off(agreement, sqnr_db, said):
    sections = {
        "latency": SimpleNamespace(verdict="faster", speedup=2.0),
        "size": SimpleNamespace(ratio=0.3),
        "accuracy": None,
        "drift": SimpleNamespace(agreement=agreement, sqnr_db=sqnr_db),
    }
    job, bench = SimpleNamespace(model=Path("m.onnx"), steps=()), SimpleNamespace(decisions=["static int8"])
    line = verdict.headline(job, Path("o.onnx"), bench, sections)
    assert line == f"m.onnx -> o.onnx    static int8; x2.00 faster; x0.30 the size{said}"
