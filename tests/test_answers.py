"""What `edgekit augment`, `inspect` and `verify` say of a run to the person who typed it: the truth, and what to do."""

import json
import os

import pytest
from onnx import helper
from onnx import save as save_model

from conftest import picture, rows, save


def classes(root, **sizes):
    """Make class folders with so many pictures."""
    for name, size in sizes.items():
        for number in range(size):
            save(root / name / f"{name}{number}.png", picture(sum(map(ord, name)) + number))
    return root


def yolo(root, count=4, line="0 0.5 0.5 0.3 0.3\n"):
    (root / "labels").mkdir(parents=True)
    for number in range(count):
        save(root / "images" / f"{number}.png", picture(number))
        (root / "labels" / f"{number}.txt").write_text(line)
    (root / "classes.txt").write_text("bag\n")
    return root


def said(ran):
    """Give the lines of an answer by their names."""
    return {line.split()[0]: " ".join(line.split()[1:]) for line in ran.out.splitlines() if line}


# ---- classes that stay short


@pytest.mark.parametrize("balance", [("--balance",), ("--per-class", "8")])
def test_a_class_that_duplicates_keep_short_is_said(edgekit, tmp_path, balance):
    root = classes(tmp_path / "set", bag=2, cup=8)
    made = edgekit("augment", root, "--flip", "-n", "0", *balance)
    assert made.code == 0, made.err
    assert said(made)["short"] == "of 8 pictures: bag: 4"
    asked = edgekit("augment", root, "--flip", "-n", "0", *balance, "--json", "--force").json
    assert asked["short"] == {"bag": 4}
    assert asked["status"] == "up to date"
    assert asked["balance"]["short"] == {}  # as it was planned


