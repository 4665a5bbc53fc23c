"""Labelled data sets through `edgekit augment`: labels move, splits hold, layouts convert; as a person runs it."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import picture, rows, save, tree_digest
from edgekit.data import dataset

TURN = ("--flip", "--rotate", "25")
BOXES = ((0, 0.25, 0.5, 0.2, 0.4), (1, 0.7, 0.4, 0.3, 0.3))
HEIGHT, WIDTH = 60, 80


def pictures(folder, count=4, start=0):
    for number in range(start, start + count):
        save(folder / f"p{number}.png", picture(number, HEIGHT, WIDTH))


def text(shift=0.0):
    return "".join(f"{number} {x + shift} {y} {w} {h}\n" for number, x, y, w, h in BOXES)


@pytest.fixture
def yolo(tmp_path):
    """A YOLO set of train and val, with names."""
    root = tmp_path / "set"
    for split, start in (("train", 0), ("val", 10)):
        pictures(root / "images" / split, 4, start)
        (root / "labels" / split).mkdir(parents=True)
        for path in (root / "images" / split).iterdir():
            shift = int(path.stem[1:]) / 200
            (root / "labels" / split / f"{path.stem}.txt").write_text(text(shift))
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return root


def plain(tmp_path, name="flat", count=4):
    root = tmp_path / name
    pictures(root / "images", count)
    (root / "labels").mkdir()
    for path in (root / "images").iterdir():
        (root / "labels" / f"{path.stem}.txt").write_text(text(int(path.stem[1:]) / 100))
    (root / "classes.txt").write_text("cat\ndog\n")
    return root


def boxes(root, kind=None):
    """Read boxes and classes by the picture's name."""
    found = dataset.read(Path(root), kind)
    return {
        entry.key.rpartition("/")[2]: sorted([found.names[one.number], *one.box.tolist()] for one in entry.objects)
        for entry in found.entries
    }


def assert_alike(one, other, within):
    """Compare by the nearest of the same class: rounding changes the order."""
    assert one.keys() == other.keys()
    for key in one:
        left = list(other[key])
        assert len(one[key]) == len(left), key
        for name, *here in one[key]:
            distance, nearest = min(
                (max(abs(a - b) for a, b in zip(here, there, strict=True)), [also, *there])
                for also, *there in left
                if also == name
            )
            assert distance <= within, (key, name, here, nearest)
            left.remove(nearest)


def test_boxes_travel_and_only_train_is_augmented(edgekit, yolo):
    before = tree_digest(yolo)
    done = edgekit("augment", yolo, "--op", "flip p=1", "-n", "1", "--json")
    assert done.code == 0, done.err
    out = yolo.with_name("set-augmented")
    assert tree_digest(yolo) == before
    assert (done.json["counts"]["originals"], done.json["counts"]["variants"]) == (8, 4)
    assert done.json["counts"]["passed"] == 4
    assert done.json["labels"]["to"] == "yolo"
    found = boxes(out)
    for number in range(4):
        mirrored = sorted(
            [name, WIDTH - right, y0, WIDTH - x0, y1] for name, x0, y0, right, y1 in found[f"p{number}.png"]
        )
        for here, there in zip(found[f"p{number}__k01.png"], mirrored, strict=True):
            assert here[0] == there[0] and np.allclose(here[1:], there[1:], atol=1e-4)
    split = {entry.key: entry.split for entry in dataset.read(out).entries}
    assert sum(one == "val" for one in split.values()) == 4
    assert not any("__k" in key for key, one in split.items() if one == "val")
    for row in rows(out / "manifest.jsonl"):
        assert row["split"] == ("val" if "/val/" in row["file_name"] else "train")
        assert all((out / one["path"]).is_file() for one in row["label_files"])
    for path in (yolo / "images" / "val").iterdir():
        assert (out / "images" / "val" / path.name).read_bytes() == path.read_bytes()
    assert_alike(boxes(yolo), {key: one for key, one in found.items() if "__k" not in key}, 1e-4)


def test_the_manifest_says_what_became_of_objects(edgekit, tmp_path):
    root = plain(tmp_path)
    assert edgekit("augment", root, "--op", "translate 0.5", "-n", "3", "--min-visibility", "0.5").code == 0
    made = rows(tmp_path / "flat-augmented" / "manifest.jsonl")
    said = [one["what"] for row in made for one in row.get("objects", ())]
    assert any(what.startswith("clipped") for what in said)
    assert any(what.startswith("dropped") for what in said)
    stamp = json.loads((tmp_path / "flat-augmented" / "run.json").read_text())
    assert stamp["recipe"]["labels"]["min_visibility"] == 0.5


