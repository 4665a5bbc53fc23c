"""The report in text, Markdown and JSON, what it says of the worst class, and the README's table of its paths."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT, SAMPLES
from edgekit.cli.compress import RENDERERS
from edgekit.data.folder import Source
from edgekit.data.layout import Annotated
from edgekit.measure import detect
from edgekit.measure.detect import DetectionTally
from edgekit.measure.heads import Detected
from edgekit.measure.histogram import BINS, histogram
from edgekit.report import json as as_json
from edgekit.report import markdown, ranking, report, text
from edgekit.report.report import (
    Accuracy,
    Answered,
    Candidate,
    ClassFigures,
    Counts,
    Distribution,
    Drift,
    Elsewhere,
    Gate,
    Latency,
    Layer,
    Pair,
    Report,
    Size,
)

NASTY = "a<script>alert(1)</script>\"'&|`*]\n\x1b[31m\udcff ‮x"


def bare(**changes) -> Report:
    """A report of a model without labels: every optional section is missing."""
    values = Report(
        model={"path": "m.onnx", "sha256": "0" * 64, "opset": 17},
        out={"path": "m.int8.onnx", "sha256": "1" * 64},
        recipe={"steps": [], "typed": ["int8"], "seed": 0},
        done=("16 of 16 computing nodes run in int8",),
        notes=("a note",),
        size=Size(1_000_000, 300_000, 0.3, 900_000, 250_000, 0.28),
        latency=Latency(2.0, 1.0, 2.2, 1.1, 2.0, 1.95, 2.05, "faster", 400, 1, "cpu"),
        drift=Drift(31.2, 0.9991, None, 64, "synthetic pictures"),
        accuracy=None,
        load=Pair(3.0, 4.0),
        memory=None,
        nodes={},
        preprocess={"sentences": ["input: layout NCHW"]},
        calibration={"sentence": "on 128 synthetic pictures", "digest": "", "origin": "synthetic"},
        machine={"sentence": "some CPU, 1 thread"},
        python="import cv2\nprint(1 < 2)\n",
        headline="m.onnx -> m.int8.onnx    static int8; x2.00 faster; x0.30 the size",
    )
    return dataclasses.replace(values, **changes)


def figures(name: str, n: int, before: int, after: int, lost: int, gained: int, p_value: float = 1.0) -> ClassFigures:
    """A class of `n` pictures, `before` and `after` of them right, with a handful of wrong answers elsewhere."""
    counts = (Counts.of(right, 5, n - right, 1000 - n - 5) for right in (before, after))
    return ClassFigures(name, n, *counts, lost, gained, p_value)


def full(classes: int = 3, layers: int = 12, name: str = "class") -> Report:
    """A report with every section, of so many classes and layers; all names begin with `name`."""
    per_class = tuple(
        figures(f"{name} {i}", 50, 45 - i % 7, 44 - i % 9, 3 + i % 4, 1, 0.3 if i else 1e-6) for i in range(classes)
    )
    confusion = tuple(
        Answered(i, None if (i + j) % 50 == 49 else (i + j) % classes, 40 if j == 0 else 2, 38 if j == 0 else 3)
        for i in range(classes)
        for j in range(min(4, classes))
    )
    nodes = tuple(
        Layer(f"/{name}/stage{i}/conv/Conv_quant", "QLinearConv" if i % 5 else "Conv", bool(i % 5), 0.1 + i % 3,
              1 / layers, None if i % 4 == 3 else 40 - i % 30, "" if i % 5 else f"{name} has no 8-bit kernel", "")
        for i in range(layers)
    )  # fmt: skip
    search = (
        Candidate(f"{name} static int8", 2.0, 1.95, 2.05, 300_000, 31.2, 0.001, True, True, True),
        Candidate("stored in 8 bits", 1.0, 0.99, 1.01, 280_000, 45.0, -0.001, True, True, False),
        Candidate("dynamic int8", 0.7, 0.68, 0.71, 310_000, 30.0, 0.002, True, False, False),
        Candidate("static, minmax", None, None, None, 300_000, 9.0, None, False, False, False),
    )
    edges = histogram([2.0 + 0.01 * i for i in range(99)], [1.0 + 0.01 * i for i in range(99)])
    return bare(
        accuracy=Accuracy("top-1", 0.9, 0.89, 0.01, -0.002, 0.022, 50 * classes),
        drift=Drift(31.2, 0.9991, 0.97, 50 * classes, "pictures"),
        memory=Pair(2e7, 1.8e7),
        gates=(Gate("accuracy.drop<=0.02", 0.01, True), Gate("size.ratio<=0.2", 0.3, False)),
        classes=per_class,
        confusion=confusion,
        distribution=Distribution(edges.edges, edges.before, edges.after),
        layers=nodes,
        search=search,
        elsewhere=Elsewhere("avx2", "top-1", 0.89, 0.7, 100, f"{name}: elsewhere it scores 70.00 % top-1"),
    )


# ---- the worst class


def test_the_class_that_lost_most_and_the_weakest_are_named():
    classes = (
        figures("one picture", 1, 1, 1, 0, 0),
        figures("fifty", 50, 50, 40, 12, 2, 0.01),
        figures("weak", 50, 20, 20, 1, 1),
        figures("absent", 0, 0, 0, 0, 0),
    )
    assert text.worst(bare(classes=classes)) == [
        "lost most: fifty, recall 100.00 % -> 80.00 % (lost 12, gained 2 of 50 pictures)",
        "weakest: one picture, F1 28.57 % (before 28.57 %; 1 picture)",
    ]
    assert [one.name for one in ranking.worst_first(classes)] == ["fifty", "one picture", "weak", "absent"]


def test_a_class_of_one_picture_does_not_outdo_one_that_lost_a_fifth_of_fifty():
    alone, many = figures("alone", 1, 1, 0, 1, 0), figures("many", 50, 50, 25, 25, 0)
    assert ranking.most_lost((alone, many)) is many
    assert ranking.most_lost((figures("a", 10, 5, 5, 1, 1), figures("b", 10, 5, 6, 0, 1))) is None
    assert ranking.most_lost(()) is None
    assert ranking.weakest(()) is None


def test_chance_is_told_from_loss():
    one = figures("a", 50, 50, 40, 10, 0, 0.002)
    assert not ranking.within_chance(one, [one] * 10)
    assert ranking.within_chance(one, [one] * 100)
    assert "chance" not in text.worst(bare(classes=(one,)))[0]
    assert text.worst(bare(classes=(figures("a", 5, 5, 5, 0, 0),)))[0] == "no class lost"
    assert text.worst(bare()) == []


def test_detectors_are_ranked_by_average_precision():
    classes = tuple(
        ClassFigures(name, 9, Counts.of(8, 1, 1, ap=before), Counts.of(7, 1, 2, ap=after))
        for name, before, after in (("cat", 0.5, 0.45), ("dog", 0.4, 0.1), ("cow", 0.05, 0.06))
    )
    lost, weakest = text.worst(bare(classes=classes))
    assert lost == "lost most: dog, AP 40.00 % -> 10.00 % (9 objects)"
    assert weakest == "weakest: cow, AP 6.00 % (before 5.00 %; 9 objects)"


def test_counts_have_no_share_of_nothing():
    assert Counts.of(0, 0, 0, 9) == Counts(0, 0, 0, 9, None, None, None)
    assert Counts.of(3, 1, 2, 9).f1 == pytest.approx(6 / 9)


# ---- classes of a detector


def annotated(key, boxes, classes, crowd=None):
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    flags = np.zeros(len(boxes), bool) if crowd is None else np.array(crowd)
    return Annotated(Source(key, ROOT, None), boxes, np.array(classes, np.int64), flags, 100, 100)


def found(boxes, scores, classes):
    return Detected(
        np.array(boxes, np.float64).reshape(-1, 4), np.array(scores, np.float64), np.array(classes, np.int64)
    )


def test_boxes_are_counted_class_by_class():
    pytest.importorskip("pycocotools", reason="mAP needs the extra edgekit[detect]")
    here, there, off = [10, 10, 30, 30], [50, 50, 90, 90], [60, 5, 80, 25]
    before, after = DetectionTally(), DetectionTally()
    label = annotated("a", [here, there, off], [0, 0, 2])
    before.add(label, found([here, there, off], [0.9, 0.8, 0.7], [0, 0, 2]))
    # One too faint to count, one in the wrong place, and one of a class that no picture has.
    after.add(label, found([here, there, there, off], [0.9, 0.2, 0.6, 0.5], [0, 0, 2, 7]))
    cat, cow, stray = detect.by_class(before, after, ("cat", "dog", "cow"))
    assert (cat.name, cow.name, stray.name) == ("cat", "cow", "7")
    assert (cat.n, cow.n, stray.n) == (2, 1, 0)
    assert cat.before == Counts.of(2, 0, 0, ap=cat.before.ap)
    assert cat.before.ap == pytest.approx(1.0)
    assert (cat.after.tp, cat.after.fp, cat.after.fn, cat.after.tn) == (1, 0, 1, None)
    assert cat.after.ap == pytest.approx(1.0)  # average precision counts the faint one too
    assert (cow.after.tp, cow.after.fp, cow.after.fn, cow.after.ap) == (0, 1, 1, 0.0)
    assert (stray.before, stray.after) == (Counts.of(0, 0, 0), Counts.of(0, 1, 0))
    mean = np.mean([one.after.ap for one in (cat, cow)])
    assert after.result().map == pytest.approx(mean)


# ---- the distribution


def test_the_histogram_counts_what_lies_between_its_ends():
    rng = np.random.default_rng(0)
    before, after = rng.lognormal(0, 0.1, 1000), rng.lognormal(-1, 0.1, 800)
    made = histogram(before, after)
    assert len(made.edges) == BINS + 1
    for values, counts in ((before, made.before), (after, made.after)):
        brute = [
            sum(low <= v < high or (high == made.edges[-1] and v == high) for v in values)
            for low, high in zip(made.edges, made.edges[1:], strict=False)
        ]
        assert list(counts) == brute
        assert 0.98 * len(values) <= sum(counts) <= len(values)
    ratios = np.diff(np.log(made.edges))
    assert ratios == pytest.approx(np.full(BINS, ratios[0]))


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 1e-9, 1.0, 1.0, 2.5, 1e6]), min_size=1, max_size=9))
def test_histograms_of_few_or_equal_times(values):
    made = histogram(values, values)
    assert np.all(np.diff(made.edges) > 0)
    assert made.before == made.after


# ---- JSON


def test_json_never_holds_what_is_not_a_number():
    odd = dataclasses.replace(full(), seconds=math.nan, notes=(math.inf, [math.nan, {"x": -math.inf}]))
    document = json.loads(as_json.render(odd))
    assert document["seconds"] is None
    assert document["notes"] == [None, [None, {"x": None}]]
    assert document["classes"][0]["before"]["tp"] == 45
    assert document["confusion"][0] == {"label": 0, "answer": 0, "before": 40, "after": 38}


def test_json_has_all_classes_and_is_ascii():
    document = as_json.render(full(classes=1000, name=NASTY))
    assert document.isascii()
    assert len(json.loads(document)["classes"]) == 1000


TABLE = re.compile(r"<!-- json:begin -->\n(.*?)<!-- json:end -->", re.DOTALL)
TYPES = {
    "size": Size, "latency": Latency, "drift": Drift, "accuracy": Accuracy, "load": Pair, "memory": Pair, "gates": Gate,
    "classes": ClassFigures, "classes[].before": Counts, "classes[].after": Counts, "confusion": Answered,
    "distribution": Distribution, "layers": Layer, "search": Candidate, "elsewhere": Elsewhere,
}  # fmt: skip


def documented() -> dict[str, set[str]]:
    """Give the keys that the README lists, by section; those at the top are under ""."""
    found = TABLE.search((ROOT / "README.md").read_text())
    assert found is not None
    sections: dict[str, set[str]] = {}
    for row in found[1].splitlines()[2:]:
        where, keys, _ = (cell.strip() for cell in row.strip("|").split("|", 2))
        names = re.findall(r"`([^`]+)`", where) or [""]
        for name in names:
            sections.setdefault(name.removesuffix("[]"), set()).update(re.findall(r"`([^`]+)`", keys))
    return sections


@pytest.mark.parametrize("name", TYPES)
def test_the_readme_lists_every_key_of_a_section(name):
    assert documented()[name] == {field.name for field in dataclasses.fields(TYPES[name])}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The document and the page of a short run on the sample model with labelled pictures."""
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("report")
    (folder / "m.onnx").write_bytes((SAMPLES / "fashion_resnet.onnx").read_bytes())
    pictures = [str(SAMPLES / "fashion" / name) for name in ("train", "val")]
    reports = ["--report", "r.json", "--report", "r.html", "--report", "r.md"]
    arguments = ["--int8-weights", "--calib", pictures[0], "--data", pictures[1], "--seconds", "0.5", "--no-config"]
    command = [sys.executable, "-m", "edgekit", "compress", "m.onnx", *arguments, *reports]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_readme_lists_every_key_of_a_real_document(real):
    document = json.loads((real[0] / "r.json").read_text())
    sections = documented()
    assert sections[""] == {key for key, value in document.items() if key not in sections}
    for name in ("model", "out", "recipe", "nodes", "preprocess", "calibration", "machine"):
        missing = set(document[name]) - sections[name]
        assert not missing, f"{name}: not in the README: {missing}"


