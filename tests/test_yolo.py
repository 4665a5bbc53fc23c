from __future__ import annotations

import contextlib
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import picture, save
from edgekit.data import dataset, layout, yaml, yolo
from edgekit.data.dataset_yaml import parse_names
from edgekit.data.folder import scan
from edgekit.data.writer import Output, schema_of, writer
from edgekit.errors import EdgekitError

LINE = "0 0.5 0.5 0.2 0.4\n"


def exif(path, orientation):
    """Put an orientation into a JPEG."""
    block = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 274, 3, 1, orientation, 0, 0)
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:])


def put(root, key, line=LINE, **options):
    """Write a picture and, at the given place, its label file: put(root, 'images/a.jpg', labels='labels/a.txt')."""
    save(root / key, picture(0, height=40, width=60))
    for place in options.values():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(line)


# ---- lines


def test_boxes_are_corners_as_shares():
    parsed = yolo.parse("3 0.5 0.5 0.2 0.4\n0 0.25 0.25 0.5 0.5 0.9\n")
    assert parsed.problems == ()
    assert [one.number for one in parsed.shapes] == [3, 0]
    assert parsed.shapes[0].box == pytest.approx((0.4, 0.3, 0.6, 0.7))
    assert parsed.shapes[1].box == pytest.approx((0, 0, 0.5, 0.5))


def test_blank_lines_a_byte_order_mark_and_windows_ends_do_not_matter(tmp_path):
    put(tmp_path, "a.jpg", "\ufeff0 0.5 0.5 0.2 0.4\r\n\r\n", beside="a.txt")
    assert layout.read(tmp_path).warnings == ()


def test_a_turned_box_without_area_is_a_box(tmp_path):
    text = "0 0.1 0.1 0.5 0.5 0.5 0.5 0.1 0.1\n0 0.5 0.2 0.7 0.5 0.5 0.8 0.3 0.5\n"
    put(tmp_path, "images/a.jpg", text, label="labels/a.txt")
    found, (flat, turned) = read_one(tmp_path)
    assert (found.form, flat.oriented, flat.polygons, turned.oriented) == ("oriented", False, (), True)


def test_a_label_file_too_large_to_be_one_is_set_aside(tmp_path, monkeypatch):
    put(tmp_path, "images/a.jpg", label="labels/a.txt")
    put(tmp_path, "images/b.jpg", 9 * LINE, label="labels/b.txt")
    monkeypatch.setattr(yolo, "_LONGEST", 2 * len(LINE))
    kinds = [[note.kind for note in entry.read().mended] for entry in dataset.read(tmp_path).entries]
    assert kinds == [[], ["file"]]


def test_names_of_classes_are_mended_to_their_numbers(tmp_path):
    put(tmp_path, "images/a.jpg", "dog 0.5 0.5 0.2 0.4\ncow 0.5 0.5 0.2 0.4\n1 0.5 0.5 0.3 0.4\n", label="labels/a.txt")
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\n")
    labelled = dataset.read(tmp_path).entries[0].read()
    assert [one.number for one in labelled.objects] == [1, 1]
    assert [(note.kind, note.dropped) for note in labelled.mended] == [("class", False), ("line", True)]


def test_polygons_have_their_bounds():
    (one,) = yolo.parse("2 0.1 0.2 0.5 0.1 0.4 0.6").shapes
    assert (one.number, one.box) == (2, (0.1, 0.1, 0.5, 0.6))
    assert one.outline == ((0.1, 0.2), (0.5, 0.1), (0.4, 0.6))


@pytest.mark.parametrize(
    ("shape", "points", "expected"),
    [
        ((2, 3), "0.9 0.9 2 0 0 0", ((0.9, 0.9, 2), (0, 0, 0))),
        ((3, 2), "0.9 0.9 0 0 0.1 0.2", ((0.9, 0.9, 2), (0, 0, 0), (0.1, 0.2, 2))),
    ],
)
def test_keypoints_are_told_from_polygons_by_their_number(shape, points, expected):
    (one,) = yolo.parse(f"0 0.5 0.5 0.2 0.4 {points}", keypoint_shape=shape).shapes
    assert one.box == pytest.approx((0.4, 0.3, 0.6, 0.7))
    assert one.points == expected


