"""Draw budgets that are known to be feasible, let edgekit search for each, and print a Markdown table.

    python benchmarks/budgets.py ASSETS [--only MODEL ...] [--count 12] [--seed 0] [--grid FILE] [--seconds 60]

First a grid of compositions (int8 or not, pruned by several shares, stored in fewer bits) is made for each model, with
a quarter of the effort, and measured on the test pictures, interleaved with the original; `--grid` keeps it in a file,
and takes it from there. A budget is what one point of the grid reaches, and a little more: a tenth more time and bytes,
half a point more lost.
Milliseconds are the point's ratio times what the original takes now, since a shared machine has good and bad hours.
Points are drawn from those that no other beats in time, bytes and score together. Each search starts without a cache,
and its budget is met when `edgekit compress` says so: its gates hold on the test pictures. Where others share the
machine, give more --seconds: CPU seconds count then.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compress import PAIRS, Pair

from edgekit import graph
from edgekit.compress import run as line
from edgekit.compress import simplify
from edgekit.compress.maker import Maker
from edgekit.compress.settings import compress
from edgekit.errors import EdgekitError
from edgekit.measure import figures, latency

MODELS = ("resnet20_cifar10", "resnet8_cifar10_jpegft", "mobilenetv1_025_vww96", "vit_fmnist")
SHARES = (0.1, 0.25)
LONGEST = 300.0  # seconds that a search may take; of CPU time where others share the machine
EFFORT = 0.25  # for what is pruned in the grid
WORST = 0.05  # nobody asks for a model that loses more
SLACK, SLACK_DROP = 1.1, 0.005
SECONDS = 3.0  # for a latency of the grid


@dataclass(frozen=True)
class Point:
    """A composition as it was measured: time as a share of the original's, bytes, and the score it loses (0..1)."""

    model: str
    steps: tuple[str, ...]
    time: float
    bytes: int
    drop: float


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    budget: str
    point: Point
    steps: str
    met: bool
    figures: str
    tried: int
    seconds: float
    cpu: float


def compositions() -> Iterator[tuple[str, ...]]:
    """Give the grid, those that begin alike together."""
    for share in (0.0, *SHARES):
        first = (f"prune {share:g}",) if share else ()
        yield from (first + end for end in ((), ("int8",), ("int8-weights",)))
    yield ("fp16",)


def measured(assets: Path, pair: Pair) -> Iterator[Point]:
    """Make and measure the grid of one model."""
    path = assets / "models" / f"{pair.model}.onnx"
    job = line.Job(path, Path("out.onnx"), (), (), compress(**pair.settings(assets)))
    model, material = line.prepare(job, lambda text: None)
    bench = line.make_bench(job, material, lambda text: None)
    bench.begin()
    probe = list(bench.feeds(2))
    plain, _ = simplify.simplify(model, lambda a, b: simplify.same_outputs(a, b, probe))
    maker = Maker(plain, bench)
    with tempfile.TemporaryDirectory() as folder:
        candidate = Path(folder) / "candidate.onnx"
        for steps in compositions():
            bench.seconds += 3600  # all of them are wanted, however long it takes
            try:
                graph.save(maker.make(steps, effort=EFFORT).model, candidate)
            except EdgekitError as error:
                print(f"{pair.model}: {' + '.join(steps)}: {error.message}", file=sys.stderr, flush=True)
                continue
            feeds = bench.latency_feeds()
            speed, _ = figures.speed(path, candidate, feeds, seconds=SECONDS, seed=0, threads=1)
            answers = figures.outputs(path, candidate, material, bench.cores)
            assert answers.accuracy is not None
            bytes_ = figures.size(path, candidate).after
            point = Point(pair.model, steps, 1 / speed.speedup, bytes_, answers.accuracy.drop)
            print(f"{pair.model}: {shown(point)}", file=sys.stderr, flush=True)
            yield point


def shown(point: Point) -> str:
    """Say a point in a few words."""
    name = " + ".join(point.steps) or "original"
    return f"{name}: {point.time:.2f} of the time, {point.bytes / 1e6:.3f} MB, {-100 * point.drop:+.2f}"


