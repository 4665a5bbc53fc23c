"""Copies of a picture are found however they are encoded, resized, flipped or turned; other pictures are not."""

import hashlib
import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import picture
from edgekit.data import leaks
from edgekit.data.headers import Unreadable
from edgekit.data.leaks import FLIPPED, GRID, SAME_FILE, SAME_PICTURE, Fingerprint, Pair


def encoded(pixels, suffix=".jpg", quality=90):
    done, data = cv2.imencode(suffix, pixels, [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == ".jpg" else [])
    assert done
    return data.tobytes()


def scene(seed, height=301, width=437):
    """Draw a picture with shapes in it; the sides are no multiples of 8."""
    rng = np.random.default_rng(seed)
    canvas = picture(seed, height, width)
    for _ in range(25):
        at = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        color = tuple(int(part) for part in rng.integers(0, 256, 3))
        cv2.circle(canvas, at, int(rng.integers(8, 60)), color, cv2.FILLED)
    return canvas


def resized(pixels, factor):
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=way)


def scaled(pixels, gain, offset=0):
    return np.clip(pixels.astype(np.float32) * gain + offset, 0, 255).astype(np.uint8)


COPIES = {
    "quality 30": (lambda image: encoded(image, quality=30), SAME_PICTURE),
    "quality 95": (lambda image: encoded(image, quality=95), SAME_PICTURE),
    "png": (lambda image: encoded(image, ".png"), SAME_PICTURE),
    "webp": (lambda image: encoded(image, ".webp"), SAME_PICTURE),
    "16 bits": (lambda image: encoded(image.astype(np.uint16) * 257, ".png"), SAME_PICTURE),
    "half": (lambda image: encoded(resized(image, 0.5)), SAME_PICTURE),
    "0.7": (lambda image: encoded(resized(image, 0.7)), SAME_PICTURE),
    "double": (lambda image: encoded(resized(image, 2)), SAME_PICTURE),
    "squashed": (lambda image: encoded(cv2.resize(image, (224, 224), interpolation=cv2.INTER_AREA)), SAME_PICTURE),
    "grey": (lambda image: encoded(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)), SAME_PICTURE),
    "brighter": (lambda image: encoded(scaled(image, 1.1, 8)), SAME_PICTURE),
    "darker": (lambda image: encoded(scaled(image, 0.8)), SAME_PICTURE),
    "mirrored": (lambda image: encoded(image[:, ::-1], quality=60), FLIPPED),
    "upside down": (lambda image: encoded(image[::-1]), FLIPPED),
    "half turn": (lambda image: encoded(image[::-1, ::-1]), FLIPPED),
    "quarter turn": (lambda image: encoded(np.rot90(image).copy()), FLIPPED),
    "three quarters": (lambda image: encoded(np.rot90(image, 3).copy(), ".png"), FLIPPED),
    "transposed, half": (lambda image: encoded(resized(cv2.transpose(image), 0.5), quality=50), FLIPPED),
    "transverse, grey": (
        lambda image: encoded(cv2.cvtColor(np.rot90(image, 2).transpose(1, 0, 2).copy(), cv2.COLOR_BGR2GRAY)),
        FLIPPED,
    ),
}


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_copy_is_found(name, seed):
    make, how = COPIES[name]
    original = scene(seed)
    prints = [leaks.fingerprint(data) for data in (encoded(scene(9)), encoded(original), make(original))]
    assert leaks.pairs(prints) == [Pair(1, 2, how)]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_file_that_exif_turns_back_is_the_same_picture(orientation):
    upright = scene(3)
    undo = {2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1]}
    undo |= {5: cv2.transpose, 6: lambda a: np.rot90(a, 1), 7: lambda a: cv2.transpose(a[::-1, ::-1].copy())}
    undo |= {8: lambda a: np.rot90(a, -1)}
    stored = encoded(np.ascontiguousarray(undo.get(orientation, lambda a: a)(upright)), quality=97)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1" + bytes([0, orientation, 0, 0]) + bytes(4)
    turned = stored[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + stored[2:]
    prints = [leaks.fingerprint(encoded(upright, ".png")), leaks.fingerprint(turned)]
    assert leaks.pairs(prints) == [Pair(0, 1, SAME_PICTURE)]
    # The JPEG came at a quarter of its size, whose last pixels are not whole: its cells are the PNG's all the same.
    first, second = (np.frombuffer(one.thumbnail, np.uint8).astype(int).reshape(GRID, GRID) for one in prints)
    assert abs(first - second).max() <= 12
    assert abs(first - second).mean() <= 1.5


def test_flat_pictures_and_gradients_count_only_as_equal_files():
    white = np.full((200, 300, 3), 255, np.uint8)
    slope = np.tile(np.linspace(60, 200, 300)[None, :, None], (200, 1, 3)).astype(np.uint8)
    steeper = np.tile(np.linspace(10, 240, 300)[None, :, None], (200, 1, 3)).astype(np.uint8)
    files = [
        encoded(white),
        encoded(white, ".png"),
        encoded(slope),
        encoded(steeper),
        encoded(white),
        encoded(slope[:, ::-1]),
    ]
    assert leaks.pairs([leaks.fingerprint(data) for data in files]) == [Pair(0, 4, SAME_FILE)]


def test_pages_of_one_layout_are_different_pictures():
    rng = np.random.default_rng(5)
    words = ["lorem", "ipsum", "dolor", "sit", "amet", "consectetur", "adipiscing", "elit", "sed", "eiusmod"]
    prints = []
    for _ in range(16):
        page = np.full((1100, 850), 255, np.uint8)
        for line in range(100, 1000, 24):
            text = " ".join(rng.choice(words, 9))[:52]
            cv2.putText(page, text, (80, line), cv2.FONT_HERSHEY_SIMPLEX, 0.75, 0, 1, cv2.LINE_AA)
        prints.append(leaks.fingerprint(encoded(page, ".png")))
    assert leaks.pairs(prints) == []


def test_pictures_of_a_few_pixels_count_only_as_equal_files():
    tiny = [picture(seed, 8, 8) for seed in range(2)]
    files = [encoded(tiny[0], ".png"), encoded(tiny[1], ".png"), encoded(tiny[0], ".bmp"), encoded(tiny[1], ".png")]
    assert leaks.pairs([leaks.fingerprint(data) for data in files]) == [Pair(1, 3, SAME_FILE)]


def test_transparent_pictures_are_laid_over_white():
    shape = np.zeros((120, 160, 4), np.uint8)  # black, and all the picture is in the alpha
    cv2.circle(shape, (50, 40), 30, (0, 0, 0, 255), cv2.FILLED)
    cv2.rectangle(shape, (90, 70), (150, 110), (0, 0, 0, 255), cv2.FILLED)
    flattened = np.repeat(255 - shape[..., 3:], 3, axis=2)
    prints = [leaks.fingerprint(encoded(shape, ".png")), leaks.fingerprint(encoded(flattened))]
    assert leaks.pairs(prints) == [Pair(0, 1, SAME_PICTURE)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello", "not a picture"),
        (encoded(scene(1))[:5000], "JPEG"),
        (encoded(scene(1), ".png")[:-900], "PNG"),
    ],
)
def test_what_cannot_be_read_is_refused(data, reason):
    with pytest.raises(Unreadable, match=reason):
        leaks.fingerprint(data)


