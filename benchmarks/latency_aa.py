"""Control experiment on `edgekit.measure.latency`: how often is it wrong?

    python benchmarks/latency_aa.py MODEL.onnx ... [--seconds 8] [--runs 20] [--slow-runs 10]

Each model is compared with itself (A/A: any verdict is false) and with a copy that has extra MatMul nodes worth 10% of
its time (it should be called slower). Prints a Markdown table. The extra nodes are calibrated by the CPU time of the
fastest of many interleaved runs in one thread, not by the code under test.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.lazy import np, onnx
from edgekit.measure.latency import DEFAULT_SECONDS, Comparison, compare, session_runner

if TYPE_CHECKING:
    from collections.abc import Callable

    Runner = Callable[[], object]
    Opener = Callable[[], Runner]
    Feeds = list[dict[str, np.ndarray]]

SLOWER_BY = 0.10
TOLERANCE = 0.015
FEEDS = 8


def main() -> None:
    options = _options()
    print("| model | fp32 ms | A/A runs | false verdicts | extra nodes cost | called slower | half width | s a run |")
    print("|---|---|---|---|---|---|---|---|")
    loads = []
    for path in options.models:
        model = onnx.load(str(path))
        feeds = _feeds(model)
        original = session_runner(model, feeds, options.threads)
        same = [_compare(original, original, options, seed) for seed in range(options.runs)]
        slowed, cost = _slowed(model, feeds, options.threads)
        slower = [_compare(original, slowed, options, seed) for seed in range(options.slow_runs)]
        loads.append(os.getloadavg()[0])
        print(_row(path.stem, same, slower, cost), flush=True)
    print(f"\nBudget {options.seconds:g} s, {options.threads} thread(s), {os.cpu_count()} logical CPUs, ", end="")
    print(f"1-minute load {min(loads):.1f} to {max(loads):.1f}.")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=DEFAULT_SECONDS)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--slow-runs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def _compare(before: Opener, after: Opener, options: argparse.Namespace, seed: int) -> Comparison:
    result = compare(before, after, seconds=options.seconds, seed=seed, threads=options.threads)
    interval = f"{result.speedup:.3f} ({result.low:.3f} to {result.high:.3f})"
    print(f"{interval} {result.verdict}, {result.pairs} pairs, {result.seconds:.1f} s", file=sys.stderr)
    return result


def _row(name: str, same: list[Comparison], slower: list[Comparison], cost: float) -> str:
    false = sum(result.verdict != "no difference shown" for result in same)
    right = sum(result.verdict == "slower" for result in slower)
    everything = same + slower
    widths = [result.half_width for result in everything]
    fields = [
        name,
        f"{statistics.median(result.before.median_ms for result in same):.3f}",
        str(len(same)),
        str(false),
        f"{cost:+.1%}",
        f"{right} of {len(slower)}",
        f"{statistics.median(widths):.1%} (worst {max(widths):.1%})",
        f"{statistics.mean(result.seconds for result in everything):.1f}",
    ]
    return f"| {' | '.join(fields)} |"


def _feeds(model: onnx.ModelProto) -> Feeds:
    rng = np.random.default_rng(0)
    stored = {tensor.name for tensor in model.graph.initializer}
    shapes = {
        value.name: [side.dim_value or 1 for side in value.type.tensor_type.shape.dim]
        for value in model.graph.input
        if value.name not in stored
    }
    return [{name: rng.random(shape, dtype=np.float32) for name, shape in shapes.items()} for _ in range(FEEDS)]


def _slowed(model: onnx.ModelProto, feeds: Feeds, threads: int) -> tuple[Opener, float]:
    """Return a runner of `model` with extra nodes worth about SLOWER_BY of its time, and their measured cost."""
    original = session_runner(model, feeds)
    target = SLOWER_BY * _quickest([original()])[0]
    side, repeats = _chain_size(target), 8
    for _ in range(12):
        longer = _with_chain(model, side, repeats)
        slowed = session_runner(longer, feeds)
        cost = statistics.median(_cost(original, slowed) for _ in range(5))
        if abs(cost - SLOWER_BY) <= TOLERANCE:
            break
        repeats = max(1, round(repeats * SLOWER_BY / max(cost, 0.01)))
    return session_runner(longer, feeds, threads), cost


def _cost(original: Opener, slowed: Opener) -> float:
    before, after = _quickest([original(), slowed()])
    return after / before - 1


def _quickest(runners: list[Runner], seconds: float = 1.0) -> list[float]:
    """Return the CPU seconds of the fastest of many interleaved runs of each runner."""
    best = [float("inf")] * len(runners)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for index, runner in enumerate(runners):
            for _ in range(3):
                start = time.thread_time()
                runner()
                best[index] = min(best[index], time.thread_time() - start)
    return best


def _chain_size(seconds: float) -> int:
    """Return the side of square matrices whose product takes about an eighth of `seconds`, at some 30 GFLOP/s."""
    return int(np.clip((seconds / 8 * 30e9 / 2) ** (1 / 3), 8, 512))


def _with_chain(model: onnx.ModelProto, side: int, repeats: int) -> onnx.ModelProto:
    """Add a chain of products with an orthogonal matrix, fed by the input and added to the first output times 1e-30."""
    slow = onnx.ModelProto()
    slow.CopyFrom(model)
    graph, make = slow.graph, onnx.helper.make_node
    stored = {tensor.name for tensor in graph.initializer}
    image = next(value.name for value in graph.input if value.name not in stored)
    output = graph.output[0].name
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == output:
                    names[index] = "slow_result"
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(side, side)))[0].astype(np.float32)
    graph.initializer.extend(
        [
            onnx.numpy_helper.from_array(turn, "slow_turn"),
            onnx.numpy_helper.from_array(np.float32(1e-30), "slow_tiny"),
        ]
    )
    graph.node.append(make("ReduceMean", [image], ["slow_mean"], keepdims=0))
    graph.node.append(make("Mul", ["slow_mean", "slow_turn"], ["slow_0"]))
    for index in range(repeats):
        graph.node.append(make("MatMul", [f"slow_{index}", "slow_turn"], [f"slow_{index + 1}"]))
    graph.node.append(make("ReduceMean", [f"slow_{repeats}"], ["slow_sum"], keepdims=0))
    graph.node.append(make("Mul", ["slow_sum", "slow_tiny"], ["slow_nothing"]))
    graph.node.append(make("Add", ["slow_result", "slow_nothing"], [output]))
    return slow


if __name__ == "__main__":
    main()
