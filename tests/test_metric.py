"""A metric of one's own: where it comes from, what it is told, what becomes of its numbers, and how it fails."""

import os

import numpy as np
import pytest

from conftest import picture, save
from edgekit import graph
from edgekit.errors import EdgekitError
from edgekit.measure import bootstrap
from edgekit.measure.metric import Metric, Sample, Scores, load, paired
from nets import NETS, Net

CODE = """
import numpy as np

def nearness(outputs, sample):
    return -float(np.abs(outputs["y"] - sample.arrays["target"]).mean())

def size(outputs, sample):
    return outputs["logits"].max() if sample.label == "a" else 0.0

def broken(outputs, sample):
    raise KeyError("no such thing")

def text(outputs, sample):
    return "good"

def nothing(outputs, sample):
    pass

constant = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module in the current folder, under a name of its own for each test."""
    name = f"mine_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    (tmp_path / f"{name}_broken.py").write_text("import edgekit\n1 / 0\n")
    (tmp_path / f"{name}_needs.py").write_text("import something_that_is_not_there\n")
    (tmp_path / f"{name}_exits.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.chdir(tmp_path)
    return name


def test_it_is_found_in_the_current_folder_or_installed(module):
    assert load(f"{module}:nearness").name == "nearness"
    assert load("math:fsum").function([1, 2]) == 3
    assert load("os.path:basename").name == "basename"


@pytest.mark.parametrize(
    ("ending", "says", "hint"),
    [
        ("", "not of the form module:function", "--metric module:function"),
        (":", "not of the form", "--metric module:function"),
        ("x:nearness", "no module", "installed"),
        (".sub:nearness", "no module", "installed"),
        (":nearnes", "no function nearnes", "nearness, size"),
        (":constant", "no function constant", "nearness"),
        ("_broken:f", "raises ZeroDivisionError: division by zero", "mend"),
        ("_needs:f", "No module named 'something_that_is_not_there'", "mend"),
        ("_exits:f", "raises SystemExit: 3", "mend"),
    ],
)
def test_what_cannot_be_imported_is_told(module, ending, says, hint):
    import sys

    before = list(sys.path)
    with pytest.raises(EdgekitError) as caught:
        load(f"{module}{ending}")
    assert says in caught.value.message and hint in caught.value.hint
    assert sys.path == before


@pytest.mark.parametrize("value", ["good", None, float("nan"), np.inf, [1, 2], np.zeros(2), object()])
def test_what_is_no_number_is_told(value, tmp_path):
    metric = Metric("mine", lambda outputs, sample: value)
    with pytest.raises(EdgekitError, match=r"mine: gives .* for .*x\.png, not a number"):
        metric.score({}, Sample(tmp_path / "x.png"))


@pytest.mark.parametrize("value", [1, True, 0.5, np.float32(0.25), np.array(2), np.array([3.0]), "4"])
def test_whatever_is_a_number_will_do(value):
    expected = float(np.asarray(value, float).reshape(())) if not isinstance(value, str) else 4
    if isinstance(value, np.ndarray) and value.ndim:
        return  # numpy is about to forbid it
    assert Metric("mine", lambda outputs, sample: value).score({}, Sample(None)) == expected


def test_the_interval_is_the_bootstrap_of_the_mean():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(60), rng.standard_normal(60) - 0.2
    scores = Scores(), Scores()
    for pair in zip(a, b, strict=True):
        for one, value in zip(scores, pair, strict=True):
            one.add(value)
    delta = paired(*scores)
    assert (delta.before, delta.after, delta.n) == (pytest.approx(a.mean()), pytest.approx(b.mean()), 60)
    drops = [np.repeat(a - b, counts).mean() for counts in bootstrap.draws(60)]
    assert [delta.low, delta.high] == pytest.approx(np.quantile(drops, [0.025, 0.975]))
    assert delta.low <= delta.drop <= delta.high
    half = 1.96 * (a - b).std() / 60**0.5
    assert delta.high - delta.low == pytest.approx(2 * half, rel=0.15)


def test_no_samples_are_told():
    with pytest.raises(EdgekitError, match="no samples"):
        paired(Scores(), Scores())


def regression():
    net = Net(50)
    x = net.add("Relu", net.add("Gemm", "x", net.weight(16, 8), net.weight(16), transB=1))
    net.add(
        "Gemm",
        net.add("Relu", net.add("Gemm", x, net.weight(16, 16), transB=1)),
        net.weight(1, 16),
        transB=1,
        outputs=["y"],
    )
    return net.model({"x": ["N", 8]}, {"y": ["N", 1]})


def samples(folder, count=8):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        values = rng.standard_normal((1, 8)).astype(np.float32)
        np.savez(folder / f"{number}.npz", x=values, target=values.sum(keepdims=True))
    return folder


def test_ready_made_inputs_are_scored_and_gated(edgekit, tmp_path, module):
    graph.save(regression(), tmp_path / "m.onnx")
    samples(tmp_path / "samples")
    arguments = (
        "compress",
        "m.onnx",
        "--static",
        "--feeds",
        "samples",
        "--seconds",
        "0.5",
        "--metric",
        f"{module}:nearness",
    )
    done = edgekit(*arguments, "--gate", "accuracy.drop<=5", "--json")
    assert done.code == 0, done.err
    accuracy = done.json["accuracy"]
    assert accuracy["metric"] == "nearness" and accuracy["before"] < 0 and accuracy["n"] == 2
    assert accuracy["drop"] == pytest.approx(accuracy["before"] - accuracy["after"])
    assert accuracy["low"] <= accuracy["drop"] <= accuracy["high"]
    assert "nearness" in done.json["headline"] and "points" not in done.json["headline"]
    failed = edgekit(*arguments, "--gate", "accuracy.drop<=-1", "--force")
    assert failed.code == 1 and "nearness" in failed.out and (tmp_path / "m.static.rejected.onnx").exists()


@pytest.mark.parametrize(
    ("metric", "says"),
    [("broken", "raises KeyError on"), ("text", "gives 'good' for"), ("nothing", "gives None for")],
)
def test_what_fails_on_a_sample_names_it(edgekit, tmp_path, module, metric, says):
    graph.save(regression(), tmp_path / "m.onnx")
    samples(tmp_path / "samples", 4)
    done = edgekit(
        "compress",
        "m.onnx",
        "--int8-weights",
        "--feeds",
        "samples",
        "--seconds",
        "0.5",
        "--metric",
        f"{module}:{metric}",
    )
    assert done.code == 2 and says in done.err and "3.npz, sample 0" in done.err
    assert not (tmp_path / "m.int8-weights.onnx").exists()


def test_pictures_are_scored_whatever_their_folders(edgekit, tmp_path, module):
    graph.save(NETS["residual"](), tmp_path / "m.onnx")
    for number in range(8):
        save(tmp_path / "data" / "ab"[number % 2] / f"{number}.png", picture(number, 16, 16))
    options = ("--data", "data", "--preset", "unit", "--seconds", "0.5", "--metric", f"{module}:size")
    done = edgekit("compress", "m.onnx", "--int8-weights", *options, "--json")
    assert done.code == 0, done.err
    assert done.json["accuracy"]["metric"] == "size" and done.json["accuracy"]["n"] == 4
    for extra, says in (
        (("--task", "detect"), "exclude each other"),
        (("--gate", "accuracy.top5_drop<=1"), "classifiers"),
    ):
        assert says in edgekit("compress", "m.onnx", "--int8-weights", *options, *extra, "--force").err
    alone = edgekit("compress", "m.onnx", "--int8-weights", "--metric", f"{module}:size", "--force")
    assert alone.code == 2 and "nothing to score" in alone.err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_pipes_among_pictures_do_not_hang(edgekit, tmp_path):
    graph.save(NETS["residual"](), tmp_path / "m.onnx")
    for number in range(8):
        save(tmp_path / "data" / f"{number}.png", picture(number, 16, 16))
    for name in ("data/pipe.png", "data/zzz.jpg"):
        os.mkfifo(tmp_path / name)
    arguments = ("compress", "m.onnx", "--int8-weights", "--data", "data", "--calib", "data", "--seconds", "0.5")
    done = edgekit(*arguments, "--preview", "seen.png", timeout=90)
    assert done.code == 0, done.err
