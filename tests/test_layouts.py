"""Data sets in every layout: recognised, read, written, and from each to each other."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_yolo import exif

from conftest import picture, save
from edgekit.data import dataset, masks, outline, rle
from edgekit.data.headers import Header
from edgekit.data.mend import KINDS as NOTE_KINDS
from edgekit.data.mend import Mended, Notes, clean
from edgekit.data.sample import Object
from edgekit.data.writer import Output, Schema, schema_of, writer
from edgekit.errors import EdgekitError

BOXED = ("coco", "yolo", "voc")
WIDTH, HEIGHT = 60, 40


def store(root, files):
    for path, data in files:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)


def write(root, kind, schema, outputs, picture_of=None):
    """Write outputs as the command does, rows through JSON and backwards; give the writer's notes."""
    made = writer(kind, schema)
    written = [made.label(output) for output in outputs]
    for one in reversed(written):
        made.take(json.loads(json.dumps(one.row)))
    for one, output in zip(written, outputs, strict=True):
        store(root, one.files)
        if picture_of is None:
            save(root / one.picture, np.zeros((output.height, output.width), np.uint8))
        else:
            store(root, [(one.picture, picture_of(output.key))])
    store(root, made.close())
    return [note for one in written for note in one.notes]


def outputs_of(found):
    for entry in found.entries:
        labelled = entry.read()
        mask, _ = entry.read_mask()
        size = (labelled.width, labelled.height)
        yield Output(entry.key, *size, labelled.objects, entry.label, mask, entry.split, entry.extra)


def convert(found, kind, root):
    """Write a data set in another layout; give it read again and the notes."""
    sources = {entry.key: entry.source.path for entry in found.entries}
    notes = write(root, kind, schema_of(found), list(outputs_of(found)), lambda key: sources[key].read_bytes())
    return dataset.read(root, kind), notes


def by_stem(found):
    """Give each picture's objects as (class name, box), by the end of its path."""
    return {
        entry.source.path.stem: [(found.names[one.number], one.box) for one in entry.read().objects]
        for entry in found.entries
    }


def assert_same_boxes(one, other, within):
    first, second = by_stem(one), by_stem(other)
    assert first.keys() == second.keys()
    for key, objects in first.items():
        assert [name for name, _ in objects] == [name for name, _ in second[key]]
        for (_, box), (_, again) in zip(objects, second[key], strict=True):
            assert np.abs(box - again).max() <= within + 1e-5


# ---- the same set in three forms


def test_the_readers_agree_on_the_real_set(assets):
    root = assets / "images" / "coco_val64"
    sets = {kind: dataset.read(root, kind) for kind in BOXED}
    assert dataset.recognise(root) == "coco"
    assert len({found.names for found in sets.values()}) == 1
    assert all(len(found.entries) == 64 for found in sets.values())
    assert_same_boxes(sets["coco"], sets["yolo"], 0.01)
    assert_same_boxes(sets["coco"], sets["voc"], 0.05)
    assert not list(sets["coco"].notes())
    assert not list(sets["yolo"].notes())
    assert [note.kind for note in sets["voc"].notes()] == ["frame"]  # its coordinates are fractions from 0
    segmented = dataset.read(root, "masks")
    with_mask = [entry for entry in segmented.entries if entry.mask is not None]
    assert len(with_mask) == len(list((root / "masks_semantic").iterdir()))
    for entry in with_mask[:5]:
        mask, notes = entry.read_mask()
        assert (mask.values.shape[::-1], notes) == (entry.size, ())


@pytest.mark.parametrize("first", BOXED)
@pytest.mark.parametrize("second", BOXED)
def test_the_real_set_goes_there_and_back(assets, tmp_path, first, second):
    source = dataset.read(assets / "images" / "coco_val64", first)
    there, lost = convert(source, second, tmp_path / "there")
    back, lost_again = convert(there, first, tmp_path / "back")
    assert (lost, lost_again, list(there.notes()), list(back.notes())) == ([], [], [], [])
    assert_same_boxes(source, there, 0.5 if second == "voc" else 0.01)
    assert_same_boxes(source, back, 0.5 if "voc" in (first, second) else 0.02)
    assert back.names == source.names