def test_the_limit_of_pixels_is_kept():
    with pytest.raises(Unreadable, match="over the limit"):
        leaks.fingerprint(encoded(scene(1)), max_pixels=1000)


def test_a_fingerprint_is_small_and_the_same_every_time():
    data = encoded(scene(4))
    one = leaks.fingerprint(data)
    assert one == leaks.fingerprint(data)
    assert one.sha256 == hashlib.sha256(data).digest()
    assert len(one.sha256) + len(one.thumbnail) < 4096
    assert leaks.pairs([]) == leaks.pairs([None, None]) == leaks.pairs([one]) == []
    assert leaks.pairs([None, one, None, one]) == [Pair(1, 3, SAME_FILE)]


# ---- against brute force


def all_pairs(prints):
    """Compare each pair in each of its eight ways by plain sums over pixels: (first, second) -> how."""
    found = {}
    for i, j in itertools.combinations(range(len(prints)), 2):
        first, second = (np.frombuffer(prints[k].thumbnail, np.uint8).reshape(GRID, GRID) for k in (i, j))
        if prints[i].sha256 == prints[j].sha256:
            found[i, j] = SAME_FILE
            continue
        if min(waves(first, 12)[1], waves(second, 12)[1]) < 5 or min(prints[i].side, prints[j].side) < 12:
            continue
        large = min(prints[i].side, prints[j].side) >= 64
        band, least, most = (32, 0.93, 9.0) if large else (12, 0.95, 6.0)
        turned = [np.rot90(way, k) for way in (second, second.T) for k in range(4)]
        for number, way in enumerate(turned):
            coarse = float((waves(first, 8)[0] * waves(way, 8)[0]).sum())
            (one, contrast), (other, beside) = waves(first, band), waves(way, band)
            r = float((one * other).sum())
            if coarse >= 0.93 and r >= least and min(contrast, beside) * max(0, 1 - r * r) ** 0.5 <= most:
                found.setdefault((i, j), SAME_PICTURE if number == 0 else FLIPPED)
    return found


