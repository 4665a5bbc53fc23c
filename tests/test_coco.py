from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_yolo import exif

from conftest import picture, save
from edgekit.augment import warp
from edgekit.data import coco, dataset, layout, rle
from edgekit.data.folder import Source, scan
from edgekit.data.points import flip_index
from edgekit.data.sample import Sample
from edgekit.data.writer import Output, Schema, writer
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


# ---- annotations


def test_classes_are_positions_in_the_order_of_ids(tmp_path):
    put(tmp_path, document())
    found = dataset.read(tmp_path)
    assert found.names == ("train", "stop sign", "toothbrush")
    assert [(one.number, one.box.tolist(), one.crowd) for one in found.entries[0].objects] == [
        (2, [6, 4, 36, 24], False),
        (0, [0, 0, 10, 10], True),
    ]
    assert found.mended == ()


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        ({"bbox": [1, 2, 3]}, "number", "without a box"),
        ({"bbox": None}, "number", "without a box"),
        ({"bbox": ["a", 1, 2, 3]}, "number", "without a box"),
        ({"bbox": [1, 2, 0, 3]}, "empty", "without area"),
        ({"bbox": [1, 2, float("nan"), 3]}, "number", "not a number"),
        ({"bbox": [100, 2, 5, 3]}, "outside", "outside the picture"),
        ({"category_id": 1}, "class", "of no category"),
        ({"category_id": [1]}, "class", "of no category"),
        ({}, "duplicate", "twice"),
    ],
)
def test_an_annotation_that_is_no_object_is_set_aside(tmp_path, change, kind, reason):
    content = document()
    content["annotations"] += [content["annotations"][0] | change] * 2
    put(tmp_path, content)
    labelled = dataset.read(tmp_path).entries[0].read()
    assert len(labelled.objects) == 2
    assert [(note.kind, note.dropped) for note in labelled.mended] == [(kind, True)] * 2
    assert reason in labelled.mended[0].what


@pytest.mark.parametrize(
    ("change", "kind", "box"),
    [
        ({"bbox": [-1, 2, 10, 10]}, "clipped", [0, 2, 9, 12]),
        ({"bbox": [30, 20, -10, -5]}, "reversed", [20, 15, 30, 20]),
        ({"bbox": [5, 5, 0, 0], "segmentation": [[1, 2, 9, 2, 9, 8]]}, "empty", [1, 2, 9, 8]),
        ({"bbox": None, "segmentation": [[1, 2, 9, 2, 9, 8]]}, "number", [1, 2, 9, 8]),
    ],
)
def test_an_annotation_that_is_slightly_wrong_is_mended(tmp_path, change, kind, box):
    content = document()
    content["annotations"] = [content["annotations"][0] | change]
    put(tmp_path, content)
    labelled = dataset.read(tmp_path).entries[0].read()
    assert labelled.objects[0].box.tolist() == box
    assert [(note.kind, note.dropped) for note in labelled.mended] == [(kind, False)]


def test_annotations_of_no_picture_are_counted(tmp_path):
    content = document()
    content["annotations"] += [content["annotations"][0] | {"image_id": 1}] * 2
    put(tmp_path, content)
    (note,) = dataset.read(tmp_path).mended
    assert (note.kind, note.count, note.dropped) == ("picture", 2, True)
    assert note.what == "2 annotations skipped: of no picture in the file"


def test_picture_ids_may_be_text_here_and_numbers_there(tmp_path):
    content = document()
    content["annotations"][0]["image_id"] = "100"
    put(tmp_path, content)
    assert len(dataset.read(tmp_path).entries[0].objects) == 2


@pytest.mark.parametrize(
    "content",
    [
        [],
        "images annotations categories",
        {"images": [], "annotations": [], "categories": []},
        document(annotations=[{"image_id": 1, "caption": "a cat"}]),
        document(categories={}),
        document(images=[1]),
    ],
)
def test_other_documents_are_not_coco(content):
    assert not coco.is_coco(content)


# ---- outlines and points


def one_object(root, **change):
    content = document()
    content["annotations"] = [content["annotations"][0] | change]
    put(root, content)
    labelled = dataset.read(root).entries[0].read()
    return labelled.objects[0], [note.kind for note in labelled.mended]


