"""The corruptions of ImageNet-C: each against a plain twin, and the evaluation set that they make."""

import colorsys
import json
import math
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import picture, rows, save, tree_digest
from edgekit.augment import corrupt, corrupt_blur, corrupt_digital, corrupt_noise, corrupt_weather, preview
from edgekit.augment import run as line
from edgekit.augment.corrupt import NAMES, corruption, suite
from edgekit.augment.draws import generator
from edgekit.augment.field import Field
from edgekit.augment.op import apply
from edgekit.augment.plan import evaluation, plan
from edgekit.augment.settings import augment
from edgekit.augment.variants import Recipe
from edgekit.cli import corruptions
from edgekit.cli.signature import Typed
from edgekit.data.folder import scan
from edgekit.data.sample import Object, Sample
from edgekit.errors import EdgekitError

ALL = suite("1,2,3,4,5")
STEADY = ("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "contrast", "brightness", "pixelate")
STEADY += ("jpeg_compression", "zoom_blur")


def corrupted(one, image, **labels):
    sample = Sample("a.png", image, **labels)
    params = json.loads(json.dumps(one.sample(generator(0, sample.key, one.number, 0), sample)))
    return apply(one, params, sample).sample


# ---- every corruption


def test_there_are_fifteen_of_five_severities_for_both_sizes():
    assert len(NAMES) == 15 and [one.number for one in ALL] == list(range(1, 76))
    for name in NAMES:
        assert all(len(corrupt.CONSTANTS[name][whose]) == 5 for whose in (corrupt.IMAGENET, corrupt.CIFAR))


@pytest.mark.parametrize("name", NAMES)
def test_size_type_channels_and_alpha_stay_and_the_input_too(name):
    shapes = [(1, 1, 3), (5, 7, 3), (40, 33, 1), (96, 90, 3), (90, 120, 4)]
    for one in (corruption(kind=name, severity=1), corruption(kind=name, severity=5)):
        for height, width, channels in shapes:
            for dtype in (np.uint8, np.uint16):
                image = picture(3, height, width, channels, dtype)
                before = image.copy()
                made = corrupted(one, image).image
                assert (made.shape, made.dtype) == (image.shape, image.dtype)
                assert np.array_equal(image, before)
                assert np.array_equal(made, corrupted(one, image).image)
                if channels == 4 and name != "elastic_transform":
                    assert np.array_equal(made[..., 3], image[..., 3])


@pytest.mark.parametrize("name", STEADY)
@pytest.mark.parametrize("side", [32, 160])
def test_a_higher_severity_is_further_from_the_picture(name, side):
    image = picture(5, side, side)
    errors = []
    for severity in range(1, 6):
        made = corrupted(corruption(kind=name, severity=severity), image).image.astype(float)
        errors.append(((made - image) ** 2).mean())
    assert errors[0] < errors[-1] and (errors == sorted(errors) or side == 32)


def test_sixteen_bits_are_corrupted_as_eight_are():
    image = picture(7, 100, 100)
    for one in suite("3"):
        eight, sixteen = corrupted(one, image).image, corrupted(one, image.astype(np.uint16) * 257).image
        allowed = 2.5 if one.kind == "glass_blur" else 1.01  # where 8 bits are what lies between the blurs
        assert np.abs(sixteen / 257 - eight).max() <= allowed, one.kind


def test_small_pictures_get_the_constants_of_cifar():
    one = corruption(kind="gaussian_noise", severity=5)
    for side, sigma in ((84, 0.10), (85, 0.38)):
        made = corrupted(one, np.full((side, 200, 3), 128, np.uint8)).image / 255
        expected = np.clip(np.random.default_rng(0).normal(128 / 255, sigma, 100_000), 0, 1).std()
        assert made.std() == pytest.approx(expected, rel=0.02)


# ---- twins


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(0, 2**32))
def test_glass_ends_as_the_published_loop_does(height, width, reach, seed):
    rows_, columns = max(0, height - 2 * reach), max(0, width - 2 * reach)
    draws = np.random.default_rng(seed).integers(-reach, reach, (2, rows_, columns))
    shown = np.arange(height * width).reshape(height, width)
    for row in range(height - reach, reach, -1):
        for column in range(width - reach, reach, -1):
            across, down = draws[:, row - reach - 1, column - reach - 1]
            shown[row, column] = shown[row + down, column + across]  # what swapping two views comes to
    found = corrupt_blur._travelled(draws[1], draws[0], reach, (height, width))
    assert np.array_equal(found.reshape(height, width), shown)


