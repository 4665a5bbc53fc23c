"""Splits that are made here, groups that stay together, and leaks between splits that were there."""

import json
import random
import re
import shutil
from collections import Counter
from pathlib import Path

import cv2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import picture, rows, save, tree_digest
from edgekit.augment.arrange import arrange
from edgekit.augment.plan import plan
from edgekit.augment.run import run
from edgekit.augment.settings import augment
from edgekit.augment.variants import Recipe
from edgekit.data import dataset, groups, splits
from edgekit.data.folder import scan
from edgekit.data.splits import Lot, absent, deal, shares_of
from edgekit.errors import EdgekitError

SHARES = shares_of("80/10/10")
TURN = ("--flip", "--rotate", "15", "-n", "1")


# ---- dealing


@pytest.mark.parametrize(
    "text", ["80", "", "80/", "80/x", "80/0", "80/-10/30", "1/2/3/4", "80/10/10%", "1/0/1", "nan/1"]
)
def test_shares_that_are_none(text):
    with pytest.raises(EdgekitError, match="not two or three positive numbers"):
        shares_of(text)


def test_shares_are_of_their_sum():
    assert shares_of("8/1/1") == shares_of("80/10/10") == shares_of("0.8/0.1/0.1")
    assert [split for split, _ in shares_of("3/1")] == ["train", "val"]


def labelled(count, classes, seed=0, most=1):
    rng = random.Random(seed)
    names = [f"c{number}" for number in range(classes)]
    return [
        Lot(f"p{number}", 1, frozenset(rng.choice(names) for _ in range(rng.randint(1, most))))
        for number in range(count)
    ]


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 400), st.integers(1, 12), st.integers(0, 999), st.sampled_from(["80/10/10", "7/3", "1/1/1"]))
def test_shares_hold_overall_and_in_each_class(count, classes, seed, text):
    shares, lots = shares_of(text), labelled(count, classes, seed)
    dealt = deal(lots, shares, seed)
    for split, share in shares[1:]:
        assert dealt.count(split) == max(1, round(share * count))
        of_class = Counter(name for lot in lots for name in lot.classes)
        for name, often in of_class.items():
            here = sum(one == split and name in lot.classes for lot, one in zip(lots, dealt, strict=True))
            assert abs(here - share * often) <= 1
            assert here or often * share < 1


@settings(max_examples=40, deadline=None)
@given(st.integers(10, 300), st.integers(1, 30), st.integers(0, 999))
def test_several_classes_a_picture(count, classes, seed):
    lots = labelled(count, classes, seed, most=5)
    dealt = deal(lots, SHARES, seed)
    often = Counter(name for lot in lots for name in lot.classes)
    for split, share in SHARES[1:]:
        assert abs(dealt.count(split) - share * count) <= 3
        for name in absent(lots, dealt, split):  # no lot of train could be spared, but that is rare
            assert often[name] * share < 2
    shuffled = lots[::-1]
    assert deal(shuffled, SHARES, seed) == dealt[::-1]


@pytest.mark.parametrize(("most", "bound"), [(1, 6), (5, 20)])
def test_a_picture_more_moves_few(most, bound):
    lots = labelled(1500, 40, 1, most)
    dealt = deal(lots, SHARES, 0)
    for number in range(8):
        more = deal([*lots, Lot(f"new{number}", 1, frozenset([f"c{number}"]))], SHARES, 0)
        assert sum(one != other for one, other in zip(dealt, more, strict=False)) <= bound


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=3, max_size=40), st.integers(0, 999), st.integers(1, 4))
def test_groups_of_any_size(sizes, seed, classes):
    rng = random.Random(seed)
    lots = [Lot(f"g{n}", size, frozenset([f"c{rng.randrange(classes)}"])) for n, size in enumerate(sizes)]
    dealt = deal(lots, SHARES, seed)
    assert set(dealt) == {"train", "val", "test"}
    for split, share in SHARES[1:]:
        made = sum(lot.size for lot, one in zip(lots, dealt, strict=True) if one == split)
        assert abs(made - share * sum(sizes)) <= max(sizes)