@pytest.mark.parametrize(
    ("line", "kind", "reason"),
    [
        ("cat 0.5 0.5 0.1 0.1", "line", "cat is not a number"),
        ("1.5 0.5 0.5 0.1 0.1", "class", "not a class number"),
        ("-1 0.5 0.5 0.1 0.1", "class", "not a class number"),
        ("0 0.5 0.5 0.1", "line", "4 values"),
        ("0", "line", "1 values"),
        ("0 0.5 0.5 nan 0.1", "number", "not finite"),
        ("0 320 240 50 60", "line", "not shares"),
        ("80 0.5 0.5 0.1 0.1", "class", "names for 80"),
        ("99999999999999999999 0.5 0.5 0.1 0.1", "class", "not a class number"),
        ("0 0.1 0.1 0.5 0.5 0.5 0.5 0.1", "line", "8 values"),
    ],
)
def test_a_line_that_is_no_object_is_a_problem(line, kind, reason):
    parsed = yolo.parse(LINE + line, classes=80)
    assert len(parsed.shapes) == 1
    ((told, problem),) = parsed.problems
    assert (told, problem[:16]) == (kind, "line 2 skipped: ")
    assert reason in problem


@pytest.mark.parametrize(
    ("line", "kind", "box"),
    [
        ("0 0.05 0.95 0.2 0.2", "clipped", [0, 34, 9, 40]),
        ("0 0.5 0.5 -0.2 0.4", "reversed", [24, 12, 36, 28]),
        ("0 0.5 0.5 0 0.1", "empty", None),
        ("0 1.2 0.5 0.1 0.1", "outside", None),
        (LINE * 2, "duplicate", [24, 12, 36, 28]),
        ("0 0.5 0.5 1.00001 1", None, [0, 0, 60, 40]),
    ],
)
def test_an_object_that_is_slightly_wrong_is_mended_or_set_aside(tmp_path, line, kind, box):
    put(tmp_path, "images/a.jpg", line, label="labels/a.txt")
    labelled = dataset.read(tmp_path, "yolo").entries[0].read()
    assert [one.kind for one in labelled.mended] == ([kind] if kind else [])
    assert [one.box.tolist() for one in labelled.objects] == ([pytest.approx(box)] if box else [])
    assert all(note.dropped == (box is None or kind == "duplicate") for note in labelled.mended)
    assert all(note.key == "images/a.jpg" for note in labelled.mended)


# ---- outlines and points


def read_one(root):
    found = dataset.read(root, "yolo")
    return found, found.entries[0].read().objects


def test_polygons_are_in_pixels(tmp_path):
    put(tmp_path, "images/a.jpg", "0 0.1 0.1 0.5 0.1 0.5 0.5\n", label="labels/a.txt")
    _, (one,) = read_one(tmp_path)
    assert one.polygons[0].tolist() == [pytest.approx(point) for point in ([6, 4], [30, 4], [30, 20])]
    assert one.box.tolist() == pytest.approx([6, 4, 30, 20])
    assert not one.oriented


def test_outlines_of_four_corners_throughout_are_turned_boxes(tmp_path):
    four = "0 0.5 0.2 0.7 0.5 0.5 0.8 0.3 0.5\n"
    put(tmp_path, "images/a.jpg", four, label="labels/a.txt")
    put(tmp_path, "images/b.jpg", four * 1, label="labels/b.txt")
    assert read_one(tmp_path)[1][0].oriented
    assert dataset.read(tmp_path).form == "oriented"
    for more, form in (
        ("0 0.1 0.1 0.5 0.1 0.5 0.5\n", "outline"),  # three corners
        ("0 0.5 0.5 0.2 0.4\n", "outline"),  # a box
        ("0 0.1 0.1 0.5 0.1 0.9 0.9 0.1 0.5\n", "outline"),  # no parallelogram
        ("\n" + 8 * four + "0 0.1 0.1 0.5 0.1 0.9 0.9 0.1 0.5\n", "oriented"),  # one in ten
        ("0 0.5 0.2 0.7 0.5 0.5 0.8 0.3 x\n", "outline"),
    ):
        put(tmp_path, "images/b.jpg", four + more, label="labels/b.txt")
        found, (one, *_) = read_one(tmp_path)
        assert (found.form, one.oriented) == (form, form == "oriented")


