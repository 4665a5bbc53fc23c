"""Every layout into every other and back, through the command: what comes back, and that what does not is said.

TABLE is the promise: for each pair what a set of the first keeps on its way through the second and back.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from test_yolo import exif

from conftest import picture, rows, save
from edgekit.cli import app
from edgekit.cli.console import Console
from edgekit.data import dataset, images, masks
from edgekit.data.sample import Object
from edgekit.data.writer import Output, Schema, said, writer

WIDTH, HEIGHT = 60, 40
NAMES = ("cat", "dog: ünï", "never seen")


def run(*arguments):
    """Run `edgekit ...` in this process; give its exit code."""
    return app._run([str(one) for one in arguments], Console(), False, None)


def convert(source, kind, out):
    assert run("augment", source, "-n", 0, "--to", kind, "--out", out, "--workers", 1, "--no-config", "-q") == 0
    return rows(out / "manifest.jsonl")


# ---- a set of each layout that has all that the layout can hold


def square(x, y, width, height, **more):
    return Object(more.pop("number", 0), np.array([x, y, x + width, y + height], np.float64), **more)


def shape(*points, **more):
    polygons = tuple(np.array(part, np.float64) for part in points)
    every = np.concatenate(polygons)
    low, high = every.min(axis=0), every.max(axis=0)
    return square(*low, *(high - low), polygons=polygons, **more)


def run_lengths(**more):
    region = np.zeros((HEIGHT, WIDTH), bool)
    region[20:35, 10:40] = True
    region[25:30, 20:30] = False
    return square(10, 20, 30, 15, region=region, **more)


TRIANGLE = [[5, 5], [25.25, 8.125], [12, 18]]
BOXES = (square(3.3, 4, 20.4, 12.8), square(30, 10, 25, 20, number=1))
POSE = tuple(
    square(3 + shift, 4, 20, 12, keypoints=np.array([[5.5 + shift, 6, 2], [8, 9, 1], [0, 0, 0]])) for shift in (0, 30)
)
TURNED = (
    shape([[20, 5], [30, 15], [20, 25], [10, 15]], oriented=True),
    shape([[5, 5], [9, 5], [9, 30], [5, 30]], oriented=True),
)
SETS = {
    "coco": (
        Schema(NAMES, form="outline"),
        (
            square(3, 4, 20, 12, extra={"score": 0.5}),
            shape(TRIANGLE, number=1),
            shape(TRIANGLE, [[40, 20], [50, 20], [50, 30]]),
            run_lengths(),
            run_lengths(number=1, crowd=True),
        ),
    ),
    "coco pose": (Schema(NAMES[:1], (3, 3), ("nose", "left_ear", "right_ear"), (0, 2, 1)), POSE),
    "coco turned": (Schema(NAMES, form="oriented"), TURNED),
    "yolo": (Schema(NAMES), BOXES),
    "yolo outlines": (Schema(NAMES, form="outline"), (shape(TRIANGLE), shape([[30, 5], [50, 8], [40, 30], [31, 9]]))),
    "yolo pose": (Schema(NAMES[:1], (3, 3), ("nose", "left_ear", "right_ear"), (0, 2, 1)), POSE),
    "yolo turned": (Schema(NAMES, form="oriented"), TURNED[:1]),
    "voc": (Schema(NAMES), (square(3, 4, 20, 12, extra={"difficult": "1"}), BOXES[1])),
    "voc outlines": (Schema(NAMES, form="outline"), (shape(TRIANGLE),)),
    "masks": (Schema(NAMES), ()),
    "folder": (Schema(), ()),
    "none": (Schema(), ()),
}


def build(root, name):
    """Write a set: two pictures of train, one of val and one without an object."""
    kind = name.split()[0]
    schema, objects = SETS[name]
    made = writer(kind, schema)
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[4:20, 6:30], values[10:15, 10:20] = 1, 2
    folder = "images/" if kind == "masks" else ""
    for number, split in enumerate(("train", "train", "val", "train")):
        key = f"{folder}{split}/p{number}.png" if kind in ("masks", "coco") else f"p{number}.png"
        label = ("cat", "dog")[number % 2] if kind == "folder" else None
        own = objects if number < 3 else ()
        mask = masks.Mask(values * (number < 3)) if kind == "masks" else None
        split = None if kind == "none" else split
        written = made.label(Output(key, WIDTH, HEIGHT, own, label, mask, split))
        made.take(written.row)
        save(root / written.picture, picture(number, HEIGHT, WIDTH))
        for path, data in written.files:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
    for path, data in made.close():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return kind


# ---- what there is in a set


def facts(root):
    """Read all that a set says, by what it is and by picture; pictures are known by their bytes."""
    found = dataset.read(root)
    by_picture = {}
    for entry in found.entries:
        mask, notes = entry.read_mask()
        labelled = entry.read()
        assert not (*notes, *labelled.mended)
        by_picture[hashlib.sha256(entry.source.path.read_bytes()).hexdigest()] = (entry, labelled.objects, mask)
    ordered = [by_picture[key] for key in sorted(by_picture)]
    objects = [one for _, own, _ in ordered for one in own]
    return {
        "pictures": sorted(by_picture),
        "split": [entry.split for entry, _, _ in ordered],
        "class folder": [entry.label for entry, _, _ in ordered],
        "names": found.names,
        "classes": [[found.names[one.number] for one in own] for _, own, _ in ordered],
        "boxes": [one.box for one in objects],
        "outlines": [
            one.polygons or () if one.region is None else masks.region_of(one, (WIDTH, HEIGHT)) for one in objects
        ],
        "pixels": [masks.region_of(one, (WIDTH, HEIGHT)) for one in objects],
        "keypoints": [one.keypoints for one in objects],
        "flip index": found.flip_index,
        "turned": [one.oriented for one in objects],
        "crowds": [one.crowd for one in objects],
        "fields": [{key: str(value) for key, value in said(one).items()} for one in objects],
        "mask": [None if mask is None else mask.values for _, _, mask in ordered],
    }


def same(one, other, within):
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(same(a, b, within) for a, b in zip(one, other, strict=True))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.shape == other.shape and np.abs(one.astype(float) - other).max(initial=0) <= within
    return one == other if not isinstance(one, np.ndarray) and not isinstance(other, np.ndarray) else False


def told(value):
    """Tell whether a fact says anything."""
    if isinstance(value, (list, tuple)):
        return any(map(told, value))
    if isinstance(value, np.ndarray):
        return bool(value.size)
    return bool(value)


def kept(before, after):
    """Say what came back: exactly (0.002 of a pixel), or `~` to a pixel."""
    found = []
    for what, value in before.items():
        if not told(value) or (what == "pixels" and not told(before["outlines"])):
            continue
        if same(value, after[what], 0.002):
            found.append(what)
        elif what == "boxes" and same(value, after[what], 0.51):
            found.append("~boxes")
    if "outlines" in found and "pixels" in found:
        found.remove("pixels")
    return " ".join(found).replace("class folder", "label").replace("flip index", "flip")


# ---- the table

# What comes back (and pictures always do, byte for byte), and what the rows of the way there say is lost. boxes,
# outlines, keypoints: within 0.002 of a pixel; ~boxes: within half a pixel; pixels: outlines fill the same ones.
TABLE = {
    ("coco", "yolo"): (
        "split names classes boxes pixels",
        ["boxes among outlines", "crowds", "fields beyond its label", "outlines in parts or run lengths"],
    ),
    ("coco", "voc"): ("split names classes ~boxes fields", ["crowds", "outlines in run lengths"]),
    ("coco", "masks"): (
        "split names",
        ["boxes without an outline", "crowds", "fields beyond the class", "objects of one class told apart"],
    ),
    ("coco", "folder"): ("split", ["objects"]),
    ("coco", "none"): ("split", []),
    ("coco pose", "yolo"): ("split names classes boxes keypoints flip", []),
    ("coco pose", "voc"): ("split names classes boxes", ["keypoints"]),
    ("coco turned", "yolo"): ("split names classes boxes outlines turned", []),
    ("coco turned", "voc"): ("split names classes boxes outlines turned", []),
    ("yolo", "coco"): ("split names classes boxes", []),
    ("yolo", "voc"): ("split names classes ~boxes", []),
    ("yolo", "masks"): ("split names classes ~boxes", ["boxes without an outline"]),
    ("yolo", "folder"): ("split", ["objects"]),
    ("yolo", "none"): ("split", []),
    ("yolo outlines", "coco"): ("split names classes boxes outlines", []),
    ("yolo outlines", "voc"): ("split names classes boxes outlines", []),
    ("yolo outlines", "masks"): ("split names", ["objects of one class told apart"]),
    ("yolo pose", "coco"): ("split names classes boxes keypoints flip", []),
    ("yolo pose", "voc"): ("split names classes boxes", ["keypoints"]),
    ("yolo turned", "coco"): ("split names classes boxes outlines turned", []),
    ("yolo turned", "voc"): ("split names classes boxes outlines turned", []),
    ("voc", "coco"): ("split names classes boxes fields", []),
    ("voc", "yolo"): ("split names classes boxes", ["fields beyond its label"]),
    ("voc", "masks"): ("split names", ["boxes without an outline", "fields beyond the class"]),
    ("voc", "folder"): ("split", ["objects"]),
    ("voc", "none"): ("split", []),
    ("voc outlines", "coco"): ("split names classes boxes outlines", []),
    ("voc outlines", "yolo"): ("split names classes boxes outlines", ["boxes beside outlines"]),
    ("voc outlines", "masks"): ("split names", []),
    ("masks", "coco"): ("split names mask", []),
    ("masks", "yolo"): ("split names mask", ["outlines in parts or run lengths"]),
    ("masks", "voc"): ("split names mask", []),
    ("masks", "folder"): ("split", ["masks"]),
    ("masks", "none"): ("split", []),
    ("folder", "coco"): ("split label names", ["classes of whole pictures"]),
    ("folder", "yolo"): ("split label names", ["classes of whole pictures"]),
    ("folder", "voc"): ("split label names", ["classes of whole pictures"]),
    ("folder", "masks"): ("split label names", ["classes of whole pictures"]),
    ("folder", "none"): ("split label names", []),
    ("none", "coco"): ("", []),
    ("none", "yolo"): ("", []),
    ("none", "voc"): ("", []),
    ("none", "masks"): ("", []),
    ("none", "folder"): ("", []),
}


@pytest.mark.parametrize("name", SETS)
def test_there_and_back(tmp_path, name):
    source = tmp_path / "source"
    kind = build(source, name)
    before = facts(source)
    for to in (to for one, to in TABLE if one == name):
        made = convert(source, to, tmp_path / to)
        lost = {what.removeprefix(f"{to} has no ").partition(": of")[0].partition(" (")[0] for what in losses(made)}
        convert(tmp_path / to, kind, tmp_path / f"{to}-back")
        expected, said_lost = TABLE[name, to]
        after = facts(tmp_path / f"{to}-back")
        assert kept(before, after) == f"pictures {expected}".strip(), to
        assert sorted(lost) == said_lost, to


def losses(made):
    return [what for row in made for what in row.get("lost", ())]


def test_the_table_is_whole():
    kinds = dataset.KINDS
    assert {(one, to) for one in kinds for to in kinds if one != to} <= set(TABLE)


# ---- what is hard, through the command


def augment(root, *ops, code=0):
    """Mirror every picture once; give the rows and the output."""
    out = root.with_name(f"{root.name}-out")
    ops = ops or ("--op", "flip p=1")
    assert run("augment", root, *ops, "-n", 1, "--out", out, "--workers", 1, "--no-config", "-q", "--force") == code
    return rows(out / "manifest.jsonl"), out


def store(root, name, text, picture_name=None, seed=0):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    if picture_name is not None:
        save(root / picture_name, picture(seed, HEIGHT, WIDTH))


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc", "masks"])
def test_pictures_that_differ_in_their_suffix_alone_keep_their_labels(tmp_path, kind):
    root = tmp_path / "set"
    images, annotations = [], []
    for number, name in enumerate(("a.jpg", "a.png", "b.png", "a-png.png")):
        save(root / name, picture(number, HEIGHT, WIDTH))
        images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": [5 * number, 4, 10, 10]})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    store(root, "a.json", json.dumps(content))
    made, out = augment(root, "--op", "flip p=1", "--to", kind)
    names = [row["file_name"].rpartition("/")[2] for row in made if row["variant"] == 0]
    assert names == ["a-png.png", "a.jpg", "a.png" if kind == "coco" else "a-png_.png", "b.png"]
    labels = [one["path"] for row in made for one in row.get("label_files", ())]
    assert len(labels) == len(set(labels)) == (0 if kind == "coco" else 8)
    for entry in dataset.read(out).entries:
        source = next(row["source"] for row in made if row["file_name"] == entry.key)
        left = 5 * ["a.jpg", "a.png", "b.png", "a-png.png"].index(source)
        (one,) = masks.objects_of(entry.read_mask()[0]) if kind == "masks" else entry.objects
        assert one.box[0] == pytest.approx(WIDTH - 10 - left if "__k" in entry.key else left, abs=0.01)


ODD = {
    "\ufeff0 0.5 0.5 0.2 0.4\r\n\r\n": (1, ""),
    "# cx cy w h\n0 0.5 0.5 0.2 0.4\n": (1, "line 1 skipped"),
    "0 nan 0.5 0.2 0.4\n0 0.5 0.5 0.2 0.4": (1, "nan is not finite"),
    "0 inf 0.5 0.2 0.4": (0, "inf is not finite"),
    "0 -0.1 0.5 0.3 0.2": (1, "clipped"),
    "0 0.5 0.5 -0.2 0.4": (1, "swapped"),
    "0 0.5 0.5 0.2 0.4 0.9 1 2": (0, "8 values"),
    "dog 0.5 0.5 0.2 0.4": (1, "the name of a class"),
    "7 0.5 0.5 0.2 0.4": (0, "class 7"),
    "0 30 20 12 16": (0, "not shares"),
    "": (0, ""),
    " \n": (0, ""),
    "1 0.5 0.5 0 0": (0, "without area"),
}


def test_odd_label_files_are_mended_or_set_aside_in_their_rows(tmp_path):
    root = tmp_path / "set"
    for number, text in enumerate(ODD):
        store(root, f"labels/p{number:02d}.txt", text, f"images/p{number:02d}.png", number)
    store(root, "data.yaml", "names: [cat, dog]\n")
    made, out = augment(root)
    augment(root, "--op", "flip p=1", "--strict", code=1)
    for row, (count, said_of_it) in zip(made[::2], ODD.values(), strict=True):
        assert said_of_it in "; ".join(row.get("mended", [])), row["file_name"]
        assert bool(said_of_it) == ("mended" in row)
        for name in (row["label_files"][0]["path"], f"labels/{row['file_name'][7:10]}__k01.txt"):
            assert len((out / name).read_text().splitlines()) == count  # a background keeps its empty file


def test_an_export_of_roboflow(tmp_path):
    root = tmp_path / "set"
    for number, split in enumerate(("train", "valid", "test")):
        name = f"x{number}_jpg.rf.0a1b"
        store(root, f"{split}/labels/{name}.txt", "0 0.5 0.5 0.2 0.4", f"{split}/images/{name}.jpg", number)
    text = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['cat', 'dog']\n"
    store(root, "data.yaml", text + "\nroboflow:\n  workspace: x\n  license: CC BY 4.0\n  url: https://x.y/z\n")
    made, out = augment(root)
    assert [row["split"] for row in made] == ["test", "train", "train", "val"]
    assert (
        (out / "data.yaml").read_text().startswith("train: train/images\nval: valid/images\ntest: test/images\nnc: 2")
    )
    assert (out / "train" / "labels" / "x0_jpg.rf.0a1b__k01.txt").is_file()


def test_odd_coco_files(tmp_path):
    root = tmp_path / "set"
    for number in range(4):
        save(root / f"p{number}.jpg", picture(number, HEIGHT, WIDTH))
    images = [
        {"id": "a", "file_name": "p0.jpg"},
        {"id": "b", "file_name": "C:\\x\\p1.jpg", "width": WIDTH, "height": HEIGHT},
        {"id": 3, "file_name": "p2.jpg", "width": None, "height": "40"},
        {"id": 3, "file_name": "p3.jpg", "width": WIDTH, "height": HEIGHT},
        {"id": 6, "file_name": "p3.jpg", "width": WIDTH, "height": HEIGHT},
        None,
    ]
    box = {"category_id": "x", "bbox": [6, 4, 30, 20]}
    annotations = [
        {"id": 1, "image_id": "a", **box, "iscrowd": "0"},
        {"id": 1, "image_id": "b", **box, "bbox": None, "segmentation": [[6, 4, 36, 4, 36, 24]]},
        {"id": 2, "image_id": "b", **box, "bbox": [1, 2, 3], "segmentation": []},
        {"id": 3, "image_id": "b", **box, "segmentation": [[1, 2, 3, 4]]},
        {"id": 4, "image_id": 3, **box, "segmentation": {"size": [40, 60], "counts": "bad"}},
        {"id": 5, "image_id": 6, **box, "bbox": ["-5", 4, 30, 2000]},
        {"id": 6, "image_id": 99, **box},
        "junk",
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": "x", "name": "猫"}, {"id": 7}]}
    store(root, "instances.json", json.dumps(content))
    made, out = augment(root)
    mended = [len(row.get("mended", ())) for row in made[::2]]
    assert mended == [0, 3, 1, 2]
    again = json.loads((out / "annotations" / "instances.json").read_text())
    numbers = [one["id"] for one in again["annotations"]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) == 2 * (1 + 2 + 1 + 2)
    assert not any(one["iscrowd"] for one in again["annotations"])
    notes = " ".join(json.loads((out / "run.json").read_text())["labels"]["mended"])
    assert "p3.jpg is described 2 times" in notes
    assert "2 pictures have the id 3" in notes
    assert "of no picture" in notes


@pytest.mark.parametrize("kind", ["coco", "yolo"])
def test_sides_of_keypoints_swap_in_a_mirror(tmp_path, kind):
    root = tmp_path / "set"
    build(root, f"{kind} pose")
    _, out = augment(root)
    found = dataset.read(out)
    assert found.flip_index == (0, 2, 1)
    entry = next(one for one in found.entries if "p0__k01" in one.key)
    assert entry.objects[0].keypoints.tolist() == [
        pytest.approx(p, abs=0.01) for p in ([54.5, 6, 2], [0] * 3, [52, 9, 1])
    ]


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc"])
def test_labels_on_pictures_as_stored_follow_their_orientation(tmp_path, kind):
    root = tmp_path / "set"
    for orientation in range(1, 9):
        pixels = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
        pixels[5:15, 10:40] = 220
        name = f"p{orientation}"
        store(root, f"labels/{name}.txt", f"0 {25 / WIDTH} {10 / HEIGHT} {30 / WIDTH} {10 / HEIGHT}")
        exif(save(root / "images" / f"{name}.jpg", pixels), orientation)
    store(root, "data.yaml", "names: [a]")
    _, out = augment(root, "--op", "flip p=1", "--op", "rot90", "--labels-frame", "raw", "--to", kind)
    entries = dataset.read(out).entries
    assert len(entries) == 16
    for entry in entries:
        seen = images.decode(entry.source.path.read_bytes()).pixels[..., 0]
        (x0, y0, x1, y1) = np.rint(entry.objects[0].box).astype(int)
        assert seen[y0:y1, x0:x1].mean() > 210
        assert (seen > 130).sum() == (x1 - x0) * (y1 - y0)


def test_masks_keep_their_form(tmp_path):
    root = tmp_path / "set"
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[4:20, 6:30], values[25:35, 40:50] = 1, 2
    palette = masks.Mask(values, palette=bytes(range(9)), alpha=b"\0\xff")
    for number in range(5):
        save(root / "images" / f"p{number}.png", picture(number, HEIGHT, WIDTH))
    save(root / "masks" / "p0.png", values.astype(np.uint16) * 300)
    store(root, "masks/p1.png", masks.encode(palette))
    save(root / "masks" / "p2.png", np.dstack([values * 100, values, values * 2, np.full_like(values, 255)]))
    save(root / "masks" / "p3.png", values[::2, ::2])
    store(root, "masks/p4.png", b"junk")
    made, out = augment(root, "--rotate", 20, "--op", "flip p=1")
    deep, indexed, coloured, small = (
        masks.decode((out / "masks" / f"p{number}__k01.png").read_bytes()) for number in range(4)
    )
    assert (deep.values.dtype, np.unique(deep.values).tolist()) == (np.uint16, [0, 300, 600])
    assert (indexed.palette, indexed.alpha, np.unique(indexed.values).tolist()) == (
        palette.palette,
        palette.alpha,
        [0, 1, 2],
    )
    assert coloured.colours.tolist() == [[0, 0, 0, 255], [2, 1, 100, 255], [4, 2, 200, 255]]
    assert small.values.shape == (HEIGHT, WIDTH)
    assert [bool(row.get("mended")) for row in made[::2]] == [False, False, False, True, True]
    assert not (out / "masks" / "p4__k01.png").exists()


def test_turned_boxes_stay_four_corners(tmp_path):
    root = tmp_path / "set"
    text = "0 0.5 0.2 0.8 0.5 0.7 0.6 0.4 0.3\n0 0.9 0.7 1.05 0.85 0.95 0.95 0.8 0.8\n"
    for number in range(2):
        store(root, f"labels/p{number}.txt", text, f"images/p{number}.png", number)
    made, out = augment(root, "--rotate", 30, "--crop", 0.7)
    assert not any("mended" in row for row in made)
    assert "task: obb" in (out / "data.yaml").read_text()
    for path in (out / "labels").iterdir():
        for line in path.read_text().splitlines():
            assert [0 <= float(word) <= 1 for word in line.split()] == [True] * 9
    assert dataset.read(out).form == "oriented"


LABELS = {
    "yolo": ("labels/p{}.txt", "0 0.5 0.5 0.2 0.4\n", "images/p{}.png"),
    "voc": (
        "Annotations/p{}.xml",
        "<annotation><object><name>cat</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
        "</object></annotation>",
        "JPEGImages/p{}.png",
    ),
}


@pytest.mark.parametrize("kind", LABELS)
def test_label_files_that_are_links_out_of_the_folder(tmp_path, kind, capsys):
    label, text, shown = LABELS[kind]
    root = tmp_path / "set"
    for number in range(4):
        store(root, label.format(number), text, shown.format(number), number)
    folder = (root / label).parent
    for number, target in ((1, tmp_path / "elsewhere"), (2, root / "inner")):
        (folder / f"p{number}{(root / label).suffix}").rename(target)
        (folder / f"p{number}{(root / label).suffix}").symlink_to(target)
    made, out = augment(root)
    assert [row.get("mended") for row in made[::2]] == [
        None,
        ["its label file is a link that leads outside of the folder (--follow-links follows it)"],
        None,
        None,
    ]
    assert [len(entry.objects) for entry in dataset.read(out).entries[::2]] == [1, 0, 1, 1]
    made, out = augment(root, "--follow-links", "--op", "flip p=1")
    assert not any("mended" in row for row in made)
    (folder / f"p2{(root / label).suffix}").unlink()
    folder.rename(tmp_path / "all")
    folder.symlink_to(tmp_path / "all")
    assert run("augment", root, "--flip", "--no-config", "--out", tmp_path / "x") == 2
    assert "is reached by a link that leads outside" in capsys.readouterr().err
    made, out = augment(root, "--follow-links", "--op", "flip p=1")
    assert [len(entry.objects) for entry in dataset.read(out).entries] == [1, 1, 1, 1, 0, 0, 1, 1]


def test_masks_and_coco_files_that_are_links_out_of_the_folder(tmp_path, capsys):
    root = tmp_path / "coco"
    build(root, "coco")
    path = next((root / "annotations").glob("*val.json"))
    path.rename(tmp_path / "val.json")
    path.symlink_to(tmp_path / "val.json")
    assert run("augment", root, "--flip", "--no-config", "--out", tmp_path / "x") == 2
    assert "instances_val.json: is reached by a link that leads outside" in capsys.readouterr().err
    augment(root, "--follow-links", "--op", "flip p=1")
    root = tmp_path / "other" / "masks"
    build(root, "masks")
    path = next((root / "masks").rglob("p0.png"))
    path.rename(tmp_path / "p0.png")
    path.symlink_to(tmp_path / "p0.png")
    made, out = augment(root)
    assert sum("label_files" in row for row in made) == len(made) - 2
    assert "a mask is left out: a link" in " ".join(json.loads((out / "run.json").read_text())["labels"]["mended"])


def test_an_export_of_cvat(tmp_path):
    root = tmp_path / "set"
    for split in ("train", "valid"):
        name = f"obj_{split}_data/{split}"
        store(root, f"{name}.txt", "0 0.5 0.5 0.2 0.4\n", f"{name}.jpg", len(split))
        store(root, f"{split}.txt", f"data/{name}.jpg\n")
    store(root, "obj.names", "cat\n")
    made, out = augment(root)
    assert [row["split"] for row in made] == ["train", "train", "val"]
    assert (out / "data.yaml").read_text() == "train: images/train\nval: images/val\nnc: 1\nnames:\n  0: cat\n"


@pytest.mark.parametrize("labelled", [True, False])
def test_masks_of_single_objects_are_left_out_and_said(tmp_path, labelled):
    root = tmp_path / "set"
    store(root, "JPEGImages/a.jpg", "", "JPEGImages/a.jpg")
    for folder in ("SegmentationClass", "SegmentationObject"):
        save(root / folder / "a.png", np.eye(HEIGHT, WIDTH, dtype=np.uint8))
    if labelled:
        store(root, "Annotations/a.xml", LABELS["voc"][1])
    made, out = augment(root)
    assert [row["source"] for row in made] == ["JPEGImages/a.jpg"] * 2
    notes = json.loads((out / "run.json").read_text())["labels"]["mended"]
    assert notes == [f"{root}: 1 mask of single objects left out"]


def test_a_mask_of_255_alone_is_said_to_have_no_objects(tmp_path):
    root = tmp_path / "set"
    save(root / "images" / "a.png", picture(0, HEIGHT, WIDTH))
    save(root / "masks" / "a.png", np.eye(HEIGHT, WIDTH, dtype=np.uint8) * 255)
    for kind in ("coco", "yolo"):
        made, _ = augment(root, "--op", "flip p=1", "--to", kind)
        assert "mask of 255 alone" in made[0]["lost"][0]
