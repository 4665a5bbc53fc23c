"""Compress real models with edgekit and with onnxruntime's own settings, and print a Markdown table.

    python benchmarks/compress.py ASSETS [model ...]

ASSETS holds models/ and images/ as listed in PAIRS below. Accuracy is evaluated by edgekit's own measuring code on the
test pictures, for every row alike; latency is compared with the fp32 model, interleaved, one thread. "edgekit, model
alone" was compressed without any picture and without being told the preprocessing.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgekit import graph
from edgekit.data.folder import scan
from edgekit.measure import accuracy, calibration, classes, evaluate, infer, latency, machine, size
from edgekit.session import open_session

SECONDS = 8.0


@dataclass(frozen=True)
class Pair:
    """A model, its pictures, and what edgekit is told about them."""

    model: str
    calib: str
    data: str
    flags: tuple[str, ...] = ()
    classes: str | None = None


CIFAR = ("images/cifar10_jpeg/calib", "images/cifar10_jpeg/test")
PAIRS = (
    Pair("resnet8_cifar10_jpegft", *CIFAR, ("--preset", "raw")),
    Pair("resnet20_cifar10", *CIFAR, ("--preset", "imagenet")),
    Pair("mobilenetv1_025_vww96", "images/vww96/calib", "images/vww96/test", ("--preset", "unit")),
    Pair(
        "vit_fmnist",
        "images/fashion_mnist/calib",
        "images/fashion_mnist/test",
        ("--mean", "72.94", "--std", "90.02"),
        "classes/fashion_mnist.txt",
    ),
)


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """onnxruntime's way of asking for calibration data."""

    def __init__(self, feeds: Any) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Any:
        return next(self._feeds, None)


def onnxruntime_own(model: Path, out: Path, feeds: Any, **settings: Any) -> None:
    """Quantise with onnxruntime after its own preprocessing."""
    with contextlib.redirect_stdout(io.StringIO()):
        prepared = out.with_suffix(".prepared.onnx")
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        quantize_static(str(prepared), str(out), Reader(feeds), quant_format=QuantFormat.QDQ, **settings)


def edgekit(*arguments: Any) -> dict[str, Any]:
    """Run the command as a person does; give its report."""
    command = [sys.executable, "-m", "edgekit", "compress", *map(str, arguments), "--json", "--no-config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout))


def rows(assets: Path, pair: Pair, folder: Path) -> list[str]:
    """Make every candidate of a pair and measure it against fp32."""
    path = assets / "models" / f"{pair.model}.onnx"
    model = graph.load(path)
    calib, data = assets / pair.calib, scan(assets / pair.data)
    named = [] if pair.classes is None else ["--classes", assets / pair.classes]
    given = {pair.flags[i].lstrip("-"): pair.flags[i + 1] for i in range(0, len(pair.flags), 2)}
    decision = infer.decide(model, given=given)
    outputs = evaluate.score_count(model)
    assert outputs is not None
    file = assets / pair.classes if pair.classes is not None else None
    known = classes.resolve(data.labels, outputs, file=file, metadata=graph.metadata(model))
    stream = calibration.from_pictures(scan(calib).sources[::2][:128], decision)
    made = {name: folder / f"{pair.model}.{number}.onnx" for number, name in enumerate(NAMES)}
    onnxruntime_own(path, made[NAMES[0]], stream)
    best = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
    onnxruntime_own(path, made[NAMES[1]], stream, **best)
    chosen = edgekit(
        path, "--int8", "--calib", calib, "--data", data.root, "--out", made[NAMES[2]], *pair.flags, *named
    )
    alone = edgekit(path, "--int8", "--out", made[NAMES[3]])
    choices = {NAMES[2]: chosen["headline"], NAMES[3]: alone["headline"]}
    found = []
    for name, candidate in made.items():
        answers = evaluate.evaluate(open_session(path), open_session(candidate), data.sources, decision, known)
        assert answers.classified is not None
        old, new = answers.classified
        delta = accuracy.paired(old.correct, new.correct)
        feeds = [feed for feed in (evaluate.feed_of(s, decision) for s in data.sources[:8]) if feed is not None]
        openers = [latency.session_runner(p, feeds, 1) for p in (path, candidate)]
        speed = latency.compare(*openers, seconds=SECONDS)
        ratio = size.file_bytes(candidate) / size.file_bytes(path)
        chose = choices.get(name, "").split("    ")[-1].split(";")[0]
        points = round(-100 * delta.drop, 2) + 0.0
        score = f"{100 * old.correct.mean():.2f} | {100 * new.correct.mean():.2f} | {points:+.2f}"
        ran = f"{speed.speedup:.2f}x ({speed.low:.2f}-{speed.high:.2f})"
        found.append(f"| {pair.model} ({delta.n}) | {name} | {score} | {ran} | {ratio:.2f} | {chose} |")
    return found


NAMES = ("onnxruntime, as it comes", "onnxruntime, U8S8 per channel", "edgekit --int8", "edgekit --int8, model alone")


def main() -> None:
    """Print the table."""
    logging.disable(logging.WARNING)
    assets, wanted = Path(sys.argv[1]), sys.argv[2:]
    here = machine.describe()
    print(f"{here.cpu}, int8 instructions: {here.int8}, 1 thread, onnxruntime {ort.__version__}\n")
    print("| model (pictures) | how | fp32 top-1 | top-1 | points | speed-up (95%) | size | chose |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for pair in PAIRS:
            if not wanted or pair.model in wanted:
                print("\n".join(rows(assets, pair, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
