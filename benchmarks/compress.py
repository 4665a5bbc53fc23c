"""Compress real models with edgekit and with the tools beside it, and print a Markdown table.

    python benchmarks/compress.py ASSETS [--only MODEL] [--seconds 8] [--nncf-python PATH]
    python benchmarks/compress.py ASSETS --families [--only MODEL] [--steps prune] [--pictures 2000]  # see families.py

ASSETS holds models/ and images/ as listed in PAIRS below. All candidates of a model are measured by edgekit's own code:
what they answer on the test pictures; their latency against fp32's, interleaved, one thread, in rounds: each round
compares every candidate shortly, so that none has the machine's good or bad minutes to itself, and the rounds of one
candidate are pooled (their interquartile mean, its interval over rounds). "edgekit --int8, model alone" was compressed
without any picture and without being told the preprocessing; all others calibrate on the same pictures, preprocessed
alike. Seconds and peak memory are those of the whole process that compresses; edgekit's measures its result too, the
others are handed arrays ready-made. NNCF runs in the interpreter given, else in this one if it has it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edgekit import graph
from edgekit.compress.settings import compress
from edgekit.errors import EdgekitError
from edgekit.measure import figures, latency, machine, material, size
from edgekit.report.report import Accuracy
from edgekit.session import open_session

ROUNDS = 8
FAMILIES = ("prune", "low-rank", "sparsity")
SAMPLES = 256
RIVALS = Path(__file__).with_name("rivals.py")


@dataclass(frozen=True)
class Pair:
    """A model, its pictures, and what is told about them.

    `told`: settings of `edgekit compress`, paths relative to ASSETS. `kind`: what NNCF wants to know besides.
    """

    model: str
    calib: str
    data: str
    told: Mapping[str, str] = field(default_factory=dict)
    kind: tuple[str, ...] = ()

    def settings(self, assets: Path) -> dict[str, Any]:
        """Give `told` and both folders of pictures, with whole paths."""
        given = {"calib": self.calib, "data": self.data, **self.told}
        return {name: str(assets / value) if "/" in value else value for name, value in given.items()}


CIFAR = ("images/cifar10_jpeg/calib", "images/cifar10_jpeg/test")
COCO = ("images/coco_calib64", "images/coco_val64")
FASHION = ("images/fashion_mnist/calib", "images/fashion_mnist/test")
YOLOX = {"preset": "raw", "color": "bgr"}
PAIRS = (
    Pair("resnet8_cifar10", CIFAR[0], "images/cifar10_png100", {"preset": "raw"}),
    Pair("resnet8_cifar10_jpegft", *CIFAR, {"preset": "raw"}),
    Pair("resnet20_cifar10", *CIFAR, {"preset": "imagenet"}),
    Pair("mobilenetv1_025_vww96", "images/vww96/calib", "images/vww96/test", {"preset": "unit"}),
    Pair(
        "vit_fmnist",
        *FASHION,
        {"mean": "72.94", "std": "90.02", "range": "255", "classes": "classes/fashion_mnist.txt"},
        ("transformer",),
    ),
    Pair("yolox_nano_416", *COCO, {"task": "detect", "head": "yolox", **YOLOX}),
    # Nothing to score them by here: their outputs against fp32's.
    Pair("yolox_nano_416_opset11", COCO[0], f"{COCO[1]}/images", YOLOX),
    Pair("ultraface_rfb320_opset9", COCO[0], f"{COCO[1]}/images", {"mean": "127", "std": "128", "range": "255"}),
)


@dataclass(frozen=True)
class Candidate:
    """What one tool made of a model: `path` is None when it made nothing, `said` is what it said of it."""

    name: str
    path: Path | None
    said: str
    seconds: float = 0.0
    peak: int | None = None  # bytes


def ran(command: Sequence[object], env: Mapping[str, str] | None = None) -> tuple[int, str, str, float, int | None]:
    """Run a process to its end; give exit code, stdout, stderr, seconds, and its peak memory in bytes.

    The peak is read while it runs, 50 times a second: the kernel's own account (ru_maxrss) begins with the parent's.
    """
    started, peak = time.monotonic(), 0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([*map(str, command)], stdout=out, stderr=err, env=env, text=True)
        while process.poll() is None:
            peak = max(peak, high_water(process.pid))
            time.sleep(0.02)
        seconds = time.monotonic() - started
        for stream in (out, err):
            stream.seek(0)
        return process.returncode, out.read(), err.read(), seconds, peak or None


def high_water(pid: int) -> int:
    """Give the peak resident memory of a running process in bytes, 0 where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def edgekit(name: str, model: Path, out: Path, *arguments: object) -> Candidate:
    """Run the command as a person does."""
    command = [sys.executable, "-m", "edgekit", "compress", model, "--int8", "--out", out, *arguments]
    code, answer, error, seconds, peak = ran([*command, "--json", "--no-config"])
    if code:
        return Candidate(name, None, error.strip().splitlines()[0] if error.strip() else f"exit {code}")
    return Candidate(name, out, json.loads(answer)["headline"], seconds, peak)