def test_too_few_groups():
    with pytest.raises(EdgekitError, match="1 group of pictures cannot become 3 splits"):
        deal([Lot("a", 50)], SHARES, 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=14))
def test_joining_against_walking(count, links):
    links = [(one % count, other % count) for one, other in links]
    reach = []
    for start in range(count):
        found = {start}
        while True:
            more = found | {b for a, b in links if a in found} | {a for a, b in links if b in found}
            if more == found:
                break
            found = more
        reach.append(min(found))
    assert groups.joined(count, links) == reach


def test_folders_that_tell_a_split():
    assert splits.below("images/a/x.jpg", "val", ("images",)) == "images/val/a/x.jpg"
    assert splits.below("set/images/x.jpg", "val", ("images",)) == "set/images/val/x.jpg"
    assert splits.below("x.jpg", "test") == "test/x.jpg"
    assert splits.below("images/val/x.jpg", "val", ("images",)) == "images/val/x.jpg"


# ---- groups


KEYS = ("a/v1_frame1.jpg", "a/v1_frame2.jpg", "b/v2_frame1.jpg", "c.jpg")


def test_groups_by_folder_pattern_and_table(tmp_path):
    assert groups.groups_of("folder", KEYS, tmp_path) == ["a", "a", "b", "."]
    assert groups.groups_of(r"(v\d+)_frame", KEYS, tmp_path) == ["v1", "v1", "v2", None]
    table = "\ufefffile_name;age;patient\na/v1_frame1.jpg;1;x\n.\\a\\v1_frame2.jpg;1;x\nv2_frame1;2; y \nc.jpg;3;\n"
    (tmp_path / "g.csv").write_text(table, encoding="utf-8")
    assert groups.groups_of("g.csv:patient", KEYS, tmp_path) == ["x", "x", "y", None]
    assert groups.groups_of(f"{tmp_path / 'g.csv'}:age", KEYS, Path()) == ["1", "1", "2", "3"]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("(", "not a regular expression"),
        ("foldr", "without a (group)"),
        ("(nowhere)", "puts no picture in a group"),
        ("none.csv:patient", "cannot be read"),
        ("g.csv:pateint", "has no column pateint"),
        ("twice.csv:patient", "a.jpg is in two groups, 1 and 2"),
        ("bare.csv:patient", "no column says which picture"),
        ("other.csv:patient", "puts no picture in a group"),
    ],
)
def test_rules_that_do_not_work(tmp_path, rule, said):
    (tmp_path / "g.csv").write_text("file_name,patient\na.jpg,1\n")
    (tmp_path / "twice.csv").write_text("file_name,patient\na.jpg,1\na.jpg,2\n")
    (tmp_path / "bare.csv").write_text("patient,age\n1,2\n")
    (tmp_path / "other.csv").write_text("file_name,patient\nelsewhere.jpg,2\n")
    with pytest.raises(EdgekitError, match=re.escape(said)) as caught:
        groups.groups_of(rule, KEYS[:3] if rule.startswith("other") else ("a.jpg",), tmp_path)
    assert caught.value.hint
    assert ("did you mean" in caught.value.hint) == (rule in ("g.csv:pateint", "foldr"))


# ---- the command


def class_folders(root, count=10, classes=("cat", "dog")):
    for number, name in enumerate(classes):
        for one in range(count):
            save(root / name / f"{name}{one}.png", picture(100 * number + one))


def by_split(out, key="source"):
    found = {}
    for row in rows(out / "manifest.jsonl"):
        if not row["variant"]:
            found[row[key]] = row["split"]
    return found