def test_pycocotools_reads_what_is_written(assets, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    source = dataset.read(assets / "images" / "coco_val64", "yolo")
    convert(source, "coco", tmp_path)
    loaded = coco.COCO(str(tmp_path / "annotations" / "instances.json"))
    assert (len(loaded.imgs), len(loaded.anns), len(loaded.cats)) == (64, 461, 80)
    assert all((tmp_path / "images" / image["file_name"]).is_file() for image in loaded.imgs.values())


# ---- any objects through any layout


places = st.tuples(*[st.floats(0, side - 2.0) for side in (WIDTH, HEIGHT)])
sides = st.tuples(st.floats(1.01, WIDTH), st.floats(1.01, HEIGHT))


@st.composite
def objects(draw, outlined=None):
    x, y = draw(places)
    width, height = draw(sides)
    box = np.array([x, y, min(x + width, WIDTH), min(y + height, HEIGHT)])
    number = draw(st.integers(0, 3))
    if not (draw(st.booleans()) if outlined is None else outlined):
        return Object(number, box)
    x0, y0, x1, y1 = box
    share = draw(st.floats(0.1, 0.9))
    polygon = np.array([[x0, y0 + share * (y1 - y0)], [x0 + share * (x1 - x0), y0], [x1, y1], [x0, y1]])
    return Object(number, box, (polygon,))


def distinct(found):
    return len({(one.number, *np.round(one.box).tolist()) for one in found}) == len(found)


pictures = st.lists(st.lists(objects(), max_size=4).filter(distinct), min_size=1, max_size=3)
SCHEMA = Schema(("cat", 'it\'s: a "dog"', "ünï", "no"))
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(pictures, st.lists(st.sampled_from(BOXED), min_size=1, max_size=4))
def test_boxes_survive_any_chain_of_layouts(sets, kinds):
    outputs = [Output(f"p{number}.png", WIDTH, HEIGHT, found) for number, found in enumerate(sets)]
    if not any(sets):
        return  # an empty set is of no layout
    with tempfile.TemporaryDirectory() as folder:
        found = None
        for step, kind in enumerate(kinds):
            root = Path(folder, str(step))
            if found is None:
                write(root, kind, SCHEMA, outputs)
                found = dataset.read(root, kind)
            else:
                found, _ = convert(found, kind, root)
        assert found is not None
        assert found.names == SCHEMA.names
        within = 0.5 * min(kinds.count("voc"), 1) + 0.01 * len(kinds)
        for entry, given_objects in zip(found.entries, sets, strict=True):
            labelled = entry.read()
            assert labelled.mended == ()
            assert [one.number for one in labelled.objects] == [one.number for one in given_objects]
            for one, again in zip(given_objects, labelled.objects, strict=True):
                assert np.abs(one.box - again.box).max() <= within


@quick
@given(st.lists(objects(outlined=True), min_size=1, max_size=3).filter(distinct), st.sampled_from(["coco", "yolo"]))
def test_outlines_survive(found, kind):
    with tempfile.TemporaryDirectory() as folder:
        notes = write(Path(folder), kind, SCHEMA, [Output("a.png", WIDTH, HEIGHT, found)])
        again = dataset.read(Path(folder), kind).entries[0].read().objects
        assert notes == []
        for one, other in zip(found, again, strict=True):
            assert np.abs(one.polygons[0] - other.polygons[0]).max() <= 0.01


@quick
@given(st.lists(st.tuples(places, st.integers(0, 2)), min_size=3, max_size=3), st.sampled_from(["coco", "yolo"]))
def test_keypoints_survive(points, kind):
    schema = Schema(("man",), (3, 3), ("nose", "left_ear", "right_ear"), (0, 2, 1))
    rows = np.array([[x * (seen > 0), y * (seen > 0), seen] for (x, y), seen in points])
    one = Object(0, np.array([1.0, 2, 30, 20]), keypoints=rows)
    with tempfile.TemporaryDirectory() as folder:
        assert write(Path(folder), kind, schema, [Output("a.png", WIDTH, HEIGHT, (one,))]) == []
        found = dataset.read(Path(folder))
        assert schema_of(found).flip_index == schema.flip_index
        assert (found.keypoint_shape, found.keypoint_names) == (schema.keypoint_shape, schema.keypoint_names)
        (again,) = found.entries[0].read().objects
        assert np.abs(again.keypoints - rows).max() <= 0.01


@quick
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.sampled_from(["coco", "yolo", "voc"]))
def test_masks_survive_as_objects(rows, kind):
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    for place, value in enumerate(rows):
        values[place : 3 * place + 4, 2 * place : 3 * place + 7 + value] = value
    names = Schema(("a", "b", "c", "d"))
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, "1"), "masks", names, [Output("a.png", WIDTH, HEIGHT, mask=masks.Mask(values))])
        first = dataset.read(Path(folder, "1"))
        there, notes = convert(first, kind, Path(folder, "2"))
        back, _ = convert(there, "masks", Path(folder, "3"))
        mask, _ = back.entries[0].read_mask()
        assert np.array_equal(mask.values, values)
        assert all(note.kind == "lost" for note in notes)
        assert kind == "voc" or back.names == names.names