def rival(name: str, tool: str, python: str | None, model: Path, feeds: Path, out: Path, *kind: str) -> Candidate:
    """Run another tool on the calibration arrays."""
    if python is None:
        return Candidate(name, None, "not installed")
    # A home of its own, in which NNCF is told to send nothing.
    home = out.parent / "home"
    (home / "intel").mkdir(parents=True, exist_ok=True)
    (home / "intel" / "openvino_telemetry").write_text("0")
    env = {**os.environ, "HOME": str(home)}
    code, _, error, seconds, peak = ran([python, RIVALS, tool, model, feeds, out, *kind], env)
    if code:
        return Candidate(name, None, "failed: " + (error.strip().splitlines() or [f"exit {code}"])[-1])
    try:
        open_session(out)
    except EdgekitError:
        return Candidate(name, None, "made a model that does not load")
    return Candidate(name, out, "", seconds, peak)


def with_nncf(python: str) -> tuple[str | None, str]:
    """Give the interpreter if it has NNCF, and which tools there are, in words."""
    code, answer, *_ = ran([python, "-c", "import importlib.metadata as m; print(m.version('nncf'))"])
    tools = f"onnxruntime {ort.__version__}"
    return (None, tools) if code else (python, f"{tools}, NNCF {answer.strip()}")


def compressed(
    pair: Pair, model: Path, told: Mapping[str, str], feeds: Path, folder: Path, nncf: str | None
) -> Iterator[Candidate]:
    """Compress a model in every way, one after the other."""
    paths = (folder / f"{pair.model}.{number}.onnx" for number in range(9))
    yield rival("onnxruntime, as it comes", "onnxruntime", sys.executable, model, feeds, next(paths))
    yield rival("onnxruntime, U8S8 per channel", "onnxruntime-best", sys.executable, model, feeds, next(paths))
    yield rival("NNCF", "nncf", nncf, model, feeds, next(paths), *pair.kind)
    flags = [part for name, value in told.items() for part in (f"--{name.replace('_', '-')}", value)]
    yield edgekit("edgekit --int8", model, next(paths), *flags)
    yield edgekit("edgekit --int8, model alone", model, next(paths))


def speeds(before: Path, made: Sequence[Path], feeds: Sequence[Any], seconds: float) -> list[tuple[float, ...]]:
    """Compare each with `before` for about `seconds` in all; give low, speed-up and high of each."""
    rounds: list[list[np.ndarray]] = [[] for _ in made]
    for number in range(ROUNDS):
        # Back and forth, so that none is always measured after the same other one.
        for which in sorted(range(len(made)), reverse=bool(number % 2)):
            openers = [latency.session_runner(path, feeds) for path in (before, made[which])]
            found = latency.compare(*openers, seconds=seconds / ROUNDS, seed=number)
            rounds[which].append(np.log([found.speedup]))
    return [tuple(math.exp(value) for value in latency.interval(each)) for each in rounds]


