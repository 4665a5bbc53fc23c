"""Quantise a model as other tools do, without edgekit, in a process of its own: compress.py runs and measures this.

    python benchmarks/rivals.py TOOL MODEL FEEDS.npz OUT [transformer]

TOOL is one of TOOLS; FEEDS.npz holds each calibration input under "NUMBER NAME". Runs with any interpreter that has the
tool: NNCF pins its own versions of much, so it is best kept in an environment apart.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Feeds = list[dict[str, np.ndarray]]


def read_feeds(path: Path) -> Feeds:
    feeds: dict[int, dict[str, np.ndarray]] = {}
    with np.load(path) as stored:
        for key in stored.files:
            number, name = key.split(" ", 1)
            feeds.setdefault(int(number), {})[name] = stored[key]
    return [feeds[number] for number in sorted(feeds)]


def onnxruntime(model: Path, out: Path, feeds: Feeds, *_: Any, best: bool = False) -> None:
    """Prepare with onnxruntime's own preprocessing, then quantise: as it comes, or U8S8 with a scale a channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = iter(feeds)

        def get_next(self) -> Any:
            return next(self._feeds, None)

    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    settings = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
    quantize_static(str(prepared), str(out), Reader(), quant_format=QuantFormat.QDQ, **(settings if best else {}))


def onnxruntime_best(model: Path, out: Path, feeds: Feeds, *_: Any) -> None:
    """Quantise with onnxruntime's best general settings on x86."""
    onnxruntime(model, out, feeds, best=True)


def nncf(model: Path, out: Path, feeds: Feeds, *kind: str) -> None:
    """Quantise with NNCF's defaults on all the feeds; transformers are announced as such, as its manual asks."""
    import nncf as tool
    import onnx

    chosen = {"model_type": tool.ModelType.TRANSFORMER} if "transformer" in kind else {}
    made = tool.quantize(onnx.load(model), tool.Dataset(feeds), subset_size=len(feeds), **chosen)
    onnx.save(made, out)


TOOLS: dict[str, Callable[..., None]] = {
    "onnxruntime": onnxruntime,
    "onnxruntime-best": onnxruntime_best,
    "nncf": nncf,
}


def main() -> None:
    logging.disable(logging.WARNING)
    tool, model, feeds, out, *kind = sys.argv[1:]
    TOOLS[tool](Path(model), Path(out), read_feeds(Path(feeds)), *kind)


if __name__ == "__main__":
    main()