def waves(thumbnail, band):
    """Transform by OpenCV's own cosine transform."""
    found = cv2.dct(thumbnail.astype(np.float64))[:band, :band].copy()
    found[np.add.outer(np.arange(band), np.arange(band)) < 3] = 0
    norm = np.sqrt((found**2).sum())
    return found / max(norm, 1e-9), norm / GRID


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9), st.sampled_from([8, 20, 40, 64, 300]))
def test_pairs_are_those_of_brute_force(seed, count, side):
    rng = np.random.default_rng(seed)
    prints = []
    for number in range(count):
        if prints and rng.random() < 0.7:  # a copy of an earlier one, more or less changed
            pixels = np.frombuffer(prints[rng.integers(0, number)].thumbnail, np.uint8).reshape(GRID, GRID)
            pixels = np.rot90(pixels if rng.random() < 0.5 else pixels.T, rng.integers(0, 4))
            pixels = pixels * rng.choice([1.0, 0.7]) + rng.choice([0, 2, 6]) * rng.standard_normal(pixels.shape)
            pixels += rng.choice([0.0, 0.2, 0.3, 0.35, 0.4]) * np.std(pixels) * smooth(rng)
        else:
            pixels = 128 + rng.choice([3, 20, 25, 80]) * smooth(rng)
        thumbnail = np.clip(np.rint(pixels), 0, 255).astype(np.uint8).tobytes()
        prints.append(Fingerprint(hashlib.sha256(thumbnail).digest(), thumbnail, int(rng.choice([side, 2 * side]))))
    expected = all_pairs(prints)
    found = leaks.pairs(prints)
    for pair in found:
        assert expected[pair.first, pair.second] == pair.how
    linked = [Pair(i, j, how) for (i, j), how in expected.items()]
    assert leaks.groups(found) == leaks.groups(linked)
    assert len(found) == sum(len(group) - 1 for group in leaks.groups(found))


def smooth(rng):
    """Draw a pattern of low frequencies, standard deviation 1."""
    pattern = cv2.resize(rng.standard_normal((6, 6)), (GRID, GRID), interpolation=cv2.INTER_CUBIC)
    return (pattern - pattern.mean()) / pattern.std()


# ---- groups and splits


def test_groups_join_copies_of_copies():
    links = [Pair(4, 7, SAME_PICTURE), Pair(0, 9, SAME_FILE), Pair(7, 2, FLIPPED)]
    assert leaks.groups(links) == [[0, 9], [2, 4, 7]]
    assert leaks.groups([]) == []


def test_leaks_are_the_copies_in_another_split():
    links = [Pair(0, 1, SAME_FILE), Pair(1, 2, FLIPPED), Pair(3, 4, SAME_PICTURE), Pair(5, 6, SAME_PICTURE)]
    splits = ["val", "train", "test", "val", "val", None, "train"]
    assert leaks.leaks(links, splits) == [Pair(1, 0, SAME_FILE), Pair(1, 2, FLIPPED)]
    assert leaks.leaks(links, [None] * 7) == []


def test_a_leak_by_way_of_others_is_as_unlike_as_the_way():
    links = [Pair(0, 1, SAME_FILE), Pair(0, 2, FLIPPED), Pair(2, 3, SAME_PICTURE)]
    assert leaks.leaks(links, [None, "train", None, "test"]) == [Pair(1, 3, FLIPPED)]
    assert leaks.leaks(links, ["train", "val", "test", "holdout"]) == [
        Pair(0, 1, SAME_FILE),
        Pair(0, 2, FLIPPED),
        Pair(0, 3, FLIPPED),
    ]


def test_a_thousand_frames_of_one_scene_are_one_group():
    rng = np.random.default_rng(1)
    base = cv2.resize(rng.random((6, 6)) * 255, (GRID, GRID), interpolation=cv2.INTER_CUBIC)
    frames = np.clip(base + rng.integers(-2, 3, (1000, GRID, GRID)), 0, 255).astype(np.uint8)
    prints = [Fingerprint(hashlib.sha256(one.tobytes()).digest(), one.tobytes(), 200) for one in frames]
    links = leaks.pairs(prints)
    assert len(links) == 999
    assert len(leaks.leaks(links, ["train", "val"] * 500)) == 500


# ---- real pictures


def fingerprints(folder, pattern):
    return [leaks.fingerprint(path.read_bytes()) for path in sorted(folder.glob(pattern))]


def test_no_two_photographs_are_taken_for_one(assets):
    prints = fingerprints(assets / "images" / "coco_val64" / "images", "*.jpg")
    prints += fingerprints(assets / "images" / "coco_calib64", "*.jpg")
    assert len(prints) == 128
    assert leaks.pairs(prints) == []
    assert leaks.pairs(fingerprints(assets / "images" / "vww96", "**/*.png")) == []


def test_no_two_garments_are_taken_for_one(assets):
    assert leaks.pairs(fingerprints(assets / "images" / "fashion_mnist" / "test", "*/*.png")) == []


def test_of_five_thousand_tiny_photographs_one_is_there_twice(assets):
    root = assets / "images" / "cifar10_jpeg" / "test"
    paths = sorted(root.glob("*/*.jpg"))
    links = leaks.pairs([leaks.fingerprint(path.read_bytes()) for path in paths])
    assert [(paths[one.first].name, paths[one.second].name) for one in links] == [("0498.jpg", "0886.jpg")]


def test_copies_of_real_photographs_are_found(assets):
    for path in sorted((assets / "images" / "coco_val64" / "images").glob("*.jpg"))[:3]:
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        original = leaks.fingerprint(path.read_bytes())
        for name, (make, how) in COPIES.items():
            found = leaks.pairs([original, leaks.fingerprint(make(image))])
            assert found == [Pair(0, 1, how)], (path.name, name)