def test_a_real_report_has_classes_confusions_and_a_distribution(real):
    document = json.loads((real[0] / "r.json").read_text())
    assert [one["n"] for one in document["classes"]] == [30] * 10
    right = sum(one["after"]["tp"] for one in document["classes"])
    assert right == round(document["accuracy"]["after"] * 300)
    assert sum(one["after"] for one in document["confusion"]) == 300
    assert sum(one["after"] for one in document["confusion"] if one["label"] == one["answer"]) == right
    assert sum(document["distribution"]["before"]) > 0
    assert any(line.startswith("classes    ") for line in real[1].splitlines())
    assert "weakest: " in (real[0] / "r.md").read_text()


# ---- text and Markdown


def test_text_stays_on_a_screen_and_shows_the_search():
    many = dataclasses.replace(full(), search=full().search * 6)
    lines = text.render(many).splitlines()
    tried = lines.index(next(line for line in lines if line.startswith("tried")))
    assert len(lines[tried : lines.index("", tried)]) <= 8
    assert any(line.endswith("chosen") for line in lines)
    assert "           and 18 more" in lines
    assert any(line.startswith("elsewhere") for line in lines)
    assert len(lines) < 45


def test_the_chosen_candidate_is_never_left_out():
    search = [dataclasses.replace(full().search[2], name=str(i), pareto=i < 9, chosen=i == 20) for i in range(30)]
    shown, left = ranking.candidates(search, 6)
    assert [one.name for one in shown] == ["0", "1", "2", "3", "4", "20"]
    assert left == 24


