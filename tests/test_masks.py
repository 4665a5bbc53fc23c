from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_yolo import exif

from conftest import picture, save
from edgekit.data import dataset, masks, outline
from edgekit.data.headers import read_header
from edgekit.data.sample import Object

PALETTE = bytes(range(60))
regions = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def values(dtype=np.uint8):
    made = np.zeros((40, 60), dtype)
    made[5:20, 10:30] = 3
    made[25:30, 10:30] = 255 if dtype == np.uint8 else 60_000
    return made


def put(root, *keys, mask=None):
    for key in keys:
        save(root / key, picture(0, height=40, width=60))
    if mask is not None:
        save(root / mask, values())


# ---- which mask belongs to which picture


@pytest.mark.parametrize(
    ("key", "mask"),
    [
        ("images/a.jpg", "masks/a.png"),
        ("images/train/a.jpg", "masks/train/a.png"),
        ("train/images/a.jpg", "train/masks/a.png"),
        ("images/a.jpg", "masks/a_mask.png"),
        ("images/a_l.jpg", "masks/a_l.png"),
        ("images/a.b.jpg", "labels/a.b_label.png"),
        ("JPEGImages/a.jpg", "SegmentationClass/a.png"),
        ("leftImg8bit/val/x/x_1_leftImg8bit.png", "gtFine/val/x/x_1_gtFine_labelIds.png"),
        ("images/x_leftImg8bit.png", "masks/x_leftImg8bit.png"),
        ("a.jpg", "a_mask.png"),
        ("a.jpg", "a-label.png"),
        ("a.JPG", "masks/A.png"),
        ("train/a.jpg", "train/a_seg.png"),
    ],
)
def test_masks_are_found(tmp_path, key, mask):
    put(tmp_path, key, mask=mask)
    found = dataset.read(tmp_path)
    assert (found.kind, found.mended) == ("masks", ())
    assert [(one.key, one.mask) for one in found.entries] == [(key, tmp_path / mask)]
    assert found.splits == (("train",) if "train/" in key else ("val",) if "val/" in key else ())


def test_of_cityscapes_files_the_class_numbers_are_taken(tmp_path):
    stem = "gtFine/val/x/x_1_gtFine"
    put(tmp_path, "leftImg8bit/val/x/x_1_leftImg8bit.png", f"{stem}_color.png", f"{stem}_instanceIds.png")
    put(tmp_path, f"{stem}_labelIds.png", mask=f"{stem}_labelTrainIds.png")
    found = dataset.read(tmp_path)
    assert [one.mask.name for one in found.entries] == ["x_1_gtFine_labelTrainIds.png"]
    assert found.mended == ()


def test_pictures_that_are_called_like_masks_are_pictures(tmp_path):
    put(tmp_path, "with_mask/a.jpg", "with_mask/b_mask.png", "without_mask/c.jpg", "without_mask/d_gt.jpg")
    assert dataset.recognise(tmp_path) == "folder"
    assert len(dataset.read(tmp_path).entries) == 4


def test_pictures_and_masks_without_each_other(tmp_path):
    put(tmp_path, "images/a.jpg", "images/b.jpg", "masks/z.png", mask="masks/a.png")
    found = dataset.read(tmp_path)
    assert [(one.key, one.mask is None) for one in found.entries] == [("images/a.jpg", False), ("images/b.jpg", True)]
    assert [(note.key, note.kind) for note in found.mended] == [("masks/z.png", "picture"), (str(tmp_path), "labels")]


def test_a_folder_of_pictures_finds_masks_beside_it(tmp_path):
    put(tmp_path, "images/a.jpg", mask="masks/a.png")
    assert dataset.read(tmp_path / "images").entries[0].mask == tmp_path / "masks" / "a.png"


def test_names_stand_in_a_file_of_their_own(tmp_path):
    put(tmp_path, "images/a.jpg", mask="masks/a.png")
    assert dataset.read(tmp_path).names == ()
    (tmp_path / masks.NAMES).write_text("background\ncat\ndog\n")
    assert dataset.read(tmp_path).names == ("cat", "dog")


# ---- values


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_values_are_kept(dtype):
    data = cv2.imencode(".png", values(dtype))[1].tobytes()
    mask = masks.decode(data)
    assert mask.values.dtype == dtype
    assert np.array_equal(mask.values, values(dtype))
    assert np.array_equal(masks.decode(masks.encode(mask)).values, values(dtype))


def test_palettes_are_kept():
    mask = masks.Mask(values() % 20, PALETTE, b"\0\xff")
    data = masks.encode(mask)
    assert read_header(data).mode == "palette"
    again = masks.decode(data)
    assert (again.palette, again.alpha) == (PALETTE, b"\0\xff")
    assert np.array_equal(again.values, mask.values)
    shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert shown[10, 15].tolist() == [11, 10, 9]  # the fourth colour, as other readers see it


