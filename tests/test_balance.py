"""Balance: variants by class, so that every class comes to the same number of pictures."""

import itertools
import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import picture, rows, save
from edgekit.augment import run as line
from edgekit.augment.balance import balance
from edgekit.augment.op import OPS
from edgekit.augment.plan import plan
from edgekit.augment.variants import Recipe
from edgekit.data.folder import scan
from edgekit.errors import EdgekitError

TURN = ("--flip", "--rotate", "15")
few = st.dictionaries(st.sampled_from("pqrst"), st.sets(st.sampled_from("abc"), max_size=3), min_size=1, max_size=5)


def come_to(holds, copies, originals):
    counts = Counter()
    for classes, number in zip(holds.values(), copies, strict=True):
        counts.update(dict.fromkeys(classes, number + originals))
    return counts


# ---- the numbers


@settings(max_examples=150, deadline=None, derandomize=True)
@given(few, st.integers(0, 2), st.integers(0, 1), st.booleans(), st.one_of(st.none(), st.integers(1, 8)))
def test_against_trying_everything(holds, copies, more, originals, per_class):
    most = copies + more
    made = balance(holds, copies=copies, most=most, originals=originals, per_class=per_class)
    low = 0 if per_class is not None else copies
    base = come_to(holds, [low] * len(holds), originals)
    target = per_class if per_class is not None else max(base.values(), default=0)
    assert (made.target, dict(made.counts)) == (target, dict(sorted(come_to(holds, made.copies, originals).items())))
    assert all(low <= number <= most for number in made.copies)
    highest = come_to(holds, [most] * len(holds), originals)
    every = itertools.product(range(low, most + 1), repeat=len(holds))
    best = None
    for tried in every:
        counts = come_to(holds, tried, originals)
        if all(counts[name] >= min(target, highest[name]) for name in highest):
            best = sum(tried) if best is None else min(best, sum(tried))
    assert best is not None
    assert all(made.counts[name] >= min(target, highest[name]) for name in highest)
    assert sum(made.copies) <= best * 11 / 6  # H(3): what greedy covers cost at most (Chvatal 1979)
    if all(len(classes) <= 1 for classes in holds.values()):
        assert sum(made.copies) - low * sum(not one for one in holds.values()) == best - low * sum(
            not one for one in holds.values()
        )
    assert made.short == {name: count for name, count in made.counts.items() if count < target}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 5), st.integers(0, 99))
def test_one_class_a_picture_is_exact_and_even(sizes, copies, seed):
    holds = {f"{name}/{one}": {str(name)} for name, size in enumerate(sizes) for one in range(size)}
    made = balance(holds, copies=copies, most=10_000, seed=seed)
    assert set(made.counts.values()) == {made.target} == {max(sizes) * (1 + copies)}
    for name in range(len(sizes)):
        numbers = [number for key, number in zip(holds, made.copies, strict=True) if key.startswith(f"{name}/")]
        assert max(numbers) - min(numbers) <= 1
    backwards = balance(dict(reversed(holds.items())), copies=copies, most=10_000, seed=seed)
    assert dict(zip(reversed(holds), backwards.copies, strict=True)) == dict(zip(holds, made.copies, strict=True))


def test_the_remainder_hardly_moves_when_a_picture_is_added():
    holds = {f"{name}{one}": {name} for name, size in (("a", 400), ("b", 100)) for one in range(size)}
    before = dict(zip(holds, balance(holds, copies=1, most=99, per_class=450).copies, strict=True))
    holds["b_new"] = {"b"}
    after = dict(zip(holds, balance(holds, copies=1, most=99, per_class=450).copies, strict=True))
    assert sum(before[key] != after[key] for key in before) <= 5


def test_pictures_with_frequent_classes_come_last():
    holds = {"x": {"rare"}, "y": {"rare", "person"}, **{f"p{number}": {"person"} for number in range(7)}}
    made = dict(zip(holds, balance(holds, copies=0, most=9, originals=True).copies, strict=True))
    assert (made["x"], made["y"]) == (3, 3)
    holds["z"] = {"person"}
    made = dict(zip(holds, balance(holds, copies=0, most=9, originals=True).copies, strict=True))
    assert (made["x"], made["y"]) == (4, 3)


# ---- the command


@pytest.fixture
def uneven(tmp_path):
    root = tmp_path / "s"
    for name, count in (("cat", 9), ("dog", 4), ("owl", 1)):
        for one in range(count):
            save(root / name / f"{name}{one}.png", picture(100 * len(name) + 10 * count + one))
    return root


def made_of(out):
    return Counter(row["label"] for row in rows(out / "manifest.jsonl"))