# ---- what a layout cannot hold


def full_object():
    box, polygon = np.array([5.0, 5, 20, 20]), np.array([[5.0, 5], [20, 5], [20, 20]])
    points = np.array([[6.0, 7, 1], [0, 0, 0]])
    return Object(0, box, (polygon, polygon + np.array([20, 5])), None, points, crowd=True, extra={"score": 0.5})


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("coco", set()),
        ("yolo", {"crowds", "fields", "keypoints", "outlines in parts", "boxes beside", "classes of whole"}),
        ("voc", {"keypoints", "crowds"}),
        ("masks", {"keypoints", "crowds", "fields"}),
        ("folder", {"objects"}),
        ("none", set()),
    ],
)
def test_what_is_lost_is_said(kind, expected):
    schema = Schema(("a",), (2, 3)) if kind == "coco" else Schema(("a",))
    label = "cats" if kind in ("yolo", "folder") else None
    written = writer(kind, schema).label(Output("x/a.jpg", 60, 40, (full_object(),), label))
    told = [note.what for note in written.notes]
    assert all(note.kind == "lost" and note.key == "x/a.jpg" for note in written.notes)
    assert len(told) == len(expected)
    assert all(any(f"{kind} has no {word}" in what for what in told) for word in expected)


def test_a_mask_that_is_no_classes_is_lost_with_a_note():
    mask = masks.Mask(np.zeros((40, 60), np.uint8), colours=np.array([[1, 2, 3]], np.uint8))
    for kind, count in (("coco", 1), ("yolo", 1), ("folder", 1), ("voc", 0), ("masks", 0)):
        written = writer(kind, Schema()).label(Output("a.jpg", 60, 40, mask=mask))
        assert [note.what for note in written.notes] == [f"{kind} has no masks"] * count


# ---- each writer