def test_polygons_and_what_is_wrong_with_them(tmp_path):
    one, kinds = one_object(tmp_path, segmentation=[[6, 4, 36, 4, 36, 24], [1, 2, 3], [7, 7, 8, 8, 9, 9], "x"])
    assert [part.tolist() for part in one.polygons] == [[[6, 4], [36, 4], [36, 24]]]
    assert kinds == ["outline", "outline"]
    one, kinds = one_object(tmp_path, segmentation=[[50, 30, 70, 30, 70, 50, 50, 50]])
    assert sorted(one.polygons[0].tolist()) == [[50, 30], [50, 40], [60, 30], [60, 40]]
    assert kinds == []


@pytest.mark.parametrize("compressed", [True, False])
def test_run_lengths(tmp_path, compressed):
    region = np.zeros((40, 60), bool)
    region[4:24, 6:36] = True
    counts = rle.encode(region) if compressed else rle.runs(region)
    one, kinds = one_object(tmp_path, iscrowd=1, segmentation={"size": [40, 60], "counts": counts})
    assert (one.crowd, kinds) == (True, [])
    assert np.array_equal(one.region, region)
    assert rewritten(tmp_path)["segmentation"] == {"size": [40, 60], "counts": counts}


def rewritten(root):
    """Give the first annotation as it is written again."""
    (entry,) = dataset.read(root, "coco").entries
    return writer("coco", Schema(("a", "b", "c"))).label(Output("a.jpg", 60, 40, entry.objects)).row["annotations"][0]


def test_a_first_annotation_without_a_box_does_not_hide_the_others(tmp_path):
    first = {"id": 1, "image_id": 1, "category_id": 1}
    images = [{"id": 1, "file_name": "a.jpg", "width": 60, "height": 40}]
    own = [first, first | {"id": 2, "bbox": [1, 2, 3, 4]}]
    save(tmp_path / "a.jpg", picture(0, 40, 60))
    (tmp_path / "a.json").write_text(
        json.dumps({"images": images, "annotations": own, "categories": [{"id": 1, "name": "x"}]})
    )
    found = dataset.read(tmp_path)
    assert (found.kind, len(found.entries[0].objects)) == ("coco", 1)


def test_keypoints_alone_have_a_box_around_them(tmp_path):
    images = [{"id": 1, "file_name": "a.jpg", "width": 60, "height": 40}]
    kinds = [{"id": 1, "name": "man", "keypoints": ["nose", "tail"]}]
    own = [
        {"id": n, "image_id": 1, "category_id": 1, "keypoints": [10, 5, 2, x, y, 1]}
        for n, x, y in ((1, 30, 25), (2, 10, 5))
    ]
    save(tmp_path / "a.jpg", picture(0, 40, 60))
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": own, "categories": kinds}))
    (entry,) = dataset.read(tmp_path).entries
    (one,) = entry.objects
    assert one.box.tolist() == [10, 5, 30, 25]
    assert [note.kind for note in entry.read().mended] == ["number", "number"]


def test_a_box_alone_has_an_empty_segmentation(tmp_path):
    one_object(tmp_path)
    assert rewritten(tmp_path)["segmentation"] == []


def test_the_area_stays_as_it_was_said_while_the_object_does(tmp_path):
    triangle = [[6, 4, 36, 4, 36, 24]]
    one, _ = one_object(tmp_path, segmentation=triangle, area=307.25)
    assert rewritten(tmp_path)["area"] == 307.25
    flip = np.array([[-1.0, 0, 60], [0, 1, 0], [0, 0, 1]])
    sample = Sample("a.jpg", np.zeros((40, 60, 1), np.uint8), objects=(one,))
    there = warp.move(sample, flip, (60, 40)).sample
    annotate = writer("coco", Schema(("a", "b", "c"))).label
    for moved, area in ((there, 300), (warp.move(there, flip, (60, 40)).sample, 307.25)):
        (annotation,) = annotate(Output("a.jpg", 60, 40, moved.objects)).row["annotations"]
        assert annotation["area"] == area
        assert not {"coco", "digest"} & set(annotation)
    one_object(tmp_path, bbox=[24.1, 4, 35.9 + 1e-7, 20], area=305)  # beyond the edge by a rounding error
    assert rewritten(tmp_path)["area"] == 305
    for wrong in ("x", -1, None, float("inf"), [1]):
        one_object(tmp_path, segmentation=triangle, area=wrong)
        assert rewritten(tmp_path)["area"] == 300
    one_object(tmp_path, bbox=[6, 4, 300, 20], area=77)  # mended
    assert rewritten(tmp_path)["area"] == 54 * 20


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [60, 40], "counts": [2400]},
        {"size": [40, 60], "counts": [1, 2]},
        {"size": [40, 60], "counts": [2400]},
        {"size": [40, 60], "counts": "~~~"},
        {"size": [40, 60], "counts": [-1, 2401]},
        {"size": [40, 60], "counts": 7},
        {"size": "x", "counts": ""},
        {"size": [10**9, 10**9], "counts": "0"},
        {},
    ],
)
def test_run_lengths_that_are_wrong_leave_the_box(tmp_path, segmentation):
    one, kinds = one_object(tmp_path, segmentation=segmentation)
    assert one.region is None
    assert one.box.tolist() == [6, 4, 36, 24]
    assert kinds == ["outline"]