def score(answers: figures.Outputs) -> str:
    """Give the cells fp32, after and points; without labels the nearness of the outputs stands for them."""
    found = answers.accuracy
    if found is None:
        return f"- | {answers.drift.sqnr_db:.1f} dB | -"
    return " | ".join(" / ".join(cell) for cell in zip(*scores(found), strict=True))


def scores(found: Accuracy) -> Iterator[tuple[str, str, str]]:
    """Give fp32, after and points of each figure, in per cent."""
    figure = [(found.before, found.after, found.drop)]
    if found.map50_before is not None and found.map50_after is not None and found.map50_drop is not None:
        figure.append((found.map50_before, found.map50_after, found.map50_drop))
    places = 2 if found.metric == "top-1" else 1
    for before, after, drop in figure:
        points = round(-100 * drop, places) + 0.0
        yield f"{100 * before:.{places}f}", f"{100 * after:.{places}f}", f"{points:+.{places}f}"


def rows(pair: Pair, options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """Make every candidate of a pair and measure it against fp32; give the rows of the table."""
    model = options.assets / "models" / f"{pair.model}.onnx"
    told = pair.settings(options.assets)
    known = material.gather(graph.load(model), model, compress(**told), SAMPLES)
    feeds = folder / "feeds.npz"
    arrays = {f"{n} {name}": array for n, feed in enumerate(known.calibrate) for name, array in feed.items()}
    np.savez(feeds, **arrays)  # type: ignore[arg-type]
    made = list(compressed(pair, model, told, feeds, folder, options.nncf_python))
    there = [one.path for one in made if one.path is not None]
    measured = dict(zip(there, speeds(model, there, list(islice(known.report, 8)), options.seconds), strict=True))
    for one in made:
        print(f"{pair.model}, {one.name}: {one.said}", file=sys.stderr)
        begin = f"| {pair.model} ({len(known.pictures)}) | {one.name} |"
        if one.path is None:
            yield f"{begin} | {one.said} | | | | | |"
            continue
        answers = figures.outputs(model, one.path, known, cores=machine.describe().usable)
        low, speedup, high = measured[one.path]
        ratio = size.file_bytes(one.path) / size.file_bytes(model)
        peak = "-" if one.peak is None else f"{one.peak / 1e6:.0f}"
        figure = f"{score(answers)} | {speedup:.2f}x ({low:.2f}-{high:.2f}) | {ratio:.2f}"
        yield f"{begin} {figure} | {one.seconds:.0f} | {peak} |"


def models(options: argparse.Namespace) -> None:
    """Print the table of the models in PAIRS."""
    here = machine.describe()
    print(f"{here.cpu}, int8 instructions: {here.int8}, 1 thread, {options.tools}\n")
    print("| model (pictures) | how | fp32 | after | points | speed-up (95%) | size | seconds | peak memory, MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for pair in PAIRS:
        if not options.only or pair.model in options.only:
            with tempfile.TemporaryDirectory() as folder:
                for row in rows(pair, options, Path(folder)):
                    print(row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compress real models with edgekit and other tools, side by side.")
    parser.add_argument("assets", type=Path, help="folder of models/ and images/")
    parser.add_argument("--only", action="append", metavar="MODEL", choices=[pair.model for pair in PAIRS])
    parser.add_argument("--seconds", type=float, default=8.0, help="of latency measurement, for each candidate")
    parser.add_argument("--nncf-python", metavar="PATH", default=sys.executable, help="interpreter that has NNCF")
    parser.add_argument("--families", action="store_true", help="pruning, low rank and sparsity instead")
    parser.add_argument("--pictures", type=int, default=2000, help="to score on at most, for --families")
    parser.add_argument("--steps", nargs="+", default=FAMILIES, choices=FAMILIES, help="which of --families")
    options = parser.parse_args()
    if shutil.which(options.nncf_python) is None:
        parser.error(f"--nncf-python {options.nncf_python}: no such interpreter")
    options.assets = options.assets.resolve()
    if options.families:
        from families import families  # which takes its pairs from here

        families(options)
    else:
        options.nncf_python, options.tools = with_nncf(options.nncf_python)
        models(options)


if __name__ == "__main__":
    main()