def test_every_class_gets_what_the_largest_has(edgekit, uneven):
    done = edgekit("augment", "s", *TURN, "-n", "2", "--balance", "--max-copies", "40")
    assert done.code == 0, done.err
    out = uneven.with_name("s-augmented")
    assert made_of(out) == {"cat": 27, "dog": 27, "owl": 27}
    assert "balance   27 pictures a class\n" in done.out
    assert "classes   3, 27 pictures each" in done.out
    assert edgekit("augment", "s", *TURN, "-n", "2", "--out", "plain").code == 0
    for row in rows(uneven.with_name("plain") / "manifest.jsonl"):  # the first variants are those of any other run
        assert (out / row["file_name"]).read_bytes() == (uneven.with_name("plain") / row["file_name"]).read_bytes()
    assert "up to date" in edgekit("augment", "s", *TURN, "-n", "2", "--balance", "--max-copies", "40").out
    done = edgekit("augment", "s", *TURN, "-n", "2", "--balance", "--max-copies", "40", "--dry-run", "--json")
    assert abs(done.json["estimate"]["files"] - 81) <= 1
    assert done.json["balance"]["target"] == 27
    assert edgekit("augment", "s", *TURN, "-n", "2", "--balance").code == 2  # 20 a picture is another output


def test_no_variants_of_the_largest(edgekit, uneven):
    assert edgekit("augment", "s", *TURN, "-n", "0", "--balance").code == 0
    assert made_of(uneven.with_name("s-augmented")) == {"cat": 9, "dog": 9, "owl": 9}
    made = rows(uneven.with_name("s-augmented") / "manifest.jsonl")
    assert not any(row["variant"] for row in made if row["label"] == "cat")


def test_a_number_for_every_class_and_one_that_cannot_reach_it(edgekit, uneven):
    done = edgekit("augment", "s", *TURN, "--per-class", "30", "--no-originals")
    assert done.code == 0, done.err
    assert "below 30 pictures even with 20 variants of each: owl (20)" in done.err
    assert made_of(uneven.with_name("s-augmented")) == {"cat": 30, "dog": 30, "owl": 20}
    stamp = json.loads((uneven.with_name("s-augmented") / "run.json").read_text())
    assert stamp["balance"] == {"target": 30, "max_copies": 20, "per_class": 30, "short": {"owl": 20}}


def test_unreadable_pictures_count_for_nothing(edgekit, uneven):
    (uneven / "dog" / "broken.png").write_bytes(b"nothing")
    done = edgekit("augment", "s", *TURN, "-n", "1", "--balance")
    assert made_of(uneven.with_name("s-augmented")) == {"cat": 18, "dog": 18, "owl": 18}, done.err


def test_only_train_counts_and_objects_are_counted_by_picture(edgekit, tmp_path):
    for split, count in (("train", 6), ("val", 9)):
        for one in range(count):
            save(tmp_path / "s" / "images" / split / f"{split}{one}.png", picture(one + 20 * count))
            numbers = [0, 0, 1] if one == 0 else [0, 0]
            lines = "".join(f"{number} 0.{5 + place} 0.5 0.2 0.3\n" for place, number in enumerate(numbers))
            path = tmp_path / "s" / "labels" / split / f"{split}{one}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(lines)
    (tmp_path / "s" / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog, owl]\n")
    done = edgekit("augment", "s", *TURN, "-n", "1", "--balance")
    assert done.code == 0, done.err
    assert "balance   12 pictures of train a class" in done.out
    variants = Counter(row["source"] for row in rows(tmp_path / "s-augmented" / "manifest.jsonl") if row["variant"])
    assert variants["images/train/train0.png"] == 11
    assert all(variants[f"images/train/train{one}.png"] == 1 for one in range(1, 6))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--balance", "-n", "0"), "no op was given"),
        (("--flip", "--balance", "-n", "30"), "-n 30 is more than --max-copies 20"),
        (("--flip", "--per-class", "0"), "per-class=0 is below 1"),
        (("--flip", "--max-copies", "0", "--balance"), "max-copies=0 is below 1"),
        (("--flip", "--balance", "--labels", "none"), "has no classes that --balance could raise"),
        (("--flip", "--per-class", "5", "--labels", "none"), "has no classes that --per-class could raise"),
    ],
)
def test_what_cannot_be_balanced(edgekit, tmp_path, flags, said):
    save(tmp_path / "s" / "a.png", picture(1))
    done = edgekit("augment", "s", *flags)
    assert (done.code, said in done.err, "hint:" in done.err) == (2, True, True), done.err
    assert not (tmp_path / "s-augmented").exists()


def test_the_room_that_is_needed_is_of_what_is_made(uneven, monkeypatch):
    made = plan(scan(uneven))
    recipe = Recipe((OPS.parse("flip"),), 0)
    size = sum(source.bytes for source in made.sources)
    more = plan(scan(uneven))
    object.__setattr__(more, "numbers", {source.key: 9 for source in made.sources})
    monkeypatch.setattr(line.files, "free_bytes", lambda _: 5 * size)
    line.check_space(made, recipe, uneven.with_name("o"))
    with pytest.raises(EdgekitError, match="are to be written"):
        line.check_space(more, recipe, uneven.with_name("o"))


def test_the_real_set(edgekit, assets, tmp_path):
    source = assets / "images" / "coco_val64"
    done = edgekit("augment", source, "--flip", "--balance", "-n", "0", "--max-copies", "2", "--dry-run", "--json")
    assert done.code == 0, done.err
    assert done.json["balance"]["target"] == 40
    assert "below 40 pictures even with 2 variants of each: apple (3), " in done.err