def test_run_lengths_of_far_more_pixels_than_the_picture_are_not_decoded(tmp_path):
    content = document()
    content["images"][0] |= {"width": 6000, "height": 4000}
    whole = {"size": [4000, 6000], "counts": [0, 24_000_000]}
    content["annotations"] = [content["annotations"][0] | {"segmentation": whole}]
    put(tmp_path, content)
    labelled = dataset.read(tmp_path).entries[0].read()
    assert sorted(note.kind for note in labelled.mended) == ["outline", "size"]
    assert labelled.objects[0].region is None


def test_keypoints(tmp_path):
    content = document()
    names = ["nose", "left_eye", "right_eye"]
    content["categories"][0] |= {"keypoints": names, "skeleton": [[1, 2]]}
    content["annotations"][0]["keypoints"] = [10, 11, 2, 0, 0, 0, 12, 13, 1]
    content["annotations"][1]["keypoints"] = [10, 11]
    put(tmp_path, content)
    found = dataset.read(tmp_path)
    labelled = found.entries[0].read()
    assert (found.keypoint_shape, found.keypoint_names, found.flip_index) == ((3, 3), tuple(names), (0, 2, 1))
    assert labelled.objects[0].keypoints.tolist() == [[10, 11, 2], [0, 0, 0], [12, 13, 1]]
    assert labelled.objects[1].keypoints is None
    assert [note.kind for note in labelled.mended] == ["keypoints"]


@pytest.mark.parametrize(
    ("names", "index"),
    [
        (["nose", "left_eye", "right_eye"], (0, 2, 1)),
        (["Eye.L", "Eye.R"], (1, 0)),
        (["leftEye", "rightEye", "top"], (1, 0, 2)),
        (["l_1", "r_1"], (1, 0)),
        (["left_eye", "nose"], ()),
        ([], ()),
        (["a", "a"], ()),
    ],
)
def test_what_mirrors_a_point_is_told_by_names(names, index):
    assert flip_index(names) == index


def test_what_else_the_file_says_is_kept(tmp_path):
    content = document(info={"year": 2026}, licenses=[{"id": 1}])
    content["images"][0] |= {"license": 1, "coco_url": "x"}
    content["annotations"][0] |= {"attributes": {"occluded": True}}
    put(tmp_path, content)
    found = dataset.read(tmp_path)
    assert (found.about["info"], found.about["licenses"]) == ({"year": 2026}, [{"id": 1}])
    assert [one["id"] for one in found.about["categories"]] == [7, 13, 90]
    assert found.entries[0].extra == {"license": 1, "coco_url": "x"}
    assert found.entries[0].objects[0].extra == {"attributes": {"occluded": True}}


@pytest.mark.parametrize(
    "change",
    [
        {"bbox": [10**400, 1, 2, 3]},
        {"keypoints": [10**400] * 3},
        {"parts": "x"},
        {"segmentation": [[10**400] * 6, None, [[1]]]},
        {"segmentation": {"size": [40, 60], "counts": [1e300]}},
        {"category_id": True, "iscrowd": "x"},
    ],
)
def test_no_value_is_a_crash(tmp_path, change):
    content = document()
    content["categories"][0]["keypoints"] = ["nose"]
    content["annotations"] = [content["annotations"][0] | change]
    put(tmp_path, content)
    assert len(dataset.read(tmp_path).entries[0].read().mended) >= 1


# ---- run lengths