def test_coco_keeps_ids_and_what_else_is_known():
    categories = [{"id": 7, "name": "b", "supercategory": "x"}, {"id": 90, "name": "a"}]
    schema = Schema(("b", "a", "new"), about={"info": {"year": 1}, "licenses": [], "categories": categories})
    made = writer("coco", schema)
    region = np.zeros((40, 60), bool)
    region[3:5, 2:9] = True
    crowd = Object(1, np.array([2.0, 3, 9, 5]), region=region, crowd=True)
    one = Object(2, np.array([1.0, 2, 4.12345, 8]), extra={"score": 0.5, "parts": (crowd,)})
    for key, split in (("val/b.jpg", "val"), ("train/images/a.jpg", "train"), ("images/c.jpg", "train")):
        made.take(made.label(Output(key, 60, 40, (one, crowd), split=split, extra={"license": 3})).row)
    (train, data), (val, _) = made.close()
    assert (train, val) == ("annotations/instances_train.json", "annotations/instances_val.json")
    content = json.loads(data)
    assert content["info"] == {"year": 1}
    assert content["categories"] == [*categories, {"id": 91, "name": "new"}]
    assert [(image["file_name"], image["license"]) for image in content["images"]] == [("c.jpg", 3), ("a.jpg", 3)]
    first, second = content["annotations"][:2]
    assert (first["category_id"], first["bbox"], first["score"]) == (91, [1, 2, 3.123, 6], 0.5)
    assert (second["category_id"], second["iscrowd"], second["area"]) == (90, 1, 14)
    assert np.array_equal(rle.decode(second["segmentation"]["counts"], *second["segmentation"]["size"]), region)
    assert [one["id"] for one in content["annotations"]] == [1, 2, 3, 4]


def test_pictures_of_one_name_keep_their_folders_in_coco():
    made = writer("coco", Schema())
    for key in ("images/a.jpg", "a.jpg", "b.jpg"):
        made.take(made.label(Output(key, 60, 40)).row)
    ((_, data),) = made.close()
    assert [image["file_name"] for image in json.loads(data)["images"]] == ["a.jpg", "b.jpg", "images/a.jpg"]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"images/train/a.jpg": "train", "images/val/b.jpg": "val"}, "train: images/train\nval: images/val\n"),
        ({"train/images/a.jpg": "train", "valid/images/b.jpg": "val"}, "train: train/images\nval: valid/images\n"),
        ({"a.jpg": None}, "train: images\nval: images\n"),
        ({"x/a.jpg": "train", "y/b.jpg": "test"}, "train: images/train\nval: images/train\ntest: images/test\n"),
        ({"images/a.jpg": "train", "images/b.jpg": "val"}, "train: train.txt\nval: val.txt\n"),
        ({"images/a.jpg": "train", "images/val/b.jpg": "val"}, "train: train.txt\nval: val.txt\n"),
        ({"p/images/a.jpg": "train", "q/images/b.jpg": "train"}, None),
    ],
)
def test_yolo_says_where_splits_are(keys, expected):
    made = writer("yolo", Schema(("a", "no", "it's")))
    for key, split in keys.items():
        made.take(made.label(Output(key, 60, 40, split=split)).row)
    files = dict(made.close())
    text = files["data.yaml"].decode()
    start = expected or "train: [p/images, q/images]\nval: [p/images, q/images]\n"
    assert text == start + 'nc: 3\nnames:\n  0: a\n  1: "no"\n  2: "it\'s"\n'
    if "train.txt" in text:
        assert files["train.txt"] == b"./images/a.jpg\n"


def test_yolo_lines_of_one_file_are_of_one_form():
    box, outlined = Object(0, np.array([6.0, 4, 30, 20])), full_object()
    boxes = writer("yolo", Schema()).label(Output("a.jpg", 60, 40, (box,)))
    both = writer("yolo", Schema()).label(Output("a.jpg", 60, 40, (box, outlined)))
    pose = writer("yolo", Schema(keypoint_shape=(2, 3))).label(Output("a.jpg", 60, 40, (box, outlined)))
    assert boxes.files == (("labels/a.txt", b"0 0.3 0.3 0.4 0.4\n"),)
    assert both.files[0][1].decode().splitlines()[0] == "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5"
    lines = pose.files[0][1].decode().splitlines()
    assert lines[0] == "0 0.3 0.3 0.4 0.4 0 0 0 0 0 0"
    assert lines[1].endswith(" 0.1 0.175 1 0 0 0")


