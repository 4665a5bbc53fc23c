"""`edgekit verify`: every edit, loss and addition to an output is found, by name."""

import json
import os
import shutil
from pathlib import Path

import pytest
from test_replay import labelled, make

from conftest import picture, save, tree_digest
from edgekit.augment import record, run
from edgekit.data import manifest
from edgekit.data.verify import verify
from edgekit.errors import EdgekitError


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One output of every sort, to be copied."""
    root = tmp_path_factory.mktemp("written")
    for kind in ("coco", "yolo"):
        labelled(root / kind)
        (root / kind / "images" / "broken.png").write_bytes(b"no picture")
        make(root / kind, "flip p=1", "mixup p=0.5", copies=2, to=kind)
    for number in range(3):
        save(root / "plain" / f"c{number}" / f"p{number}.jpg", picture(number))
    make(root / "plain", "rotate 9", copies=1)
    return root


@pytest.fixture
def out(written, tmp_path):
    """Copy an output of one sort."""

    def copied(kind):
        return shutil.copytree(written / f"{kind}-augmented", tmp_path / kind, dirs_exist_ok=True)

    return copied


def found(folder, threads=2):
    return verify(folder, (run.SCHEMA, record.SCHEMA), run.LITTER, threads)


def said(folder):
    return [str(one) for one in found(folder).findings]


def edit(path, old, new, line=None):
    """Replace text in a file, or in one of its lines."""
    lines = path.read_text().splitlines(keepends=True)
    for number in range(len(lines)) if line is None else [line - 1]:
        lines[number] = lines[number].replace(old, new)
    before = path.read_text()
    path.write_text("".join(lines))
    assert path.read_text() != before


@pytest.mark.parametrize(("kind", "labels"), [("plain", 0), ("coco", 0), ("yolo", 12)])
def test_what_was_written_is_intact(out, kind, labels):
    done = found(out(kind))
    assert (done.findings, done.label_files, done.exit_code) == ([], labels, 0)
    assert (done.pictures, done.rejected) == ((6, 0) if kind == "plain" else (12, 1))


def test_litter_is_nobodys(out):
    folder = out("plain")
    for name in (".DS_Store", "c0/Thumbs.db"):
        (folder / name).write_bytes(b"\0")
    assert said(folder) == []


def test_what_a_training_run_leaves_beside_label_folders_is_nobodys(out):
    folder = out("yolo")
    labels = next(folder.rglob("labels"))
    labels.with_suffix(".cache").write_bytes(b"\0")
    assert said(folder) == []
    run.refuse_existing(folder, force=True)
    stray = labels / "other.cache"
    stray.write_bytes(b"\0")
    assert said(folder) == [f"{stray.relative_to(folder)}: was not made by edgekit"]
    with pytest.raises(EdgekitError, match=r"other.cache: was not made by edgekit"):
        run.refuse_existing(folder, force=True)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def unsealed(folder):
    """Write the stamp as if whoever edited the folder knew how to seal it, but for the digests of rows."""
    stamp = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(manifest.document(manifest.sealed(stamp, folder)))


def drop(path, line):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: line - 1] + lines[line:]))


def twice(path, line):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:line] + lines[line - 1 :]))


DAMAGE = {
    "flipped byte": (
        "yolo",
        lambda f: flip(f / "images/p1__k02.png"),
        ["images/p1__k02.png: is not what its row says (manifest.jsonl:6)"],
    ),
    "flipped byte of an original": (
        "plain",
        lambda f: flip(f / "c0/p0.jpg"),
        ["c0/p0.jpg: is not what its row says (manifest.jsonl:1)"],
    ),
    "deleted picture": ("plain", lambda f: (f / "c1/p1.jpg").unlink(), ["c1/p1.jpg: is missing"]),
    "deleted folder": (
        "plain",
        lambda f: shutil.rmtree(f / "c1"),
        ["c1/p1.jpg: is missing", "c1/p1__k01.jpg: is missing"],
    ),
    "deleted label": ("yolo", lambda f: (f / "labels/p2.txt").unlink(), ["labels/p2.txt: is missing"]),
    "edited label": (
        "yolo",
        lambda f: edit(f / "labels/p2__k01.txt", "0", "1"),
        ["labels/p2__k01.txt: is not what its row says (manifest.jsonl:8)"],
    ),
    "edited set": ("yolo", lambda f: edit(f / "data.yaml", "cat", "cow"), ["data.yaml: was edited"]),
    "edited json": (
        "coco",
        lambda f: edit(f / "annotations/instances.json", "cat", "cow"),
        ["annotations/instances.json: was edited"],
    ),
    "deleted json": (
        "coco",
        lambda f: (f / "annotations/instances.json").unlink(),
        ["annotations/instances.json: is missing"],
    ),
    "foreign file": ("plain", lambda f: (f / "c1/mine.txt").touch(), ["c1/mine.txt: was not made by edgekit"]),
    "foreign folder": (
        "plain",
        lambda f: (f / "c1/mine/deep").mkdir(parents=True),
        ["c1/mine/: is a folder that was not made by edgekit"],
    ),
    "foreign link": (
        "plain",
        lambda f: (f / "c1/mine.jpg").symlink_to("p1.jpg"),
        ["c1/mine.jpg: was not made by edgekit"],
    ),
    "foreign link to a folder": (
        "plain",
        lambda f: (f / "mine").symlink_to("c1"),
        ["mine: is a link of somebody else's"],
    ),
    "picture behind a link": (
        "plain",
        lambda f: ((f / "c1/p1.jpg").rename(f.parent / "x"), (f / "c1/p1.jpg").symlink_to(f.parent / "x")),
        ["c1/p1.jpg: is a link, not a file"],
    ),
    "folder behind a link": (
        "plain",
        lambda f: ((f / "c1").rename(f.parent / "x"), (f / "c1").symlink_to(f.parent / "x")),
        ["c1: is a link of somebody else's"],
    ),
    "a pipe for a picture": (
        "plain",
        lambda f: ((f / "c1/p1.jpg").unlink(), os.mkfifo(f / "c1/p1.jpg")),
        ["c1/p1.jpg: is not a file"],
    ),
    "pipes for records": (
        "coco",
        lambda f: [((f / name).unlink(), os.mkfifo(f / name)) for name in ("rejected.jsonl", "sources.jsonl")],
        [
            "rejected.jsonl: is not a file",
            "sources.jsonl: is not a file",
            "run.json: says 1 rejected, and rejected.jsonl has 0",
        ],
    ),
    "a file for a folder": (
        "plain",
        lambda f: (shutil.rmtree(f / "c1"), (f / "c1").touch()),
        ["c1/p1.jpg: is missing", "c1/p1__k01.jpg: is missing", "c1: was not made by edgekit"],
    ),
    "edited digest": (
        "plain",
        lambda f: edit(f / "manifest.jsonl", '"sha256": "', '"sha256": "0', 3),
        [
            "manifest.jsonl: was edited",
            "manifest.jsonl:3-4: what is said of c1/p1.jpg was edited",
            "c1/p1.jpg: is not what its row says (manifest.jsonl:3)",
        ],
    ),
    "edited label in a row": (
        "plain",
        lambda f: edit(f / "manifest.jsonl", '"label": "c1"', '"label": "c2"', 3),
        ["manifest.jsonl: was edited", "manifest.jsonl:3-4: what is said of c1/p1.jpg was edited"],
    ),
    "edited size in a row": (
        "plain",
        lambda f: edit(f / "manifest.jsonl", '"width": 56', '"width": 57', 4),
        [
            "manifest.jsonl: was edited",
            "manifest.jsonl:3-4: what is said of c1/p1.jpg was edited",
            "manifest.jsonl:4: says 57x40 of c1/p1__k01.jpg, which is 56x40",
        ],
    ),
    "edited source in a row": (
        "plain",
        lambda f: edit(f / "manifest.jsonl", '"source": "c1/p1.jpg"', '"source": "c1/p9.jpg"', 3),
        [
            "manifest.jsonl: was edited",
            "manifest.jsonl:3: is of c1/p9.jpg, of which no rows were written",
            "manifest.jsonl:4: is of c1/p1.jpg, which has 1 row and had 2",
        ],
    ),
    "damaged row": (
        "plain",
        lambda f: edit(f / "manifest.jsonl", '{"file_name"', '{"file_name', 3),
        [
            "manifest.jsonl: was edited",
            "manifest.jsonl:3: is damaged, not the row of an output",
            "manifest.jsonl:4: is of c1/p1.jpg, which has 1 row and had 2",
            "run.json: says 3 originals, and manifest.jsonl has 2",
            "c1/p1.jpg: is named by no row",
        ],
    ),
    "removed row": (
        "plain",
        lambda f: drop(f / "manifest.jsonl", 4),
        [
            "manifest.jsonl: was edited",
            "manifest.jsonl:3: is of c1/p1.jpg, which has 1 row and had 2",
            "run.json: says 3 variants, and manifest.jsonl has 2",
            "c1/p1__k01.jpg: is named by no row",
        ],
    ),
    "removed rows of a source": (
        "plain",
        lambda f: (drop(f / "manifest.jsonl", 4), drop(f / "manifest.jsonl", 3)),
        [
            "manifest.jsonl: was edited",
            "manifest.jsonl: has no row of c1/p1.jpg, which had 2",
            "run.json: says 3 originals, and manifest.jsonl has 2",
            "run.json: says 3 variants, and manifest.jsonl has 2",
            "c1/: is a folder with nothing that a row names",
        ],
    ),
    "added row": (
        "plain",
        lambda f: twice(f / "manifest.jsonl", 4),
        [
            "manifest.jsonl: was edited",
            "manifest.jsonl:3: is of c1/p1.jpg, which has 3 rows and had 2",
            "manifest.jsonl:5: is another row of c1/p1__k01.jpg",
            "run.json: says 3 variants, and manifest.jsonl has 4",
        ],
    ),
    "a row that leads outside": (
        "plain",
        lambda f: edit(f / "manifest.jsonl", '"file_name": "c1/', '"file_name": "../', 3),
        [
            "manifest.jsonl: was edited",
            "manifest.jsonl:3: names a file outside of the folder: ../p1.jpg",
            "manifest.jsonl:4: is of c1/p1.jpg, which has 1 row and had 2",
            "run.json: says 3 originals, and manifest.jsonl has 2",
            "c1/p1.jpg: is named by no row",
        ],
    ),
    "manifest without seal": (
        "plain",
        lambda f: (edit(f / "manifest.jsonl", '"label": "c1"', '"label": "c2"', 3), unsealed(f)),
        ["manifest.jsonl:3-4: what is said of c1/p1.jpg was edited"],
    ),
    "no manifest": (
        "plain",
        lambda f: (f / "manifest.jsonl").unlink(),
        [
            "manifest.jsonl: is missing, and no row of it can be read: no picture was checked",
        ],
    ),
    "manifest of something else": (
        "plain",
        lambda f: (f / "manifest.jsonl").write_text("{}\n" * 25),
        ["manifest.jsonl: was edited, and no row of it can be read: no picture was checked"],
    ),
    "edited rejected row": (
        "coco",
        lambda f: edit(f / "rejected.jsonl", "not a picture", "ugly"),
        ["rejected.jsonl: was edited"],
    ),
    "other rejected picture": (
        "coco",
        lambda f: edit(f / "rejected.jsonl", "broken", "brokem"),
        ["rejected.jsonl: was edited", "rejected.jsonl:1: was edited: no such picture was rejected"],
    ),
    "removed rejected row": (
        "coco",
        lambda f: (f / "rejected.jsonl").write_text(""),
        ["rejected.jsonl: was edited", "run.json: says 1 rejected, and rejected.jsonl has 0"],
    ),
    "damaged rejected row": (
        "coco",
        lambda f: (f / "rejected.jsonl").write_text("[]\n"),
        [
            "rejected.jsonl: was edited",
            "rejected.jsonl:1: is damaged",
            "run.json: says 1 rejected, and rejected.jsonl has 0",
        ],
    ),
    "edited facts": (
        "plain",
        lambda f: edit(f / "sources.jsonl", "c1/p1.jpg", "c1/p9.jpg", 2),
        [
            "sources.jsonl: was edited",
            "manifest.jsonl:3: is of c1/p1.jpg, of which no rows were written",
            "manifest.jsonl: has no row of c1/p9.jpg, which had 2",
        ],
    ),
    "edited recipe": ("plain", lambda f: edit(f / "run.json", '"seed": 0', '"seed": 1'), ["run.json: was edited"]),
    "edited counts": (
        "plain",
        lambda f: edit(f / "run.json", '"variants": 3', '"variants": 4'),
        ["run.json: was edited", "run.json: says 4 variants, and manifest.jsonl has 3"],
    ),
    "damaged stamp": ("plain", lambda f: edit(f / "run.json", '"seed": 0', '"seed" 0'), ["run.json: is damaged"]),
    "stamp without digests": ("plain", lambda f: edit(f / "run.json", '"files"', '"fils"'), ["run.json: was edited"]),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found_by_name(out, what):
    kind, damage, expected = DAMAGE[what]
    folder = out(kind)
    damage(folder)
    assert said(folder) == expected


def test_an_unreadable_file_is_a_finding(out, monkeypatch):
    folder = out("plain")
    opened = Path.open

    def refuse(self, *arguments, **options):
        if self.name == "p1__k01.jpg":
            raise PermissionError(13, "Permission denied")
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    assert said(folder) == ["c1/p1__k01.jpg: cannot be read: Permission denied"]


def test_threads_change_nothing(out):
    folder = out("yolo")
    for name in ("images/p1.png", "images/p2__k01.png", "labels/p0.txt"):
        flip(folder / name)
    twice(folder / "manifest.jsonl", 4)
    assert [found(folder, threads).findings for threads in (1, 4)] == [found(folder).findings] * 2


def test_the_command(edgekit, out, tmp_path):
    folder = out("yolo")
    before = tree_digest(folder)
    done = edgekit("verify", "yolo")
    assert (done.code, done.out) == (0, "yolo: intact (12 pictures, 12 label files, 1 rejected row)\n"), done.err
    assert tree_digest(folder) == before
    for number in range(25):
        (folder / f"x{number:02d}\x1b[31m").touch()
    done = edgekit("verify", "yolo")
    lines = done.out.splitlines()
    assert (done.code, len(lines)) == (1, 22) and "\x1b" not in done.out and lines[0].startswith("x00")
    assert lines[-2:] == [
        "and 5 others; --json has them all",
        "yolo: 25 findings (12 pictures, 12 label files, 1 rejected row)",
    ]
    done = edgekit("verify", "yolo", "--json")
    assert (done.code, done.json["schema"], len(done.json["findings"])) == (1, "edgekit.verify/1", 25)


def test_what_is_no_output(edgekit, tmp_path):
    (tmp_path / "file").touch()
    for name, text in (("empty", None), ("other", "{}"), ("newer", None)):
        (tmp_path / name).mkdir()
        if text is not None:
            (tmp_path / name / "run.json").write_text(text)
    (tmp_path / "newer" / "run.json").write_text('{"schema": "edgekit.augment/9", "generator": "made by edgekit 9"}')
    for name, what in (
        ("nope", "nope: no such folder"),
        ("file", "file: is not a folder"),
        ("empty", "empty: is not an output of edgekit: it has no run.json"),
        ("other", "other: is not an output of edgekit: its run.json is not edgekit's"),
        ("newer", "newer/run.json: its schema edgekit.augment/9 is not known"),
    ):
        with pytest.raises(EdgekitError) as caught:
            found(tmp_path / name)
        assert caught.value.message.endswith(what) and caught.value.hint
    for arguments, what in ((["newer"], "edgekit.augment/9 is not known"), ([], "OUT is missing"), ([""], "is empty")):
        done = edgekit("verify", *arguments)
        assert (done.code, done.out) == (2, "") and what in done.err.splitlines()[0] and len(done.err.splitlines()) == 2
