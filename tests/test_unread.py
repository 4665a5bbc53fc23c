"""Labels that are there and cannot be read: each is said, counted as mended, and fails --strict."""

import json

import pytest

from conftest import picture, save

TRUNCATED = '{"images": [{"id": 1, "file_name": "0.png"}], "annotations": [{"id": 1, "ima'
YOLO = "0 0.5 0.5 0.2 0.2\n"
FOREIGN = {
    "images": [{"id": 1, "file_name": "x.png", "width": 9, "height": 9}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2]}],
    "categories": [{"id": 1, "name": "bag"}],
}


def pictures_at(folder):
    for number in range(3):
        save(folder / f"{number}.png", picture(number))


def put(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("where", "files", "named"),
    [
        ("", {"instances.json": TRUNCATED}, "instances.json: looks like labels and could not be read: it is no JSON"),
        ("images", {"annotations/instances_train.json": TRUNCATED}, "annotations: looks like labels"),
        ("", {"instances.json": json.dumps(FOREIGN)}, "none of the pictures that it describes is here"),
        ("", {"annotations.json": "[1, 2]"}, "it is no COCO file"),
        ("JPEGImages", {f"Annotations/{n}.xml": "<annotation><obj" for n in range(3)}, "0.xml: no XML"),
        ("", {f"{n}.xml": "<annotation><obj" for n in range(3)}, "3 .xml files beside pictures"),
        ("images", {f"label/{n}.txt": YOLO for n in range(3)}, "label: looks like labels and could not be read: call"),
        ("images/a", {f"labels/{n}.txt": YOLO for n in range(3)}, "these are in other folders"),
        ("images", {f"labels/{n}.txt": "a cat\n" for n in range(3)}, "0.txt: it is not of YOLO"),
        ("images", {"labels/x.txt": YOLO}, "none of its files is called as a picture is (x.txt)"),
        ("", {"_annotations.csv": "filename,class\n0.png,bag\n"}, "tables are not read"),
        ("", {"annotations.xml": "<annotations/>"}, "one file of all is not read"),
        ("", {"data.yaml": "names: [bag]\n"}, "it is of a YOLO data set, and no picture has a label file"),
        ("", {"data.yaml": "a: [b\n"}, "data.yaml: looks like labels"),
    ],
)
def test_labels_that_cannot_be_read_are_said(edgekit, tmp_path, where, files, named):
    root = tmp_path / "set"
    pictures_at(root / where)
    put(root, files)
    made = edgekit("augment", root, "--flip", "-n", "1", "--strict")
    assert named in made.err
    assert made.code == 1
    assert json.loads((tmp_path / "set-augmented" / "run.json").read_text())["counts"]["mended"] >= 1
    again = edgekit("augment", root, "--flip", "-n", "1", "--strict")
    assert (again.code, "up to date" in again.out) == (1, True)
    looked = edgekit("inspect", root, "--strict")
    assert named in looked.err
    assert looked.code == 1


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"0.txt": "a caption\n", "README.txt": "read me", "classes.csv": "a,b\n", "config.yaml": "epochs: 3\n"},
        {"results.json": "[", "labels/readme.md": "nothing"},
    ],
)
def test_what_is_no_label_is_not_said(edgekit, tmp_path, files):
    root = tmp_path / "set"
    for name in ("cat", "dog"):
        pictures_at(root / name)
    put(root, files)
    made = edgekit("augment", root, "--flip", "-n", "1", "--strict")
    assert (made.code, made.err) == (0, "")


def test_labels_of_the_folder_above_are_said_when_they_are_of_this_one(edgekit, tmp_path):
    pictures_at(tmp_path / "val2017")
    put(tmp_path, {"annotations/instances_val2017.json": TRUNCATED, "annotations/instances_train2017.json": TRUNCATED})
    made = edgekit("augment", "val2017", "--flip", "-n", "1", "--strict")
    assert made.code == 1
    assert "../annotations/instances_val2017.json: looks like labels" in made.err
    assert "train2017" not in made.err


def test_a_folder_of_labels_with_one_that_can_be_read_is_used(edgekit, tmp_path):
    pictures_at(tmp_path / "set" / "images")
    put(tmp_path / "set", {"labels/0.txt": YOLO, "label/0.txt": YOLO})
    looked = edgekit("inspect", tmp_path / "set")
    assert (looked.code, looked.err, "looks like" in looked.out) == (0, "", False)


@pytest.mark.parametrize("kind", ["yolo", "coco", "voc", "masks"])
def test_what_a_conversion_without_objects_loses_is_said(edgekit, tmp_path, kind):
    pictures_at(tmp_path / "bare")
    pictures_at(tmp_path / "classes" / "cat")
    pictures_at(tmp_path / "classes" / "dog")
    bare = edgekit("augment", "bare", "--flip", "-n", "1", "--to", kind)
    assert f"there are no labels to convert to {kind}: every picture will be background" in bare.err
    classes = edgekit("augment", "classes", "--flip", "-n", "1", "--to", kind)
    assert f"{kind} has no classes of whole pictures: they are lost" in classes.err
