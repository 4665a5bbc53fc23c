"""The same bytes whatever the hash seed, the number of threads and the number of processors."""

import hashlib
import os

import numpy as np
import onnx
import pytest

import nets
from conftest import SAMPLES

QUICK = ("--seconds", "0.5", "--no-config", "-q")
TRAIN = SAMPLES / "fashion" / "train"
# Hash seed, threads of the model and of numpy's products, and whether one processor alone may be used.
SURROUNDINGS = (("0", 1, False), ("1", 2, False), ("12345", 1, True))
MODELS = {
    "sample": ((SAMPLES / "fashion_resnet.onnx").read_bytes, ("--calib", TRAIN)),
    "toy": (lambda: nets.residual(11).SerializeToString(), ()),
    "transformer": (lambda: nets.transformer().SerializeToString(), None),
}


def digest(edgekit, folder, number, arguments):
    """Compress in one of the surroundings; give the digest of what came out."""
    seed, threads, alone = SURROUNDINGS[number]
    out = folder / f"out{number}.onnx"
    env = {"PYTHONHASHSEED": seed, "OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    options = {"preexec_fn": one_processor} if alone and hasattr(os, "sched_setaffinity") else {}
    done = edgekit("compress", "m.onnx", *arguments, *QUICK, "--threads", threads, "--out", out, env=env, **options)
    assert done.code == 0, done.err
    return hashlib.sha256(out.read_bytes()).hexdigest()


def one_processor():
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def prepared(folder, name):
    """Write a model into the folder; give what the command is told about its inputs."""
    make, given = MODELS[name]
    (folder / "m.onnx").write_bytes(make())
    if given is not None:
        return given
    model = onnx.load(folder / "m.onnx")
    feeds = list(nets.feeds(model, 12))
    np.savez(folder / "feeds.npz", **{key: np.concatenate([feed[key] for feed in feeds]) for key in feeds[0]})
    return ("--feeds", "feeds.npz")


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("sample", "--static"),
        ("toy", "--static"),
        ("transformer", "--static"),
        ("sample", "--int8-weights"),
        ("toy", "--fp16"),
    ],
)
def test_a_step_gives_the_same_bytes(edgekit, tmp_path, name, step):
    given = prepared(tmp_path, name)
    assert len({digest(edgekit, tmp_path, n, [step, *given]) for n in range(len(SURROUNDINGS))}) == 1


def test_replayed_choices_give_the_same_bytes(edgekit, tmp_path):
    """What `--int8` chose by measuring, it need not choose again."""
    given = prepared(tmp_path, "sample")
    done = edgekit("compress", "m.onnx", "--int8", *given, *QUICK, "--report", "r.json", "--out", "first.onnx")
    assert done.code == 0, done.err
    found = {digest(edgekit, tmp_path, n, ["--recipe", "r.json", *given]) for n in range(len(SURROUNDINGS))}
    assert found == {hashlib.sha256((tmp_path / "first.onnx").read_bytes()).hexdigest()}