@pytest.mark.parametrize(("task", "form"), [("obb", "oriented"), ("segment", "outline"), ("", "oriented")])
def test_the_task_says_what_four_corners_are(tmp_path, task, form):
    text = "0 0.5 0.2 0.7 0.5 0.5 0.8 0.3 0.5\n" + ("0 0.1 0.1 0.5 0.1 0.5 0.5\n" if task == "obb" else "")
    put(tmp_path, "images/a.jpg", text, label="labels/a.txt")
    (tmp_path / "data.yaml").write_text("names: [a]\n" + (f"task: {task}\n" if task else ""))
    found, objects = read_one(tmp_path)
    assert found.form == form
    assert [one.oriented for one in objects] == [form == "oriented", False][: len(objects)]


def test_corners_of_a_turned_box_stay_outside_the_picture(tmp_path):
    put(tmp_path, "images/a.jpg", "0 0.9 0.2 1.1 0.5 0.9 0.8 0.7 0.5\n", label="labels/a.txt")
    _, (one,) = read_one(tmp_path)
    assert one.polygons[0].tolist() == [pytest.approx(corner) for corner in ([54, 8], [66, 20], [54, 32], [42, 20])]
    assert one.box.tolist() == pytest.approx([42, 8, 60, 32])


def test_keypoints_and_what_mirrors_them(tmp_path):
    put(tmp_path, "images/a.jpg", "0 0.5 0.5 0.2 0.4 0.5 0.5 2 0 0 0 1.5 0.5 2\n", label="labels/a.txt")
    (tmp_path / "data.yaml").write_text(
        "names: [man]\nkpt_shape: [3, 3]\nflip_idx:\n  - 0\n  - 2\n  - 1\nkpt_names:\n  0: [nose, left, right]\n"
    )
    found, (one,) = read_one(tmp_path)
    assert (found.keypoint_shape, found.flip_index) == ((3, 3), (0, 2, 1))
    assert found.keypoint_names == ("nose", "left", "right")
    assert one.keypoints.tolist() == [[30, 20, 2], [0, 0, 0], [0, 0, 0]]
    assert [note.kind for note in found.entries[0].read().mended] == ["keypoints"]


def test_keypoints_of_two_numbers_become_three(tmp_path):
    """Ultralytics takes a point of two numbers for visible even when it is 0 0."""
    put(tmp_path, "images/a.jpg", "0 0.5 0.5 0.2 0.4 0.5 0.25 0 0\n0 0.5 0.5 0.2 0.3\n", label="labels/a.txt")
    (tmp_path / "data.yaml").write_text("names: [man]\nkpt_shape: [2, 2]\n")
    found = dataset.read(tmp_path)
    one, other = found.entries[0].objects
    assert one.keypoints.tolist() == [[30, 10, 2], [0, 0, 0]]
    made = writer("yolo", schema_of(found))
    written = made.label(Output("a.jpg", 60, 40, (one, other)))
    assert written.files[0][1] == b"0 0.5 0.5 0.2 0.4 0.5 0.25 2 0 0 0\n0 0.5 0.5 0.2 0.3 0 0 0 0 0 0\n"
    made.take(written.row)
    assert b"kpt_shape: [2, 3]\n" in dict(made.close())["data.yaml"]


def test_a_line_of_other_keypoints_is_no_outline(tmp_path):
    put(tmp_path, "images/a.jpg", "0 0.5 0.5 0.2 0.4 0.5 0.25 0.1 0.1\n0 0.5 0.5 0.2 0.4\n", label="labels/a.txt")
    (tmp_path / "data.yaml").write_text("names: [man]\nkpt_shape: [2, 3]\n")
    (note,) = dataset.read(tmp_path).entries[0].read().mended
    assert note.what == "line 1 skipped: 9 values, not class cx cy w h and 6 of its keypoints"


@pytest.mark.parametrize("flip", ["[1, 2, 0]", "[0, 1]", "[a, b, c]", "x"])
def test_a_flip_index_that_does_not_swap_is_not_used(tmp_path, flip):
    put(tmp_path, "images/a.jpg", "0 0.5 0.5 0.2 0.4 0.5 0.5 2 0 0 0 0.5 0.5 2\n", label="labels/a.txt")
    (tmp_path / "data.yaml").write_text(f"names: [man]\nkpt_shape: [3, 3]\nflip_idx: {flip}\n")
    found = dataset.read(tmp_path)
    assert found.flip_index == ()
    assert [note.kind for note in found.mended] == ["keypoints"]


# ---- splits