def test_class_folders_are_split_and_copies_stay_together(edgekit, tmp_path):
    root = tmp_path / "s"
    class_folders(root, 20)
    for number in range(12):  # of each of these there is a flipped, a turned or an exact copy
        path = root / "cat" / f"cat{number}.png"
        pixels = cv2.imread(str(path))
        if number % 3:
            pixels = cv2.flip(pixels, 1) if number % 3 == 1 else cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE)
        save(root / "cat" / f"zz{number}.png", pixels)
    done = edgekit("augment", "s", *TURN, "--split", "60/20/20", "--workers", "1")
    assert done.code == 0, done.err
    assert "split     train 32, val 10, test 10 pictures" in done.out, done.out
    out = tmp_path / "s-augmented"
    of = by_split(out)
    for number in range(12):
        assert of[f"cat/cat{number}.png"] == of[f"cat/zz{number}.png"]
    assert Counter(of.values()) == {"train": 32, "val": 10, "test": 10}
    for row in rows(out / "manifest.jsonl"):
        assert row["file_name"].startswith(f"{row['split']}/{row['label']}/")
        assert not row["variant"] or row["split"] == "train"
    stamp = json.loads((out / "run.json").read_text())
    assert stamp["split"]["pictures"] == {"train": 32, "val": 10, "test": 10}
    assert stamp["split"]["groups"] == 40
    assert {entry.split for entry in dataset.read(out).entries} == {"train", "val", "test"}
    again = ("augment", "s", *TURN, "--split", "60/20/20")
    assert "up to date" in edgekit(*again).out
    assert edgekit(*again, "--out", "two", "--workers", "2").code == 0
    assert tree_digest(tmp_path / "two") == tree_digest(out)


def test_a_class_that_is_called_like_a_split(edgekit, tmp_path):
    class_folders(tmp_path / "s", classes=("valid", "broken"))
    assert edgekit("augment", "s", "-n", "0", "--split", "50/50").code == 0
    found = dataset.read(tmp_path / "s-augmented")
    assert Counter((one.split, one.label) for one in found.entries) == {
        ("train", "valid"): 5, ("train", "broken"): 5, ("val", "valid"): 5, ("val", "broken"): 5,
    }  # fmt: skip


def test_pictures_alone_go_to_folders(edgekit, tmp_path):
    class_folders(tmp_path / "s", 8, ("",))
    done = edgekit("augment", "s", *TURN, "--split", "3/1")
    assert done.code == 0, done.err
    names = [path.relative_to(tmp_path / "s-augmented").parts[0] for path in tmp_path.glob("s-augmented/**/*.png")]
    assert Counter(names) == {"train": 12, "val": 2}


def test_what_cannot_be_split(edgekit, tmp_path):
    class_folders(tmp_path / "s" / "train")
    class_folders(tmp_path / "s" / "val")
    done = edgekit("augment", "s", *TURN, "--split", "80/20")
    assert (done.code, "has splits already: train, val" in done.err) == (2, True)
    class_folders(tmp_path / "one", 5, ("cat",))
    done = edgekit("augment", "one", *TURN, "--split", "80/20", "--group-by", "folder")
    assert (done.code, "1 group of pictures cannot become 2 splits" in done.err) == (2, True)
    done = edgekit("augment", "one", *TURN, "--split", "80/-20")
    assert (done.code, "split=80/-20" in done.err) == (2, True)


def test_groups_are_never_split_and_stand_in_the_manifest(edgekit, tmp_path):
    for video in range(10):
        for frame in range(4):
            save(tmp_path / "s" / f"v{video}_{frame}.png", picture(10 * video + frame))
    rule = r"^(v\d+)_"
    done = edgekit("augment", "s", *TURN, "--split", "80/10/10", "--group-by", rule)
    assert done.code == 0, done.err
    made = rows(tmp_path / "s-augmented" / "manifest.jsonl")
    of = {}
    for row in made:
        assert row["group"] == row["source"].split("_")[0]
        of.setdefault(row["group"], set()).add(row["split"])
    assert Counter(split for found in of.values() for split in found) == {"train": 8, "val": 1, "test": 1}
    (tmp_path / "s" / "loose.png").write_bytes((tmp_path / "s" / "v1_1.png").read_bytes())
    done = edgekit("augment", "s", "-n", "0", "--split", "80/10/10", "--group-by", rule, "--out", "o")
    assert "1 picture is in no group (first: loose.png)" in done.err
    of = by_split(tmp_path / "o")
    assert of["loose.png"] == of["v1_0.png"] == of["v1_1.png"]  # a copy brings its picture's group with it


def test_a_class_that_is_missing_is_named(edgekit, tmp_path):
    class_folders(tmp_path / "s", 10, ("cat", "dog"))
    save(tmp_path / "s" / "owl" / "owl.png", picture(999))
    done = edgekit("augment", "s", "-n", "0", "--split", "80/20")
    assert "val has no picture of 1 of the 3 classes: owl" in done.err


