"""Roles: who calibrates, who chooses, who is reported on, judged by content."""

import shutil

import numpy as np
import pytest

from conftest import picture
from edgekit.data.folder import scan
from edgekit.measure.preprocess import Preprocess
from edgekit.measure.roles import Gallery, moments, split_roles


def folder(root, count, start=0, labels=("a", "b")):
    for number in range(start, start + count):
        path = root / labels[number % len(labels)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"picture %d" % number)
    return scan(root)


def contents(sources):
    return sorted(source.path.read_bytes() for source in sources)


def parts(roles):
    return roles.calibrate, roles.choose, roles.report


def assert_apart(roles):
    sets = [set(contents(part)) for part in parts(roles)]
    assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 20, 100])
def test_data_alone(tmp_path, count):
    roles = split_roles(None, folder(tmp_path, count))
    assert_apart(roles)
    assert sum(map(len, parts(roles))) == count
    assert roles.report
    assert len(roles.calibrate) <= max(1, count / 4) and len(roles.choose) <= max(1, count / 4)
    assert bool(roles.calibrate) == (count > 1) and bool(roles.choose) == (count > 2)
    assert any("synthetic" in note for note in roles.notes) == (count == 1)


def test_data_alone_has_limits(tmp_path):
    roles = split_roles(None, folder(tmp_path, 2400), samples=100)
    assert [len(part) for part in parts(roles)] == [100, 512, 1788]


@pytest.mark.parametrize("count", [1, 2, 3, 8, 400])
def test_calib_alone(tmp_path, count):
    roles = split_roles(folder(tmp_path, count), None)
    assert_apart(roles)
    assert roles.calibrate
    assert bool(roles.report) == (count > 1) and bool(roles.choose) == (count > 2)
    if count == 400:
        assert [len(part) for part in parts(roles)] == [200, 100, 100]


@pytest.mark.parametrize("count", [1, 2, 3, 8, 400])
def test_calib_and_data(tmp_path, count):
    data = folder(tmp_path / "data", 50, start=1000)
    roles = split_roles(folder(tmp_path / "calib", count), data, samples=256)
    assert_apart(roles)
    assert contents(roles.report) == contents(data.sources)
    assert roles.calibrate and bool(roles.choose) == (count > 1)
    if count == 400:
        assert (len(roles.calibrate), len(roles.choose)) == (256, 100)


def test_what_is_in_both_is_only_reported_on(tmp_path):
    calib, data = folder(tmp_path / "calib", 40), folder(tmp_path / "data", 40, start=30)
    roles = split_roles(calib, data)
    assert_apart(roles)
    assert len(roles.calibrate) + len(roles.choose) == 30
    assert any("10 pictures of --calib left out" in note for note in roles.notes)


def test_a_calib_wholly_inside_data_makes_data_stand_alone(tmp_path):
    data = folder(tmp_path / "data", 40)
    calib = folder(tmp_path / "calib", 10)
    roles = split_roles(calib, data)
    alone = split_roles(None, data)
    assert parts(roles) == parts(alone)
    assert "every picture of --calib is in --data too" in roles.notes[0]


def test_the_same_folder_twice(tmp_path):
    data = folder(tmp_path / "data", 40)
    roles = split_roles(scan(tmp_path / "data"), data)
    assert parts(roles) == parts(split_roles(None, data))
    assert "same folder" in roles.notes[0]


def test_copies_stay_together(tmp_path):
    listing = folder(tmp_path, 40)
    for number, source in enumerate(listing.sources[:20]):
        shutil.copy(source.path, tmp_path / "b" / f"copy{number}.png")
    roles = split_roles(None, scan(tmp_path))
    assert_apart(roles)
    assert sum(map(len, parts(roles))) == 60


def test_names_and_order_change_nothing(tmp_path):
    first = folder(tmp_path / "one", 60)
    second = tmp_path / "two"
    for number, source in enumerate(reversed(first.sources)):
        (second / "x").mkdir(parents=True, exist_ok=True)
        shutil.copy(source.path, second / "x" / f"{number:03}.jpg")
    for mine, other in zip(parts(split_roles(None, first)), parts(split_roles(None, scan(second))), strict=True):
        assert contents(mine) == contents(other)


def test_added_pictures_never_move_others_between_calibrate_and_choose(tmp_path):
    before = split_roles(None, folder(tmp_path, 100))
    after = split_roles(None, folder(tmp_path, 20, start=100))
    assert not set(contents(before.calibrate)) & set(contents(after.choose))
    assert not set(contents(before.choose)) & set(contents(after.calibrate))
    assert len(set(contents(before.calibrate)) & set(contents(after.calibrate))) > 15


def test_another_seed_deals_otherwise(tmp_path):
    data = folder(tmp_path, 100)
    assert contents(split_roles(None, data, seed=1).calibrate) != contents(split_roles(None, data).calibrate)
    assert parts(split_roles(None, data, seed=2**63 - 1)) == parts(split_roles(None, data, seed=2**63 - 1))


def test_nothing_given():
    roles = split_roles(None, None)
    assert parts(roles) == ((), (), ()) and "synthetic" in roles.notes[0]


def test_vanished_files_keep_a_role(tmp_path):
    data = folder(tmp_path, 12)
    data.sources[0].path.unlink()
    assert sum(map(len, parts(split_roles(None, data)))) == 12


def test_the_gallery_is_spread_over_folders_and_skips_what_it_cannot_read(tmp_path):
    import cv2

    for label in "abcd":
        for number in range(100):
            path = tmp_path / label / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(cv2.imencode(".png", picture(number, 12, 12))[1].tobytes() if number != 7 else b"broken")
    gallery = Gallery(scan(tmp_path).sources)
    images, labels = gallery.fitted(Preprocess(size=(8, 8), color="bgr"))
    assert gallery.shapes == {(12, 12)}
    assert 240 <= len(images) <= 256 and images[0].shape == (8, 8, 3)
    assert len(set(labels[:12])) == 4
    assert Gallery(()).fitted(Preprocess(size=(8, 8))) == ([], [])


def test_moments():
    images = [picture(number, 20, 30) for number in range(5)]
    mean, deviation = moments(images)
    pixels = np.stack(images).reshape(-1, 3)
    np.testing.assert_allclose(mean, pixels.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(deviation, pixels.std(axis=0), atol=0.01)
    assert moments([np.zeros((4, 4, 1), np.uint8)]) == ((0.0,), (1.0,))
