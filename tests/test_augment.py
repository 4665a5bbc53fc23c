"""`edgekit augment` from file to file, as a person runs it."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import picture, rows, save, tree_digest

FLIP = ("--flip", "--rotate", "15")


def decode(path):
    return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)


def test_the_main_job(edgekit, pictures):
    before = tree_digest(pictures)
    done = edgekit("augment", pictures, *FLIP)
    assert done.code == 0, done.err
    out = pictures.with_name("imgs-augmented")
    made = rows(out / "manifest.jsonl")
    assert len(made) == 8 * 5
    for row in made:
        data = (out / row["file_name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        assert hashlib.sha256((pictures / row["source"]).read_bytes()).hexdigest() == row["source_sha256"]
        assert next(iter(row)) == "file_name"
        assert row["label"] == row["source"].rpartition("/")[0]
        pixels = decode(out / row["file_name"])
        if row["variant"]:
            assert pixels.shape[:2] == (row["height"], row["width"])
            assert [op["name"] for op in row["ops"]] in (["flip", "rotate"], ["rotate"])
            angle = row["ops"][-1]
            assert angle["fields"]["degrees"] == 15
            assert all(abs(value) <= 15 for value in angle["params"].values() if isinstance(value, float))
    assert tree_digest(pictures) == before
    assert (out / "rejected.jsonl").read_text() == ""
    stamp = json.loads((out / "run.json").read_text())
    assert stamp["recipe"]["ops"][1] == {
        "use": "rotate",
        "degrees": 15.0,
        **{k: v for k, v in stamp["recipe"]["ops"][1].items() if k not in ("use", "degrees")},
    }
    assert stamp["counts"]["variants"] == 32
    assert "40" not in done.err
    assert "8 originals, 32 variants" in done.out
    assert "1 file that is not a picture\n" in done.out


def test_originals_are_byte_for_byte_and_not_linked(edgekit, pictures):
    edgekit("augment", pictures, *FLIP)
    out = pictures.with_name("imgs-augmented")
    for source in pictures.rglob("*.jpg"):
        copy = out / source.relative_to(pictures)
        assert copy.read_bytes() == source.read_bytes()
        assert not copy.samefile(source)
        assert copy.stat().st_nlink == 1


def test_depth_channels_names_and_formats(edgekit, pictures):
    assert edgekit("augment", pictures, *FLIP, "--no-originals", "-n", "2", "--out", "x").code == 0
    out = pictures.parent / "x"
    names = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.*") if p.suffix not in (".json", ".jsonl"))
    assert "cats/cat0__k01.jpg" in names
    assert "dogs/moving.gif__k02.png" in names
    assert "dogs/big/rex__k02.png" in names
    assert not any(name.endswith("cat0.jpg") for name in names)
    assert decode(out / "dogs/deep__k01.png").dtype == np.uint16
    assert decode(out / "dogs/glass__k01.png").shape[2] == 4
    assert decode(out / "dogs/grey__k01.png").ndim == 2
    gif = [row for row in rows(out / "manifest.jsonl") if row["source"].endswith(".gif")]
    assert all(row["warnings"] for row in gif)


def test_jpeg_keeps_quality_and_subsampling(edgekit, tmp_path):
    from edgekit.data.headers import read_header

    for quality, factor in ((60, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420), (92, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)):
        flags = (cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor)
        save(tmp_path / "j" / f"q{quality}.jpg", picture(quality), *flags)
    assert edgekit("augment", "j", *FLIP, "-n", "1").code == 0
    out = tmp_path / "j-augmented"
    for quality, sampling in ((60, "4:2:0"), (92, "4:4:4")):
        header = read_header((out / f"q{quality}__k01.jpg").read_bytes())
        assert (header.quality, header.subsampling) == (quality, sampling)
    assert edgekit("augment", "j", *FLIP, "-n", "1", "--quality", "33", "--out", "o33").code == 0
    assert read_header((tmp_path / "o33" / "q92__k01.jpg").read_bytes()).quality == 33


def test_bytes_do_not_depend_on_workers_runs_or_added_pictures(edgekit, pictures):
    for name, extra in (("w1", ["--workers", "1"]), ("w2", ["--workers", "2"]), ("w3", ["--workers", "3"])):
        assert edgekit("augment", pictures, *FLIP, "--noise", "0.05", "--out", name, *extra).code == 0
    root = pictures.parent
    assert tree_digest(root / "w1") == tree_digest(root / "w2") == tree_digest(root / "w3")
    save(pictures / "cats" / "added.jpg", picture(99))
    assert edgekit("augment", pictures, *FLIP, "--noise", "0.05", "--out", "more").code == 0
    for path in (root / "w1").rglob("*"):
        if path.is_file() and path.suffix not in (".json", ".jsonl"):
            assert (root / "more" / path.relative_to(root / "w1")).read_bytes() == path.read_bytes()
    old = {json.dumps(row) for row in rows(root / "w1" / "manifest.jsonl")}
    assert old < {json.dumps(row) for row in rows(root / "more" / "manifest.jsonl")}


def test_more_copies_keep_the_earlier_ones_and_another_seed_changes_them(edgekit, pictures):
    edgekit("augment", pictures, *FLIP, "-n", "2", "--out", "two")
    edgekit("augment", pictures, *FLIP, "-n", "3", "--out", "three")
    edgekit("augment", pictures, *FLIP, "-n", "2", "--seed", "1", "--out", "other")
    root = pictures.parent
    name = "cats/cat1__k02.jpg"
    assert (root / "two" / name).read_bytes() == (root / "three" / name).read_bytes()
    assert (root / "two" / name).read_bytes() != (root / "other" / name).read_bytes()


def test_the_order_typed_is_the_order_applied(edgekit, pictures):
    done = edgekit(
        "augment", pictures, "--rotate", "5", "--op", "crop 0.5", "--flip", "--rotate=3", "--dry-run", "--json"
    )
    assert [op["use"] for op in done.json["recipe"]["ops"]] == ["rotate", "crop", "flip", "rotate"]
    assert [op.get("degrees") for op in done.json["recipe"]["ops"]] == [5.0, None, None, 3.0]


def test_equal_variants_are_left_out_and_counted(edgekit, pictures):
    done = edgekit("augment", pictures, "--flip", "--json")
    counts = done.json["counts"]
    assert counts["variants"] == 8
    assert counts["left_out"] == 24
    assert all(row["ops"] for row in rows(pictures.with_name("imgs-augmented") / "manifest.jsonl") if row["variant"])


def test_no_two_outputs_share_a_name(edgekit, tmp_path):
    root = tmp_path / "clash"
    for name in ("a.gif", "a.gif.png", "a.png", "a__k01.png", "b.jpg", "b.png", "b.jpg.png"):
        save(root / name, picture(sum(name.encode())))
    (root / "b.jpg").write_bytes((root / "b.png").read_bytes())
    assert edgekit("augment", root, *FLIP).code == 0
    made = rows(tmp_path / "clash-augmented" / "manifest.jsonl")
    names = [row["file_name"] for row in made]
    assert len(names) == len(set(names)) == 7 * 5
    for row in made:
        data = (tmp_path / "clash-augmented" / row["file_name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"]


def test_odd_names(edgekit, tmp_path):
    root = tmp_path / "odd"
    root.mkdir()
    source = save(tmp_path / "p.png", picture(1)).read_bytes()
    odd = [
        b"new\nline.png",
        b"quo\"te'.png",
        b"bad\xff\xfe.png",
        b"x" * 251 + b".png",
        "ünï (1).PNG".encode(),
        b"-n.png",
    ]
    for name in odd:
        with open(os.path.join(os.fsencode(root), name), "wb") as file:  # noqa: PTH118, PTH123
            file.write(source)
    done = edgekit("augment", root, *FLIP, "-n", "2")
    assert done.code == 0, done.err
    made = rows(tmp_path / "odd-augmented" / "manifest.jsonl")
    assert len(made) == 3 * len(odd)
    for row in made:
        assert os.path.exists(os.path.join(os.fsencode(tmp_path / "odd-augmented"), os.fsencode(row["file_name"])))  # noqa: PTH110, PTH118
    assert any(row["file_name"].endswith("__k01.PNG") for row in made)


def test_exif_orientation_is_applied_once_and_gone_from_variants(edgekit, assets, tmp_path):
    from edgekit.data.headers import read_header

    root = tmp_path / "exif"
    root.mkdir()
    (root / "p6.jpg").write_bytes((assets / "nasty/exif/Portrait_6.jpg").read_bytes())
    assert edgekit("augment", root, "--brightness", "0.2", "-n", "1").code == 0
    out = tmp_path / "exif-augmented"
    before, after = read_header((root / "p6.jpg").read_bytes()), read_header((out / "p6__k01.jpg").read_bytes())
    assert (before.orientation, after.orientation) == (6, 1)
    assert (after.width, after.height) == (before.height, before.width)
    assert (out / "p6.jpg").read_bytes() == (root / "p6.jpg").read_bytes()


def test_up_to_date_force_and_foreign_folders(edgekit, pictures):
    assert edgekit("augment", pictures, *FLIP).code == 0
    again = edgekit("augment", pictures, *FLIP)
    assert (again.code, "up to date" in again.out) == (0, True)
    other = edgekit("augment", pictures, *FLIP, "--seed", "3")
    assert (other.code, "--force" in other.err) == (2, True)
    assert edgekit("augment", pictures, *FLIP, "--seed", "3", "--force").code == 0
    foreign = pictures.parent / "mine"
    foreign.mkdir()
    (foreign / "precious.txt").write_text("x")
    for extra in ([], ["--force"]):
        done = edgekit("augment", pictures, *FLIP, "--out", foreign, *extra)
        assert done.code == 2
        assert (foreign / "precious.txt").exists()


def test_a_lost_output_is_not_up_to_date(edgekit, pictures):
    edgekit("augment", pictures, *FLIP)
    (pictures.with_name("imgs-augmented") / "cats" / "cat0__k01.jpg").unlink()
    assert edgekit("augment", pictures, *FLIP).code == 2


@pytest.mark.parametrize(
    ("arguments", "what", "how"),
    [
        (["nope", "--flip"], "nope: no such folder", "give a folder"),
        (["imgs"], "no op was given", "edgekit ops"),
        (["imgs", "--flp"], "no such option: --flp", "did you mean --flip?"),
        (["imgs", "--rotate", "999"], "rotate: degrees=999 is above 180", "from 0 to 180"),
        (["imgs", "--rotate", "-5"], "rotate: degrees=-5 is below 0", "from 0 to 180"),
        (["imgs", "--rotate", "abc"], "rotate: degrees=abc is not a number", "number"),
        (["imgs", "--op", "rotat 5"], "no such op: rotat", "did you mean rotate?"),
        (["imgs", "--op", "rotate 5 dgrees=3"], "no such field: dgrees", "degrees"),
        (["imgs", "--flip", "--copies=-1"], "copies=-1 is below 0", "from 0 to 9999"),
        (["imgs", "-n", "0", "--no-originals"], "nothing to write", "-n 0"),
        (["imgs", "--flip", "--labels", "yolo"], "no yolo labels found", "labels/NAME.txt"),
        (["imgs", "--flip", "--to", "coc"], "to=coc is not one of", "did you mean"),
        (["imgs", "--flip", "--seed", "x"], "seed=x is not a number", "number"),
        (["imgs", "--flip", "--out", "imgs/inside"], "lies inside the source", "outside"),
        (["imgs", "--flip", "--out", "imgs"], "lies inside the source", "outside"),
        (["imgs/cats", "--flip", "--out", "imgs"], "holds the source", "choose an --out"),
        (["imgs", "--flip", "--out", "no/such/place"], "no such folder to write into", "mkdir -p"),
        (["empty", "--flip"], "no pictures in it", "jpg"),
        (["broken/x.jpg", "--flip"], "is not a folder", "give a folder"),
        (["broken", "--flip"], "none of its pictures can be used", "readable"),
        ([], "SRC is missing", "--help"),
        (["imgs", "--flip", "--config", "none.toml"], "no such configuration file", "--no-config"),
    ],
)
def test_mistakes(edgekit, pictures, arguments, what, how):
    root = pictures.parent
    (root / "empty").mkdir()
    (root / "broken").mkdir()
    (root / "broken" / "x.jpg").write_text("<html>")
    before = tree_digest(root)
    done = edgekit("augment", *arguments)
    assert done.code == 2, done.err
    lines = done.err.strip().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: ") and what in lines[0]
    assert lines[1].startswith(" hint: ") and how in lines[1]
    assert done.out == ""
    assert tree_digest(root) == before


def test_errors_are_json_with_json(edgekit, pictures):
    done = edgekit("augment", "nope", "--flip", "--json")
    assert done.code == 2
    assert done.json["error"]["message"] == "nope: no such folder"


def test_bad_pictures_are_rows_and_strict_makes_them_exit_1(edgekit, pictures):
    (pictures / "cats" / "cut.jpg").write_bytes((pictures / "cats" / "cat0.jpg").read_bytes()[:300])
    (pictures / "cats" / "page.png").write_text("<html></html>")
    done = edgekit("augment", pictures, *FLIP)
    assert done.code == 0
    rejected = rows(pictures.with_name("imgs-augmented") / "rejected.jsonl")
    assert [row["source"] for row in rejected] == ["cats/cut.jpg", "cats/page.png"]
    assert all(row["reason"] for row in rejected)
    assert edgekit("augment", pictures, *FLIP, "--strict").code == 1


def test_max_pixels(edgekit, pictures):
    done = edgekit("augment", pictures, *FLIP, "--max-pixels", "100", "--json")
    assert done.code == 2
    save(pictures / "tiny.png", picture(5, height=8, width=8))
    done = edgekit("augment", pictures, *FLIP, "--max-pixels", "100", "--json")
    assert (done.code, done.json["counts"]["rejected"]) == (0, 8)


def test_dry_run_writes_nothing(edgekit, pictures):
    before = tree_digest(pictures.parent)
    done = edgekit("augment", pictures, *FLIP, "--dry-run")
    assert done.code == 0
    assert "would write about 40 files" in done.out
    assert tree_digest(pictures.parent) == before


def test_preview_is_a_sheet_of_rows(edgekit, pictures):
    done = edgekit("augment", pictures, *FLIP, "--preview", "sheet.png", "--dry-run")
    assert done.code == 0, done.err
    sheet = decode(pictures.parent / "sheet.png")
    assert sheet.shape[1] > 5 * 100
    assert edgekit("augment", pictures, *FLIP, "--preview", "sheet.png", "--dry-run").code == 2
    assert edgekit("augment", pictures, *FLIP, "--preview", "sheet.png", "--dry-run", "--force").code == 0
    assert not pictures.with_name("imgs-augmented").exists()


def test_config_file_gives_ops(edgekit, pictures):
    config = '[augment]\nops = ["flip p=1", {use = "rotate", degrees = 5}]\ncopies = 1\n'
    (pictures.parent / "edgekit.toml").write_text(config)
    done = edgekit("augment", pictures, "--json")
    assert done.json["counts"]["variants"] == 8
    done = edgekit("augment", pictures, "--vflip", "--json", "--out", "v")
    assert [op["use"] for op in done.json["recipe"]["ops"]] == ["vflip"]
    (pictures.parent / "edgekit.toml").write_text('[augment]\nops = ["rotate 999"]\n')
    done = edgekit("augment", pictures)
    assert "edgekit.toml: augment.ops: rotate: degrees=999" in done.err


def _many(root, count=60):
    for number in range(count):
        save(root / f"{number:03d}.png", picture(number, 200, 300))
    return root


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_interruptions_leave_nothing_under_the_name(tmp_path, sent, code):
    root = _many(tmp_path / "many")
    command = [sys.executable, "-m", "edgekit", "augment", str(root), *FLIP, "-n", "20"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    stage = tmp_path / ".many-augmented.edgekit-partial"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not stage.exists() or sum(1 for _ in stage.iterdir()) < 20):
        time.sleep(0.01)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert b"Traceback" not in err
    assert not (tmp_path / "many-augmented").exists()
    assert stage.exists() or sent != signal.SIGKILL
    assert stage.exists() == (b"goes on" in err) or sent != signal.SIGINT
    done = subprocess.run([*command[:-1], "1"], capture_output=True)
    assert done.returncode == 0
    assert not stage.exists()


def test_a_full_disk_leaves_nothing_under_the_name_and_the_same_command_goes_on(edgekit, tmp_path):
    """On a small file system, when root may mount one."""
    root = _many(tmp_path / "many", 20)
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("no permission to mount a small file system")
    try:
        done = edgekit("augment", root, *FLIP, "--out", small / "out", "-n", "9")
        assert done.code == 2
        assert "MB are free" in done.err
        jpegs = tmp_path / "jpegs"
        for number in range(30):  # JPEG in, JPEG out at a much higher quality: the estimate is too low
            save(jpegs / f"{number}.jpg", picture(number, 200, 300), cv2.IMWRITE_JPEG_QUALITY, 20)
        command = ("augment", jpegs, *FLIP, "--quality", "100", "--noise", "0.2", "--out")
        done = edgekit(*command, small / "out")
        assert done.code == 2
        assert "disk is full; what is done was kept" in done.err
        assert "run the same command again" in done.err
        assert "Traceback" not in done.err
        assert [path.name for path in small.iterdir()] == [".out.edgekit-partial"]
        subprocess.run(["mount", "-o", "remount,size=30m", small], check=True)
        assert "were done already" in edgekit(*command, small / "out").err
        assert edgekit(*command, tmp_path / "out").code == 0
        assert tree_digest(small / "out") == tree_digest(tmp_path / "out")
    finally:
        subprocess.run(["umount", small], check=True)


def test_an_unwritable_place(edgekit, pictures):
    done = edgekit("augment", pictures, *FLIP, "--out", "/proc/out")
    assert done.code == 2
    assert "cannot be written" in done.err


def test_without_opencv_it_says_what_to_do(edgekit, pictures, tmp_path):
    (tmp_path / "fake" / "cv2").mkdir(parents=True)
    (tmp_path / "fake" / "cv2" / "__init__.py").write_text("raise ImportError('libGL.so.1: cannot open')")
    done = edgekit("augment", pictures, *FLIP, env={"PYTHONPATH": str(tmp_path / "fake")})
    assert done.code == 2
    assert "cv2 cannot be imported: libGL.so.1" in done.err
    assert "opencv-python-headless" in done.err


def test_force_never_removes_what_edgekit_did_not_make(edgekit, pictures):
    out = pictures.with_name("imgs-augmented")
    edgekit("augment", pictures, *FLIP)
    (out / "cats" / "mine.txt").write_text("precious")
    (out / ".DS_Store").write_text("litter")
    done = edgekit("augment", pictures, *FLIP, "--seed", "2", "--force")
    assert (done.code, "mine.txt: was not made by edgekit" in done.err) == (2, True)
    assert (out / "cats" / "mine.txt").read_text() == "precious"
    (out / "cats" / "mine.txt").unlink()
    (out / "link").symlink_to("/")
    assert edgekit("augment", pictures, *FLIP, "--seed", "2", "--force").code == 2
    (out / "link").unlink()
    assert edgekit("augment", pictures, *FLIP, "--seed", "2", "--force").code == 0


def test_hidden_folders_beside_the_output_are_left_alone(edgekit, pictures):
    for name in (".out.partial", ".out.old"):
        (pictures.parent / name).mkdir()
        (pictures.parent / name / "precious").write_text("x")
    assert edgekit("augment", pictures, *FLIP, "--out", "out").code == 0
    assert edgekit("augment", pictures, *FLIP, "--out", "out", "--seed", "2", "--force").code == 0
    assert all((pictures.parent / name / "precious").exists() for name in (".out.partial", ".out.old"))


def test_the_old_output_survives_a_kill_between_the_two_renames(edgekit, pictures):
    out = pictures.with_name("imgs-augmented")
    edgekit("augment", pictures, *FLIP)
    out.rename(pictures.parent / ".imgs-augmented.edgekit-old")
    done = edgekit("augment", pictures, *FLIP, "--seed", "2")
    assert (done.code, "exists already" in done.err) == (2, True)
    assert (out / "manifest.jsonl").exists()
    assert not (pictures.parent / ".imgs-augmented.edgekit-old").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("manifest.jsonl", None),
        ("manifest.jsonl", ""),
        ("manifest.jsonl", '{"file_name": 3}\n'),
        ("manifest.jsonl", "\u00e9{"),
        ("run.json", "[]"),
        ("run.json", "x"),
        ("rejected.jsonl", None),
        ("cats/cat0__k01.jpg", "edited"),
    ],
)
def test_a_damaged_output_is_not_up_to_date(edgekit, pictures, name, text):
    edgekit("augment", pictures, *FLIP)
    path = pictures.with_name("imgs-augmented") / name
    path.unlink()
    if text is not None:
        path.write_text(text)
    done = edgekit("augment", pictures, *FLIP)
    assert (done.code, "exists already" in done.err or "was not made by edgekit" in done.err) == (2, True)


def test_an_unreadable_picture_is_a_row_and_no_reason_to_run_again(edgekit, pictures):
    (pictures / "gone.jpg").symlink_to("nowhere")
    assert edgekit("augment", pictures, *FLIP).code == 0
    assert "up to date" in edgekit("augment", pictures, *FLIP).out


def test_preview_lies_outside_of_both_folders(edgekit, pictures):
    before = tree_digest(pictures)
    for path, what in (("imgs/p.png", "source"), ("out/p.png", "output"), ("p.txt", "is a PNG")):
        done = edgekit("augment", pictures, *FLIP, "--out", "out", "--preview", path)
        assert (done.code, what in done.err) == (2, True)
    assert tree_digest(pictures) == before
    edgekit("augment", pictures, *FLIP)
    done = edgekit("augment", pictures, *FLIP, "--preview", "p.png")
    assert (done.code, "up to date" in done.out) == (0, True)
    assert (pictures.parent / "p.png").exists()


def test_two_runs_at_once_do_not_mix(tmp_path):
    root = _many(tmp_path / "many")
    command = [sys.executable, "-m", "edgekit", "augment", str(root), *FLIP, "-n", "9", "--json"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    said = [run.communicate(timeout=120) for run in runs]
    assert 0 in [run.returncode for run in runs]
    for run, (out, _) in zip(runs, said, strict=True):
        answer = json.loads(out)
        if run.returncode:
            message = answer["error"]["message"]
            assert "another run is writing it" in message or "exists already" in message
    names = {row["file_name"] for row in rows(tmp_path / "many-augmented" / "manifest.jsonl")}
    assert len(names) == 600
    assert {p.name for p in (tmp_path / "many-augmented").glob("*.png")} == names
    assert not list(tmp_path.glob(".*"))


def test_a_killed_worker_changes_nothing(tmp_path):
    root = _many(tmp_path / "many")
    command = [sys.executable, "-m", "edgekit", "augment", str(root), *FLIP, "-n", "9", "--workers", "2", "--out"]
    process = subprocess.Popen([*command, str(tmp_path / "a")], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    stage = tmp_path / ".a.edgekit-partial"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not stage.exists() or sum(1 for _ in stage.iterdir()) < 20):
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("no list of a process's children here")
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    assert process.wait(timeout=120) == 0
    assert subprocess.run([*command, str(tmp_path / "b")], capture_output=True).returncode == 0
    assert tree_digest(tmp_path / "a") == tree_digest(tmp_path / "b")


@pytest.mark.parametrize("delay", [0.01, 0.05, 0.1, 0.15])
def test_a_worker_killed_while_it_answers_holds_nobody_up(monkeypatch, tmp_path, delay):
    from edgekit.augment import pool
    from edgekit.augment.variants import Recipe
    from edgekit.data.folder import Source

    def answer(job, source):
        if source.key == "1" and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            text = "x" * (1 << 26)  # it takes a while to say, and to listen to
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
            return pool.Done(source.key, "", ({"text": text},))
        return pool.Done(source.key, "")

    def hangs(*_):
        raise TimeoutError("it hangs")

    monkeypatch.setattr(pool.Job, "process", answer)
    sources = [Source(Path(str(number)), str(number), 1 << 20) for number in range(6)]
    signal.signal(signal.SIGALRM, hangs)
    signal.alarm(30)
    try:
        keys = [done.key for done in pool.process(sources, pool.Job(Recipe(()), None, frozenset()), 2)]
    finally:
        signal.alarm(0)
    assert (tmp_path / "killed").exists()
    assert keys == [source.key for source in sources]


def test_pipes_devices_and_absurd_files_are_rows(edgekit, pictures):
    os.mkfifo(pictures / "pipe.jpg")
    (pictures / "zero.png").symlink_to("/dev/zero")
    with (pictures / "huge.jpg").open("wb") as file:
        file.truncate(70_000_000)
    limit = ("--max-pixels", "10000", "--follow-links")
    done = edgekit("augment", pictures, *FLIP, *limit, "--dry-run", timeout=60)
    assert (done.code, "of which cannot be used" in done.out) == (0, True)
    assert edgekit("augment", pictures, *FLIP, *limit, timeout=60).code == 0
    rejected = rows(pictures.with_name("imgs-augmented") / "rejected.jsonl")
    absurd = "a file of 70 MB, over the limit of 67 MB"
    assert [row["reason"] for row in rejected] == [absurd, *["not a regular file"] * 2]


def test_hidden_and_linked_folders_are_passed_by_and_said(edgekit, pictures):
    save(pictures / ".thumbnails" / "t.png", picture(1))
    (pictures / "linked").symlink_to("cats")
    (pictures / "loop").symlink_to(".")
    done = edgekit("augment", pictures, *FLIP)
    assert "3 folders that are hidden or links" in done.out
    labels = {row["label"] for row in rows(pictures.with_name("imgs-augmented") / "manifest.jsonl")}
    assert labels == {"cats", "dogs", "dogs/big"}
    (pictures.parent / "links").mkdir()
    (pictures.parent / "links" / "a").symlink_to(pictures)
    assert "1 folder that is hidden or a link" in edgekit("augment", "links", *FLIP).err


def test_odd_ways_to_name_the_folders(edgekit, pictures):
    assert "imgs-augmented" in edgekit("augment", "..", *FLIP, "--dry-run", cwd=pictures / "cats").out
    assert edgekit("augment", "imgs", *FLIP, "--out", "cats/../o", cwd=pictures.parent).code == 2
    assert edgekit("augment", "", *FLIP).err.startswith("error: SRC is empty")
    assert "out= is empty" in edgekit("augment", "imgs", *FLIP, "--out", "").err
    assert "--rotate is empty" in edgekit("augment", "imgs", "--rotate", "").err
    assert edgekit("augment", "imgs", *FLIP, "--out", "n" * 255).code == 0
    assert edgekit("augment", "imgs", *FLIP, "--out", "n" * 256).code == 2
    (pictures.parent / "here").mkdir()
    done = edgekit("augment", pictures, *FLIP, "--out", ".", "--force", cwd=pictures.parent / "here")
    assert (done.code, "the folder you are in" in done.err) == (2, True)


def test_a_folder_named_like_a_variant(edgekit, tmp_path):
    save(tmp_path / "s" / "a.png", picture(1))
    save(tmp_path / "s" / "a__k01.png" / "b.png", picture(2))
    assert edgekit("augment", "s", *FLIP, "-n", "1").code == 0
    assert (tmp_path / "s-augmented" / "a__k01_.png").exists()


def test_what_the_format_cannot_hold_becomes_png(edgekit, tmp_path):
    save(tmp_path / "s" / "a.jp2", picture(1))
    done = edgekit("augment", "s", "--resize", "16", "-n", "1")
    assert done.code == 0, done.err
    row = rows(tmp_path / "s-augmented" / "manifest.jsonl")[1]
    assert row["file_name"] == "a.jp2__k01.png"
    assert "PNG instead" in row["warnings"][0]


def test_nothing_to_write_is_said(edgekit, pictures):
    done = edgekit("augment", pictures, "--op", "flip p=0", "--no-originals")
    assert (done.code, "nothing to write" in done.err) == (2, True)
    assert "would write about 16 files" in edgekit("augment", pictures, "--flip", "--dry-run").out


@pytest.mark.parametrize(
    ("redirect", "code"), [(">&-", 0), ("2>&-", 0), (">&- 2>&- <&-", 0), (">/dev/full", 2), ("| true", 141)]
)
def test_closed_and_full_streams(pictures, redirect, code):
    command = f"{sys.executable} -m edgekit augment {pictures} --flip {redirect}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert len(rows(pictures.with_name("imgs-augmented") / "manifest.jsonl")) == 16


def test_interrupted_says_so_in_json_too(tmp_path):
    root = _many(tmp_path / "many")
    command = [sys.executable, "-m", "edgekit", "augment", str(root), *FLIP, "-n", "50", "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True
    )
    stage = tmp_path / ".many-augmented.edgekit-partial"
    while process.poll() is None and not stage.exists():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, json.loads(out)["exit_code"]) == (130, 130)
    kept = "the same command goes on where it stopped" if stage.exists() else "nothing was kept"
    assert err.splitlines()[0] == f"interrupted; {kept}"
    assert list(tmp_path.glob(".*")) == ([stage] if stage.exists() else [])


def test_noise_in_bands_is_the_noise_in_one_go(monkeypatch):
    from edgekit.augment import draws, noise

    for shape, dtype in (((13, 7, 3), np.uint8), ((13, 7, 1), np.uint16), ((5, 4, 4), np.uint8)):
        image = picture(1, *shape, dtype)
        params = {"sigma": 0.2, "seed": 5}
        whole = noise.noise().pixels(image, params)
        monkeypatch.setattr(draws, "BAND", 1)
        assert np.array_equal(noise.noise().pixels(image, params), whole)
        monkeypatch.undo()


def test_noise_of_bytes_is_normal_and_does_not_repeat():
    """Windows of one pool: two of them hardly correlate, nor do channels, nor the bands of a large picture."""
    from edgekit.augment import draws, noise

    def of(seed, shape=(300, 400, 3), sigma=0.05):
        flat = np.full(shape, 128, np.uint8)
        return noise.noise().pixels(flat, {"sigma": sigma, "seed": seed}).astype(np.float64) - 128

    several = [of(seed) for seed in range(6)]
    for index, one in enumerate(several):
        assert abs(one.mean()) < 0.1
        assert one.std() == pytest.approx(0.05 * 255, rel=0.01)
        assert abs(np.corrcoef(one[..., 0].ravel(), one[..., 1].ravel())[0, 1]) < 0.015
        assert (np.abs(one) > 2 * 0.05 * 255).mean() == pytest.approx(0.0455, abs=0.004)
        for other in several[:index]:
            assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.01
    step = draws.Grain.POOL // 4
    large = of(7, (2 * step // 1024, 1024, 1)).ravel()
    assert abs(np.corrcoef(large[:step], large[step:])[0, 1]) < 0.01
    for shape in ((1, 1, 3), (1, 1, 1), (1, 2, 1), (2, 2, 1)):  # OpenCV takes so few numbers for a scalar
        for dtype in (np.uint8, np.uint16):
            one = np.full(shape, 100, dtype)
            changed = [(noise.noise().pixels(one, {"sigma": 0.1, "seed": seed}) != one).any() for seed in range(9)]
            assert sum(changed) > 6
    dark = noise.noise().pixels(np.zeros((9, 9, 3), np.uint8), {"sigma": 0.5, "seed": 1})
    assert (dark == 0).mean() == pytest.approx(0.5, abs=0.15)  # it saturates, and does not wrap


def test_verbose_says_how_far_from_its_codecs_a_run_was(edgekit, pictures):
    done = edgekit("augment", pictures, *FLIP, "-v")
    (said,) = [line for line in done.err.splitlines() if "codecs" in line]
    share, used, whole = re.fullmatch(
        r"files and codecs took (\d+)% of the workers' time: ([\d.]+) of ([\d.]+) ms an output", said
    ).groups()
    assert 0 < int(share) <= 100
    assert 0 < float(used) <= float(whole)


def test_pads_in_a_row_do_not_grow_without_end(edgekit, pictures):
    done = edgekit("augment", pictures, *(["--pad", "1"] * 9), "-n", "1", timeout=60)
    assert (done.code, "too large to be made" in done.err) == (2, True)


def test_colours_that_no_op_asks_for_are_left_as_opencv_has_them(monkeypatch):
    from edgekit.augment.op import OPS, Op
    from edgekit.augment.variants import Recipe, outputs

    data = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8))[1].tobytes()
    ops = ("vflip", "rotate 15", "brightness 0.3", "pad 0.1")
    recipe = Recipe(tuple(OPS.parse(text) for text in ops), copies=3)
    made = [list(outputs(recipe, "a.jpg", None, data, frozenset()))]
    monkeypatch.setattr(Op, "treats_alike", classmethod(lambda _: False))
    made.append(list(outputs(recipe, "a.jpg", None, data, frozenset())))
    assert made[0] == made[1]
    assert len(made[0]) == 4


def test_names_of_variants():
    from edgekit.augment.names import variant_name

    taken = frozenset({"b/cat.jpg", "b/cat__k02.jpg", "b", "b/a.gif.png"})
    wanted = {
        ("b/cat.jpg", ".jpg"): "b/cat__k02_.jpg",
        ("b/dog.jpg", ".jpg"): "b/dog__k02.jpg",
        ("a.gif", ".png"): "a.gif__k02.png",
        ("b/a.gif", ".png"): "b/a.gif___k02.png",
        ("b.c/.hidden", ""): "b.c/.hidden__k02",
        ("no", ""): "no__k02",
        ("odd.", ".png"): "odd.__k02.png",
    }
    assert {key: variant_name(key[0], 2, key[1], taken) for key in wanted} == wanted