def test_a_rejected_source_keeps_its_class_short(edgekit, tmp_path):
    root = classes(tmp_path / "set", bag=2, cup=4)
    whole = (root / "bag" / "bag0.png").read_bytes()
    (root / "bag" / "bag0.png").write_bytes(whole[: len(whole) // 2])
    made = edgekit("augment", root, "--rotate", "15", "-n", "0", "--balance")
    assert said(made)["short"] == "of 4 pictures: bag: 2"


def test_a_class_of_objects_that_stays_short_is_said(edgekit, tmp_path):
    root = yolo(tmp_path / "set", 3)
    made = edgekit("augment", root, "--flip", "-n", "0", "--per-class", "9", "--max-copies", "5")
    assert said(made)["short"] == "of 9 pictures: bag: 6"


def test_classes_that_reach_the_target_are_not_short(edgekit, tmp_path):
    root = classes(tmp_path / "set", bag=2, cup=4)
    made = edgekit("augment", root, "--rotate", "15", "-n", "0", "--balance", "--json").json
    assert made["short"] == {}


# ---- what a dry run says


def test_a_dry_run_refuses_what_the_run_refuses(edgekit, tmp_path):
    root = classes(tmp_path / "set", bag=2)
    save(tmp_path / "set-augmented" / "mine.png", picture(1))
    run = edgekit("augment", root, "--flip")
    dry = edgekit("augment", root, "--flip", "--dry-run")
    assert (run.code, run.err) == (dry.code, dry.err)
    assert run.code == 2
    assert "use --force" not in run.err  # it would not do


def test_a_dry_run_says_the_layout_and_whether_all_is_up_to_date(edgekit, tmp_path):
    root = yolo(tmp_path / "set")
    assert "yolo layout, 4 pictures" in edgekit("augment", root, "--flip", "--dry-run").out
    assert edgekit("augment", root, "--flip").code == 0
    dry = edgekit("augment", root, "--flip", "--dry-run")
    assert (dry.code, "up to date, so nothing would be written" in dry.out) == (0, True)
    other = edgekit("augment", root, "--rotate", "9", "--dry-run")
    assert (other.code, "use --force" in other.err) == (2, True)
    (tmp_path / "set-augmented" / "mine.txt").write_text("mine")
    foreign = edgekit("augment", root, "--rotate", "9", "--dry-run", "--force")
    assert (foreign.code, "mine.txt: was not made by edgekit" in foreign.err) == (2, True)


# ---- the same set to augment and to inspect


def test_inspect_and_augment_see_the_same_links(edgekit, tmp_path):
    root = classes(tmp_path / "set", bag=2)
    classes(tmp_path / "elsewhere", cup=3)
    (root / "cup").symlink_to(tmp_path / "elsewhere" / "cup")
    for flags, count in (((), 2), (("--follow-links",), 5)):
        looked = edgekit("inspect", root, *flags)
        made = edgekit("augment", root, "--flip", "--dry-run", *flags)
        assert f"set {count} pictures" in " ".join(looked.out.split())
        assert f"{count} pictures" in made.out
        assert ("passed by 1 link" in looked.err) == (not flags)
        assert looked.err == made.err


def test_folders_that_are_no_classes_are_none_to_both(edgekit, tmp_path):
    for number in range(3):
        save(tmp_path / "set" / "images" / f"{number}.png", picture(number))
    assert "no labels" in edgekit("inspect", tmp_path / "set").out
    made = edgekit("augment", tmp_path / "set", "--rotate", "9", "-n", "1", "--json").json
    assert made["classes"] == {}


def test_a_run_without_a_variant_says_why(edgekit, tmp_path):
    save(tmp_path / "set" / "a.png", picture() * 0)
    made = edgekit("augment", tmp_path / "set", "--flip", "-n", "2")
    assert "no variant was written: 2 variants equal to their source" in made.err


# ---- what conversions lose, and what becomes of objects


def test_what_a_conversion_loses_is_said(edgekit, tmp_path):
    root = classes(tmp_path / "set", bag=2)
    made = edgekit("augment", root, "--flip", "-n", "0", "--to", "coco")
    assert said(made)["lost"].startswith("of 2 pictures (first: ")
    assert "coco has no classes of whole pictures); see manifest.jsonl" in said(made)["lost"]
    again = edgekit("augment", root, "--flip", "-n", "0", "--to", "coco", "--json").json
    assert (again["status"], again["counts"]["lost"]) == ("up to date", 2)


def test_objects_that_were_clipped_or_dropped_are_counted(edgekit, tmp_path):
    root = yolo(tmp_path / "set", 3, "0 0.1 0.5 0.2 0.2\n0 0.5 0.5 0.9 0.9\n")
    made = edgekit("augment", root, "--translate", "0.4", "-n", "3", "--json").json
    whats = [change["what"] for row in rows(tmp_path / "set-augmented" / "manifest.jsonl")
             for change in row.get("objects", ())]  # fmt: skip
    clipped = sum(what.startswith("clipped") for what in whats)
    dropped = sum(what.startswith("dropped") for what in whats)
    assert clipped
    assert (made["counts"]["clipped"], made["counts"]["dropped"]) == (clipped, dropped)
    told = edgekit("augment", root, "--translate", "0.4", "-n", "3", "--out", "other")
    assert said(told)["objects"] == f"{clipped} clipped, {dropped} dropped; see manifest.jsonl"


# ---- replay


def test_a_replay_follows_the_links_that_the_run_followed(edgekit, tmp_path):
    root = yolo(tmp_path / "set")
    (root / "labels").rename(tmp_path / "elsewhere")
    (root / "labels").symlink_to(tmp_path / "elsewhere")
    assert edgekit("augment", root, "--flip", "-n", "1", "--follow-links").code == 0
    done = edgekit("augment", root, "--replay", "set-augmented")
    assert (done.code, "all bit-identical" in done.out) == (0, True), done.err


def test_a_replay_follows_the_folders_too_when_none_is_missed(edgekit, tmp_path):
    root = classes(tmp_path / "set", bag=2)
    classes(tmp_path / "far", cup=2)
    (root / "cup").symlink_to(tmp_path / "far" / "cup")
    assert edgekit("augment", root, "--rotate", "9", "-n", "1", "--follow-links").code == 0
    done = edgekit("augment", root, "--replay", "set-augmented")
    assert (done.code, "all bit-identical" in done.out) == (0, True), done.err


def test_a_replay_says_which_outputs_are_not_what_their_rows_say(edgekit, tmp_path):
    root = classes(tmp_path / "set", bag=2)
    assert edgekit("augment", root, "--rotate", "9", "-n", "1").code == 0
    save(tmp_path / "set-augmented" / "bag" / "bag0.png", picture(77))
    done = edgekit("augment", root, "--replay", "set-augmented")
    assert done.out.splitlines() == [
        "1 output differs from its row: edgekit verify says more",
        "4 of 4 rows rebuilt: all bit-identical",
    ]
    (root / "bag" / "bag1.png").write_bytes((root / "bag" / "bag0.png").read_bytes())
    done = edgekit("augment", root, "--replay", "set-augmented")
    assert (done.code, done.out.splitlines()[-1]) == (1, "2 of 4 rows bit-identical")


# ---- flags that do nothing, and hints


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--max-copies", "9"), "--max-copies does nothing without --balance or --per-class"),
        (("--labels-frame", "raw"), "--labels-frame does nothing: there are no labels of objects"),
        (("--group-by", "folder"), "--group-by keeps nothing together without --split"),
    ],
)
def test_a_flag_that_does_nothing_is_said(edgekit, tmp_path, flags, says):
    root = classes(tmp_path / "set", bag=2)
    assert says in edgekit("augment", root, "--flip", "--dry-run", *flags).err
    assert "nothing" not in edgekit("augment", root, "--flip", "--dry-run").err