@pytest.mark.parametrize(
    "text",
    [
        "train: images/train\nval: images/val\n",
        "path: ../SET\ntrain: images/train\nval: [images/val]\n",
        "train: ../SET/images/train\nval:\n  - images/val/\n",
        "train: ../images/train  # as Roboflow has it\nval: ../images/val\n",
        "train: train.txt\nval: val.txt\n",
        "path: .\ntrain:\n- train.txt\nval: ./images/val\ntest:\ndownload: |\n  import os\n  x: [1\n",
    ],
)
def test_splits_are_what_the_yaml_says(tmp_path, text):
    root = tmp_path / "SET"
    # Folders that say the opposite must not count.
    put(root, "images/train/a.jpg", label="labels/train/a.txt")
    put(root, "images/val/b.jpg", label="labels/val/b.txt")
    (root / "train.txt").write_text("./images/train/a.jpg\n")
    (root / "val.txt").write_text(f"{root}/images/val/b.jpg\n")
    (root / "data.yaml").write_text(text.replace("train:", "X:").replace("val:", "train:").replace("X:", "val:"))
    (root / "data.yaml").write_text((root / "data.yaml").read_text() + "names: [x]\n")
    found = dataset.read(root)
    assert [(one.key, one.split) for one in found.entries] == [
        ("images/train/a.jpg", "val"),
        ("images/val/b.jpg", "train"),
    ]
    assert found.splits == ("train", "val")


def test_one_folder_for_train_and_val_is_no_split(tmp_path):
    put(tmp_path, "images/a.jpg", label="labels/a.txt")
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [x]\n")
    assert dataset.read(tmp_path).splits == ()


def test_labels_without_a_picture_and_a_broken_yaml_are_notes(tmp_path):
    put(tmp_path, "images/a.jpg", label="labels/a.txt")
    (tmp_path / "labels" / "gone.txt").write_text(LINE)
    (tmp_path / "data.yaml").write_text("names: [x\n")
    found = dataset.read(tmp_path)
    assert [(note.key, note.kind) for note in found.mended] == [("data.yaml", "file"), ("gone.txt", "picture")]


# ---- names


@pytest.mark.parametrize(
    "text",
    [
        "names: [cat, 'big dog', \"man's hat\"]",
        "nc: 3\nnames: ['cat', 'big dog', 'man''s hat']  # three\ntrain: x\n",
        "names:\n  - cat\n  - big dog  # not small\n  - man's hat\nnc: 3\n",
        "names:\n- cat\n- 'big dog'\n- man's hat\npath: ../x\n",
        "path: x # names: [no]\nnames:\n  0: cat\n  1: big dog\n\n  2: man's hat\nkpt: 1\n",
        "names: {0: cat, 1: 'big dog', 2: man's hat}",
        'names: [\n  "cat",\n  "big dog", # second\n  "man\'s hat",\n]\nnc: 3',
    ],
)
def test_names_in_all_of_yamls_styles(text):
    assert parse_names(text) == ("cat", "big dog", "man's hat")


def test_names_that_are_not_there():
    assert parse_names("nc: 3\ntrain: images\n") == ()
    assert parse_names("names:\nnc: 3\n") == ()
    assert parse_names("names: file.txt") == ()
    assert parse_names("names: {0: a, 2: c}") == ("a", "1", "c")
    assert parse_names("names: ['a, b]', c]") == ("a, b]", "c")
    assert parse_names("names: {99999999: x}") == ()
    assert parse_names("names: [x") == ()


# ---- YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("---\na: 1\n", {"a": "1"}),
        ("a:\n  b:\n    - c\n    - d: e\n      f: g\n", {"a": {"b": ["c", {"d": "e", "f": "g"}]}}),
        ("a: |\n  x: 1\n\n  y\nb: 2", {"a": "x: 1\n\ny", "b": "2"}),
        ("a: {b: [1, {c: d}], e: 'f'}", {"a": {"b": ["1", {"c": "d"}], "e": "f"}}),
        ('a: "x\\n\\u00e9\\"#"  # note', {"a": 'x\né"#'}),
        ("a: https://x.y/z?a=1#b", {"a": "https://x.y/z?a=1#b"}),
        ("a: C:\\data\nb: ~", {"a": "C:\\data", "b": None}),
        ("a: one\n  two\nb: 3", {"a": "one two", "b": "3"}),
        ("- - a\n  - b\n- c", [["a", "b"], "c"]),
        ("'a b': 1\n\"c\": 2", {"a b": "1", "c": "2"}),
        ("a: [x#y, z] # note", {"a": ["x#y", "z"]}),
    ],
)
def test_yaml_that_is_read(text, value):
    assert yaml.parse(text) == value