regions = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def slow_runs(region):
    """Walk the pixels column by column."""
    lengths, inside = [0], False
    for x in range(region.shape[1]):
        for y in range(region.shape[0]):
            if bool(region[y, x]) != inside:
                inside = not inside
                lengths.append(0)
            lengths[-1] += 1
    return lengths


@given(regions)
def test_run_lengths_against_a_walk_and_pycocotools(region):
    reference = pytest.importorskip("pycocotools.mask")
    assert rle.runs(region) == slow_runs(region)
    text = rle.encode(region)
    assert text.encode() == reference.encode(np.asfortranarray(region.astype(np.uint8)))["counts"]
    for counts in (text, text.encode(), rle.runs(region)):
        assert np.array_equal(rle.decode(counts, *region.shape), region)


def test_long_run_lengths_against_pycocotools():
    reference = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for share in (0, 0.001, 0.5, 0.999, 1):
        region = rng.random((311, 707)) < share
        coded = reference.encode(np.asfortranarray(region.astype(np.uint8)))
        assert rle.encode(region).encode() == coded["counts"]
        assert np.array_equal(rle.decode(coded["counts"], 311, 707), region)


@given(st.one_of(st.text(max_size=12), st.lists(st.integers(-3, 9), max_size=5)))
def test_no_run_lengths_are_a_crash(counts):
    with contextlib.suppress(ValueError):
        assert rle.decode(counts, 2, 3).shape == (2, 3)


# ---- several files


def test_a_file_a_split(tmp_path):
    for split, name in (("train", "1.jpg"), ("val", "1.jpg"), ("test", "2.jpg")):
        content = document((name,))
        if split == "val":  # other ids for the same names, and one of its own
            content["categories"] = [{"id": 1, "name": "toothbrush"}, {"id": 2, "name": "kite"}]
            content["annotations"] = [content["annotations"][0] | {"category_id": number} for number in (1, 2)]
        if split == "test":
            content["annotations"] = []
        put(tmp_path, content, f"annotations/instances_{split}2017.json", (f"{split}2017/{name}",))
    put(tmp_path, document(("1.jpg",)), "annotations/person_keypoints_val2017.json", ())
    found = dataset.read(tmp_path)
    assert found.splits == ("train", "val", "test")
    assert found.names == ("train", "stop sign", "toothbrush", "kite")
    assert [(one.key, one.split, [o.number for o in one.objects]) for one in found.entries] == [
        ("test2017/2.jpg", "test", []),
        ("train2017/1.jpg", "train", [2, 0]),
        ("val2017/1.jpg", "val", [2, 3]),
    ]
    assert found.mended == ()


def test_files_in_the_folders_of_their_pictures(tmp_path):
    for split in ("train", "valid"):
        put(tmp_path, document(), f"{split}/_annotations.coco.json", (f"{split}/a.jpg",))
    found = dataset.read(tmp_path)
    assert [(one.key, one.split) for one in found.entries] == [("train/a.jpg", "train"), ("valid/a.jpg", "val")]
    assert found.mended == ()


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
    assert found.warnings == (
        f"instances.json: 1 of its 2 pictures not found in {tmp_path}",
        f"{tmp_path}: 1 picture that no file describes: left out",
    )


def test_a_picture_without_annotations_has_no_objects(tmp_path):
    content = document(("b.jpg", "a.jpg"))
    content["annotations"] = content["annotations"][:1]
    put(tmp_path, content, keys=("a.jpg", "b.jpg"))
    found = layout.read(tmp_path)
    assert [(one.source.key, len(one.boxes)) for one in found.pictures] == [("a.jpg", 0), ("b.jpg", 1)]


def test_no_file_no_labels(tmp_path):
    put(tmp_path, {"threshold": 3}, "settings.json")
    assert coco.find(scan(tmp_path)) == ()
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
def test_labels_on_the_stored_picture_are_turned(tmp_path, orientation):
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


def test_boxes_labelled_at_another_size_are_scaled(tmp_path):
    content = document()
    content["images"][0] |= {"width": 120, "height": 80}
    put(tmp_path, content)
    found = layout.read(tmp_path)
    assert found.pictures[0].boxes[0].tolist() == [3, 2, 18, 12]
    assert found.warnings == ("a.jpg: labelled at 120x80, the picture is 60x40: labels scaled",)


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
