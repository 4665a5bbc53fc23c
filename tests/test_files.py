"""Files as they are out there: odd names, links, what may not be read or goes away; how the command talks of them."""

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest

from conftest import picture, rows, save, tree_digest
from edgekit.data.folder import ALL, INSIDE, Listing, Source, read, scan
from edgekit.data.headers import Unreadable
from edgekit.errors import EdgekitError
from edgekit.words import counted

FLIP = ("--flip", "--rotate", "15", "-n", "1")
NAMES = [
    b"new\nline", b"cr\rx", b"tab\t", b"quo\"te'", b"b" * 255, b"bad\xff\xfe", b"-n", b"dots...", b" lead", b"trail ",
    unicodedata.normalize("NFC", "é").encode(), unicodedata.normalize("NFD", "é").encode(), b"a", b"A", b"%d%s%n",
    b"[bold red]x[link=file:]", b"\x1b[31mred\x1b]0;title\x07", b"back\\slash", b"*?", b"semi;colon&|$HOME", b"~",
    b"#x", "\u202egpj\u2028".encode(), b"\x7f\x01", b"nl\x85", b"a__k01", b"con", b"&lt;<b>",
]  # fmt: skip


def png(seed):
    import cv2

    return cv2.imencode(".png", picture(seed, 20, 24))[1].tobytes()


def put(root, *parts):
    """Write a file whose path has parts of any bytes."""
    *folders, name, data = parts
    folder = os.path.join(os.fsencode(root), *folders)  # noqa: PTH118
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103
    with open(os.path.join(folder, name), "wb") as file:  # noqa: PTH118, PTH123
        file.write(data)


def named(name, suffix):
    return name[: 255 - len(suffix)] + suffix


def whole(out):
    """Check that the output holds what its rows say, and nothing else; give the rows' sources."""
    made = rows(out / "manifest.jsonl")
    said = {}
    for row in made:
        said[row["file_name"]] = row["sha256"]
        said |= {one["path"]: one["sha256"] for one in row.get("label_files", ())}
    stamp = json.loads((out / "run.json").read_text())
    said |= {one["path"]: one["sha256"] for one in stamp.get("labels", {}).get("files", ())}
    found = {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.rglob("*")
        if path.is_file() and path.name not in ("manifest.jsonl", "rejected.jsonl", "run.json", "sources.jsonl")
    }
    assert {name: found[name] for name in said} == said
    assert found == said
    return [row["source"] for row in made]


def is_quiet(done):
    """Nothing that steers a terminal."""
    return not re.search("[\0-\x09\x0b-\x1f\x7f-\x9f\u202e]", done.out + done.err)


# ---- names


def test_odd_names_of_pictures_and_class_folders(edgekit, tmp_path):
    for number, name in enumerate(NAMES):
        put(tmp_path, b"c", b"plain", named(name, b".png"), png(number))
        put(tmp_path, b"c", name, b"x.png", png(100 + number))
    put(tmp_path, b"c", b"plain", b"a.PNG", png(200))
    put(tmp_path, b"c", b"plain", b"\x1b[2Jbroken.png", b"x")
    done = edgekit("augment", "c", *FLIP, "-v")
    assert done.code == 0, done.err
    assert is_quiet(done)
    assert "\\x1b[2Jbroken.png" in done.out
    assert len(whole(tmp_path / "c-augmented")) == 2 * (2 * len(NAMES) + 1)
    assert "up to date" in edgekit("augment", "c", *FLIP).out
    assert is_quiet(edgekit("augment", tmp_path / "c" / "\x1b[31mred\x1b]0;title\x07", "--flip", "--dry-run"))


def test_odd_names_of_label_files(edgekit, tmp_path):
    for number, name in enumerate(NAMES):
        put(tmp_path, b"y", b"images", b"train", named(name, b".png"), png(number))
        put(tmp_path, b"y", b"labels", b"train", named(name, b".txt"), b"0 0.5 0.5 0.4 0.4\n")
    (tmp_path / "y" / "data.yaml").write_text("names: [thing]\n")
    for kind, source in (("coco", "y"), ("yolo", "y-coco")):
        done = edgekit("augment", source, *FLIP, "--to", kind, "--out", f"y-{kind}")
        assert done.code == 0, done.err
        assert is_quiet(done)
        made = whole(tmp_path / f"y-{kind}")
        assert len(made) == len(NAMES) * (2 if source == "y" else 4)
        assert all(row["objects"] for row in rows(tmp_path / f"y-{kind}" / "manifest.jsonl") if "objects" in row)
    document = json.loads(next((tmp_path / "y-coco").rglob("instances*.json")).read_text())
    assert len({one["image_id"] for one in document["annotations"]}) == len(document["images"]) == 2 * len(NAMES)