@pytest.mark.parametrize(
    "text", ["a: &x 1", "a: *x", "a: !!str 1", "a: [1", "a: [1]]", "a: {b: ]}", "a: 1\n\tb: 2", "a: [1 [2]]", "- " * 99]
)
def test_yaml_that_is_refused(text):
    with pytest.raises(yaml.YamlError):
        yaml.parse(text)


@given(st.text(max_size=40))
def test_no_text_is_a_crash(text):
    with contextlib.suppress(yaml.YamlError):
        yaml.parse(text)
    yolo.parse(text, 3, (2, 3))


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029"), min_size=1), min_size=1))
def test_names_are_written_so_that_they_come_back(names):
    for text in (
        "names: [" + ", ".join(map(yaml.quoted, names)) + "]",
        "names:\n" + "".join(f"  {i}: {yaml.quoted(n)}\n" for i, n in enumerate(names)),
    ):
        assert parse_names(text) == tuple(names)


@pytest.mark.parametrize("name", ["data.yaml", "dataset.yml"])
def test_names_and_keypoints_come_from_the_data_set_around(tmp_path, name):
    line = "1 0.5 0.5 0.2 0.4 0.1 0.1 0.9 0.9"
    put(tmp_path, "images/val/a.jpg", line, labels="labels/val/a.txt")
    (tmp_path / name).write_text("names: [cat, dog]\nkpt_shape: [2, 2]\n")
    for root in (tmp_path, tmp_path / "images", tmp_path / "images" / "val"):
        found = layout.read(root)
        assert found.names == ("cat", "dog")
        assert found.pictures[0].boxes.tolist() == [pytest.approx([24, 12, 36, 28])]


def test_names_in_a_list_beside_the_labels(tmp_path):
    put(tmp_path, "images/a.jpg", labels="labels/a.txt")
    (tmp_path / "labels" / "classes.txt").write_text("cat\ndog\n")
    assert layout.read(tmp_path).names == ("cat", "dog")


def test_names_of_another_folder_above_are_not_taken(tmp_path):
    put(tmp_path, "mine/a.jpg", beside="mine/a.txt")
    (tmp_path / "data.yaml").write_text("names: [cat]")
    assert layout.read(tmp_path / "mine").names == ()


# ---- where files are


@pytest.mark.parametrize(
    ("key", "label", "root"),
    [
        ("images/a.jpg", "labels/a.txt", "."),
        ("imgs/x/a.jpg", "labels/x/a.txt", "."),
        ("images/a.jpg", "labels_yolo/a.txt", "."),
        ("images/val/x/a.jpg", "labels/val/x/a.txt", "."),
        ("images/val/a.jpg", "labels/val/a.txt", "images/val"),
        ("images/a.jpg", "labels/a.txt", "images"),
        ("train/images/a.jpg", "train/labels/a.txt", "."),
        ("train/images/a.jpg", "train/labels/a.txt", "train/images"),
        ("images/set/images/a.b.jpg", "images/set/labels/a.b.txt", "."),
        ("a.jpg", "a.txt", "."),
        ("deep/er/a.JPG", "deep/er/a.txt", "."),
        ("val/a.jpg", "val/labels/a.txt", "."),
    ],
)
def test_label_files_are_found(tmp_path, key, label, root, monkeypatch):
    put(tmp_path, key, label=label)
    put(tmp_path, "other/mask.png")
    monkeypatch.chdir(tmp_path / root)
    for place in (tmp_path / root, type(tmp_path)(".")):
        assert layout.recognise(place) == "yolo"
        found = layout.read(place)
        assert (found.kind, len(found.pictures), found.warnings) == ("yolo", 1, ())
        assert found.pictures[0].source.path.name == key.rpartition("/")[2]
        assert found.pictures[0].boxes.tolist() == [pytest.approx([24, 12, 36, 28])]