def test_a_turned_box_stays_one(tmp_path):
    turned = Object(
        0, np.array([10.0, 5, 30, 25]), (np.array([[20.0, 5], [30, 15], [20, 25], [10, 15]]),), oriented=True
    )
    plain = Object(0, np.array([40.0, 5, 50, 25]))
    blank = Output("b.png", 60, 40, (plain,))
    found = None
    for step, kind in enumerate(("yolo", "coco", "voc", "yolo", "voc", "coco", "yolo")):
        root = tmp_path / str(step)
        if found is None:
            write(root, kind, Schema(("a",), form="oriented"), [Output("a.png", 60, 40, (turned, plain)), blank])
        else:
            convert(found, kind, root)
        found = dataset.read(root)
        assert (found.kind, found.form) == (kind, "oriented")
        again, _ = found.entries[0].objects
        assert again.oriented
        assert np.abs(again.polygons[0] - turned.polygons[0]).max() < 0.01
    assert "task: obb\n" in (root / "data.yaml").read_text()
    assert [len(line.split()) for path in (root / "labels").glob("*.txt") for line in path.open()] == [9, 9, 9]


def test_turned_boxes_in_yolo_lie_inside_the_picture(tmp_path):
    corners = np.array([[50.0, 5], [65, 15], [55, 25], [40, 15]])
    outlined = replace(full_object(), keypoints=None, crowd=False, extra={})
    objects = (Object(0, np.array([40.0, 5, 60, 25]), (corners,), oriented=True), outlined)
    notes = write(tmp_path, "yolo", Schema(("a",), form="oriented"), [Output("a.png", 60, 40, objects)])
    assert [note.what for note in notes] == [
        "yolo has no corners outside the picture (moved to its edge): of 1 object",
        "yolo has no outlines among turned boxes (their smallest rectangle): of 1 object",
    ]
    one, other = dataset.read(tmp_path).entries[0].objects
    assert np.abs(one.polygons[0] - np.clip(corners, 0, [60, 40])).max() < 0.01
    whole = np.concatenate(outlined.polygons)
    assert (outline.paint([whole], (60, 40)) & ~outline.paint(other.polygons, (60, 40))).sum() == 0


def test_a_set_with_outlines_has_them_in_every_line(tmp_path):
    box = Object(0, np.array([6.0, 4, 30, 20]))
    written = writer("yolo", Schema(form="outline")).label(Output("a.jpg", 60, 40, (box,)))
    assert written.files[0][1] == b"0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n"


def test_parts_and_holes_are_one_polygon_in_yolo(tmp_path):
    region = np.zeros((HEIGHT, WIDTH), bool)
    region[5:20, 5:20] = True
    region[8:12, 8:12] = False
    region[25:30, 40:50] = True
    one = Object(0, outline.bounds((), region), region=region)
    notes = write(tmp_path, "yolo", Schema(("a",)), [Output("a.png", WIDTH, HEIGHT, (one,))])
    (again,) = dataset.read(tmp_path).entries[0].objects
    assert np.array_equal(outline.paint(again.polygons, (WIDTH, HEIGHT)), region)
    assert [note.kind for note in notes] == ["lost"]


@pytest.mark.parametrize(
    ("kind", "key", "split", "label", "picture_path"),
    [
        ("yolo", "cats/a.jpg", None, "cats", "images/cats/a.jpg"),
        ("yolo", "val2017/a.jpg", "val", None, "images/val2017/a.jpg"),
        ("yolo", "JPEGImages/a.jpg", "val", None, "images/val/a.jpg"),
        ("voc", "images/train/a.jpg", "train", None, "JPEGImages/train/a.jpg"),
        ("voc", "VOC/JPEGImages/a.jpg", "train", None, "VOC/JPEGImages/a.jpg"),
        ("masks", "a.jpg", None, None, "images/a.jpg"),
        ("coco", "x/a.jpg", "train", None, "x/a.jpg"),
        ("folder", "cats/a.jpg", None, "cats", "cats/a.jpg"),
        ("folder", "train/cats/a.jpg", "train", "cats", "train/cats/a.jpg"),
        ("folder", "images/a.jpg", "val", "cats", "val/cats/a.jpg"),
        ("none", "x/a.jpg", "train", None, "train/x/a.jpg"),
        ("none", "x/train/a.jpg", "train", None, "x/train/a.jpg"),
    ],
)
def test_where_pictures_go(kind, key, split, label, picture_path):
    assert writer(kind, Schema()).place(key, split, label) == picture_path


