"""Output folders in the libraries that people train with: torchvision, Hugging Face, Ultralytics and pycocotools.

They have an environment of their own, which `make test-loaders` makes; without it these tests are skipped. Nothing is
downloaded: the libraries are told that there is no network.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT, picture, rows, save
from edgekit.data import dataset

HOME = ROOT / ".venv" / "loaders"
PYTHON = HOME / "bin" / "python"
MISSING = "the libraries are not here: run `make test-loaders`"
pytestmark = pytest.mark.skipif(not (HOME / ".made").is_file(), reason=MISSING)

WITHIN = 1e-5  # of a side: they read single precision
CLASSES = ("cat", "dog", "owl")
EDGES = (("xmin", 1), ("ymin", 1), ("xmax", 0), ("ymax", 0))


def augment(source, out, *flags):
    command = [sys.executable, "-m", "edgekit", "augment", source, "--out", out, "--no-config", "-q", *flags]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def ask(library, folder, questions):
    """Put all questions to a library in one process, in a home of its own."""
    names = ("HOME", "HF_HOME", "HF_DATASETS_CACHE", "YOLO_CONFIG_DIR", "TORCH_HOME", "MPLCONFIGDIR")
    home = {name: str(folder / name) for name in names}
    for place in home.values():
        Path(place).mkdir(exist_ok=True)
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    asked = folder / f"{library}.json"
    asked.write_text(json.dumps(questions, default=str))
    command = [PYTHON, ROOT / "tests" / "loaders" / "ask.py", library, asked]
    env = os.environ | home | offline
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=env, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("loaders")


# ---- class folders


@pytest.fixture(scope="module")
def classes(folder):
    """Two outputs: class folders, and class folders below train and val."""
    number = 0
    for root in ("flat", "split/train", "split/val"):
        for name in CLASSES:
            for index in range(3):
                save(folder / "in" / root / name / f"{index}.{'png' if index else 'jpg'}", picture(number))
                number += 1
    return {
        name: augment(folder / "in" / name, folder / name, "--flip", "--rotate", "15", "-n", "2")
        for name in ("flat", "split")
    }


def expected(root, below=""):
    """Give the pictures and classes that the manifest names."""
    found = {row["file_name"]: row["label"] for row in rows(root / "manifest.jsonl")}
    return {name.removeprefix(below): label for name, label in found.items() if name.startswith(below)}


@pytest.fixture(scope="module")
def in_torchvision(classes, folder):
    places = {"flat": classes["flat"], "train": classes["split"] / "train", "val": classes["split"] / "val"}
    return ask("torchvision", folder, {name: ["ImageFolder", path] for name, path in places.items()})


@pytest.mark.parametrize(
    ("name", "root", "below"), [("flat", "flat", ""), ("train", "split", "train/"), ("val", "split", "val/")]
)
def test_torchvision_reads_class_folders(in_torchvision, classes, name, root, below):
    answer = in_torchvision[name]
    assert answer.get("error") is None
    assert tuple(answer["classes"]) == CLASSES
    found = {name: CLASSES[number] for name, number in answer["files"].items()}
    assert found == expected(classes[root], below)
    assert len(found) == (9 if name == "val" else 27)


@pytest.fixture(scope="module")
def in_datasets(classes, folder):
    questions = {name: [path] for name, path in classes.items()}
    return ask("datasets", folder, questions | {"metadata": [classes["flat"], "manifest.jsonl"]})


def test_hugging_face_reads_class_folders(in_datasets, classes):
    answer = in_datasets["flat"]["train"]
    assert answer["columns"] == ["image", "label"]  # manifest.jsonl is not taken for metadata, nor any other file
    assert tuple(answer["classes"]) == CLASSES
    assert {name: CLASSES[number] for name, number in answer["files"]} == expected(classes["flat"])


def test_hugging_face_reads_splits(in_datasets, classes):
    assert list(in_datasets["split"]) == ["train", "validation"]
    for split, part in in_datasets["split"].items():
        below = {"validation": "val"}.get(split, split) + "/"
        assert tuple(part["classes"]) == CLASSES
        found = {name.removeprefix(below): CLASSES[number] for name, number in part["files"]}
        assert found == expected(classes["split"], below)


def test_hugging_face_takes_the_manifest_for_metadata_when_told(in_datasets, classes):
    answer = in_datasets["metadata"]["train"]
    assert {"image", "label", "source", "variant", "ops"} <= set(answer["columns"])
    assert dict(answer["files"]) == expected(classes["flat"])


# ---- YOLO


def line(number, *values):
    return " ".join([str(number), *(f"{value:.6f}" for value in values)]) + "\n"


def boxed(rng):
    """Draw a box as its centre and sides, well inside."""
    centre, sides = rng.uniform(0.3, 0.7, 2), rng.uniform(0.1, 0.4, 2)
    return [*centre, *sides]


def corners(rng, count):
    """Draw points on an ellipse, in order."""
    x, y, width, height = boxed(rng)
    angles = np.sort(rng.uniform(0, 2 * np.pi, count)) if count != 4 else rng.uniform(0, 1) + np.pi / 2 * np.arange(4)
    return np.stack([x + width / 2 * np.cos(angles), y + height / 2 * np.sin(angles)], axis=1).ravel().tolist()


def boxes_and_outlines(rng):
    return boxed(rng) if rng.random() < 0.5 else corners(rng, 7)


def posed(rng, numbers=3):
    box = boxed(rng)
    points = [[box[0] + rng.uniform(-0.5, 0.5) * box[2], box[1] + rng.uniform(-0.5, 0.5) * box[3]] for _ in range(3)]
    return [*box, *(value for point, seen in zip(points, (2, 1, 2), strict=True) for value in (*point, seen)[:numbers])]


YOLO = {
    "detect": (boxed, ""),
    "segment": (lambda rng: corners(rng, 7), ""),
    "obb": (lambda rng: corners(rng, 4), ""),
    "pose": (posed, "kpt_shape: [3, 3]\nflip_idx: [1, 0, 2]\n"),
    "pose of two numbers": (lambda rng: posed(rng, 2), "kpt_shape: [3, 2]\nflip_idx: [1, 0, 2]\n"),
    "segment, some": (boxes_and_outlines, ""),
    "detect, some outlines": (boxes_and_outlines, ""),
}


@pytest.fixture(scope="module")
def yolo(folder):
    """Make one output of each task, with pictures without objects in it."""
    made = {}
    for task, (drawn, more) in YOLO.items():
        root, rng = folder / "in" / task, np.random.default_rng(len(task))
        for index in range(10):
            place = f"{'val' if index % 5 == 4 else 'train'}/{index}"
            save(root / "images" / f"{place}.jpg", picture(index, 96, 128))
            label = root / "labels" / f"{place}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("".join(line(int(rng.integers(3)), *drawn(rng)) for _ in range(index % 4)))
        names = "".join(f"  {number}: {name}\n" for number, name in enumerate(CLASSES))
        (root / "data.yaml").write_text(f"train: images/train\nval: images/val\n{more}names:\n{names}")
        mixed = ["--op", "mosaic p=0.5"] if drawn not in (posed, YOLO["obb"][0]) else []
        made[task] = augment(root, folder / task, "--flip", "--rotate", "20", "--translate", "0.3", "-n", "3", *mixed)
    return made


@pytest.fixture(scope="module")
def in_ultralytics(yolo, folder):
    """Ask from two working folders, and by a relative path."""
    questions = {task: [re.split("[ ,]", task)[0], root / "data.yaml", "/"] for task, root in yolo.items()}
    questions["relative"] = ["detect", "detect/data.yaml", folder]
    return ask("ultralytics", folder, questions)


@pytest.mark.parametrize("task", [*YOLO, "relative"])
def test_ultralytics_reads_every_picture_and_label(in_ultralytics, yolo, task):
    answer = in_ultralytics[task]
    assert answer.get("error") is None
    assert answer["said"] == []  # nothing corrupt, no duplicates, nothing removed
    assert list(answer["names"].values()) == list(CLASSES)
    found = dataset.read(yolo["detect" if task == "relative" else task], "yolo")
    read = {split: {} for split in ("train", "val")}
    for entry in found.entries:
        read[entry.split][entry.source.path.name] = entry.read()
    assert answer["train"].keys() == read["train"].keys()
    assert answer["val"].keys() == read["val"].keys()
    assert len(answer["train"]) == 8 * 4 and len(answer["val"]) == 2
    assert sum(len(one["boxes"]) for one in answer["train"].values()) > 30
    for split, pictures in read.items():
        for name, ours in pictures.items():
            assert_same(answer[split][name], ours, task)


def assert_same(theirs, ours, task):
    size = np.array([ours.width, ours.height])
    assert theirs["size"] == size.tolist()
    assert theirs["classes"] == [one.number for one in ours.objects]
    for index, one in enumerate(ours.objects):
        x, y, width, height = theirs["boxes"][index]
        sides = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        if task != "obb":  # its corners may lie outside, where the box that edgekit reads is cut
            assert np.abs(np.array(sides).reshape(2, 2) - one.box.reshape(2, 2) / size).max() < WITHIN
        if task.startswith(("segment", "obb")):
            (polygon,) = one.polygons
            assert np.abs(np.array(theirs["polygons"][index]) - polygon / size).max() < WITHIN
        if task.startswith("pose"):
            points = np.array(theirs["keypoints"][index])
            assert np.abs(points[:, :2] - one.keypoints[:, :2] / size).max() < WITHIN
            assert points[:, 2].tolist() == one.keypoints[:, 2].tolist()


def test_ultralytics_knows_which_keypoints_are_pairs(in_ultralytics):
    assert in_ultralytics["pose"]["flip_idx"] == [1, 0, 2]
    assert in_ultralytics["pose"]["kpt_shape"] == [3, 3]


@pytest.fixture(scope="module")
def photographs(assets, folder):
    """Give the YOLO and the COCO outputs of real photographs."""
    flags = ["--labels", "yolo", "--flip", "--rotate", "15", "--op", "mosaic p=0.5", "-n", "1"]
    root = assets / "images" / "coco_val64"
    return {kind: augment(root, folder / f"real_{kind}", *flags, "--to", kind) for kind in ("yolo", "coco")}


def test_ultralytics_reads_photographs(photographs, folder):
    out = photographs["yolo"]
    answer = ask("ultralytics", folder, {"real": ["detect", out / "data.yaml", "/"]})["real"]
    assert answer.get("error") is None
    assert answer["said"] == []
    read = {entry.source.path.name: entry.read() for entry in dataset.read(out, "yolo").entries}
    assert answer["train"].keys() == answer["val"].keys() == read.keys()
    assert len(read) == 128
    for name, ours in read.items():
        assert_same(answer["train"][name], ours, "detect")


# ---- COCO and VOC


def test_pycocotools_and_torchvision_read_coco(photographs, folder):
    out = photographs["coco"]
    (annotations,) = (out / "annotations").glob("*.json")
    by_name = ask("pycocotools", folder, {"real": [annotations]})["real"]
    said = json.loads(annotations.read_text())
    assert by_name["names"] == [one["name"] for one in said["categories"]]
    ours = {entry.key.removeprefix("images/"): entry.read() for entry in dataset.read(out, "coco").entries}
    assert by_name["boxes"].keys() == ours.keys()
    for name, labelled in ours.items():
        boxes = np.array(by_name["boxes"][name]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        assert np.abs(boxes - np.array([one.box for one in labelled.objects]).reshape(-1, 4)).max(initial=0) < 0.01
    question = ["CocoDetection", out / "images", annotations]
    detected = ask("torchvision", folder, {"real": question})["real"]
    images = sorted(said["images"], key=lambda image: image["id"])
    assert [size for size, _ in detected] == [[image["width"], image["height"]] for image in images]
    assert sum(len(boxes) for _, boxes in detected) == len(said["annotations"])


def test_torchvision_reads_voc(yolo, folder):
    """Read it below VOCdevkit/VOC2012, the only place where torchvision looks; and JPEGs, the only ones it knows."""
    out = augment(folder / "in" / "detect", folder / "voc", "--to", "voc", "--flip", "--rotate", "20", "-n", "1")
    link = folder / "devkit" / "VOCdevkit" / "VOC2012"
    link.parent.mkdir(parents=True)
    link.symlink_to(out)
    answer = ask(
        "torchvision", folder, {split: ["VOCDetection", folder / "devkit", split] for split in ("train", "val")}
    )
    found = dataset.read(out, "voc")
    for split, count in (("train", 16), ("val", 2)):
        ours = {
            entry.key.removeprefix("JPEGImages/"): entry.read().objects
            for entry in found.entries
            if entry.split == split
        }
        assert len(ours) == count
        assert answer[split].keys() == ours.keys()
        for name, objects in ours.items():
            theirs = [
                # VOC counts pixels from 1, both ends included.
                (one["name"], [int(one["bndbox"][edge]) - low for edge, low in EDGES])
                for one in answer[split][name]
            ]
            assert theirs == [(found.names[one.number], one.box.tolist()) for one in objects]
