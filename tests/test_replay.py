"""`edgekit augment --replay`: outputs made again from their rows alone, and what is said when they differ."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_yolo import exif

from conftest import picture, rows, save, tree_digest
from edgekit.augment import record, replay
from edgekit.augment import run as line
from edgekit.augment.labels import Rules
from edgekit.augment.op import OPS
from edgekit.augment.plan import plan
from edgekit.augment.variants import Recipe
from edgekit.data.folder import scan
from edgekit.errors import EdgekitError

HEIGHT, WIDTH = 60, 80
LABELS = "0 0.25 0.5 0.2 0.4\n1 0.7 0.4 0.3 0.3\n"
POLYGONS = "0 0.2 0.2 0.5 0.25 0.45 0.6 0.15 0.5\n1 0.6 0.5 0.9 0.55 0.8 0.9\n"
POSE = "0 0.5 0.5 0.6 0.6 0.3 0.4 2 0.7 0.4 2 0.5 0.6 1\n"
MIXING = ("mosaic p=0.6", "mixup p=0.5", "cutmix p=0.5", "copy-paste p=0.8", "flip", "rotate 20", "noise", "jpeg p=0.5")


def make(root, *ops, copies=2, to=None, frame="auto", workers=1, **recipe):
    """Run augment on a folder; give the output."""
    found = plan(scan(root), frame=frame, to=to)
    wanted = Recipe(tuple(map(OPS.parse, ops)), copies, **recipe)
    out = root.with_name(f"{root.name}-augmented")
    line.run(found, out, replace(wanted, rules=found.rules(wanted.rules)), workers=workers)
    return out


def again(out, root=None, rows="", to=None, workers=1):
    """Replay an output, or rows of it."""
    found = record.find(f"{out}:{rows}" if rows else str(out))
    root = record.default_source(found) if root is None else root
    return replay.run(found, root, record.plan_of(found, root), record.recipe_of(found), to, workers=workers)


def assert_same(out, count):
    done = again(out)
    assert (done.rows, done.differences, done.files, done.exit_code) == (count, (), (), 0)
    return done


def labelled(root, texts=LABELS, count=4, names="[cat, dog]", more=""):
    for number in range(count):
        save(root / "images" / f"p{number}.png", picture(number, HEIGHT, WIDTH))
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"p{number}.txt").write_text(texts)
    (root / "data.yaml").write_text(f"train: images\nval: images\nnames: {names}\n{more}")
    return root


def test_class_folders_of_every_depth_and_format(pictures):
    out = make(pictures, "flip", "rotate 15", "noise", "blur", quality=60)
    assert_same(out, 24)


def test_the_seed_is_not_needed(pictures):
    """What is recorded is used, and not the draws."""
    out = make(pictures, "flip", "rotate 15", "noise")
    stamp = json.loads((out / "run.json").read_text())
    stamp["recipe"]["seed"] = 99
    stamp["recipe"]["ops"] = []
    (out / "run.json").write_text(json.dumps(stamp))
    assert_same(out, 24)


@pytest.mark.parametrize("to", [None, "coco", "voc", "masks", "folder"])
def test_partners_rules_and_conversions(tmp_path, to):
    root = labelled(tmp_path / "set", POLYGONS, count=7)
    out = make(root, *MIXING, copies=3, to=to, rules=Rules(min_visibility=0.4, box_method="corners"))
    assert any("partners" in op for row in rows(out / "manifest.jsonl") for op in row["ops"])
    assert_same(out, 28)


def test_splits_and_class_folders_below_them(tmp_path):
    for split in ("train", "val"):
        for number in range(3):
            save(tmp_path / "set" / split / f"c{number % 2}" / f"{split}{number}.jpg", picture(number))
    assert_same(make(tmp_path / "set", "mixup", "flip"), 12)


def test_keypoints_with_a_flip_index(tmp_path):
    root = labelled(tmp_path / "pose", POSE, names="[man]", more="kpt_shape: [3, 3]\nflip_idx: [1, 0, 2]\n")
    out = make(root, "flip p=0.7", "rotate 10")
    assert json.loads((out / "run.json").read_text())["recipe"]["labels"]["flip_index"] == [1, 0, 2]
    assert_same(out, 12)


def test_masks(tmp_path):
    root = tmp_path / "m"
    for number, form in enumerate((np.uint8, np.uint16, None)):
        mask = np.zeros((HEIGHT, WIDTH), np.uint16)
        mask[10:30, 5:40], mask[40:50, 50:70] = 1, 300 if form == np.uint16 else 2
        if form is None:
            mask = np.array([(0, 0, 0), (0, 0, 255), (0, 128, 64)], np.uint8)[mask]
        save(root / "images" / f"p{number}.png", picture(number, HEIGHT, WIDTH))
        save(root / "masks" / f"p{number}.png", mask if form is None else mask.astype(form))
    assert_same(make(root, "flip", "rotate 15", "cutout"), 9)


@pytest.mark.parametrize("frame", ["upright", "raw"])
def test_turned_pictures_and_the_frame_of_their_labels(tmp_path, frame):
    root = tmp_path / "turned"
    for number in (3, 6, 8):
        save(root / "images" / f"p{number}.jpg", picture(number, HEIGHT, WIDTH))
        exif(root / "images" / f"p{number}.jpg", number)
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"p{number}.txt").write_text(LABELS)
    assert_same(make(root, "flip", "rotate 15", frame=frame), 9)


def test_names_that_are_not_utf8(edgekit, tmp_path):
    data = save(tmp_path / "p.png", picture(1)).read_bytes()
    root = tmp_path / "odd"
    for name in (b"bad\xff\xfe.png", b"new\nline.png", b"a:b, 3.png"):
        Path(os.fsdecode(os.path.join(os.fsencode(root), name))).parent.mkdir(exist_ok=True)  # noqa: PTH118
        Path(os.fsdecode(os.path.join(os.fsencode(root), name))).write_bytes(data)  # noqa: PTH118
    out = make(root, "rotate 15")
    assert_same(out, 9)
    assert again(out, rows="a:b, 3__k02.png").rows == 1
    name = "bad\udcff\udcfe__k01.png"
    done = edgekit("augment", "--replay", f"{out}:{name}", "--out", tmp_path / "one")
    assert (done.code, done.out) == (0, f"1 of 1 row rebuilt: all bit-identical -> {tmp_path / 'one'}\n"), done.err
    assert (tmp_path / "one" / name).read_bytes() == (out / name).read_bytes()


def test_the_command_prints_one_line(edgekit, tmp_path):
    """Of a set whose splits and groups were made by the run: the rows have them."""
    root = labelled(tmp_path / "set", count=8)
    (root / "data.yaml").write_text("names: [cat, dog]\n")
    before = tree_digest(root)
    made = edgekit("augment", root, "--op", "mixup p=1", "--split", "60/40", "--group-by", "(.).png", "--to", "coco")
    assert made.code == 0, made.err
    out = tmp_path / "set-augmented"
    assert {"train", "val"} == {row["split"] for row in rows(out / "manifest.jsonl")}
    count, made = len(rows(out / "manifest.jsonl")), tree_digest(out)
    for rows_, text in (("", f"{count} of {count} rows"), (":2-5,7", "5 of 5 rows")):
        done = edgekit("augment", "--replay", f"set-augmented/manifest.jsonl{rows_}")
        assert (done.code, done.out, done.err) == (0, f"{text} rebuilt: all bit-identical\n", "")
    assert (tree_digest(root), tree_digest(out)) == (before, made)


def test_out_is_an_output_of_its_own(edgekit, tmp_path):
    root = labelled(tmp_path / "set")
    out, one = make(root, "mosaic", "flip"), tmp_path / "one"
    done = edgekit("augment", root, "--replay", f"{out}:2-4", "--out", one)
    assert (done.code, done.out) == (0, f"3 of 3 rows rebuilt: all bit-identical -> {one}\n"), done.err
    names = {path.relative_to(one).as_posix() for path in one.rglob("*") if path.is_file()}
    assert names == {
        *(f"{folder}/p{name}.{end}" for folder, end in (("images", "png"), ("labels", "txt"))
          for name in ("0__k01", "0__k02", "1")),
        "data.yaml", "manifest.jsonl", "run.json",
    }  # fmt: skip
    assert all((one / name).read_bytes() == (out / name).read_bytes() for name in names if name.startswith("images"))
    assert edgekit("verify", one).out == f"{one}: intact (3 pictures, 3 label files)\n"
    refused = edgekit("augment", "--replay", out, "--out", one)
    assert (refused.code, "exists already" in refused.err) == (2, True)
    assert edgekit("augment", "--replay", out, "--out", one, "--force").code == 0
    assert tree_digest(one / "images") == tree_digest(out / "images")
    (one / "mine.txt").write_text("mine")
    refused = edgekit("augment", "--replay", out, "--out", one, "--force")
    assert (refused.code, "was not made by edgekit" in refused.err) == (2, True)
    assert edgekit("augment", root, "--op", "mosaic", "--flip", "-n", "2", "--out", one).code == 2  # not up to date


def test_differences_are_named_and_explained(edgekit, tmp_path):
    root = labelled(tmp_path / "set")
    out = make(root, "mixup p=1", "brightness 0.2", copies=1)
    mixed = rows(out / "manifest.jsonl")[1]["ops"][0]["partners"][0]
    pixels = cv2.imread(str(root / mixed))
    save(root / mixed, pixels // 2)
    (root / "labels" / "p0.txt").write_text(POLYGONS)
    done = edgekit("augment", "--replay", out)
    assert done.code == 1
    text = done.out.splitlines()
    assert f"{mixed} was changed since" in next(one for one in text if one.startswith("row 2 "))
    assert "on average" in done.out and "the labels of images/p0.png were changed since" in done.out
    assert "labels/p0.txt differs" in text[0] and "bit-identical" in text[-1]
    document = edgekit("augment", "--replay", out, "--json").json
    assert document["schema"] == "edgekit.replay/1" and document["exit_code"] == 1
    one = next(one for one in document["differences"] if one["row"] == 2)
    assert 0 < one["mean"] < one["most"] <= 255 and one["file_name"] == "images/p0__k01.png"


def test_another_version_is_a_reason(pictures):
    out = make(pictures, "noise", copies=1)
    stamp = json.loads((out / "run.json").read_text())
    stamp["versions"]["opencv"] = "4.0.0"
    (out / "run.json").write_text(json.dumps(stamp))
    text = (out / "manifest.jsonl").read_text().splitlines()
    row = json.loads(text[1])
    row["ops"][0]["params"]["sigma"] *= 2
    row["sha256"] = "0" * 64
    (out / "manifest.jsonl").write_text("\n".join([text[0], json.dumps(row), *text[2:]]) + "\n")
    done = again(out, rows="2")
    assert done.exit_code == 1 and done.why == (f"opencv was 4.0.0, is {cv2.__version__}",)


def test_a_source_that_became_unreadable(pictures):
    out = make(pictures, "flip", copies=1)
    (pictures / "cats" / "cat0.jpg").write_bytes(b"\xff\xd8\xff")
    done = again(out, rows="1-4")
    assert [one.number for one in done.differences] == [1, 2]
    assert all(one.what.startswith("cannot be made: cats/cat0.jpg: ") for one in done.differences)
    assert done.differences[0].why == ("cats/cat0.jpg was changed since",)


@pytest.fixture
def output(tmp_path):
    for number in range(2):
        save(tmp_path / "imgs" / f"p{number}.png", picture(number))
    return make(tmp_path / "imgs", "mixup p=1", "brightness", copies=1)


def spoil(output, row, **changes):
    text = (output / "manifest.jsonl").read_text().splitlines()
    text[row - 1] = json.dumps(json.loads(text[row - 1]) | changes)
    (output / "manifest.jsonl").write_text("\n".join(text) + "\n")


@pytest.mark.parametrize(
    ("text", "what", "how"),
    [
        ("nope/manifest.jsonl:3", "nope/manifest.jsonl:3: no such manifest", "manifest.jsonl of an"),
        ("imgs", "imgs: no such manifest", "or its folder"),
        ("imgs-augmented:5", "has 4 rows, and no row 5", "counted from 1"),
        ("imgs-augmented:0", "0 is no row", ":3-10"),
        ("imgs-augmented:4-2", "4-2 is no row", ":3-10"),
        ("imgs-augmented:1,", "a comma with no row beside it", ":3-10"),
        ("imgs-augmented:p9.png", "names no output p9.png", "file_name"),
    ],
)
def test_rows_that_are_not_there(output, monkeypatch, text, what, how):
    monkeypatch.chdir(output.parent)
    with pytest.raises(EdgekitError) as caught:
        record.find(text)
    assert what in caught.value.message and how in caught.value.hint


@pytest.mark.parametrize(
    ("arguments", "what", "how"),
    [
        (["--replay", "imgs-augmented:9"], "no row 9", "counted from 1"),
        (["--replay", ""], "--replay is empty", ":17 for its row 17"),
        (["--replay", "imgs-augmented", "--flip", "-n", "3"], "--flip, --copies and --replay exclude", "--out"),
        (["imgs-augmented", "--replay", "imgs-augmented"], "p0.png: is named by", "SRC"),
        (["", "--replay", "imgs-augmented"], "SRC is empty", "was made from"),
        (["nope", "--replay", "imgs-augmented"], "nope: no such folder", "give a folder"),
        (["--replay", "imgs-augmented", "--out", "imgs"], "lies inside the source", "--out"),
        (["--replay", "imgs-augmented", "--out", "imgs-augmented", "--force"], "lie in each other", "--out"),
        ([], "SRC is missing", "--help"),
    ],
)
def test_mistakes(edgekit, output, arguments, what, how):
    if arguments and arguments[0] == "imgs-augmented":  # a folder that has not all that the rows name
        shutil.copytree(output, output.with_name("copy"))
        arguments = ["copy", *arguments[1:]]
        (output.with_name("copy") / "p0.png").unlink()
    before = tree_digest(output.parent)
    done = edgekit("augment", *arguments)
    assert done.code == 2, done.out
    assert what in done.err.splitlines()[0] and how in done.err.splitlines()[1], done.err
    assert len(done.err.splitlines()) == 2 and tree_digest(output.parent) == before


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "manifest.jsonl:2: is damaged"),
        ("[]", "manifest.jsonl:2: is damaged"),
        ("{}", "manifest.jsonl:2: is damaged"),
        ("", "manifest.jsonl:2: is damaged"),
    ],
)
def test_a_damaged_line_matters_when_it_is_asked_for(output, text, what):
    lines = (output / "manifest.jsonl").read_text().splitlines()
    lines[1] = text
    (output / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    for rows_ in ("", "2", "1-3"):
        with pytest.raises(EdgekitError, match=what):
            again(output, rows=rows_)
    for rows_ in ("1", "3-4", "p1.png"):
        assert again(output, rows=rows_).exit_code == 0


def test_rows_cannot_name_files_outside(output, tmp_path):
    for name in ("../x.png", "/tmp/x.png", "a/../../x.png", "a\0.png"):
        spoil(output, 2, file_name=name)
        with pytest.raises(EdgekitError, match="outside of the folder"):
            again(output, rows="2", to=tmp_path / "one")
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"ops": [{"name": "brightness", "fields": {}, "params": {}}]},
        {"ops": [{"name": "brightness", "fields": {"amount": 1e9}, "params": {"delta": 0}}]},
        {"ops": [{"name": "brightness", "fields": {}, "params": {"shift": "much", "delta": "much"}}]},
        {"ops": [{"name": "brighter", "fields": {}, "params": {}}]},
        {"ops": [{"name": "mixup", "fields": {}, "params": {"weight": 0.5, "place": [0, 0]}}]},
        {"ops": [{"name": "rotate", "params": {"degrees": [1]}}]},
    ],
)
def test_parameters_that_make_no_sense_are_a_difference(output, changes):
    spoil(output, 2, **changes)
    done = again(output, rows="2")
    assert [one.number for one in done.differences] == [2] and "cannot be made: " in done.differences[0].what


SCHEMA = '"schema": "edgekit.augment/1"'
STAMPS = [
    None,
    "",
    "[]",
    "{}",
    f"{{{SCHEMA}}}",
    f'{{{SCHEMA}, "recipe": []}}',
    f'{{{SCHEMA}, "recipe": {{"quality": null, "max_pixels": 9}}, "labels": {{"from": "coco", "to": "cocoa"}}}}',
    f'{{{SCHEMA}, "recipe": {{"quality": null, "max_pixels": 9, "labels": {{"flip_index": 3}}}}}}',
    '{"schema": "edgekit.augment/9"}',
]


@pytest.mark.parametrize("text", STAMPS)
def test_the_stamp_is_needed(output, text):
    (output / "run.json").unlink()
    if text is not None:
        (output / "run.json").write_text(text)
    with pytest.raises(EdgekitError, match=r"run.json: is (missing|damaged|of the form edgekit.augment/9)") as caught:
        again(output)
    assert caught.value.hint


def test_where_the_sources_are_is_asked_when_it_cannot_be_told(output):
    output.rename(output.with_name("elsewhere"))
    with pytest.raises(EdgekitError, match="does not say which folder"):
        again(output.with_name("elsewhere"))
    assert again(output.with_name("elsewhere"), root=output.with_name("imgs")).exit_code == 0


def test_a_configuration_is_of_other_runs(edgekit, output):
    """What it says of ops and of --out is not what is replayed."""
    (output.parent / "edgekit.toml").write_text('[augment]\nops = ["flip"]\ncopies = 9\nout = "imgs-augmented"\n')
    assert edgekit("augment", "--replay", output).code == 0
    (output.parent / "edgekit.toml").write_text('[augment]\nreplay = "imgs-augmented"\n')
    done = edgekit("augment", "imgs", "--flip", "--force")
    assert (done.code, "edgekit.toml: replay is no setting" in done.err) == (2, True)


def test_more_workers_give_the_same(tmp_path):
    root = labelled(tmp_path / "set", count=8)
    out = make(root, "mosaic", "flip")
    ones = [tmp_path / "one1", tmp_path / "one3"]
    for workers, one in zip((1, 3), ones, strict=True):
        assert again(out, to=one, workers=workers).exit_code == 0
    assert tree_digest(ones[0]) == tree_digest(ones[1])


@pytest.mark.long
def test_a_hundred_rows_of_real_pictures(edgekit, assets, tmp_path):
    """Every kind of op over real photographs, as COCO: 100 random rows."""
    root = tmp_path / "coco"
    shutil.copytree(assets / "images/coco_val64/images", root / "images")
    shutil.copy(assets / "images/coco_val64/instances.json", root)
    mixing = [word for op in MIXING for word in ("--op", op)]
    assert edgekit("augment", root, *mixing, "--quality", "80", "-n", "4").code == 0
    chosen = np.random.default_rng(1).choice(320, 100, replace=False) + 1
    spec = ",".join(map(str, sorted(chosen.tolist())))
    done = edgekit("augment", "--replay", f"{tmp_path / 'coco-augmented'}:{spec}")
    assert (done.code, done.out) == (0, "100 of 100 rows rebuilt: all bit-identical\n"), done.err