def test_names_that_the_terminal_cannot_show(edgekit, tmp_path):
    put(tmp_path, "日本\udcff".encode("utf-8", "surrogateescape"), b"a.png", png(1))
    put(tmp_path, "日本\udcff".encode("utf-8", "surrogateescape"), "é.png".encode(), b"x")
    env = {"PYTHONIOENCODING": "ascii"}
    done = edgekit("augment", tmp_path / "日本\udcff", *FLIP, env=env)
    assert (done.code, "Traceback" in done.err) == (0, False)
    assert "rejected  1 picture (first: " in done.out
    assert edgekit("augment", tmp_path / "語\udcff", *FLIP, env=env).err.startswith("error: ")


# ---- links


def linked(root):
    """A folder with links of every kind."""
    outside = root.parent / "outside"
    save(outside / "o.png", picture(1))
    save(outside / "deep" / "d.png", picture(2))
    save(root / "real" / "a.png", picture(3))
    save(root / "z" / "b.png", picture(4))
    for name, target in {
        "in.png": "real/a.png",
        "hidden.png": "real/../z/b.png",
        "out.png": "../outside/o.png",
        "gone.png": "nowhere",
        "self.png": "self.png",
        "a_real": "real",
        "loop": ".",
        "up": "..",
        "far": "../outside",
        "far2": "../outside/deep",
        "real/back": "../z",
        "none": "nowhere",
    }.items():
        (root / name).symlink_to(target)
    return root


def test_links_that_stay_inside_are_followed_and_others_refused(tmp_path):
    found = scan(linked(tmp_path / "src"), INSIDE)
    refused = {source.key: source.refused for source in found.sources}
    lost, away = (
        "a link to a file that is not there",
        "a link that leads outside of the folder (--follow-links follows it)",
    )
    expected = {"gone.png": lost, "self.png": lost, "out.png": away}
    expected |= dict.fromkeys(("hidden.png", "in.png", "real/a.png", "z/b.png"), "")
    assert refused == expected
    assert (found.folders, found.outside, found.others) == (6, ("far", "far2", "up"), 1)
    for source in found.sources:
        if source.refused:
            with pytest.raises(Unreadable, match="a link"):
                read(source, 10**6)


def test_all_links_are_followed_once(tmp_path):
    found = scan(linked(tmp_path / "src"), ALL)
    keys = {source.key for source in found.sources if not source.refused}
    # Real folders keep their names; of two ways to one folder the first by name is taken.
    assert keys == {"hidden.png", "in.png", "out.png", "real/a.png", "z/b.png", "far/o.png", "far/deep/d.png"}
    assert (found.folders, found.outside) == (5, ())
    assert scan(tmp_path / "src" / "far", ALL).sources[-1].key == "o.png"


def test_links_in_circles_come_to_an_end(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        save(tmp_path / name / "p.png", picture(1))
        (tmp_path / name / "other").symlink_to(tmp_path / other)
    assert [source.key for source in scan(tmp_path / "a", ALL).sources] == ["other/p.png", "p.png"]
    (tmp_path / "src").symlink_to("a")
    assert [source.key for source in scan(tmp_path / "src", INSIDE).sources] == ["p.png"]


def test_a_mask_that_is_a_link_to_the_outside_is_not_read(tmp_path):
    from edgekit.data import masks

    save(tmp_path / "secret.png", picture(1, channels=1))
    for name in ("a", "b"):
        save(tmp_path / "src" / "images" / f"{name}.png", picture(2))
    save(tmp_path / "src" / "masks" / "b.png", picture(3, channels=1))
    (tmp_path / "src" / "masks" / "a.png").symlink_to(tmp_path / "secret.png")
    for links, expected in ((INSIDE, [None, "b.png"]), (ALL, ["a.png", "b.png"])):
        pairs, _ = masks.find(scan(tmp_path / "src", links))
        assert [path and path.name for path in pairs.values()] == expected


def test_links_through_the_command(edgekit, tmp_path):
    root = linked(tmp_path / "src")
    before = tree_digest(root)
    done = edgekit("augment", "src", *FLIP)
    assert done.code == 0, done.err
    assert done.err == "passed by 3 links to folders outside of src (first: far); --follow-links enters such folders\n"
    assert "rejected  3 pictures (first: gone.png: a link to a file that is not there)" in done.out
    assert set(whole(tmp_path / "src-augmented")) == {"hidden.png", "in.png", "real/a.png", "z/b.png"}
    assert not any(path.is_symlink() for path in (tmp_path / "src-augmented").rglob("*"))
    done = edgekit("augment", "src", *FLIP, "--follow-links", "--out", "all")
    assert (done.code, done.err) == (0, "")
    assert "far/deep/d.png" in whole(tmp_path / "all")
    assert tree_digest(root) == before
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "o").symlink_to(tmp_path / "outside")
    done = edgekit("augment", "only", *FLIP)
    assert (done.code, "or use --follow-links" in done.err) == (2, True)


