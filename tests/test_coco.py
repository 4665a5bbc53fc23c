from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_yolo import exif

from conftest import picture, save
from edgekit.data import coco, layout
from edgekit.data.folder import Source, scan
from edgekit.data.headers import Header
from edgekit.errors import EdgekitError


def document(names=("a.jpg",), **changes):
    """A file that describes 60x40 pictures with an object each, and a crowd in the last."""
    images = [{"id": 100 + i, "file_name": name, "width": 60, "height": 40} for i, name in enumerate(names)]
    objects = [
        {"id": i, "image_id": image["id"], "category_id": 90, "bbox": [6, 4, 30, 20], "iscrowd": 0}
        for i, image in enumerate(images)
    ]
    objects.append({"id": 99, "image_id": images[-1]["id"], "category_id": 7, "bbox": [0, 0, 10, 10], "iscrowd": 1})
    categories = [{"id": 90, "name": "toothbrush"}, {"id": 7, "name": "train"}, {"id": 13, "name": "stop sign"}]
    return {"images": images, "annotations": objects, "categories": categories} | changes


def put(root, content, path="instances.json", keys=("a.jpg",)):
    for key in keys:
        save(root / key, picture(0, height=40, width=60))
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(json.dumps(content))


# ---- the document


def test_classes_are_positions_in_the_order_of_ids():
    parsed = coco.parse(document())
    assert parsed.names == ("train", "stop sign", "toothbrush")
    (image,) = parsed.images
    assert [(one.number, one.box, one.crowd) for one in image.objects] == [
        (2, (6, 4, 36, 24), False),
        (0, (0, 0, 10, 10), True),
    ]
    assert parsed.problems == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bbox": [1, 2, 3]}, "without a box"),
        ({"bbox": None}, "without a box"),
        ({"bbox": ["a", 1, 2, 3]}, "without a box"),
        ({"bbox": [1, 2, 0, 3]}, "an empty box"),
        ({"bbox": [1, 2, float("nan"), 3]}, "an empty box"),
        ({"category_id": 1}, "of no category"),
        ({"category_id": [1]}, "of no category"),
        ({"image_id": 1}, "of no picture"),
    ],
)
def test_an_annotation_that_is_no_object_is_a_problem(change, reason):
    content = document()
    content["annotations"] += [content["annotations"][0] | change] * 2
    parsed = coco.parse(content)
    assert len(parsed.images[0].objects) == 2
    assert len(parsed.problems) == 1
    assert parsed.problems[0].startswith("2 annotation(s) skipped: ")
    assert reason in parsed.problems[0]


def test_picture_ids_may_be_text_here_and_numbers_there():
    content = document()
    content["annotations"][0]["image_id"] = "100"
    assert len(coco.parse(content).images[0].objects) == 2


@pytest.mark.parametrize(
    "content",
    [
        [],
        "images annotations categories",
        {"images": [], "annotations": [], "categories": []},
        document(annotations=[]),
        document(annotations=[{"image_id": 1, "caption": "a cat"}]),
        document(categories={}),
        document(images=[1]),
    ],
)
def test_other_documents_are_not_coco(content):
    assert not coco.is_coco(content)


# ---- which picture is meant


def sources(*keys):
    return [Source(Path("/data/set", key), key, 0) for key in keys]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a.jpg", "images/a.jpg"),
        ("val/b.jpg", "val/b.jpg"),
        ("train/b.jpg", "train/b.jpg"),
        ("D:\\work\\set\\train\\b.jpg", "train/b.jpg"),
        ("/elsewhere/val/b.jpg", "val/b.jpg"),
        ("set/c.jpg", "c.jpg"),
        ("c.jpg", "c.jpg"),
        ("missing.jpg", None),
        ("", None),
    ],
)
def test_pictures_are_matched_by_as_much_of_the_path_as_fits(name, key):
    there = sources("images/a.jpg", "thumbs/a.jpg", "val/b.jpg", "train/b.jpg", "c.jpg")
    (found,) = coco.match([name], there)
    assert (found.key if found else None) == key


def test_of_several_names_of_one_picture_the_one_that_fits_best_is_meant():
    (there,) = sources("val/1.jpg")
    assert coco.match(["train/1.jpg", "val/1.jpg", "1.jpg"], [there]) == [None, there, None]
    assert coco.match(["1.jpg", "1.jpg"], [there]) == [there, None]


# ---- where the file is


@pytest.mark.parametrize(
    ("path", "key", "root"),
    [
        ("instances.json", "a.jpg", "."),
        ("instances.json", "images/a.jpg", "."),
        ("instances.json", "images/a.jpg", "images"),
        ("annotations/instances_val.json", "val/a.jpg", "."),
        ("annotations/instances_val.json", "val/a.jpg", "val"),
        ("valid/_annotations.coco.json", "valid/a.jpg", "valid"),
    ],
)
def test_the_file_is_found(tmp_path, path, key, root, monkeypatch):
    put(tmp_path, document(), path, (key,))
    monkeypatch.chdir(tmp_path / root)
    for place in (tmp_path / root, type(tmp_path)(".")):
        assert layout.recognise(place) == "coco"
        found = layout.read(place)
        assert (found.kind, found.warnings) == ("coco", ())
        assert found.origin == (tmp_path / path)
        (one,) = found.pictures
        assert one.boxes.tolist() == [[6, 4, 36, 24], [0, 0, 10, 10]]
        assert one.classes.tolist() == [2, 0]
        assert one.crowd.tolist() == [False, True]
        assert (one.width, one.height) == (60, 40)