def test_no_originals_keeps_the_other_splits(edgekit, yolo):
    done = edgekit("augment", yolo, *TURN, "-n", "1", "--no-originals", "--json")
    assert (done.json["counts"]["originals"], done.json["counts"]["variants"]) == (4, 4)
    assert (
        edgekit("augment", yolo, *TURN, "--out", yolo.parent / "more", "--dry-run", "--json").json["estimate"]["files"]
        == 4 * 5 + 4
    )


def test_a_set_without_a_train_split_is_not_augmented(edgekit, yolo):
    (yolo / "images" / "train").rename(yolo / "images" / "test")
    (yolo / "labels" / "train").rename(yolo / "labels" / "test")
    (yolo / "data.yaml").write_text("test: images/test\nval: images/val\nnames: [cat, dog]\n")
    done = edgekit("augment", yolo, *TURN)
    assert (done.code, "no picture is of the split train" in done.err) == (2, True)
    assert edgekit("augment", yolo, "-n", "0").code == 0


def test_loose_pictures_beside_a_test_folder(edgekit, tmp_path):
    pictures(tmp_path / "s", 2)
    pictures(tmp_path / "s" / "test", 2, 5)
    assert edgekit("augment", "s", *TURN, "-n", "1", "--labels", "none").code == 0
    made = rows(tmp_path / "s-augmented" / "manifest.jsonl")
    names = ["p0.png", "p0__k01.png", "p1.png", "p1__k01.png", "test/p5.png", "test/p6.png"]
    assert [row["file_name"] for row in made] == names


def test_class_folders_with_splits(edgekit, tmp_path):
    for split, start in (("train", 0), ("val", 3)):
        pictures(tmp_path / "s" / split / "cats", 3, start)
    assert edgekit("augment", "s", *TURN, "-n", "1").code == 0
    made = rows(tmp_path / "s-augmented" / "manifest.jsonl")
    assert {(row["label"], row["split"], row["variant"]) for row in made} == {
        ("cats", "train", 0), ("cats", "train", 1), ("cats", "val", 0),
    }  # fmt: skip
    assert (tmp_path / "s-augmented" / "val" / "cats" / "p3.png").is_file()


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc"])
def test_conversion_there_and_back(edgekit, yolo, tmp_path, kind):
    done = edgekit("augment", yolo, "-n", "0", "--to", kind, "--out", "there")
    assert done.code == 0, done.err
    assert dataset.recognise(tmp_path / "there") == kind
    assert edgekit("augment", "there", "-n", "0", "--to", "yolo", "--out", "back").code == 0
    assert_alike(boxes(yolo), boxes(tmp_path / "back"), 1.01 if kind == "voc" else 0.01)
    splits = [dataset.read(tmp_path / name).splits for name in ("there", "back")]
    assert splits == [("train", "val")] * 2
    for path in (yolo / "images").rglob("*.png"):
        found = next((tmp_path / "there").rglob(path.name))
        assert found.read_bytes() == path.read_bytes()


def test_conversion_to_masks_and_folders_says_what_is_lost(edgekit, yolo, tmp_path):
    assert edgekit("augment", yolo, "-n", "0", "--to", "masks", "--out", "m").code == 0
    assert all(row["lost"] for row in rows(tmp_path / "m" / "manifest.jsonl"))
    mask = cv2.imread(str(next((tmp_path / "m").rglob("masks/**/p0.png"))), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(mask)) == {0, 1, 2}
    assert edgekit("augment", yolo, "-n", "0", "--to", "folder", "--out", "f").code == 0
    assert all(row["lost"] for row in rows(tmp_path / "f" / "manifest.jsonl"))


def test_masks_of_every_depth_travel(edgekit, tmp_path):
    root = tmp_path / "m"
    pictures(root / "images", 3)
    forms = (np.uint8, np.uint16, None)
    for number, form in enumerate(forms):
        mask = np.zeros((HEIGHT, WIDTH), np.uint16)
        mask[10:30, 5:40], mask[40:50, 50:70] = 1, 300 if form == np.uint16 else 2
        if form is None:
            mask = np.array([(0, 0, 0), (0, 0, 255), (0, 128, 64)], np.uint8)[mask]
        save(root / "masks" / f"p{number}.png", mask if form is None else mask.astype(form))
    assert edgekit("augment", root, *TURN, "-n", "2", "--blur", "0.5").code == 0
    out = tmp_path / "m-augmented"
    for number in range(3):
        before = cv2.imread(str(root / "masks" / f"p{number}.png"), cv2.IMREAD_UNCHANGED)
        for variant in (1, 2):
            after = cv2.imread(str(out / "masks" / f"p{number}__k0{variant}.png"), cv2.IMREAD_UNCHANGED)
            assert after.dtype == before.dtype and after.ndim == before.ndim
            flat = [
                {tuple(np.atleast_1d(one)) for one in part.reshape(-1, *part.shape[2:])} for part in (before, after)
            ]
            assert flat[1] <= flat[0] and len(flat[1]) > 1
        same = cv2.imread(str(out / "masks" / f"p{number}.png"), cv2.IMREAD_UNCHANGED)
        assert (same == before).all()