def test_a_value_outside_the_palette_lengthens_it():
    mask = masks.Mask(np.full((2, 2), 255, np.uint8), PALETTE)
    again = masks.decode(masks.encode(mask))
    assert (again.values.tolist(), len(again.palette)) == ([[255, 255]] * 2, 768)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palettes_of_few_bits(depth):
    import zlib
    from struct import pack

    chunk, count = masks._chunk, 8 // depth
    numbers = np.arange(16).reshape(2, 8) % min(1 << depth, 16)
    rows = b""
    for row in numbers:
        groups = row.reshape(-1, count)
        rows += b"\0" + bytes(int(sum(int(v) << depth * (count - 1 - i) for i, v in enumerate(g))) for g in groups)
    header = pack(">IIBBBBB", 8, 2, depth, 3, 0, 0, 0)
    parts = [(b"IHDR", header), (b"PLTE", bytes(48)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in parts)
    assert masks.decode(data).values.tolist() == numbers.tolist()


def test_true_colours_become_positions_and_come_back():
    pixels = np.zeros((4, 5, 3), np.uint8)
    pixels[1:3] = (0, 0, 128)
    mask = masks.decode(cv2.imencode(".png", pixels)[1].tobytes())
    assert mask.values.tolist() == [[0] * 5, [1] * 5, [1] * 5, [0] * 5]
    again = cv2.imdecode(np.frombuffer(masks.encode(mask), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(again, pixels)


@pytest.mark.parametrize("orientation", [2, 6, 8])
def test_a_mask_of_the_stored_picture_is_turned(tmp_path, orientation):
    put(tmp_path, "images/a.jpg", mask="masks/a.png")
    exif(tmp_path / "images" / "a.jpg", orientation)
    (entry,) = dataset.read(tmp_path).entries
    mask, notes = entry.read_mask()
    assert mask.values.shape[::-1] == entry.size
    turned = {6: np.rot90(values(), -1), 8: np.rot90(values())}.get(orientation, values())
    assert np.array_equal(mask.values, turned)
    assert [note.kind for note in notes] == (["turned"] if orientation > 4 else [])


def test_a_mask_of_another_size_is_scaled_without_new_values(tmp_path):
    put(tmp_path, "images/a.jpg")
    save(tmp_path / "masks" / "a.png", np.kron(values(), np.ones((2, 2), np.uint8)))
    mask, notes = dataset.read(tmp_path).entries[0].read_mask()
    assert np.array_equal(mask.values, values())
    assert [note.kind for note in notes] == ["size"]


def test_a_mask_that_cannot_be_read_or_is_lossy(tmp_path):
    put(tmp_path, "images/a.jpg", "images/b.jpg", mask="masks/b.jpg")
    (tmp_path / "masks" / "a.png").write_bytes(b"nonsense")
    first, second = dataset.read(tmp_path).entries
    mask, notes = first.read_mask()
    assert (mask, [(note.kind, note.dropped) for note in notes]) == (None, [("file", True)])
    mask, notes = second.read_mask()
    assert mask is not None
    assert [(note.kind, note.dropped) for note in notes] == [("file", False)]


def test_a_mask_far_larger_than_its_picture_is_not_decoded(tmp_path):
    put(tmp_path, "images/a.jpg")
    save(tmp_path / "masks" / "a.png", np.zeros((2000, 1000), np.uint8))
    mask, (note,) = dataset.read(tmp_path).entries[0].read_mask()
    assert (mask, note.kind, note.dropped) == (None, "file", True)


# ---- objects and masks


def test_objects_of_a_mask_and_back():
    mask = masks.Mask(values())
    (one,) = masks.objects_of(mask)  # 255 means not labelled
    assert (one.number, one.box.tolist(), int(one.region.sum())) == (2, [10, 5, 30, 20], 300)
    painted = masks.paint((one,), (60, 40))
    assert np.array_equal(painted.values, np.where(values() == 3, 3, 0))


def test_small_objects_are_painted_over_large_ones():
    boxes = [np.array([20.0, 10, 25, 15]), np.array([10.0, 5, 40, 30])]
    painted = masks.paint([Object(number, box) for number, box in enumerate(boxes)], (60, 40)).values
    assert (painted[12, 22], painted[6, 11], painted[0, 0]) == (1, 2, 0)
    assert masks.paint([Object(300, boxes[0])], (60, 40)).values.dtype == np.uint16


# ---- outlines


@given(regions)
def test_outlines_of_a_region_fill_it_again(region):
    rings = outline.trace(region)
    if not region.any():
        assert rings == ()
        return
    size = region.shape[::-1]
    assert sum(outline.signed_area(ring) for ring in rings) == region.sum()
    assert np.array_equal(outline.paint([outline.join(rings)], size), region)
    counted = cv2.connectedComponents(region.astype(np.uint8), connectivity=4)[0] - 1
    assert sum(outline.signed_area(ring) > 0 for ring in rings) == counted


points = st.floats(-5, 15, allow_subnormal=False).map(lambda value: round(value, 3))
polygons = st.lists(st.tuples(points, points), min_size=3, max_size=7).map(lambda rows: np.array(rows))


def slow_fill(polygon, width, height):
    """Count the edges to the right of each pixel's centre."""
    region = np.zeros((height, width), bool)
    for row in range(height):
        for column in range(width):
            x, y, inside = column + 0.5, row + 0.5, False
            for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
                if (ay < y) != (by < y) and x < ax + (y - ay) / (by - ay) * (bx - ax):
                    inside = not inside
            region[row, column] = inside
    return region


@given(polygons)
def test_filling_against_counting_edges(polygon):
    # A centre on an edge may fall to either side.
    shifted = polygon + np.array([0.000_137, 0.000_271])
    assert np.array_equal(outline.paint([shifted], (10, 9)), slow_fill(shifted, 10, 9))


def simple(polygon):
    """Put the corners in the order in which their mean sees them, so that no edge crosses another."""
    away = polygon - polygon.mean(axis=0)
    return polygon[np.argsort(np.arctan2(away[:, 1], away[:, 0]), kind="stable")]


@given(polygons.map(simple))
def test_clipping_keeps_what_is_inside(polygon):
    shifted = polygon + np.array([0.000_137, 0.000_271])
    parts = outline.clip(shifted, (10, 9))
    assert all((part >= 0).all() and (part <= np.array([10, 9])).all() for part in parts)
    assert np.array_equal(outline.paint(parts, (10, 9)), outline.paint([shifted], (10, 9)))
