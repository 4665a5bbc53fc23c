from __future__ import annotations

import numpy as np
import pytest
from test_yolo import exif

from conftest import picture, save
from edgekit.data import dataset, layout
from edgekit.data.sample import Object
from edgekit.data.writer import Output, Schema, writer
from edgekit.errors import EdgekitError

BOX = (11, 6, 20, 15)


def thing(name="dog", box=BOX, more=""):
    edges = "".join(f"<{tag}>{side}</{tag}>" for tag, side in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><pose>Left</pose><bndbox>{edges}</bndbox>{more}</object>"


def xml(*things, size=(60, 40), name="a.jpg", more=""):
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><filename>{name}</filename>{sides}{more}{''.join(things)}</annotation>"


def put(root, text=None, key="JPEGImages/a.jpg", label="Annotations/a.xml"):
    save(root / key, picture(0, height=40, width=60))
    if text is not None:
        (root / label).parent.mkdir(parents=True, exist_ok=True)
        (root / label).write_text(text)


def read_one(root):
    labelled = dataset.read(root, "voc").entries[0].read()
    return labelled.objects, [note.kind for note in labelled.mended]


# ---- coordinates


def test_pixels_are_counted_from_1_and_both_ends_are_meant(tmp_path):
    put(tmp_path, xml(thing()))
    found = dataset.read(tmp_path)
    assert (found.kind, found.names, found.mended) == ("voc", ("dog",), ())
    assert found.entries[0].objects[0].box.tolist() == [10, 5, 20, 15]


@pytest.mark.parametrize("boxes", [[(10.5, 5.25, 20, 15)], [(0, 5, 20, 15)], [(0, 0, 60, 40), (1, 2, 3, 4)]])
def test_fractions_and_zeros_are_coordinates_already(tmp_path, boxes):
    put(tmp_path, xml(*(thing(box=box) for box in boxes)))
    found = dataset.read(tmp_path)
    assert found.entries[0].objects[0].box.tolist() == list(boxes[0])
    assert [note.kind for note in found.mended] == ["frame"]


def test_a_single_box_that_begins_at_0_is_a_pixel_outside(tmp_path):
    put(tmp_path, xml(thing(box=(0, 5, 20, 15)), thing(box=(1, 1, 9, 9)), thing(box=(1, 5, 30, 30))))
    objects, kinds = read_one(tmp_path)
    assert objects[0].box.tolist() == [0, 4, 20, 15]
    assert kinds == ["clipped"]


@pytest.mark.parametrize(
    ("one", "kind", "count"),
    [
        (thing(box=(20, 15, 11, 6)), "reversed", 1),
        (thing(name=""), "class", 0),
        (thing(box=("x", 1, 2, 3)), "number", 0),
        (thing(box=("nan", 1, 2, 3)), "number", 0),
        ("<object><name>dog</name></object>", "number", 0),
        (thing(box=(70, 6, 80, 15)), "outside", 0),
        (thing() * 2, "duplicate", 1),
        (thing(more="<polygon><x1>1</x1></polygon>"), "outline", 1),
        (thing(more="<robndbox><cx>1</cx></robndbox>"), "outline", 1),
        (thing(more="<actions><jumping>1</jumping></actions>"), "lost", 1),
    ],
)
def test_an_object_that_is_wrong(tmp_path, one, kind, count):
    put(tmp_path, xml(one))
    objects, kinds = read_one(tmp_path)
    assert (len(objects), kinds) == (count, [kind] if kind else [])


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_labels_on_the_stored_picture_are_turned(tmp_path, orientation):
    """A white rectangle in the stored pixels has to be under its box in the decoded, upright ones."""
    from edgekit.data.images import decode

    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[8:16, 40:56] = 255
    put(tmp_path, xml(thing(box=(41, 9, 56, 16))))
    path = save(tmp_path / "JPEGImages" / "a.jpg", pixels)
    exif(path, orientation)
    rows, columns = np.nonzero(decode(path.read_bytes()).pixels[..., 0] > 128)
    (one,), kinds = read_one(tmp_path)
    assert one.box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert kinds == ["turned"]


def test_a_size_that_is_not_the_pictures_scales(tmp_path):
    put(tmp_path, xml(thing(), size=(120, 80)))
    objects, kinds = read_one(tmp_path)
    assert (objects[0].box.tolist(), kinds) == ([5, 2.5, 10, 7.5], ["size"])
    put(tmp_path, xml(thing(), size=None))
    assert read_one(tmp_path)[1] == []


# ---- what else it says


def test_what_voc_says_of_objects_and_pictures_is_kept(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>12</xmin><ymin>7</ymin><xmax>14</xmax><ymax>9</ymax></bndbox></part>"
    more = f"<truncated>1</truncated><difficult>1</difficult><occluded>0</occluded>{part}"
    put(tmp_path, xml(thing(more=more), more="<folder>VOC2012</folder><segmented>1</segmented>"))
    (entry,) = dataset.read(tmp_path).entries
    (one,) = entry.objects
    (head,) = one.extra["parts"]
    texts = {key: value for key, value in one.extra.items() if key != "parts"}
    assert texts == {"pose": "Left", "truncated": "1", "difficult": "1", "occluded": "0"}
    assert (head.extra, head.box.tolist()) == ({"name": "head"}, [11, 6, 14, 9])
    assert entry.extra == {"folder": "VOC2012", "segmented": "1"}


def test_parts_turn_with_their_object(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>12</xmin><ymin>7</ymin><xmax>14</xmax><ymax>9</ymax></bndbox></part>"
    put(tmp_path, xml(thing(more=part)))
    exif(tmp_path / "JPEGImages" / "a.jpg", 6)
    (one,), _ = read_one(tmp_path)
    assert one.extra["parts"][0].box.tolist() == [31, 11, 34, 14]


# ---- where files are


@pytest.mark.parametrize(
    ("key", "label"),
    [
        ("JPEGImages/a.jpg", "Annotations/a.xml"),
        ("VOC2012/JPEGImages/a.jpg", "VOC2012/Annotations/a.xml"),
        ("JPEGImages/x/a.jpg", "Annotations/x/a.xml"),
        ("images/a.jpg", "labels_voc/a.xml"),
        ("train/images/a.jpg", "train/annotations/a.xml"),
        ("a.jpg", "a.xml"),
        ("deep/a.b.jpg", "deep/a.b.xml"),
        ("val/a.jpg", "val/annotations/a.xml"),
    ],
)
def test_label_files_are_found(tmp_path, key, label):
    put(tmp_path, xml(thing()), key, label)
    put(tmp_path, None, "masks/a.png")
    found = dataset.read(tmp_path)
    assert (found.kind, [one.key for one in found.entries], found.mended) == ("voc", [key], ())
    assert found.splits == (("train",) if "train" in key else ("val",) if "val" in key else ())
    assert layout.recognise(tmp_path) == "voc"
    assert layout.read(tmp_path).pictures[0].boxes.tolist() == [[10, 5, 20, 15]]


def test_image_sets(tmp_path):
    for name in "abcd":
        put(tmp_path, xml(thing()), f"JPEGImages/{name}.jpg", f"Annotations/{name}.xml")
    sets = tmp_path / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    for split, names in (("train", "a"), ("val", "b"), ("trainval", "abc"), ("dog_train", "d")):
        (sets / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    found = dataset.read(tmp_path)
    assert [one.split for one in found.entries] == ["train", "val", "train", None]
    assert found.splits == ("train", "val")


def test_pictures_and_labels_without_each_other(tmp_path):
    put(tmp_path, xml(thing()))
    put(tmp_path, None, "JPEGImages/bare.jpg")
    put(tmp_path, xml(name="c:\\x\\other.jpg"), "JPEGImages/other.jpg", "Annotations/renamed.xml")
    (tmp_path / "Annotations" / "gone.xml").write_text(xml(name="gone.jpg"))
    (tmp_path / "Annotations" / "nonsense.xml").write_text("<")
    found = dataset.read(tmp_path)
    assert [one.key for one in found.entries] == ["JPEGImages/a.jpg", "JPEGImages/bare.jpg", "JPEGImages/other.jpg"]
    assert [(note.key, note.kind) for note in found.mended] == [
        ("gone.xml", "picture"),
        ("nonsense.xml", "picture"),
        ("Annotations", "labels"),
    ]


@pytest.mark.parametrize("text", ["", "<annotation>", "<x/>", '<!DOCTYPE x [<!ENTITY a "b">]><annotation/>', "\0"])
def test_a_file_that_is_no_annotation(tmp_path, text):
    put(tmp_path, xml(thing()))
    put(tmp_path, text, "JPEGImages/b.jpg", "Annotations/b.xml")
    entry = dataset.read(tmp_path).entries[1]
    assert entry.objects == ()
    assert [note.kind for note in entry.read().mended] == ["file"]


def test_other_xml_is_not_voc(tmp_path):
    put(tmp_path, "<svg/>", "a.jpg", "a.xml")
    assert dataset.recognise(tmp_path) == "none"
    with pytest.raises(EdgekitError, match="no voc labels found") as caught:
        put(tmp_path / "alone", None, "b.jpg")
        dataset.read(tmp_path / "alone", "voc")
    assert "Annotations/NAME.xml" in caught.value.hint


def test_names_in_the_order_of_a_list(tmp_path):
    put(tmp_path, xml(thing("b"), thing("a", (1, 1, 2, 2))))
    assert dataset.read(tmp_path).names == ("a", "b")
    (tmp_path / "classes.txt").write_text("b\nc\na\n")
    assert dataset.read(tmp_path).names == ("b", "c", "a")
    (tmp_path / "classes.txt").write_text("b\n")
    assert dataset.read(tmp_path).names == ("a", "b")


def test_turned_boxes(tmp_path):
    text = "<cx>30</cx><cy>20</cy><w>20</w><h>10</h><angle>{}</angle>"
    one = f"<object><name>dog</name><robndbox>{text.format(np.pi / 2)}</robndbox></object>"
    put(tmp_path, xml(one, one.replace("1.57", "0.3").replace("dog", "cat")))
    found = dataset.read(tmp_path)
    first, second = found.entries[0].read().objects
    assert (found.form, first.oriented, second.oriented) == ("oriented", True, True)
    assert first.polygons[0] == pytest.approx(np.array([[35, 10], [35, 30], [25, 30], [25, 10]]))
    assert first.box == pytest.approx([25, 10, 35, 30])
    down = second.polygons[0][1] - second.polygons[0][0]
    assert np.arctan2(down[1], down[0]) == pytest.approx(0.3, abs=0.01)  # clockwise: y points down


@pytest.mark.parametrize(
    "corners",
    [
        "<x1>5</x1><y1>4</y1><x2>30</x2><y2>4</y2><x3>30</x3><y3>20</y3>",
        "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((5, 4), (30, 4), (30, 20))),
    ],
)
def test_outlines(tmp_path, corners):
    bare = f"<object><name>cat</name><polygon>{corners}</polygon></object>"
    put(tmp_path, xml(thing(more=2 * f"<polygon>{corners}</polygon>"), bare))
    found = dataset.read(tmp_path)
    one, other = found.entries[0].objects
    assert found.form == "outline"
    assert [part.tolist() for part in one.polygons] == 2 * [[[5, 4], [30, 4], [30, 20]]]
    assert (one.box.tolist(), other.box.tolist()) == ([10, 5, 20, 15], [5, 4, 30, 20])
    assert found.entries[0].read().mended == ()
    assert set(one.extra) == {"pose"}


# ---- writing


def test_what_is_cut_is_truncated(tmp_path):
    for extent, said in ((1.0, "0"), (0.9, "0"), (0.7, "1")):
        one = Object(0, np.array([10.0, 5, 20, 15]), extra={"truncated": "0"}, extent=extent)
        text = writer("voc", Schema(("a",))).label(Output("a.jpg", 60, 40, (one,))).files[0][1].decode()
        assert f"<truncated>{said}</truncated>" in text


def test_boxes_are_whole_pixels_from_1(tmp_path):
    one = Object(0, np.array([9.6, 4.4, 20.3, 15.0]), extra={"difficult": "1"})
    voc = writer("voc", Schema(("a & b",)))
    written = voc.label(Output("images/x/a.jpg", 60, 40, (one,), split="val"))
    voc.take(written.row)
    ((path, data),) = written.files
    assert (written.picture, path) == ("JPEGImages/x/a.jpg", "Annotations/x/a.xml")
    text = data.decode()
    assert "<xmin>11</xmin>" in text
    assert "<ymin>5</ymin>" in text
    assert "<xmax>20</xmax>" in text
    assert "<name>a &amp; b</name>" in text
    assert "<difficult>1</difficult>" in text
    assert "<width>60</width>" in text
    assert voc.close() == (("ImageSets/Main/val.txt", b"x/a\n"), ("classes.txt", b"a & b\n"))
    assert written.notes == ()


def test_a_box_thinner_than_a_pixel_is_widened_with_a_note():
    one = Object(0, np.array([59.7, 4.6, 60.0, 5.2]))
    written = writer("voc", Schema(("a",))).label(Output("a.jpg", 60, 40, (one,)))
    text = written.files[0][1].decode()
    assert "<xmin>60</xmin>" in text
    assert "<xmax>60</xmax>" in text
    assert "<ymin>5</ymin>" in text
    assert "<ymax>5</ymax>" in text
    assert [note.kind for note in written.notes] == ["lost"]


def test_what_xml_cannot_hold_does_not_break_it(tmp_path):
    one = Object(0, np.array([1.0, 1, 5, 5]), extra={"pose": "\0\udc80<", "not a tag": "x", "list": [1]})
    written = writer("voc", Schema(("\x1bdog",))).label(Output("a\udc80.jpg", 60, 40, (one,)))
    put(tmp_path, written.files[0][1].decode())
    ((again,), kinds) = read_one(tmp_path)
    assert (again.extra["pose"], kinds) == ("??<", [])
    assert [note.what for note in written.notes] == [
        "voc has no not a tag of an object",
        "voc has no list of an object",
    ]