def test_a_picture_without_mask_stays_without(edgekit, tmp_path):
    root = tmp_path / "m"
    pictures(root / "images", 3)
    for number in range(2):
        save(root / "masks" / f"p{number}.png", np.ones((HEIGHT, WIDTH), np.uint8))
    done = edgekit("augment", root, *TURN, "-n", "1", "--strict")
    assert done.code == 1
    assert "without a mask" in done.out
    assert not list((tmp_path / "m-augmented" / "masks").glob("p2*"))


def test_bad_labels_are_mended_logged_and_strict(edgekit, tmp_path):
    root = plain(tmp_path)
    (root / "labels" / "p0.txt").write_text(text() + "7 0.5 0.5 0.1 0.1\n0 0.99 0.5 0.1 0.1\nnonsense\n")
    (root / "labels" / "p1.txt").write_bytes(b"\xff\xfe\x00garbage")
    (root / "labels" / "p2.txt").unlink()
    done = edgekit("augment", root, *TURN, "-n", "1")
    assert done.code == 0, done.err
    made = {row["file_name"]: row for row in rows(tmp_path / "flat-augmented" / "manifest.jsonl")}
    assert len(made["images/p0.png"]["mended"]) >= 2
    assert made["images/p1.png"]["mended"]
    assert "mended" not in made["images/p3.png"]
    assert "mended" in done.out
    assert edgekit("augment", root, *TURN, "-n", "1", "--strict").code == 1
    assert edgekit("augment", root, *TURN, "-n", "1", "--strict", "--out", "fresh").code == 1


def test_the_stamp_knows_the_labels(edgekit, yolo):
    assert edgekit("augment", yolo, *TURN, "-n", "1").code == 0
    assert "up to date" in edgekit("augment", yolo, *TURN, "-n", "1").out
    assert edgekit("augment", yolo, *TURN, "-n", "1", "--to", "coco").code == 2
    assert edgekit("augment", yolo, *TURN, "-n", "1", "--min-visibility", "0.4").code == 2
    path = yolo / "labels" / "train" / "p0.txt"
    old = path.read_text()
    path.write_text(old + "0 0.5 0.5 0.11 0.1\n")
    assert edgekit("augment", yolo, *TURN, "-n", "1").code == 2
    path.write_text(old)
    for name in ("labels/train/p0.txt", "data.yaml"):
        written = yolo.with_name("set-augmented") / name
        kept = written.read_bytes()
        written.write_bytes(b"edited" + kept)
        assert edgekit("augment", yolo, *TURN, "-n", "1").code == 2
        written.write_bytes(kept)
    assert "up to date" in edgekit("augment", yolo, *TURN, "-n", "1").out
    assert edgekit("augment", yolo, *TURN, "-n", "1", "--seed", "4", "--force").code == 0


@pytest.mark.parametrize("to", ["coco", "yolo", "voc", "masks"])
def test_workers_and_added_pictures_change_nothing(edgekit, tmp_path, to):
    root = plain(tmp_path, count=8)
    run = ("augment", root, *TURN, "-n", "2", "--to", to)
    for name, workers in (("w1", 1), ("w3", 3)):
        assert edgekit(*run, "--out", name, "--workers", workers).code == 0
    assert tree_digest(tmp_path / "w1") == tree_digest(tmp_path / "w3")
    pictures(root / "images", 1, 30)
    (root / "labels" / "p30.txt").write_text(text())
    assert edgekit(*run, "--out", "more").code == 0
    old = {json.dumps(row) for row in rows(tmp_path / "w1" / "manifest.jsonl")}
    assert old < {json.dumps(row) for row in rows(tmp_path / "more" / "manifest.jsonl")}


def test_twins_by_stem_do_not_share_label_files(edgekit, tmp_path):
    root = plain(tmp_path, count=2)
    save(root / "images" / "p0.jpg", picture(9, HEIGHT, WIDTH))
    assert edgekit("augment", root, *TURN, "-n", "2").code == 0
    made = rows(tmp_path / "flat-augmented" / "manifest.jsonl")
    labels = [one["path"] for row in made for one in row["label_files"]]
    assert len(labels) == len(set(labels)) == 9
    assert {row["source"]: row["file_name"] for row in made if not row["variant"]} == {
        "images/p0.jpg": "images/p0.jpg",
        "images/p0.png": "images/p0-png.png",
        "images/p1.png": "images/p1.png",
    }