def test_two_pictures_that_would_share_a_label_file():
    made = writer("yolo", Schema(("a",)))
    one = Object(0, np.array([5.0, 5, 20, 20]))
    made.take(made.label(Output("a.jpg", 60, 40, (one,))).row)
    made.take(made.label(Output("a.png", 60, 40, (one,))).row)  # the same labels
    with pytest.raises(EdgekitError, match=r"images/a.bmp and images/a.jpg would share the label file labels/a.txt"):
        made.take(made.label(Output("a.bmp", 60, 40)).row)


def test_the_order_of_pictures_does_not_matter():
    for kind in dataset.KINDS:
        closed = []
        for order in (1, -1):
            made = writer(kind, Schema(("a", "b")))
            for key in ["train/b.jpg", "val/a.jpg", "c.jpg"][::order]:
                one = Object(1, np.array([5.0, 5, 20, 20]))
                made.take(made.label(Output(key, 60, 40, (one,), split="train" if "tr" in key else None)).row)
            closed.append(made.close())
        assert closed[0] == closed[1]


# ---- recognised


def test_class_folders_and_their_splits(tmp_path):
    for key in ("train/cats/a.jpg", "train/dogs/big/b.jpg", "valid/cats/c.jpg", "test/cats/d.jpg"):
        save(tmp_path / key, picture(0))
    found = dataset.read(tmp_path)
    assert (found.kind, found.names, found.splits) == ("folder", ("cats", "dogs/big"), ("train", "val", "test"))
    assert [(one.split, one.label) for one in found.entries] == [
        ("test", "cats"),
        ("train", "cats"),
        ("train", "dogs/big"),
        ("val", "cats"),
    ]
    there, notes = convert(found, "folder", tmp_path / "out")
    assert (there.names, there.splits, notes) == (found.names, found.splits, [])


@pytest.mark.parametrize(
    ("keys", "kind", "names", "splits"),
    [
        (("a.jpg", "b.jpg"), "none", (), ()),
        (("train/a.jpg", "val/b.jpg"), "none", (), ("train", "val")),
        (("train/a.jpg", "car/b.jpg"), "folder", ("car", "train"), ()),
        (("train/a.jpg",), "folder", ("train",), ()),
        (("images/a.jpg",), "none", (), ()),
        (("images/train/a.jpg", "images/val/b.jpg"), "none", (), ("train", "val")),
        (("images/train/cats/a.jpg", "images/val/b.jpg"), "folder", ("images/train/cats", "images/val"), ()),
        (("a.jpg", "cats/b.jpg"), "folder", ("cats",), ()),
    ],
)
def test_pictures_without_label_files(tmp_path, keys, kind, names, splits):
    for key in keys:
        save(tmp_path / key, picture(0))
    found = dataset.read(tmp_path)
    assert (dataset.recognise(tmp_path), found.kind, found.names, found.splits) == (kind, kind, names, splits)
    assert all(one.read().objects == () for one in found.entries)


def test_what_cannot_be_read_is_an_error_of_the_users(tmp_path):
    save(tmp_path / "a.jpg", picture(0))
    with pytest.raises(EdgekitError, match="yol: no such form of labels") as caught:
        dataset.read(tmp_path, "yol")
    assert caught.value.hint == "did you mean yolo?"
    with pytest.raises(EdgekitError, match="left: no such frame") as caught:
        dataset.read(tmp_path, frame="left")
    assert "raw" in caught.value.hint
    for kind in ("coco", "yolo", "voc", "masks", "folder"):
        with pytest.raises(EdgekitError, match=f"no {kind} labels found"):
            dataset.read(tmp_path, kind)