@pytest.mark.parametrize(
    ("typed", "what", "how"),
    [
        (("inspect", "set/bag/bag0.png"), "is a picture, not a model", "give the folder it is in: set/bag"),
        (("augment", "set", "--flip", "--group-by", "p.csv"), "a table without a column", "write p.csv:COLUMN"),
        (("augment", "set", "--flip", "--group-by", "p.csv:who"), "has no row of names", "file_name,who"),
        (("augment", "set", "--flip", "--group-by", "x(y)"), "puts no picture in a group, bag/bag0.png for", "give "),
        (("inspect", "set", "--preview", "cam.png", "--force"), "not made by edgekit", "use --preview to choose"),
        (("inspect", "set", "--out", "x.npz"), "only with --features", "or drop --out"),
    ],
)
def test_a_hint_says_what_to_do(edgekit, tmp_path, typed, what, how):
    classes(tmp_path / "set", bag=2)
    (tmp_path / "p.csv").write_text("")
    save(tmp_path / "cam.png", picture())
    done = edgekit(*typed)
    assert (done.code, what in done.err, how in done.err) == (2, True, True), done.err


@pytest.mark.parametrize(
    ("shapes", "what"),
    [([[1, 3, 8, 8], [1, 4]], "takes 2 inputs (a, b)"), ([[1, 16]], "its input a is no picture: it has 2 axes")],
)
def test_a_model_that_takes_no_picture_has_no_features(edgekit, tmp_path, shapes, what):
    classes(tmp_path / "set", bag=2)
    of_floats = [helper.make_tensor_value_info(n, 1, s) for n, s in zip("ab", shapes, strict=False)]
    node = helper.make_node("Relu", ["a"], ["y"])
    out = helper.make_tensor_value_info("y", 1, shapes[0])
    save_model(helper.make_model(helper.make_graph([node], "g", of_floats, [out])), tmp_path / "m.onnx")
    done = edgekit("inspect", "set", "--features", "m.onnx", "--out", "x.npz")
    assert (done.code, what in done.err, "--feeds" in done.err) == (2, True, False), done.err


def test_inspect_says_how_many_more_and_writes_names_that_all_can_read(edgekit, tmp_path):
    root = tmp_path / "set"
    for number in range(5):
        save(root / f"{number}.png", picture(number))
        (root / f"{number}.png").write_bytes(b"broken")
    save(root / "whole.png", picture())
    (root / os.fsdecode(b"\xff.png")).write_bytes(b"broken")
    assert "; and 3 more" in " ".join(edgekit("inspect", root).out.split())
    json.dumps(edgekit("inspect", root, "--json").json, ensure_ascii=False).encode("utf-8", "strict")
