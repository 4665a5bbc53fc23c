"""What `edgekit augment`, `inspect` and `verify` say of a run to the person who typed it: the truth, and what to do."""

import pytest

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