# ---- what may not be read, changes or goes away


def test_what_is_no_regular_file_is_a_row(edgekit, tmp_path):
    root = tmp_path / "s"
    save(root / "a.png", picture(1))
    os.mkfifo(root / "pipe.png")
    (root / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(os.path.relpath(root / "socket.png"))  # a short path: its length is limited
        done = edgekit("augment", "s", *FLIP, timeout=30)
    assert done.code == 0, done.err
    reasons = {row["source"]: row["reason"] for row in rows(tmp_path / "s-augmented" / "rejected.jsonl")}
    assert set(reasons) == {"pipe.png", "socket.png"}
    assert reasons["pipe.png"] == "not a regular file"


def test_what_may_not_be_read_is_a_row(monkeypatch, tmp_path):
    """Root may read everything, so the system's answer is made up."""
    from edgekit.augment import pool
    from edgekit.augment.variants import Recipe
    from edgekit.data import folder

    def denied(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    source = scan(save(tmp_path / "a.png", picture(1)).parent).sources[0]
    monkeypatch.setattr(folder.os, "open", denied)
    done = pool.Job(Recipe(()), None, frozenset()).process(source)
    assert done.rejected == "cannot be read: Permission denied"
    monkeypatch.setattr(folder.os, "scandir", denied)
    with pytest.raises(EdgekitError, match="cannot be read: Permission denied"):
        scan(tmp_path)


def test_files_that_go_away_change_and_grow_during_the_run(tmp_path):
    root = tmp_path / "many"
    for number in range(60):
        save(root / f"{number:02d}.png", picture(number, 120, 160))
    command = [sys.executable, "-m", "edgekit", "augment", str(root), "--rotate", "9", "-n", "2", "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    stage = tmp_path / ".many-augmented.edgekit-partial"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None and not any(stage.glob("0*.png")):
        time.sleep(0.002)
    for number in range(59, 20, -1):
        path = root / f"{number:02d}.png"
        if number % 3 == 0:
            path.unlink()
        elif number % 3 == 1:
            path.write_bytes(b"something else")
        else:
            with path.open("ab") as file:
                file.write(b"more" * 100)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    made = set(whole(tmp_path / "many-augmented"))  # every original is what its row says, whatever became of it
    refused = {row["source"] for row in rows(tmp_path / "many-augmented" / "rejected.jsonl")}
    assert not made & refused
    assert made | refused == {f"{number:02d}.png" for number in range(60)}
    assert refused, out


def test_the_source_is_never_touched(edgekit, tmp_path):
    """Read-only files and folders will do; and no output shares its storage with them."""
    root = tmp_path / "s"
    for number in range(3):
        save(root / "c" / f"{number}.png", picture(number))
    paths = sorted(root.rglob("*"), reverse=True)
    for path in (*paths, root):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        before = tree_digest(root), [(path.stat().st_mtime_ns, path.stat().st_mode) for path in (*paths, root)]
        assert edgekit("augment", root, *FLIP, "--dry-run", "--preview", "p.png").code == 0
        assert edgekit("augment", root, *FLIP).code == 0
        out = tmp_path / "s-augmented"
        for path in [path for path in out.rglob("*") if path.is_file()]:
            assert path.stat().st_mode & 0o200  # may be removed and changed like any new file
            with path.open("r+b") as file:
                file.write(b"overwritten")
        assert (
            tree_digest(root),
            [(path.stat().st_mtime_ns, path.stat().st_mode) for path in (*paths, root)],
        ) == before
    finally:
        for path in (root, *reversed(paths)):
            path.chmod(0o755)


# ---- splits and loose pictures


def test_pictures_beside_split_folders_are_in_no_split(tmp_path):
    from edgekit.data import dataset

    for name in ("a.png", "test/b.png"):
        save(tmp_path / "flat" / name, picture(1))
    found = dataset.read(tmp_path / "flat")
    assert (found.kind, {one.key: one.split for one in found.entries}) == (
        "none",
        {"a.png": None, "test/b.png": "test"},
    )
    for name in ("a.png", "train/cat/b.png", "val/cat/c.png"):
        save(tmp_path / "deep" / name, picture(1))
    found = dataset.read(tmp_path / "deep")
    assert found.kind == "folder"
    expected = {"a.png": (None, None), "train/cat/b.png": ("train", "cat"), "val/cat/c.png": ("val", "cat")}
    assert {one.key: (one.split, one.label) for one in found.entries} == expected
    save(tmp_path / "class" / "test" / "b.png", picture(1))
    assert [one.label for one in dataset.read(tmp_path / "class").entries] == ["test"]


# ---- how the command talks


@pytest.mark.parametrize(
    ("module", "flags"),
    [("typer", ()), ("edgekit.compress.method", ("--json",)), ("edgekit.augment.run", ("--json",)), ("cv2", ())],
)
def test_an_interrupt_while_modules_are_loaded_says_so(tmp_path, module, flags):
    """Ctrl-C at the very moment when a module is looked for, the first ones within 0.1 s of the start."""
    save(tmp_path / "s" / "a.png", picture(1))
    script = f"""
import os, signal, sys
class Presses:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Presses())
sys.argv = ["edgekit", "augment", {str(tmp_path / "s")!r}, "--flip", *{flags!r}]
from edgekit.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert (done.returncode, b"Traceback" in done.stderr) == (130, False)
    assert done.stderr.startswith(b"interrupted")
    assert not flags or json.loads(done.stdout)["exit_code"] == 130
    assert not (tmp_path / "s-augmented").exists()


def test_verbose_says_where_things_come_from(edgekit, tmp_path):
    save(tmp_path / "s" / "cat" / "a.png", picture(1))
    (tmp_path / "edgekit.toml").write_text("[augment]\ncopies = 2\n")
    env = {"EDGEKIT_AUGMENT_SEED": "7"}
    done = edgekit("augment", "s", "--flip", "--workers", "1", "-v", env=env)
    assert done.code == 0
    for line in (
        f"configuration file: {tmp_path / 'edgekit.toml'}",
        "from command line: ops=('flip',), workers=1",
        "from edgekit.toml: copies=2",
        "from EDGEKIT_AUGMENT_SEED: seed=7",
        "layout: 1 class folder, 1 picture",
        "workers: 1",
    ):
        assert line in done.err, line
    assert edgekit("augment", "s", "--flip", "--workers", "1", env=env).err == ""


def test_one_is_not_many(edgekit, tmp_path):
    assert counted(1, "file", "that is", "that are") == "1 file that is"
    assert counted(2000, "file", "that is", "that are") == "2,000 files that are"
    assert counted(0, "file") == "0 files"
    save(tmp_path / "s" / "c" / "a.png", picture(1))
    (tmp_path / "s" / "c" / "b.png").write_bytes(b"x")
    (tmp_path / "s" / "notes.txt").write_text("")
    done = edgekit("augment", "s", "--rotate", "15", "-n", "1", "--dry-run")
    assert "2 pictures, 1 other file\n" in done.out and "1 copy, seed" in done.out
    said = edgekit("augment", "s", "--rotate", "15", "-n", "1").out
    for words in (
        "1 picture\n",
        "1 original, 1 variant (",
        "1, 2 pictures\n",
        "1 picture (first:",
        "1 file that is not",
    ):
        assert words in said, words


# ---- a large folder


@pytest.mark.long
def test_a_folder_of_twenty_thousand(tmp_path):
    """Memory of 20,000 pictures within a row of metadata each (2 kB, in three processes) of that of 2,000."""
    from test_long import edgekit_command, peak_rss

    data, peaks = png(1), []
    for count in (2_000, 20_000):
        root = tmp_path / str(count)
        root.mkdir()
        for number in range(count):
            (root / f"{number:05d}.png").write_bytes(data)
        code, _, err, peak = peak_rss(edgekit_command("augment", root, *FLIP, "--workers", "2"), tmp_path)
        assert code == 0, err
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 18_000 * 3 * 2048, peaks


def test_like_names_in_many_folders_are_not_quadratic(tmp_path):
    """A thousand films, each with the same names: their pictures in COCO's file are looked up, not searched."""
    from edgekit.data.coco import match

    keys = [f"images/film{film:04d}/{number:02d}.jpg" for film in range(1000) for number in range(4)]
    sources = [Source(tmp_path / key, key, 1) for key in keys]
    started = time.process_time()
    assert match([key.removeprefix("images/") for key in keys], sources) == sources
    assert len(Listing(tmp_path, tuple(sources), 0).names()) == 4000 + 1000 + 2
    assert time.process_time() - started < 2


def test_paths_are_kept_as_they_are_typed(tmp_path):
    save(tmp_path / "s" / "a.png", picture(1))
    assert scan(tmp_path / "s").sources[0].path == Path(tmp_path, "s", "a.png")