# ---- leaks between splits that are there


@pytest.fixture
def leaky(tmp_path):
    root = tmp_path / "s"
    class_folders(root / "train", 6)
    class_folders(root / "val", 0)
    for number in range(4):
        save(root / "val" / "cat" / f"own{number}.png", picture(500 + number))
    pixels = cv2.imread(str(root / "train" / "dog" / "dog3.png"))
    save(root / "val" / "dog" / "mirrored.png", cv2.flip(pixels, 1))
    shutil.copy(root / "train" / "cat" / "cat1.png", root / "val" / "cat" / "same.png")
    return root


def test_leaks_are_said_counted_and_strict(edgekit, leaky):
    done = edgekit("augment", "s", *TURN, "--json")
    assert done.code == 0
    first = "val/cat/same.png = train/cat/cat1.png, same file"
    assert f"2 pictures of val are also in train (first: {first})" in done.err
    assert done.json["counts"]["leaks"] == 2
    stamp = json.loads((leaky.with_name("s-augmented") / "run.json").read_text())
    assert [(one["picture"], one["how"]) for one in stamp["leaks"]] == [
        ("val/cat/same.png", "same file"),
        ("val/dog/mirrored.png", "flipped or turned"),
    ]
    again = edgekit("augment", "s", *TURN, "--strict")
    assert (again.code, "up to date" in again.out) == (1, True)
    (leaky / "val" / "cat" / "same.png").unlink()
    (leaky / "val" / "dog" / "mirrored.png").unlink()
    done = edgekit("augment", "s", *TURN, "--strict", "--out", "clean", "--json")
    assert (done.code, done.json["counts"]["leaks"], done.err) == (0, 0, "")


def test_a_group_in_two_splits_is_a_leak(edgekit, leaky):
    done = edgekit("augment", "s", "-n", "0", "--group-by", r"(\d)\.png$", "--strict", "--json")
    assert done.code == 1
    assert "4 pictures of val are of a group that is in train too (first: val/cat/own0.png, group 0)" in done.err
    assert done.json["counts"]["leaks"] == 6


def test_loose_pictures_beside_a_test_folder_leak_too(edgekit, tmp_path):
    for number in range(4):
        save(tmp_path / "s" / f"p{number}.png", picture(number))
    save(tmp_path / "s" / "test" / "q.png", picture(50))
    shutil.copy(tmp_path / "s" / "p2.png", tmp_path / "s" / "test" / "r.png")
    done = edgekit("augment", "s", *TURN, "--labels", "none", "--strict")
    assert done.code == 1
    assert "1 picture of test is also in train (first: test/r.png = p2.png, same file)" in done.err


# ---- the real set


def test_the_real_set_is_split_in_every_layout(assets, tmp_path):
    found = {}
    recipe, wishes, said = Recipe((), 0), augment(split="80/10/10"), []
    for kind in ("coco", "yolo", "voc", "masks"):
        out = tmp_path / kind
        made = plan(scan(assets / "images" / "coco_val64"), "coco", to=kind, keep=True)
        run(arrange(made, wishes, recipe, lambda done, total: None, said.append), out, recipe)
        entries = dataset.read(out, kind).entries
        assert Counter(entry.split for entry in entries) == {"train": 52, "val": 6, "test": 6}
        found[kind] = {entry.source.path.stem: entry.split for entry in entries}
    assert said[0].startswith("val has no picture of ")
    assert len({json.dumps(one, sort_keys=True) for one in found.values()}) == 1
    assert (tmp_path / "yolo" / "images" / "val").is_dir() and (tmp_path / "yolo" / "labels" / "test").is_dir()
    assert "val: images/val" in (tmp_path / "yolo" / "data.yaml").read_text()
    assert {path.stem for path in (tmp_path / "coco" / "annotations").iterdir()} == {
        "instances_train", "instances_val", "instances_test",
    }  # fmt: skip
    assert len((tmp_path / "voc" / "ImageSets" / "Main" / "val.txt").read_text().split()) == 6