@pytest.mark.parametrize("op", ["mixup", "cutmix", "mosaic", "copy-paste"])
def test_mixing_is_the_same_for_any_workers_and_an_added_picture_changes_little(edgekit, tmp_path, op):
    root = plain(tmp_path, count=12)
    lines = "0 0.1 0.1 0.5 0.1 0.5 0.6 0.2 0.5\n1 0.6 0.5 0.9 0.5 0.9 0.9 0.6 0.8\n"
    for path in (root / "labels").iterdir():
        path.write_text(lines)
    run = ("augment", root, "--op", op, "-n", "1")
    for name, workers in (("w1", 1), ("w2", 2)):
        done = edgekit(*run, "--out", name, "--workers", workers)
        assert done.code == 0, done.err
    assert tree_digest(tmp_path / "w1") == tree_digest(tmp_path / "w2")
    made = [row for row in rows(tmp_path / "w1" / "manifest.jsonl") if row["variant"]]
    assert all(row["source"] not in row["ops"][0]["partners"] for row in made)
    assert edgekit("augment", tmp_path / "w1", "-n", "0", "--out", "again").code == 0
    pictures(root / "images", 1, 30)
    (root / "labels" / "p30.txt").write_text(lines)
    assert edgekit(*run, "--out", "more").code == 0
    more = {json.dumps(row) for row in rows(tmp_path / "more" / "manifest.jsonl")}
    changed = [row for row in made if json.dumps(row) not in more]
    assert len(changed) <= 6
    assert all(
        "images/p30.png"
        in next(json.loads(row) for row in sorted(more) if json.loads(row)["file_name"] == one["file_name"])["ops"][0][
            "partners"
        ]
        for one in changed
    )


def test_partners_are_of_train_and_readable(edgekit, yolo):
    (yolo / "images" / "train" / "p1.png").write_bytes(b"broken")
    done = edgekit("augment", yolo, "--op", "mixup", "-n", "3")
    assert done.code == 0, done.err
    made = [row for row in rows(yolo.with_name("set-augmented") / "manifest.jsonl") if row["variant"]]
    assert len(made) == 9
    partners = {name for row in made for name in row["ops"][0]["partners"]}
    assert partners == {f"images/train/p{number}.png" for number in (0, 2, 3)}
    done = edgekit("augment", yolo, "--op", "mosaic", "--op", "mixup", "--out", "few")
    assert (done.code, "take 4 other pictures" in done.err) == (2, True)


def test_class_folders_mix_with_weights(edgekit, tmp_path):
    pictures(tmp_path / "s" / "cats", 2)
    pictures(tmp_path / "s" / "dogs", 2, 5)
    assert edgekit("augment", "s", "--op", "cutmix", "-n", "2", "--workers", "2").code == 0
    weights = [row["weights"] for row in rows(tmp_path / "s-augmented" / "manifest.jsonl") if "weights" in row]
    assert weights and all(sum(one.values()) == pytest.approx(1) for one in weights)


def test_the_preview_draws_boxes(edgekit, yolo, tmp_path):
    done = edgekit("augment", yolo, *TURN, "--preview", "sheet.png", "--dry-run")
    assert done.code == 0, done.err
    with_labels = cv2.imread(str(tmp_path / "sheet.png"))
    edgekit("augment", yolo, *TURN, "--labels", "none", "--preview", "bare.png", "--dry-run")
    assert (with_labels != cv2.imread(str(tmp_path / "bare.png"))).any()


def test_coco_yolo_and_voc_give_the_same_boxes(edgekit, assets, tmp_path):
    source = assets / "images" / "coco_val64"
    content = json.loads((source / "instances.json").read_text())
    for one in content["annotations"]:
        one.pop("segmentation", None)
    for kind in ("coco", "yolo", "voc"):
        shutil.copytree(source / "images", tmp_path / kind / "images")
    (tmp_path / "coco" / "instances.json").write_text(json.dumps(content))
    shutil.copytree(source / "labels_yolo", tmp_path / "yolo" / "labels")
    shutil.copy(source / "classes.txt", tmp_path / "yolo")
    for path in (source / "labels_voc").iterdir():
        shutil.copy(path, tmp_path / "voc" / "images")
    found = {}
    for kind in ("coco", "yolo", "voc"):
        done = edgekit("augment", kind, *TURN, "-n", "1", "--labels", kind, "--to", "coco", "--out", f"o-{kind}")
        assert done.code == 0, done.err
        found[kind] = {key.rpartition("/")[2]: one for key, one in boxes(tmp_path / f"o-{kind}").items()}
        assert len(found[kind]) == 128
    assert sum(map(len, found["coco"].values())) > 500
    assert_alike(found["coco"], found["yolo"], 0.05)
    assert_alike(found["coco"], found["voc"], 0.25)  # the VOC files have one decimal
