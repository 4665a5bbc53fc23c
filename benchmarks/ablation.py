"""Leave each repair of 8-bit arithmetic out in turn, at 8 bits and at 6, and print a Markdown table.

    python benchmarks/ablation.py ASSETS [--only MODEL ...]

All nodes that can run in 8 bits do. A repair that is not left out is kept when it brings the outputs of the held-back
pictures nearer, as `edgekit compress` does it; what is printed was measured on the test pictures. 6 bits are simulated:
weights have 63 integers, activations 64 steps, and are clipped to their range.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from compress import PAIRS, Pair

from edgekit import graph
from edgekit.compress import simplify
from edgekit.compress.bench import Bench
from edgekit.compress.quantize import correct, qdq, repair, scope, target
from edgekit.compress.quantize.plan import Plan
from edgekit.compress.settings import compress
from edgekit.measure import accuracy, evaluate, material
from edgekit.session import open_session

PICTURES = 1500  # to report on, at most
CALIBRATE = 128
SCORED = ("resnet8_cifar10_jpegft", "resnet20_cifar10", "mobilenetv1_025_vww96", "vit_fmnist")
EVERYTHING = ("equalize", "smooth", "round", "correct")
CASES: dict[str, tuple[str, tuple[str, ...], bool]] = {
    # name: ranges, repairs, one-shot bias correction
    "everything": ("mse", EVERYTHING, True),
    "ranges: minmax": ("minmax", EVERYTHING, True),
    "ranges: percentile": ("percentile", EVERYTHING, True),
    "no equalisation": ("mse", ("smooth", "round", "correct"), True),
    "no smoothing": ("mse", ("equalize", "round", "correct"), True),
    "direct rounding": ("mse", ("equalize", "smooth", "correct"), True),
    "one-shot bias correction": ("mse", ("equalize", "smooth", "round"), True),
    "no bias correction": ("mse", ("equalize", "smooth", "round"), False),
    "none of them": ("minmax", (), False),
}


@contextmanager
def bits(count: int) -> Iterator[None]:
    """Quantise to so many bits."""
    before = target.STEPS, target.LARGEST
    target.STEPS, target.LARGEST = 2**count - 1, 2 ** (count - 1) - 1
    try:
        yield
    finally:
        target.STEPS, target.LARGEST = before


def clipped(model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """Clip every value to its range before it is quantised: the types hold more than 6 bits."""
    made = graph.copy(model)
    tensors = graph.initializers(made)
    for node in [node for node in made.graph.node if node.op_type == "QuantizeLinear" and node.input[0] not in tensors]:
        scale, zero = (graph.array(tensors[name]).astype(np.float64) for name in node.input[1:3])
        ends = (scale * -zero, scale * (target.STEPS - zero))
        names = [f"{node.name}_{side}" for side in ("low", "high", "clipped")]
        for name, end in zip(names, ends, strict=False):
            made.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(end.reshape(()), np.float32), name))
        clip = onnx.helper.make_node("Clip", [node.input[0], *names[:2]], names[2:], names[2])
        made.graph.node.append(clip)
        node.input[0] = names[2]
    graph.sort(made)
    return made


def rows(assets: Path, pair: Pair) -> Iterator[str]:
    """Quantise one model in every way."""
    path = assets / "models" / f"{pair.model}.onnx"
    model = graph.load(path)
    known = material.gather(model, path, compress(**pair.settings(assets)), CALIBRATE)
    assert known.decision is not None
    test = known.pictures[:PICTURES]  # in the order of their digests
    streams = (known.calibrate, known.choose)
    probe = list(streams[0])[:2]
    plain, _ = simplify.simplify(model, lambda a, b: simplify.same_outputs(a, b, probe))
    names = [node.name for node in scope.scope(plain, {node.name for node in plain.graph.node})]
    for count in (8, 6):
        for case, (ranges, repairs, biases) in CASES.items():
            bench = Bench(*streams, "vnni")
            bench.begin()
            with bits(count), no_errors(not biases):
                plan = repair.plan(plain, names, repair.Wanted(CALIBRATE, ranges, repairs), bench)
                nodes = scope.scope(plan.model, set(names))
                made = qdq.quantize_static(plan.model, nodes, plan)
                made = clipped(made, plan) if count < 8 else made
            sessions = (open_session(model), open_session(made))
            found = evaluate.evaluate(*sessions, test, known.decision, known.labelled)
            assert found.classified is not None
            delta = accuracy.paired(*(tally.correct for tally in found.classified))
            kept = "+".join(plan.kept) or "-"
            points = f"{round(-100 * delta.drop, 2) + 0.0:+.2f}"
            yield f"| {pair.model} | {count} | {case} | {kept} | {found.drift.sqnr_db:.1f} | {points} |"


@contextmanager
def no_errors(wanted: bool) -> Iterator[None]:
    """Leave out what is taken off the biases."""
    before = correct.errors
    if wanted:
        correct.errors = lambda *arguments: {}
    try:
        yield
    finally:
        correct.errors = before


def main() -> None:
    """Print the table."""
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("assets", type=Path)
    parser.add_argument("--only", nargs="*", default=())
    given = parser.parse_args()
    print("| model | bits | left out | kept | SQNR, dB | points top-1 |\n|---|---|---|---|---|---|")
    for pair in PAIRS:
        if "task" not in pair.told and pair.model in SCORED and (not given.only or pair.model in given.only):
            for row in rows(given.assets, pair):
                print(row, flush=True)


if __name__ == "__main__":
    main()
