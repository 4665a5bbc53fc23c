"""A run that was cut off goes on where it stopped, and a set that has changed costs what has changed."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import picture, rows, save, tree_digest
from edgekit import files
from edgekit.augment import pool
from edgekit.augment import run as line
from edgekit.augment.op import OPS
from edgekit.augment.plan import plan
from edgekit.augment.variants import Recipe
from edgekit.data.folder import scan
from edgekit.errors import EdgekitError, StoppedError

MOSAIC = ("mosaic", "rotate 10")
PLAIN = ("flip p=0.5", "brightness 0.2")


def yolo(root, count=10, size=(40, 56)):
    """Make a labelled set, of pictures that are all different."""
    for number in range(count):
        add(root, f"{number:03d}", number, size)
    return root


def add(root, name, seed, size=(40, 56), suffix=".png"):
    save(root / "images" / f"{name}{suffix}", picture(seed, *size))
    (root / "labels").mkdir(exist_ok=True)
    (root / "labels" / f"{name}.txt").write_text(f"{seed % 3} 0.5 0.4 0.3 0.{seed % 7 + 1}\n")


def recipe(ops=MOSAIC, copies=2, **fields):
    return Recipe(tuple(OPS.read(op) for op in ops), copies, **fields)


def run(root, out, ops=MOSAIC, **options):
    return line.run(plan(scan(root)), out, recipe(ops), **{"workers": 1, **options})


def fresh(root, ops=MOSAIC):
    """Digest what an undisturbed run gives."""
    out = root.with_name("fresh")
    shutil.rmtree(out, ignore_errors=True)
    run(root, out, ops)
    return tree_digest(out)


def stage_of(out):
    return out.with_name(f".{out.name}.edgekit-partial")


def interrupted(root, out, after, ops=MOSAIC, **options):
    """Press Ctrl-C when so many sources are done."""

    def press(done, total):
        if journal_rows(stage_of(out)) >= after:
            raise KeyboardInterrupt

    with pytest.raises(StoppedError, match="goes on where it stopped"):
        run(root, out, ops, progress=press, **options)
    return stage_of(out)


@pytest.fixture
def worked(monkeypatch, tmp_path):
    """List the sources that are made, in whichever process."""
    log = tmp_path / "worked.txt"
    process = pool.Job.process

    def logged(job, source):
        if job.stage is not None:
            with log.open("a") as file:
                file.write(json.dumps(source.key) + "\n")
        return process(job, source)

    monkeypatch.setattr(pool.Job, "process", logged)

    def taken():
        keys = [json.loads(key) for key in log.read_text().splitlines()] if log.exists() else []
        log.unlink(missing_ok=True)
        return sorted(keys)

    return taken


# ---- the whole command, killed


def command(root, out):
    flags = ["--mosaic", "--rotate", "10", "-n", "3", "--workers", "2"]
    return [sys.executable, "-m", "edgekit", "augment", str(root), *flags, "--out", str(out)]


def journal_rows(stage):
    return sum(path.read_bytes().count(b"\n") - 1 for path in stage.glob("journal-*.jsonl"))


def test_three_kills_and_the_same_bytes(tmp_path):
    root = yolo(tmp_path / "set", 30, (120, 160))
    assert subprocess.run(command(root, tmp_path / "whole"), capture_output=True).returncode == 0
    out, stage, dice = tmp_path / "out", stage_of(tmp_path / "out"), random.Random(5)
    for least in (1, 8, 16):
        process = subprocess.Popen(command(root, out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while process.poll() is None and journal_rows(stage) < least:
            time.sleep(0.005)
        time.sleep(dice.uniform(0, 0.02))
        process.kill()
        assert b"Traceback" not in process.communicate()[1]
        assert not out.exists()
    done = subprocess.run(command(root, out), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "of 30 pictures were done already" in done.stderr
    assert tree_digest(out) == tree_digest(tmp_path / "whole")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.long
def test_twenty_kills_at_any_moment(tmp_path):
    """From the first import to the last rename, of the one process or of all at once."""
    root = yolo(tmp_path / "set", 150, (240, 320))
    started = time.monotonic()
    assert subprocess.run(command(root, tmp_path / "whole"), capture_output=True).returncode == 0
    took = time.monotonic() - started
    out, dice = tmp_path / "out", random.Random(7)
    kills = finished = 0
    resumed = []
    while kills < 20:
        process = subprocess.Popen(
            command(root, out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            process.wait(dice.uniform(0.1, 1.0) * took)
        except subprocess.TimeoutExpired:
            kills += 1
            (os.killpg if dice.random() < 0.5 else os.kill)(process.pid, signal.SIGKILL)
        said = process.communicate()[1].decode()
        resumed += [int(text.split()[1]) for text in said.splitlines() if text.startswith("resumed: ")]
        assert "Traceback" not in said
        if process.returncode == 0:
            assert tree_digest(out) == tree_digest(tmp_path / "whole")
            shutil.rmtree(out)
            finished += 1
    assert subprocess.run(command(root, out), capture_output=True).returncode == 0
    assert tree_digest(out) == tree_digest(tmp_path / "whole")
    print(f"{kills} kills, {finished} runs that came through between them, resumed with {resumed} pictures done")


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_says_that_it_goes_on(tmp_path, sent, code):
    root, out = yolo(tmp_path / "set", 40, (120, 160)), tmp_path / "o u t"
    stage = stage_of(out)
    process = subprocess.Popen([*command(root, out), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while process.poll() is None and journal_rows(stage) < 5:
        time.sleep(0.005)
    process.send_signal(sent)
    said, err = process.communicate()
    assert process.returncode == code
    if sent == signal.SIGINT:
        throw = f"rm -r '{stage}' throws away what is done"
        assert err.decode() == f"interrupted; the same command goes on where it stopped\n hint: {throw}\n"
        assert json.loads(said)["error"]["hint"] == throw
    if sent == signal.SIGTERM:
        assert journal_rows(stage) >= 5
        return
    done = subprocess.run([*command(root, out), "--json"], capture_output=True, text=True)
    answer = json.loads(done.stdout)
    assert done.stderr == f"resumed: {answer['resumed']} of 40 pictures were done already\n"
    assert 5 <= answer["resumed"] < 40
    assert (answer["counts"]["sources"], answer["counts"]["variants"]) == (40, 120)


# ---- what an interrupted run left


def test_only_the_rest_is_made(tmp_path, worked):
    root, out = yolo(tmp_path / "set"), tmp_path / "out"
    interrupted(root, out, 4)
    worked()
    said = []
    result = run(root, out, say=said.append)
    assert said == ["resumed: 4 of 10 pictures were done already"]
    assert worked() == [f"images/{number:03d}.png" for number in range(4, 10)]
    assert (result.tally.resumed, result.tally.reused, result.counts.sources) == (4, 0, 10)
    assert tree_digest(out) == fresh(root)
    assert not stage_of(out).exists()


def torn(stage, root):
    with (stage / "journal-1.jsonl").open("ab") as file:
        file.write((stage / "journal-1.jsonl").read_bytes().splitlines()[1][:300])


def garbage(stage, root):
    lines = (stage / "journal-1.jsonl").read_bytes().splitlines(keepends=True)
    (stage / "journal-1.jsonl").write_bytes(b"".join([*lines[:2], b"\0" * 40 + b"\n", b"[]\n", b"{}\n", *lines[2:]]))


def truncated(stage, root):
    with (stage / "images" / "001__k02.png").open("r+b") as file:
        file.truncate(100)


def a_label_of_zeros(stage, root):
    path = stage / "labels" / "001__k02.txt"
    path.write_bytes(b"\0" * path.stat().st_size)


def missing(stage, root):
    (stage / "images" / "001.png").unlink()


def half_written(stage, root):
    (stage / "images" / "009__k01.png").write_bytes(b"half")
    (stage / "labels" / "deeper").mkdir()
    (stage / "labels" / "deeper" / "x.txt").write_text("")
    (stage / "manifest.jsonl").write_text("{")


def source_edited(stage, root):
    add(root, "001", 50)


def label_edited(stage, root):
    (root / "labels" / "001.txt").write_text("0 0.5 0.5 0.1 0.1\n")


def source_removed(stage, root):
    (root / "images" / "001.png").unlink()


def source_added(stage, root):
    add(root, "000__k01", 60)


def nothing(stage, root):
    pass


@pytest.mark.parametrize(
    ("happens", "least", "most"),
    [
        (torn, 5, 5),
        (garbage, 5, 5),
        (truncated, 4, 4),
        (a_label_of_zeros, 4, 4),
        (missing, 4, 4),
        (half_written, 5, 5),
        (source_edited, 0, 4),
        (label_edited, 0, 4),
        (source_removed, 0, 4),
        (source_added, 0, 4),
    ],
)
@pytest.mark.parametrize("ops", [MOSAIC, PLAIN], ids=["mosaic", "plain"])
def test_what_is_not_as_it_was_is_made_again(tmp_path, happens, least, most, ops):
    root, out = yolo(tmp_path / "set"), tmp_path / "out"
    happens(interrupted(root, out, 5, ops), root)
    result = run(root, out, ops)
    assert tree_digest(out) == fresh(root, ops)
    assert (4 if ops is PLAIN else least) <= result.tally.resumed <= most
    assert not list(out.rglob("deeper"))


def test_interrupted_again_and_again_nothing_is_made_twice(tmp_path, worked):
    root, out = yolo(tmp_path / "set"), tmp_path / "out"
    for after in (2, 5, 5, 8):
        stage = interrupted(root, out, after, workers=1)
    assert journal_rows(stage) == 8
    worked()
    run(root, out)
    assert len(worked()) == 2
    assert tree_digest(out) == fresh(root)


def test_the_stage_of_another_recipe_is_replaced(tmp_path):
    root, out = yolo(tmp_path / "set"), tmp_path / "out"
    interrupted(root, out, 5)
    said = []
    first = line.run(plan(scan(root)), out, recipe(seed=1), say=said.append)
    assert (first.tally.resumed, said) == (0, [])
    line.run(plan(scan(root)), tmp_path / "other", recipe(seed=1))
    assert tree_digest(out) == tree_digest(tmp_path / "other")


def test_a_stage_of_other_processor_features_is_replaced(tmp_path, monkeypatch):
    root, out = yolo(tmp_path / "set"), tmp_path / "out"
    interrupted(root, out, 5)
    monkeypatch.setattr(line.cv2, "getCPUFeaturesLine", lambda: "abacus")
    assert run(root, out).tally.resumed == 0
    assert json.loads((out / "run.json").read_text())["versions"]["cpu"] == "abacus"
    monkeypatch.undo()
    assert line.up_to_date(plan(scan(root)), out, recipe()) is not None
    assert run(root, out, if_changed=True).tally.reused == 0


def test_names_of_any_bytes_come_back(tmp_path):
    root, out = tmp_path / "set", tmp_path / "out"
    root.mkdir()
    for number, name in enumerate((b"a\xff.png", b"new\nline.png", "ü.png".encode(), b"z.png")):
        path = Path(os.fsdecode(os.path.join(os.fsencode(root), name)))  # noqa: PTH118
        save(path, picture(number))
    interrupted(root, out, 3, PLAIN)
    assert run(root, out, PLAIN).tally.resumed == 3
    assert tree_digest(out) == fresh(root, PLAIN)


def test_a_full_disk_keeps_what_is_done(tmp_path, monkeypatch):
    root, out = yolo(tmp_path / "set"), tmp_path / "out"
    write = pool.Job._write

    def full(job, output, source):
        if source.key.startswith("images/007"):
            target = job.stage / output.name
            target.write_bytes(output.data[:50])
            files.write_failed(target, OSError(errno.ENOSPC, "No space left on device"))
        write(job, output, source)

    monkeypatch.setattr(pool.Job, "_write", full)
    with pytest.raises(files.DiskFullError, match="the disk is full; what is done was kept") as raised:
        run(root, out, workers=1)
    assert "free some space and run the same command again" in raised.value.hint
    monkeypatch.undo()
    assert run(root, out).tally.resumed > 0
    assert tree_digest(out) == fresh(root)


def test_a_journal_that_cannot_be_written_is_a_full_disk(tmp_path, monkeypatch):
    root, out = yolo(tmp_path / "set"), tmp_path / "out"

    def full(journal, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(line.journal.Journal, "_write", full)
    with pytest.raises(files.DiskFullError, match="nothing was kept"):
        run(root, out)
    assert not stage_of(out).exists()


def test_what_the_same_command_would_meet_again_leaves_no_stage(tmp_path):
    root, out = tmp_path / "set", tmp_path / "out"
    save(root / "a.png", picture(1))
    with pytest.raises(EdgekitError, match="nothing to write"):
        line.run(plan(scan(root)), out, recipe(("flip p=0",), originals=False))
    (root / "a.png").write_text("<html>")
    with pytest.raises(EdgekitError, match="none of its pictures"):
        run(root, out, PLAIN)
    assert list(tmp_path.iterdir()) == [root]


def test_rejected_sources_are_tried_again(tmp_path):
    root, out = yolo(tmp_path / "set"), tmp_path / "out"
    (root / "images" / "002.png").write_text("<html>")
    interrupted(root, out, 5)
    result = run(root, out)
    assert (result.tally.resumed, result.counts.rejected) == (5, 1)
    assert tree_digest(out) == fresh(root)


# ---- what an older output holds


def test_sources_say_the_same_for_any_number_of_workers(tmp_path):
    root = yolo(tmp_path / "set")
    (root / "images" / "005.png").write_text("<html>")
    for workers in (1, 3):
        run(root, tmp_path / str(workers), workers=workers)
    assert tree_digest(tmp_path / "1") == tree_digest(tmp_path / "3")
    made = rows(tmp_path / "1" / "sources.jsonl")
    assert [row["source"] for row in made] == [f"images/{number:03d}.png" for number in range(10)]
    assert [row["rejected"] for row in made] == [number == 5 for number in range(10)]
    assert sum(row["rows"] for row in made) == len(rows(tmp_path / "1" / "manifest.jsonl"))
    assert str(tmp_path) not in (tmp_path / "1" / "sources.jsonl").read_text()


def added(root):
    add(root, "0005", 40)


def removed(root):
    (root / "images" / "004.png").unlink()
    (root / "labels" / "004.txt").unlink()


def edited(root):
    add(root, "004", 41)
    (root / "labels" / "004.txt").write_text("1 0.5 0.4 0.3 0.5\n")


def relabelled(root):
    (root / "labels" / "004.txt").write_text("1 0.5 0.5 0.5 0.5\n0 0.2 0.2 0.2 0.2\n")


def renamed(root):
    for folder, suffix in (("images", ".png"), ("labels", ".txt")):
        (root / folder / f"004{suffix}").rename(root / folder / f"renamed{suffix}")


def collides(root):
    add(root, "004__k01", 42)


def twins(root):
    save(root / "images" / "004.bmp", picture(43))


def breaks(root):
    (root / "images" / "004.png").write_text("<html>")


def appears(root):
    (root / "images" / "broken.png").write_bytes((root / "images" / "004.png").read_bytes())


CHANGES = [added, removed, edited, relabelled, renamed, collides, twins, breaks, appears]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("ops", [MOSAIC, PLAIN], ids=["mosaic", "plain"])
def test_if_changed_is_a_fresh_run(tmp_path, worked, change, ops):
    root, out = yolo(tmp_path / "set", 20), tmp_path / "out"
    (root / "images" / "broken.png").write_text("<html>")
    run(root, out, ops)
    worked()
    change(root)
    result = run(root, out, ops, if_changed=True)
    made = worked()
    assert tree_digest(out) == fresh(root, ops)
    assert all(path.stat().st_nlink == 1 for path in out.rglob("*") if path.is_file())
    total = result.counts.originals + result.counts.variants
    assert total - result.tally.reused <= 3 * len(made)
    # The changed one, broken.png and, of 20 x 2 x 3 partners, those that were it.
    assert len(made) <= (3 if ops is PLAIN else 16)


def test_if_changed_after_any_changes(tmp_path):
    dice = random.Random(3)
    root, out = yolo(tmp_path / "set", 9), tmp_path / "out"
    for step in range(8):
        names = sorted(path.stem for path in (root / "images").iterdir())
        for _ in range(dice.randint(1, 2)):
            name = dice.choice(names)
            new = dice.choice((name, f"{name}_", f"{name}__k01", str(step)))
            match dice.randrange(3):
                case 0:
                    add(root, new, 100 + step)
                case 1 if len(names) > 6 and (root / "images" / f"{name}.png").exists():
                    (root / "images" / f"{name}.png").unlink()
                case _:
                    (root / "labels" / f"{name}.txt").write_text(f"{step % 3} 0.5 0.5 0.{step + 1} 0.4\n")
        run(root, out, if_changed=True)
        assert tree_digest(out) == fresh(root)


def test_if_changed_of_class_folders_and_coco(tmp_path, pictures):
    out = tmp_path / "out"
    run(pictures, out, PLAIN)
    save(pictures / "cats" / "new.jpg", picture(77))
    assert run(pictures, out, PLAIN, if_changed=True).tally.reused == 8 * 3
    assert tree_digest(out) == fresh(pictures, PLAIN)
    root = yolo(tmp_path / "set")
    line.run(plan(scan(root), to="coco"), tmp_path / "coco", recipe())
    relabelled(root)
    again = line.run(plan(scan(root), to="coco"), tmp_path / "coco", recipe(), if_changed=True)
    line.run(plan(scan(root), to="coco"), tmp_path / "other", recipe())
    assert again.tally.reused > 0
    assert tree_digest(tmp_path / "coco") == tree_digest(tmp_path / "other")


def test_if_changed_goes_by_the_number_of_copies_of_each_source(tmp_path):
    root, out = yolo(tmp_path / "set"), tmp_path / "out"
    made = plan(scan(root))
    few = replace(made, numbers={source.key: 1 for source in made.sources})
    more = replace(made, numbers=few.numbers | {"images/003.png": 3})
    line.run(few, out, recipe())
    assert line.run(more, out, recipe(), if_changed=True).tally.reused == 9 * 2
    line.run(more, tmp_path / "other", recipe())
    assert tree_digest(out) == tree_digest(tmp_path / "other")


def test_an_output_that_was_edited_is_put_right(tmp_path):
    root, out = yolo(tmp_path / "set"), tmp_path / "out"
    run(root, out)
    (out / "images" / "001__k01.png").write_text("edited")
    (out / "labels" / "002.txt").unlink()
    assert run(root, out, if_changed=True).tally.reused == 8 * 3
    assert tree_digest(out) == fresh(root)


def test_if_changed_that_is_interrupted_leaves_the_old_output_as_it_was(tmp_path):
    root, out = yolo(tmp_path / "set"), tmp_path / "out"
    run(root, out)
    before = tree_digest(out)
    edited(root)
    interrupted(root, out, 7, if_changed=True)
    assert tree_digest(out) == before
    add(root, "001", 90)  # its files in the stage have the old output's for a second name
    interrupted(root, out, 9, if_changed=True)
    assert tree_digest(out) == before
    run(root, out, if_changed=True)
    assert tree_digest(out) == fresh(root)


def test_without_hard_links_files_are_copied(tmp_path, monkeypatch):
    root, out = yolo(tmp_path / "set"), tmp_path / "out"
    run(root, out)
    edited(root)

    def refuses(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuses)
    assert run(root, out, if_changed=True).tally.reused > 0
    assert tree_digest(out) == fresh(root)


def test_if_changed_as_a_command(edgekit, pictures):
    out = pictures.with_name("imgs-augmented")
    flags = ("--rotate", "10", "-n", "2", "--if-changed")
    first = edgekit("augment", pictures, *flags)
    assert (first.code, first.err, "reused" in first.out) == (0, "", False)
    assert "up to date" in edgekit("augment", pictures, *flags).out
    save(pictures / "cats" / "new.jpg", picture(77))
    assert "reused    24 of 27 pictures" in edgekit("augment", pictures, *flags).out
    other = edgekit("augment", pictures, *flags, "--seed", "1", "--json")
    assert (other.code, other.json["reused"]) == (0, 0)
    assert "so everything is made anew" in other.err
    (out / "precious.txt").write_text("x")
    with pytest.raises(EdgekitError, match="was not made by edgekit"):
        run(pictures, out, PLAIN, if_changed=True)
    assert (out / "precious.txt").exists()