def test_of_several_files_the_one_that_describes_most_is_taken(tmp_path):
    put(tmp_path, document(("x.jpg", "a.jpg")), "annotations/instances_train.json", ("val/a.jpg", "val/b.jpg"))
    put(tmp_path, document(("a.jpg", "b.jpg")), "annotations/other.json", ())
    (tmp_path / "annotations" / "captions.json").write_text('{"images": [], "annotations": [], "categories": 3}')
    (tmp_path / "annotations" / "broken_val.json").write_text('"images" "annotations" "categories" {')
    found = layout.read(tmp_path / "val")
    assert found.origin.name == "other.json"
    assert len(found.pictures) == 2


def test_pictures_that_are_missing_or_not_described(tmp_path):
    put(tmp_path, document(("a.jpg", "gone.jpg")), keys=("a.jpg", "masks/a.png", "extra.jpg"))
    found = layout.read(tmp_path)
    assert [one.source.key for one in found.pictures] == ["a.jpg"]
    assert found.warnings == (f"instances.json: 1 of its 2 pictures are not in {tmp_path}",)


def test_a_picture_without_annotations_has_no_objects(tmp_path):
    content = document(("b.jpg", "a.jpg"))
    content["annotations"] = content["annotations"][:1]
    put(tmp_path, content, keys=("a.jpg", "b.jpg"))
    found = layout.read(tmp_path)
    assert [(one.source.key, len(one.boxes)) for one in found.pictures] == [("a.jpg", 0), ("b.jpg", 1)]


def test_no_file_no_labels(tmp_path):
    put(tmp_path, {"threshold": 3}, "settings.json")
    assert coco.find(scan(tmp_path)) is None
    with pytest.raises(EdgekitError, match="no coco labels"):
        layout.read(tmp_path, "coco")
    with pytest.raises(EdgekitError, match="no such folder"):
        layout.read(tmp_path / "nowhere")


def test_coco_comes_before_yolo_unless_told(tmp_path):
    put(tmp_path, document(("a.jpg",)), keys=("images/a.jpg",))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 1 1")
    assert layout.recognise(tmp_path) == "coco"
    assert layout.read(tmp_path).kind == "coco"
    assert layout.read(tmp_path, "yolo").pictures[0].boxes.tolist() == [[0, 0, 60, 40]]


def test_unreadable_pictures_are_left_out(tmp_path):
    put(tmp_path, document(("a.jpg", "b.jpg")), keys=("a.jpg", "b.jpg"))
    (tmp_path / "b.jpg").write_bytes(b"")
    found = layout.read(tmp_path)
    assert len(found.pictures) == 1
    assert found.warnings == ("b.jpg: left out: empty file",)


# ---- frames


def test_boxes_labelled_on_the_upright_picture_stay(tmp_path):
    content = document()
    content["images"][0] |= {"width": 40, "height": 60}
    put(tmp_path, content)
    exif(tmp_path / "a.jpg", 6)
    found = layout.read(tmp_path)
    assert found.warnings == ()
    assert (found.pictures[0].width, found.pictures[0].height) == (40, 60)
    assert found.pictures[0].boxes[0].tolist() == [6, 4, 36, 24]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_labelled_on_the_stored_picture_are_turned(tmp_path, orientation):
    """A white rectangle in the stored pixels has to be under its box in the decoded, upright ones."""
    from edgekit.data.images import decode

    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[8:16, 40:56] = 255
    content = document()
    content["annotations"] = [content["annotations"][0] | {"bbox": [40, 8, 16, 8]}]
    put(tmp_path, content)
    save(tmp_path / "a.jpg", pixels)
    exif(tmp_path / "a.jpg", orientation)
    (one,) = layout.read(tmp_path).pictures
    upright = decode((tmp_path / "a.jpg").read_bytes()).pixels[..., 0] > 128
    assert upright.shape == (one.height, one.width)
    rows, columns = np.nonzero(upright)
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert one.boxes.tolist() == [expected]


def test_turning_keeps_corners_in_order():
    for orientation in (5, 6, 7, 8):
        x0, y0, x1, y1 = coco.turned((1, 2, 5, 9), Header("jpeg", 60, 40, orientation))
        assert (x1 - x0, y1 - y0) == (7, 4)


def test_boxes_labelled_at_another_size_are_scaled(tmp_path):
    content = document()
    content["images"][0] |= {"width": 120, "height": 80}
    put(tmp_path, content)
    found = layout.read(tmp_path)
    assert found.pictures[0].boxes[0].tolist() == [3, 2, 18, 12]
    assert found.warnings == ("a.jpg: labelled at 120x80, the picture is 60x40: boxes scaled",)


def test_a_size_that_is_not_stated_is_the_pictures(tmp_path):
    content = document()
    del content["images"][0]["width"], content["images"][0]["height"]
    put(tmp_path, content)
    found = layout.read(tmp_path)
    assert (found.pictures[0].boxes[0].tolist(), found.warnings) == ([6, 4, 36, 24], ())


def test_the_real_set(assets):
    root = assets / "images" / "coco_val64"
    found = layout.read(root)
    assert (found.kind, len(found.pictures), len(found.names), found.warnings) == ("coco", 64, 80, ())
    assert sum(len(one.boxes) for one in found.pictures) == 461
    assert layout.recognise(assets / "images" / "coco_calib64") is None