def test_pictures_without_labels_are_pictures_without_objects(tmp_path):
    put(tmp_path, "images/a.jpg", label="labels/a.txt")
    put(tmp_path, "images/empty.jpg", "", label="labels/empty.txt")
    put(tmp_path, "images/more/b.jpg")
    put(tmp_path, "masks/a.png")
    found = layout.read(tmp_path)
    assert [one.source.key for one in found.pictures] == ["images/a.jpg", "images/empty.jpg", "images/more/b.jpg"]
    assert [len(one.boxes) for one in found.pictures] == [1, 0, 0]
    assert found.pictures[2].boxes.shape == (0, 4)
    assert found.pictures[2].classes.dtype == np.int64
    assert found.warnings == ("labels: 1 of 3 pictures without a label file: taken as without objects",)


def test_pictures_elsewhere_are_passed_over_when_labels_lie_beside(tmp_path):
    put(tmp_path, "a.jpg", beside="a.txt")
    put(tmp_path, "masks/a.png")
    assert [one.source.key for one in layout.read(tmp_path).pictures] == ["a.jpg"]


def test_texts_that_are_no_labels(tmp_path):
    put(tmp_path, "a.jpg", "a photo of 2 dogs\n", beside="a.txt")
    put(tmp_path, "b.jpg", "\n", beside="b.txt")
    assert layout.recognise(tmp_path) is None
    with pytest.raises(EdgekitError, match="no labels of objects") as caught:
        layout.read(tmp_path)
    assert "labels/NAME.txt" in caught.value.hint
    assert len(layout.read(tmp_path, "yolo").warnings) == 1  # told to, it reads what there is


def test_pictures_alone_have_no_labels(tmp_path):
    put(tmp_path, "cats/a.jpg")
    assert yolo.find(scan(tmp_path)) == []
    assert layout.recognise(tmp_path) is None
    with pytest.raises(EdgekitError, match="no yolo labels"):
        layout.read(tmp_path, "yolo")
    with pytest.raises(EdgekitError, match="no such form"):
        layout.read(tmp_path, "yol")


# ---- reading


def test_malformed_lines_are_one_warning_a_file(tmp_path):
    put(tmp_path, "images/a.jpg", LINE + "x\n0 5 5 5 5\n", label="labels/a.txt")
    (warning,) = layout.read(tmp_path).warnings
    assert warning == "images/a.jpg: line 2 skipped: x is not a number (and 1 more)"


def test_a_label_file_that_is_not_text(tmp_path):
    put(tmp_path, "images/a.jpg", label="labels/a.txt")
    put(tmp_path, "images/b.jpg", label="labels/b.txt")
    (tmp_path / "labels" / "b.txt").write_bytes(bytes(range(256)))
    found = layout.read(tmp_path)
    assert [len(one.boxes) for one in found.pictures] == [1, 0]
    assert found.warnings[0].startswith("images/b.jpg: line ")


def test_unreadable_pictures_are_left_out(tmp_path):
    put(tmp_path, "images/a.jpg", label="labels/a.txt")
    put(tmp_path, "images/b.jpg", label="labels/b.txt")
    (tmp_path / "images" / "b.jpg").write_text("nonsense")
    put(tmp_path, "images/c.jpg", label="labels/c.txt")
    (tmp_path / "images" / "c.jpg").write_bytes(b"8BPS" + bytes(100))
    found = layout.read(tmp_path)
    assert len(found.pictures) == 1
    assert found.warnings == (
        "images/b.jpg: left out: not a picture",
        "images/c.jpg: left out: psd pictures are not read",
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_shares_are_of_the_upright_picture(tmp_path, orientation):
    put(tmp_path, "a.jpg", "0 0.5 0.25 1 0.5", beside="a.txt")
    exif(tmp_path / "a.jpg", orientation)
    (one,) = layout.read(tmp_path).pictures
    width, height = (40, 60) if orientation >= 5 else (60, 40)
    assert (one.width, one.height) == (width, height)
    assert one.boxes.tolist() == [[0, 0, width, height / 2]]
    assert one.boxes.dtype == np.float64
    assert one.crowd.tolist() == [False]


def test_the_real_set(assets):
    root = assets / "images" / "coco_val64"
    found, exact = layout.read(root, "yolo"), layout.read(root, "coco")
    assert len(found.pictures) == 64
    assert found.names == exact.names
    assert found.warnings == ()
    for one, other in zip(found.pictures, exact.pictures, strict=True):
        assert one.source.key == other.source.key
        image = cv2.imread(str(one.source.path))
        assert image.shape[:2] == (one.height, one.width) == (other.height, other.width)
        assert one.classes.tolist() == other.classes.tolist()
        assert np.abs(one.boxes - other.boxes).max(initial=0) < 1e-2
