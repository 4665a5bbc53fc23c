from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from conftest import picture, save
from edgekit.data import layout, yolo
from edgekit.data.folder import scan
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
    assert [number for number, _ in parsed.objects] == [3, 0]
    assert parsed.objects[0][1] == pytest.approx((0.4, 0.3, 0.6, 0.7))
    assert parsed.objects[1][1] == pytest.approx((0, 0, 0.5, 0.5))


def test_blank_lines_a_byte_order_mark_and_windows_ends_do_not_matter(tmp_path):
    put(tmp_path, "a.jpg", "\ufeff0 0.5 0.5 0.2 0.4\r\n\r\n", beside="a.txt")
    assert layout.read(tmp_path).warnings == ()


def test_a_box_that_reaches_outside_is_clipped():
    ((_, box),) = yolo.parse("1 0.05 0.95 0.2 0.2").objects
    assert box == pytest.approx((0, 0.85, 0.15, 1))


def test_polygons_give_their_bounds():
    ((number, box),) = yolo.parse("2 0.1 0.2 0.5 0.1 0.4 0.6").objects
    assert (number, box) == (2, (0.1, 0.1, 0.5, 0.6))


def test_keypoints_are_told_from_polygons_by_their_number():
    line = "0 0.5 0.5 0.2 0.4 " + "0.9 0.9 2 " * 2
    ((_, box),) = yolo.parse(line, keypoints=6).objects
    assert box == pytest.approx((0.4, 0.3, 0.6, 0.7))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("cat 0.5 0.5 0.1 0.1", "cat is not a number"),
        ("1.5 0.5 0.5 0.1 0.1", "not a class number"),
        ("-1 0.5 0.5 0.1 0.1", "not a class number"),
        ("0 0.5 0.5 0.1", "4 values"),
        ("0", "1 values"),
        ("0 0.5 0.5 nan 0.1", "not finite"),
        ("0 0.5 0.5 0 0.1", "empty"),
        ("0 0.5 0.5 -0.1 0.1", "empty"),
        ("0 1.2 0.5 0.1 0.1", "empty"),
        ("0 320 240 50 60", "not shares"),
        ("80 0.5 0.5 0.1 0.1", "names for 80"),
        ("0 0.1 0.1 0.5 0.5 0.5 0.5 0.1", "8 values"),
    ],
)
def test_a_line_that_is_no_object_is_a_problem(line, reason):
    parsed = yolo.parse(LINE + line, classes=80)
    assert len(parsed.objects) == 1
    assert len(parsed.problems) == 1
    assert parsed.problems[0].startswith("line 2 skipped: ")
    assert reason in parsed.problems[0]


def test_a_line_that_is_repeated_counts_once():
    parsed = yolo.parse(LINE * 3 + "1 0.5 0.5 0.2 0.4")
    assert len(parsed.objects) == 2
    assert len(parsed.problems) == 2


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
    assert yolo.parse_names(text) == ("cat", "big dog", "man's hat")


def test_names_that_are_not_there():
    assert yolo.parse_names("nc: 3\ntrain: images\n") == ()
    assert yolo.parse_names("names:\nnc: 3\n") == ()
    assert yolo.parse_names("names: file.txt") == ()
    assert yolo.parse_names("names: {0: a, 2: c}") == ("a", "1", "c")
    assert yolo.parse_names("names: ['a, b]', c]") == ("a, b]", "c")


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
    assert found.warnings == ("1 of 3 pictures have no label file: taken as pictures without objects",)


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
    assert warning == "labels/a.txt: line 2 skipped: x is not a number (and 1 more)"


def test_a_label_file_that_is_not_text(tmp_path):
    put(tmp_path, "images/a.jpg", label="labels/a.txt")
    put(tmp_path, "images/b.jpg", label="labels/b.txt")
    (tmp_path / "labels" / "b.txt").write_bytes(bytes(range(256)))
    found = layout.read(tmp_path)
    assert [len(one.boxes) for one in found.pictures] == [1, 0]
    assert found.warnings[0].startswith("labels/b.txt: line ")


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
