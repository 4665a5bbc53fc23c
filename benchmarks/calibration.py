"""Measure what calibration costs, in time and memory, beside onnxruntime's own calibrators; print a Markdown table.

    python benchmarks/calibration.py ASSETS [model ...]

ASSETS holds models/ and images/ as listed in PAIRS below. Every row is a process of its own. Time is CPU time of
one-thread sessions, their opening included, as a multiple of plain fp32 inference over the same inputs right before and
right after. Memory is the growth of the peak over a process that has run fp32 on them, and the peak. Inputs are made
beforehand, from at most 64 pictures that are repeated.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator

from edgekit import graph
from edgekit.compress import simplify
from edgekit.compress.quantize import qdq, ranges, scope
from edgekit.data.folder import scan
from edgekit.measure import calibration, infer, machine
from edgekit.session import open_session, run

SECONDS = 150  # longest row
DISTINCT = 64
COUNTS = (16, 64, 256, 4096)
METHODS = ("minmax", "percentile", "mse", "onnxruntime MinMax", "onnxruntime Percentile", "onnxruntime Entropy")


@dataclass(frozen=True)
class Pair:
    """A model, its pictures, how they are fed, and the numbers of pictures to calibrate on, for onnxruntime too."""

    model: str
    pictures: str
    given: tuple[tuple[str, Any], ...]
    counts: tuple[int, ...] = (16, 256, 4096)
    theirs: tuple[int, ...] = (16, 64)


CIFAR = "images/cifar10_jpeg/calib"
PAIRS = (
    Pair("resnet8_cifar10", CIFAR, (("preset", "raw"),)),
    Pair("resnet20_cifar10", CIFAR, (("preset", "imagenet"),)),
    Pair("mobilenetv1_025_vww96", "images/vww96/calib", (("preset", "unit"),)),
    Pair("vit_fmnist", "images/fashion_mnist/calib", (("mean", "72.94"), ("std", "90.02"))),
    # 64 pictures are 8 GB in onnxruntime's histogram calibrators, and 4096 take minutes.
    Pair("yolox_nano_416", "images/coco_calib64", (("preset", "raw"), ("color", "bgr")), (16, 256), (16,)),
)


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """onnxruntime's way of asking for calibration data."""

    def __init__(self, feeds: Any) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Any:
        return next(self._feeds, None)


def edgekit(model: Any, feeds: Any, method: str) -> None:
    """Find ranges as --static does."""
    nodes = scope.scope(model, {node.name for node in model.graph.node})
    sides = ranges.flat_sides(model)
    for name, seen in ranges.collect(model, qdq.activations(nodes), feeds).items():
        seen.limits(method, through=sides.get(name))


def onnxruntime_own(model: Any, feeds: Any, method: str, folder: Path) -> None:
    """Find ranges as quantize_static does."""
    path = folder / "model.onnx"
    graph.save(model, path)
    with contextlib.redirect_stdout(io.StringIO()):
        calibrator = create_calibrator(path, None, str(folder / "opened.onnx"), getattr(CalibrationMethod, method))
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        # Its own session optimises nothing, "to preserve all graph outputs".
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        calibrator.infer_session = ort.InferenceSession(
            str(folder / "opened.onnx"), options, providers=["CPUExecutionProvider"]
        )
        calibrator.collect_data(Reader(feeds))
        calibrator.compute_data()


def row(assets: Path, pair: Pair, count: int, method: str) -> dict[str, float]:
    """Measure one row, in this process."""
    model = graph.load(assets / "models" / f"{pair.model}.onnx")
    decision = infer.decide(model, given=dict(pair.given))
    model, _ = simplify.simplify(model, lambda before, after: True)
    made = list(calibration.from_pictures(scan(assets / pair.pictures).sources[:DISTINCT], decision))
    feeds = [made[number % len(made)] for number in range(count)]

    def plain() -> float:
        started = time.process_time()
        session = open_session(model)
        for feed in feeds:
            run(session, feed)
        return time.process_time() - started

    before, floor = plain(), peak(restart=True)
    started = time.process_time()
    if method in ranges.METHODS:
        edgekit(model, feeds, method)
    else:
        with tempfile.TemporaryDirectory() as folder:
            onnxruntime_own(model, feeds, method.split()[-1], Path(folder))
    took = time.process_time() - started
    grown = peak() - floor
    return {"ratio": 2 * took / (before + plain()), "bytes": grown, "floor": floor}


def peak(*, restart: bool = False) -> int:
    """Give the peak resident memory in bytes, since it was restarted (Linux)."""
    if restart:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


def measured(assets: Path, pair: Pair, count: int, method: str) -> str:
    """Measure one row in a fresh process; give its cell."""
    command = [sys.executable, __file__, "--row", str(assets), pair.model, str(count), method]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except subprocess.TimeoutExpired:
        return f"over {SECONDS} s"
    except subprocess.CalledProcessError as error:
        sys.exit(error.stderr)
    found = json.loads(done.stdout)
    return f"{found['ratio']:.2f}x, {found['bytes'] / 1e6:,.0f}/{(found['floor'] + found['bytes']) / 1e6:,.0f} MB"


def main() -> None:
    """Print the table."""
    logging.disable(logging.WARNING)
    if sys.argv[1] == "--row":
        assets, name, count, method = sys.argv[2:]
        pair = next(pair for pair in PAIRS if pair.model == name)
        print(json.dumps(row(Path(assets), pair, int(count), method)))
        return
    assets, wanted = Path(sys.argv[1]), sys.argv[2:]
    here = machine.describe()
    print(f"{here.cpu}, 1 thread, onnxruntime {ort.__version__}, numpy {here.versions.get('numpy')}\n")
    print(f"| model | ranges by | {' | '.join(f'{count:,} pictures' for count in COUNTS)} |")
    print(f"|---|---|{'---|' * len(COUNTS)}")
    for pair, method in itertools.product(PAIRS, METHODS):
        if not wanted or pair.model in wanted:
            counts = pair.counts if method in ranges.METHODS else pair.theirs
            cells = [measured(assets, pair, count, method) if count in counts else "-" for count in COUNTS]
            print(f"| {pair.model} | {method} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