# ---- frames


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", BOXED)
def test_labels_that_are_said_to_be_of_the_stored_picture(tmp_path, kind, orientation):
    from edgekit.data.images import decode

    one = Object(0, np.array([40.0, 8, 56, 16]))
    write(tmp_path, kind, Schema(("a",)), [Output("a.jpg", WIDTH, HEIGHT, (one,))])
    (entry,) = dataset.read(tmp_path).entries
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[8:16, 40:56] = 255
    save(entry.source.path, pixels)
    exif(entry.source.path, orientation)
    rows, columns = np.nonzero(decode(entry.source.path.read_bytes()).pixels[..., 0] > 128)
    (entry,) = dataset.read(tmp_path, kind, frame="raw").entries
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert entry.objects[0].box.tolist() == pytest.approx(expected)
    if orientation < 5:
        assert dataset.read(tmp_path, kind).entries[0].objects[0].box.tolist() == pytest.approx([40, 8, 56, 16])


# ---- mending


def test_notes_are_counted_by_the_caller(tmp_path):
    write(tmp_path, "yolo", Schema(("a",)), [Output("a.png", 60, 40), Output("b.png", 60, 40)])
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 2.5 0.1\n7 0.5 0.5 0.1 0.1\n0 0.98 0.5 0.1 0.1\n")
    (tmp_path / "images" / "b.png").write_bytes(b"")
    notes = list(dataset.read(tmp_path, "yolo").notes())
    assert [(note.key, note.kind, note.dropped) for note in notes] == [
        ("images/a.png", "line", True),
        ("images/a.png", "class", True),
        ("images/a.png", "clipped", False),
        ("images/b.png", "picture", True),
    ]
    assert all(note.kind in NOTE_KINDS for note in notes)
    assert str(notes[-1]) == "images/b.png: left out: empty file"


def test_a_known_header_saves_reading_it(tmp_path):
    write(tmp_path, "yolo", Schema(("a",)), [Output("a.png", 60, 40, (Object(0, np.array([6.0, 4, 30, 20])),))])
    (entry,) = dataset.read(tmp_path).entries
    entry.source.path.unlink()
    assert entry.read(Header("png", 120, 40)).objects[0].box.tolist() == pytest.approx([12, 4, 60, 20])
    with pytest.raises(OSError, match="No such file"):
        entry.read()


numbers = st.one_of(st.floats(width=32), st.sampled_from([float("nan"), float("inf"), -1.0, 0.0, 40.0, 60.0]))


@given(
    st.lists(numbers, min_size=4, max_size=4),
    st.lists(st.tuples(numbers, numbers), max_size=6),
    st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=3),
    st.integers(-1, 3),
)
def test_whatever_the_numbers_are_objects_come_out_whole(box, polygon, points, number):
    notes = Notes("a.jpg")
    parts = (np.array(polygon, np.float64).reshape(-1, 2),) if polygon else ()
    one = Object(number, np.array(box, np.float64), parts, keypoints=np.array(points, np.float64))
    with np.errstate(all="ignore"):
        kept = clean([one, one], (60, 40), 2, notes)
    assert len(kept) <= 1
    assert all(isinstance(note, Mended) for note in notes.rows)
    assert kept or any(note.dropped for note in notes.rows)
    for whole in kept:
        x0, y0, x1, y1 = whole.box
        assert 0 <= x0 < x1 <= 60
        assert 0 <= y0 < y1 <= 40
        assert 0 <= whole.number < 2
        for part in whole.polygons:
            assert len(part) >= 3
            assert (part >= 0).all()
            assert (part <= [60, 40]).all()
        assert np.isfinite(whole.keypoints).all()
        assert set(whole.keypoints[:, 2]) <= {0.0, 1.0, 2.0}
