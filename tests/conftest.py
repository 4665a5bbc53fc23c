"""Shared fixtures: the command as a person types it, small folders of pictures, and the optional asset collection."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
ASSETS = ROOT.parent / "shared" / "assets"
SAMPLES = ROOT / "sample_data"


@dataclass
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def edgekit(tmp_path):
    """Run `edgekit ...` in its own process, in a folder without configuration."""

    def run(*arguments, cwd=tmp_path, env=None, timeout=300, **options):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("EDGEKIT_")}
        clean |= {"EDGEKIT_CACHE": "off"} | (env or {})
        command = [sys.executable, "-m", "edgekit", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, cwd=cwd, env=clean, timeout=timeout, **options)
        return Ran(
            done.returncode, done.stdout.decode("utf-8", "surrogateescape"), done.stderr.decode("utf-8", "replace")
        )

    return run


@pytest.fixture(scope="session")
def assets():
    """The folder of real models and pictures that developers have; a user's clone has none."""
    if not ASSETS.is_dir():
        pytest.skip("the shared assets (real models and pictures) are not on this machine")
    return ASSETS


def picture(seed=0, height=40, width=56, channels=3, dtype=np.uint8):
    """Draw a smooth picture with some texture, different for every seed."""
    rng = np.random.default_rng(seed)
    full = np.iinfo(dtype).max
    coarse = rng.random((5, 7, channels))
    fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)
    noisy = fine + 0.02 * rng.standard_normal(fine.shape)
    return (np.clip(noisy, 0, 1) * full).astype(dtype)


def save(path, pixels, *flags):
    """Write a picture (channels as OpenCV has them) by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix.lower(), pixels, list(flags))
    assert done
    path.write_bytes(data.tobytes())
    return path


@pytest.fixture
def pictures(tmp_path):
    """A small folder, one folder a class: JPEG, PNG, grey, 16-bit, alpha, GIF and a text file."""
    root = tmp_path / "imgs"
    for number in range(3):
        save(root / "cats" / f"cat{number}.jpg", picture(number))
    save(root / "dogs" / "big" / "rex.png", picture(10))
    save(root / "dogs" / "grey.png", picture(11, channels=1))
    save(root / "dogs" / "deep.png", picture(12, dtype=np.uint16))
    save(root / "dogs" / "glass.png", picture(13, channels=4))
    save(root / "dogs" / "moving.gif", picture(14))
    (root / "notes.txt").write_text("not a picture")
    return root


def tree_digest(root):
    """Digest every path and every byte below a folder."""
    import hashlib

    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        digest.update(path.relative_to(root).as_posix().encode("utf-8", "surrogateescape") + b"\0" + path.read_bytes())
    return digest.hexdigest()


def rows(path):
    """Read a JSON Lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