def drawn(grid: Sequence[Point], count: int, seed: int) -> list[tuple[Point, tuple[str, ...]]]:
    """Draw points, as many of each model, and which budgets are made of each."""
    rng = random.Random(seed)
    models = list(dict.fromkeys(point.model for point in grid))
    kinds = (("drop", "ms", "mb"), ("drop", "ms", "mb"), ("drop", "ms"), ("ms", "mb"), ("drop", "mb"))
    found: list[tuple[Point, tuple[str, ...]]] = []
    for number in range(count):
        own = [point for point in grid if point.model == models[number % len(models)] and point.drop <= WORST]
        front = [point for point in own if point.steps and not any(beats(other, point) for other in own)]
        found.append((rng.choice(front), rng.choice(kinds)))
    return found


def beats(one: Point, other: Point) -> bool:
    """Tell whether a point is at least as good in everything, and better in something."""
    gains = [(one.time, other.time), (one.bytes, other.bytes), (one.drop, other.drop)]
    return all(a <= b for a, b in gains) and any(a < b for a, b in gains)


def milliseconds(assets: Path, pair: Pair) -> float:
    """Time the original as it runs now."""
    path = assets / "models" / f"{pair.model}.onnx"
    job = line.Job(path, Path("out.onnx"), (), (), compress(**pair.settings(assets)))
    _, material = line.prepare(job, lambda text: None)
    feeds = line.make_bench(job, material, lambda text: None).latency_feeds()
    opener = latency.session_runner(path, feeds)
    return latency.compare(opener, opener, seconds=SECONDS).before.median_ms


def searched(assets: Path, pair: Pair, point: Point, kinds: Sequence[str], seconds: float) -> Found:
    """Run one search as a person does."""
    values = {
        "drop": max(point.drop, 0.0) + SLACK_DROP,
        "ms": SLACK * point.time * milliseconds(assets, pair),
        "mb": SLACK * point.bytes / 1e6,
    }
    budget = {f"--max-{kind}": f"{values[kind]:.3g}" for kind in kinds}
    flags = [f"--{name}={value}" for name, value in pair.settings(assets).items()]
    flags += [f"{name}={value}" for name, value in budget.items()]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "edgekit", "compress", str(assets / "models" / f"{pair.model}.onnx")]
        command += [*flags, f"--search-seconds={seconds:g}", "--seconds=5", "--no-config", "--quiet"]
        command += [f"--out={folder}/out.onnx", f"--report={report}"]
        started, before = time.monotonic(), os.times()
        done = subprocess.run(command, env=os.environ | {"EDGEKIT_CACHE": "off"}, capture_output=True, text=True)
        taken, after = time.monotonic() - started, os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        known: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {}
    steps, words = done.stderr.strip(), ""
    if known:
        chosen = known["recipe"]["decisions"][0]["composition"]["steps"]
        steps = " + ".join(f"{step['use']} {step['share']:g}" if "share" in step else step["use"] for step in chosen)
        parts = {
            "drop": f"{-100 * known['accuracy']['drop']:+.2f}",
            "ms": f"{known['latency']['after']:.3g} ms",
            "mb": f"{known['size']['after'] / 1e6:.3g} MB",
        }
        words = ", ".join(parts[kind] for kind in kinds)
    met = done.returncode == 0 and min(taken, cpu) <= LONGEST
    tried = len(known.get("search", ()))
    return Found(" ".join(f"{k} {v}" for k, v in budget.items()), point, steps, met, words, tried, taken, cpu)


def main() -> None:
    """Print the table."""
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("assets", type=Path)
    parser.add_argument("--only", nargs="*", default=MODELS)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grid", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0, help="--search-seconds")
    given = parser.parse_args()
    pairs = {pair.model: pair for pair in PAIRS if pair.model in given.only}
    if given.grid is not None and given.grid.exists():
        grid = [Point(**{**one, "steps": tuple(one["steps"])}) for one in json.loads(given.grid.read_text())]
        grid = [point for point in grid if point.model in pairs]
    else:
        grid = []
        for pair in pairs.values():
            grid += measured(given.assets, pair)
            if given.grid is not None:
                given.grid.write_text(json.dumps([asdict(point) for point in grid]))
    print("| model | budget | of this point | found | reached | met | tried | s | CPU s |\n|" + "---|" * 9, flush=True)
    met = 0
    for point, kinds in drawn(grid, given.count, given.seed):
        one = searched(given.assets, pairs[point.model], point, kinds, given.seconds)
        met += one.met
        cells = [point.model, one.budget, " + ".join(point.steps), one.steps, one.figures, "yes" if one.met else "no"]
        print("| " + " | ".join([*cells, str(one.tried), f"{one.seconds:.0f}", f"{one.cpu:.0f}"]) + " |", flush=True)
    print(f"\n{met} of {given.count} met")


if __name__ == "__main__":
    main()