def test_motion_drags_along_whole_pixels():
    image = picture(2, 12, 15).astype(np.float32) / 255
    for degrees in (-45.0, -10.0, 0.0, 30.0, -120.0):
        weights = [math.exp(-(step**2) / (2 * 3.0**2)) for step in range(9)]
        expected = np.zeros_like(image)
        for step, weight in enumerate(weights):
            right = math.ceil(step * math.cos(math.radians(degrees)) - 0.5)
            below = math.ceil(step * math.sin(math.radians(degrees)) - 0.5)
            for row in range(12):
                for column in range(15):
                    place = min(max(row + below, 0), 11), min(max(column + right, 0), 14)
                    expected[row, column] += weight / sum(weights) * image[place]
        assert np.abs(corrupt_blur.dragged(image, 4, 3.0, degrees) - expected).max() < 1e-5


@pytest.mark.parametrize("factor", [1.0, 1.07, 1.3, 2.0, 4.5])
def test_zooming_keeps_corners_in_corners(factor):
    image = picture(4, 20, 31).astype(np.float32)
    window = []
    for length in (20, 31):
        kept = math.ceil(length / factor)
        start, large = (length - kept) // 2, round(kept * factor)
        places = np.linspace(0, kept - 1, large)
        window.append(start + places[(large - length) // 2 :][:length])
    expected = np.empty_like(image)
    for row, y in enumerate(window[0]):
        for column, x in enumerate(window[1]):
            top, left = min(int(y), 18), min(int(x), 29)
            down, right = y - top, x - left
            upper = image[top, left] * (1 - right) + image[top, left + 1] * right
            lower = image[top + 1, left] * (1 - right) + image[top + 1, left + 1] * right
            expected[row, column] = upper * (1 - down) + lower * down
    assert np.abs(corrupt_blur.zoomed(image, factor) - expected).max() < 1.5  # OpenCV's 32nds of a pixel


def test_zoom_blur_has_as_many_zooms_as_the_published_ranges():
    ends = {"imagenet": (1.11, 1.16, 1.21, 1.26, 1.31), "cifar": (1.06, 1.11, 1.16, 1.21, 1.26)}
    for whose, found in corrupt.CONSTANTS["zoom_blur"].items():
        for (first, step, count), end in zip(found, ends[whose], strict=True):
            assert count == len(np.arange(first, end, step))


def test_a_disc_has_its_area():
    point = np.zeros((41, 41, 1), np.float32)
    point[20, 20] = 1
    for radius, softness in corrupt.CONSTANTS["defocus_blur"]["imagenet"]:
        made = corrupt_blur.defocus_blur(point, (radius, softness), {})[..., 0]
        assert made.sum() == pytest.approx(1, abs=0.02)  # as published: where the disc fills the kernel it is 1.013
        area = sum(x * x + y * y <= radius**2 for x in range(-12, 13) for y in range(-12, 13))
        assert made[20, 20] == pytest.approx(1 / area, rel=1e-3)
        assert np.abs(made[20, 20 + radius + 3 :]).max() < 1e-6


def test_photons_are_poisson():
    for photons, value in ((3, 255), (12, 100), (500, 200), (60, 0)):
        image = np.full((300, 300, 1), value / 255, np.float32)
        counts = corrupt_noise.shot_noise(image, photons, {"seed": 9}) * photons
        mean = photons * value / 255
        assert np.array_equal(np.rint(counts), np.rint(counts * 1.00001))
        assert counts.mean() == pytest.approx(mean, abs=4 * math.sqrt(mean / 90_000) + 1e-9)
        assert counts.var() == pytest.approx(mean, rel=0.03, abs=1e-9)
        table = corrupt_noise._cumulated(mean)
        exact = [math.exp(-mean + n * math.log(mean or 1) - math.lgamma(n + 1)) for n in range(5)]
        assert mean == 0 or np.allclose(table[:5], np.cumsum(exact))
        assert table[-1] == pytest.approx(1, abs=1e-12)


def test_impulses_are_half_white_and_of_each_value_by_itself():
    image = np.full((400, 400, 3), 0.5, np.float32)
    made = corrupt_noise.impulse_noise(image, 0.27, {"seed": 4})
    assert (made == 1).mean() == pytest.approx(0.135, abs=0.003) and (made == 0).mean() == pytest.approx(
        0.135, abs=0.003
    )
    grey = (made == made[..., :1]).all(axis=2).mean()
    assert grey == pytest.approx(0.73**3 + 2 * 0.135**3, abs=0.005)


def test_noise_of_large_pictures_does_not_repeat():
    image = np.full((600, 600, 1), 0.5, np.float32)
    for made in (
        corrupt_noise.shot_noise(image, 60, {"seed": 1}),
        corrupt_noise.impulse_noise(image, 0.3, {"seed": 1}),
    ):
        first, second = np.split(made.reshape(-1)[: 2 * (made.size // 2)], 2)
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.01


def test_clouds_are_diamond_square():
    side, decay = 16, 1.7
    raw = iter(np.random.PCG64(5).random_raw(side * side))
    cells = np.zeros((side, side))
    reach, step = 1.0, side

    def moved(corners):
        return sum(cells[row % side, column % side] for row, column in corners) / 4 + reach * (
            (int(next(raw)) >> 11) * 2.0**-52 - 1.0
        )

    while step >= 2:
        half = step // 2
        for row in range(0, side, step):
            for column in range(0, side, step):
                corners = [(row, column), (row + step, column), (row, column + step), (row + step, column + step)]
                cells[row + half, column + half] = moved(corners)
        for down, right in ((0, half), (half, 0)):
            for row in range(down, side, step):
                for column in range(right, side, step):
                    around = [(row - half, column), (row + half, column), (row, column - half), (row, column + half)]
                    cells[row, column] = moved(around)
        step, reach = half, reach / decay**2
    cells = (cells - cells.min()) / (cells - cells.min()).max()
    assert np.allclose(corrupt_weather.plasma(5, side, decay), cells)


def test_frost_has_the_colours_of_the_photographs():
    black = np.zeros((224, 224, 3), np.float32)
    for seed in range(6):
        made = corrupt_weather.frost(black, (1, 1.0), {"seed": seed}) * 255
        colour, spread = corrupt_weather.FROSTS[int(np.random.PCG64(seed).random_raw()) % 5]
        assert np.abs(made.mean(axis=(0, 1)) - colour).max() < 4
        assert made[..., 1].std() == pytest.approx(spread, rel=0.1)


def test_brightness_is_of_hsv_and_contrast_about_the_mean():
    image = picture(8, 9, 11).astype(np.float32) / 255
    found = corrupt_digital.brightness(image, 0.3, {})
    for place in np.ndindex(9, 11):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[place].tolist())
        assert found[place] == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.3)), abs=1e-4)
    flat = corrupt_digital.contrast(image, 0.05, {})
    assert np.allclose(flat, (image - image.mean((0, 1))) * 0.05 + image.mean((0, 1)), atol=1e-6)


@pytest.mark.parametrize("share", [0.6, 0.5, 0.4, 0.3, 0.25, 0.95])
def test_pixelate_averages_boxes_of_whole_pixels(share):
    image = picture(6, 23, 37)
    small = image
    for axis, length in ((1, 37), (0, 23)):
        count = int(length * share)
        edges = [int(number * length / count + 0.5) for number in range(count + 1)]
        parts = [np.take(small, range(*ends), axis).astype(float).mean(axis) for ends in pairwise(edges)]
        small = np.floor(np.stack(parts, axis) + 0.5)
    height, width = small.shape[:2]
    for row, column in np.ndindex(23, 37):
        expected = small[int((row + 0.5) * height / 23), int((column + 0.5) * width / 37)]
        assert np.array_equal(corrupt_digital.pixelate(image, share, {})[row, column], expected)


# ---- labels


def coordinates(height, width):
    """A picture whose values say where they are."""
    grid = np.empty((height, width, 3), np.uint16)
    grid[..., 0], grid[..., 1], grid[..., 2] = 100 * np.arange(width), 100 * np.arange(height)[:, None], 0
    return grid


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_labels_follow_the_elastic_transform(severity):
    height, width = 260, 300
    points = np.array([(x, y, 2.0) for x in range(100, 201, 20) for y in range(90, 171, 20)])
    square = np.zeros((height, width), np.uint8)
    square[80:180, 90:220] = 1
    pose = Object(0, np.array([90.0, 80.0, 220.0, 180.0]), keypoints=points)
    one = corruption(kind="elastic_transform", severity=severity)
    moved = corrupted(one, coordinates(height, width), objects=(pose,), mask=square)
    off = []
    for (x, y, seen), (old_x, old_y, _) in zip(moved.objects[0].keypoints, points, strict=True):
        if seen and 1 < x < width - 1 and 1 < y < height - 1:
            shown = cv2.getRectSubPix(moved.image.astype(np.float32), (1, 1), (x - 0.5, y - 0.5))[0, 0]
            off.append(np.hypot(shown[0] / 100 + 0.5 - old_x, shown[1] / 100 + 0.5 - old_y))
    assert len(off) > 20 and max(off) < (0.2 if severity < 3 else 2.5)
    inside = (moved.image[..., 0] >= 9000) & (moved.image[..., 0] < 22000)
    inside &= (moved.image[..., 1] >= 8000) & (moved.image[..., 1] < 18000)
    assert (inside != (moved.mask > 0)).mean() < 0.02
    if severity < 3:  # the border shows the square again
        return
    rows_, columns = np.nonzero(moved.mask)
    left, top, right, bottom = moved.objects[0].box
    extent = np.array([columns.min(), rows_.min(), columns.max() + 1, rows_.max() + 1])
    assert np.abs(extent - (left, top, right, bottom)).max() < 0.25 * 130  # a box alone is turned as an ellipse


def test_where_a_field_folds_the_nearest_pixel_is_the_answer():
    columns, rows_ = np.meshgrid(np.arange(40) + 0.5, np.arange(30) + 0.5)
    map_x = columns + 6 * np.sin(columns)
    points = np.array([(x, 12.5) for x in range(5, 35, 3)], float)
    with pytest.raises(EdgekitError, match="folds"):
        Field(map_x, rows_).points(points)
    found = Field(map_x, rows_, folds=True).points(points)
    for (x, y), (at, down) in zip(points, found, strict=True):
        best = np.hypot(map_x - x, rows_ - y).min()
        row, column = np.clip(int(down), 0, 29), np.clip(int(at), 0, 39)
        assert math.hypot(map_x[row, column] - x, rows_[row, column] - y) <= best + 1.0 or best > 0.25


# ---- the set


def make(root, severities="1,3", workers=1, out=None, originals=False, **recipe):
    found = evaluation(plan(scan(root)))
    wanted = suite(severities)
    out = out or root.with_name(f"{root.name}-corrupted")
    rules = found.rules(Recipe(()).rules)
    line.run(
        found, out, Recipe((), len(wanted), originals=originals, suite=wanted, rules=rules, **recipe), workers=workers
    )
    return out


@pytest.fixture
def small(tmp_path):
    root = tmp_path / "imgs"
    save(root / "cats" / "a.png", picture(1, 90, 100))
    save(root / "cats" / "b.jpg", picture(2, 40, 50))
    save(root / "dogs" / "c.png", picture(3, 30, 30, channels=1))
    return root


def test_the_set_is_laid_out_as_imagenet_c(edgekit, small):
    done = edgekit("augment", small, "--corruptions", "--severity", "3,1")
    assert done.code == 0, done.err
    assert "15 corruptions, severity 1, 3" in done.out and "not for training" in done.out
    out = small.with_name("imgs-corrupted")
    found = rows(out / "manifest.jsonl")
    expected = {
        f"{one.kind}/{one.severity}/{key}" for one in suite("1,3") for key in ("cats/a.png", "cats/b.jpg", "dogs/c.png")
    }
    assert {row["file_name"] for row in found} == expected == {p for p in expected if (out / p).is_file()}
    for row in found:
        assert row["file_name"].startswith(f"{row['corruption']}/{row['severity']}/") and row["label"] in (
            "cats",
            "dogs",
        )
    stamp = json.loads((out / "run.json").read_text())
    assert stamp["evaluation"] is True and stamp["counts"]["originals"] == 0
    assert stamp["recipe"]["corruptions"] == {"names": list(NAMES), "severities": [1, 3]}
    assert "up to date" in edgekit("augment", small, "--corruptions", "--severity", "1,3").out
    assert edgekit("augment", small, "--replay", out / "manifest.jsonl").code == 0
    assert edgekit("verify", out).code == 0
    refused = edgekit("augment", out, "--flip")
    assert refused.code == 2 and "is of an evaluation set" in refused.err
    for source in (out / "snow" / "3", out / "snow" / "3" / "cats"):
        with pytest.raises(EdgekitError, match="is of an evaluation set"):
            line.check_source(source)
    line.check_source(small)
    assert not list(out.parent.glob("imgs-corrupted-*"))


def test_bytes_depend_on_corruption_and_severity_alone(small, tmp_path):
    one = make(small, "3", out=tmp_path / "one")
    three = make(small, "1,3,5", workers=2, out=tmp_path / "three")
    for path in one.rglob("*/3/**/*.*"):
        assert path.read_bytes() == (three / path.relative_to(one)).read_bytes()
    assert tree_digest(three) == tree_digest(make(small, "1,3,5", out=tmp_path / "again"))
    other = make(small, "3", out=tmp_path / "other", seed=1)
    noise, same = "gaussian_noise/3/cats/a.png", "contrast/3/cats/a.png"
    assert (one / noise).read_bytes() != (other / noise).read_bytes()
    assert (one / same).read_bytes() == (other / same).read_bytes()


def test_originals_go_into_a_folder_of_their_own_when_asked_for(small):
    for typed, wanted in ((None, False), (False, False), (True, True)):
        values = Typed(dict.fromkeys(corruptions.OTHERS) | {"originals": typed}, (), None)
        assert corruptions.effective(augment(corruptions=True), values, None)[1].originals is wanted
    out = make(small, "1", originals=True)
    assert (out / "clean" / "cats" / "a.png").read_bytes() == (small / "cats" / "a.png").read_bytes()
    assert len(rows(out / "manifest.jsonl")) == 3 * 16


def test_of_a_set_with_splits_train_is_left_out(tmp_path):
    root = tmp_path / "set"
    for number, split in enumerate(("train", "train", "val", "test")):
        save(root / "images" / split / f"{number}.png", picture(number, 90, 90))
        (root / "labels" / split).mkdir(parents=True, exist_ok=True)
        (root / "labels" / split / f"{number}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    out = make(root, "2")
    found = rows(out / "manifest.jsonl")
    assert {row["split"] for row in found} == {"val", "test"} and len(found) == 30
    same, moved = "snow/2/labels/val/2.txt", "elastic_transform/2/labels/val/2.txt"
    assert (out / same).read_text() == "0 0.5 0.5 0.4 0.4\n" != (out / moved).read_text()
    assert not list(out.rglob("train"))


def test_a_picture_equal_to_its_source_stays(tmp_path):
    save(tmp_path / "grey" / "a.png", np.full((90, 90, 3), 100, np.uint8))
    assert len(rows(make(tmp_path / "grey", "1,2,3,4,5") / "manifest.jsonl")) == 75


def test_formats_that_change_do_not_take_the_name_of_another(tmp_path):
    root = tmp_path / "imgs"
    save(root / "a.gif", picture(1, 90, 90))
    save(root / "a.gif.png", picture(2, 90, 90))
    save(root / "a.png", picture(3, 90, 90))
    out = make(root, "1")
    assert {path.name for path in (out / "fog" / "1").iterdir()} == {"a.gif_.png", "a.gif.png", "a.png"}
    assert len(rows(out / "manifest.jsonl")) == 45


def test_only_what_changed_is_made_anew(small):
    out = make(small, "1")
    save(small / "cats" / "b.jpg", picture(9, 40, 50))
    found = evaluation(plan(scan(small)))
    recipe = Recipe((), 15, originals=False, suite=suite("1"))
    assert line.run(found, out, recipe, workers=1, if_changed=True).tally.reused == 30


def test_the_preview_shows_some_of_all(small):
    found = evaluation(plan(scan(small)))
    recipe = Recipe((), 75, originals=False, suite=ALL)
    assert preview.sheet(found, recipe).startswith(b"\x89PNG")
    row = preview._row(replace(recipe, copies=8), found.load(found.sources[0], recipe), None)
    assert [tile.lines[1].split()[0] for tile in row[1:]][::3] == ["gaussian_noise", "motion_blur", "contrast"]


def test_what_does_not_go_together_is_refused(edgekit, small):
    done = edgekit("augment", small, "--corruptions", "--flip")
    assert done.code == 2 and "an op (flip) and --corruptions do not go together" in done.err
    chosen = augment(corruptions=True)
    for name, value in (("copies", "3"), ("split", "80/20"), ("preset", "light"), ("text", True)):
        typed = Typed(dict.fromkeys((*corruptions.OTHERS, "originals")) | {name: value}, (), None)
        with pytest.raises(EdgekitError, match=f"--{name} and --corruptions do not go together"):
            corruptions.effective(chosen, typed, None)
    for text in ("0", "1,,3", "6", "a", ""):
        with pytest.raises(EdgekitError, match=f"severity={text} is not numbers from 1 to 5"):
            suite(text)
    assert not small.with_name("imgs-corrupted").exists()


def test_severity_alone_is_refused(edgekit, small):
    done = edgekit("augment", small, "--flip", "--severity", "3")
    assert done.code == 2 and "--severity is of --corruptions" in done.err


def test_ops_of_a_configuration_file_do_not_hold(edgekit, small, tmp_path):
    (tmp_path / "edgekit.toml").write_text('[augment]\nops = ["flip"]\ncopies = 2\nsplit = "80/20"\n')
    done = edgekit("augment", small, "--corruptions", "--severity", "1", "--dry-run", "--json")
    assert done.code == 0 and done.json["recipe"]["ops"] == [] and done.json["recipe"]["copies"] == 15
    assert done.json["evaluation"] is True
