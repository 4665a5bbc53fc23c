"""The difficult files through the command: what becomes of each, against what its index expects of a reader."""

import csv
import re
import shutil
from collections import defaultdict

import pytest

from conftest import rows, tree_digest

# File -> what differs from the index or from Pillow, and why that is right.
DIFFERENT = {
    "pngsuite/xcsn0g01.png": "Pillow shows it without checking the pixels' checksum; the index wants an error",
    "no_data.psd": "the index leaves it open; Pillow flattens Photoshop files, edgekit names the format and goes on",
    "apng_16bit.png": "Pillow counts its still picture as a frame beside the two of the animation",
}
# What the manifest must say of a kind of pixels that it does not keep, by Pillow's mode.
SAID = {"P": "palette became", "CMYK": "CMYK became RGB", "LAB": "Lab became RGB", "1": "1-bit became RGB"}
SAID |= {"LA": "grey with alpha became RGBA"}


@pytest.fixture(scope="module")
def index(assets):
    with (assets / "nasty" / "INDEX.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def is_refused(expected):
    """Tell from the index's words whether a file has to be refused; None when it leaves that open."""
    if "refuse or" in expected or "or refused" in expected:
        return None
    return any(word in expected for word in ("error", "skip", "must be refused"))


def test_every_difficult_file_becomes_what_its_index_says(edgekit, assets, index, tmp_path):
    root = tmp_path / "nasty"
    shutil.copytree(assets / "nasty", root)
    before = tree_digest(root)
    done = edgekit("augment", root, "--noise", "0.1", "-n", "1", "--out", "X")
    assert (done.code, done.err) == (0, "")
    assert tree_digest(root) == before
    made = defaultdict(list)
    for row in rows(tmp_path / "X" / "manifest.jsonl"):
        made[row["source"]].append(row)
    refused = {row["source"]: row["reason"] for row in rows(tmp_path / "X" / "rejected.jsonl")}
    assert len(index) == 231
    assert {row["file"] for row in index} == set(made) | set(refused)
    assert not set(made) & set(refused)
    assert all(refused.values())
    wrong, different, details = [], set(), {}
    for row in index:
        name, said = row["file"], row["pillow_13_says"]
        expected, shows = is_refused(row["expected"]), said.startswith("ok ")
        if expected not in (None, name in refused):
            wrong.append((name, row["expected"], refused.get(name)))
        if shows == (name in refused):
            different.add(name)
        elif shows and (found := list(faults(made[name], said))):
            different.add(name)
            details[name] = found
    assert wrong == []
    assert different == set(DIFFERENT), details


def faults(made, said):
    """Compare the rows of one source with `ok MODE WxH frames=N`, as Pillow sees it."""
    _, _, mode, size, frames = said.split(" ")
    width, height = map(int, size.split("x"))
    variants = [row for row in made if row["variant"]]
    warnings = "; ".join(warning for row in made for warning in row["warnings"])
    if len(variants) != 1:
        yield f"{len(variants)} variants"
    turned = any(row["source"].startswith("exif/Portrait_") for row in made)
    for row in variants:
        found = {(row["width"], row["height"])}
        if found != {(1200, 1800)} if turned else not found <= {(width, height), (height, width)}:
            yield found
    if mode in SAID and SAID[mode] not in warnings:
        yield f"{mode}: {warnings}"
    count = int(frames.removeprefix("frames="))
    if (f"the first of {count} pictures" in warnings) != (count > 1):
        yield f"{count} frames: {warnings}"


def test_what_a_reader_must_do_to_the_pixels(edgekit, assets, tmp_path):
    """16 bits stay 16, transparency stays, the eight orientations are one, a suffix tells the truth."""
    from edgekit.data.images import decode

    root = tmp_path / "n"
    wanted = {
        "hopper_16bit.pgm": ((128, 128, 1), 2, ".pgm"),
        "16bit_grey.png": ((32, 32, 1), 2, ".png.tiff"),
        "apng_16bit.png": ((64, 128, 4), 2, ".png"),
        "transparent.webp": ((150, 200, 4), 1, ".webp"),
        "bmp_rgba32.bmp": ((64, 127, 4), 1, ".bmp"),
        "made/png_named.jpg": ((240, 160, 3), 1, ".jpg.png"),
        "made/cmyk.jpg": ((240, 160, 3), 1, ".jpg"),
        "made/exif6.png": ((160, 240, 3), 1, ".png"),
        "made/exif99.jpg": ((240, 160, 3), 1, ".jpg"),
        "made/UPPER CASE & ünïcode (1).JPEG": ((240, 160, 3), 1, ".JPEG"),
        "frozenpond.mpo": ((480, 640, 3), 1, ".mpo.png"),
        **{f"exif/Portrait_{n}.jpg": ((1800, 1200, 3), 1, ".jpg") for n in range(1, 9)},
    }
    for name in wanted:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(assets / "nasty" / name, root / name)
    done = edgekit("augment", root, "--noise", "0.1", "-n", "1", "--no-originals", "--out", "X")
    assert (done.code, done.err) == (0, "")
    found = {}
    for row in rows(tmp_path / "X" / "manifest.jsonl"):
        pixels = decode((tmp_path / "X" / row["file_name"]).read_bytes()).pixels
        suffix = re.search(r"((?:\.\w+)?)__k01(\.\w+)$", row["file_name"])
        found[row["source"]] = (pixels.shape, pixels.itemsize, suffix[1] + suffix[2])
    assert found == wanted