@pytest.mark.parametrize("render", [text.render, markdown.render])
def test_odd_names_are_made_harmless(render):
    made = render(dataclasses.replace(full(name=NASTY), headline=NASTY))
    made.encode()
    assert "\x1b" not in made
    assert "\\x1b" in made
    assert "\u202e" not in made


def test_markdown_is_no_markup_of_others():
    made = markdown.render(full(classes=40, layers=90, name=NASTY))
    assert "<script" not in made
    assert made.count("<details>") == made.count("</details>") == 4
    assert "Classes: the worst 10 of 40" in made
    assert "Nodes: the costliest 30 of 90" in made
    rows = [line for line in made.splitlines() if "stage" in line and line.startswith("|")]
    assert len(rows) == 30
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 9 for row in rows)


def test_code_cannot_close_its_own_fence():
    made = markdown.render(bare(python="x = '````'"))
    assert "`````python\nx = '````'\n`````" in made


def test_sections_without_numbers_are_left_out():
    for render in (text.render, markdown.render):
        made = render(bare())
        assert "tried" not in made.lower()
        assert "classes" not in made.lower()
        assert "None" not in made


@pytest.mark.parametrize("suffix", RENDERERS)
def test_every_renderer_takes_a_bare_and_a_full_report(suffix):
    for one in (bare(), full(), full(classes=1, layers=1), dataclasses.replace(full(), classes=(), confusion=())):
        assert "made by edgekit" in RENDERERS[suffix](one)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("r.htm", "did you mean .html?"),
        ("r.HTML", "did you mean .html?"),
        ("r.jsn", "did you mean .json?"),
        ("r", "use .json or .md or .html"),
    ],
)
def test_an_unknown_suffix_is_an_error_before_the_work(edgekit, tmp_path, name, hint):
    (tmp_path / "m.onnx").write_bytes((SAMPLES / "fashion_resnet.onnx").read_bytes())
    done = edgekit("compress", "m.onnx", "--int8", "--report", name)
    assert done.code == 2
    assert "no renderer for" in done.err
    assert hint in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx"]


def test_gates_are_put_on_numbers_only():
    assert "latency.speedup" in report.gate_names()
    assert not any(name.startswith(("classes", "distribution")) for name in report.gate_names())
