"""The one place that opens an onnxruntime session: fixed threads, no chatter, one sentence when it fails."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError
from edgekit.lazy import onnx, ort

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    Feed = Mapping[str, np.ndarray]


def open_session(
    model: onnx.ModelProto | bytes | str | Path,
    *,
    threads: int = 1,
    optimized: bool = True,
    optimized_to: Path | None = None,
    profile_to: Path | None = None,
    memory_pattern: bool = True,
) -> Any:
    """Open `model` (proto, bytes or path) on the local CPU.

    `threads` is the number of intra-op threads; inter-op is always 1 and spinning is off, so that two sessions in one
    process do not disturb each other. `optimized_to` is where to write the graph as onnxruntime rewrote it,
    `profile_to` the beginning of the path of its profile. `memory_pattern` plans one block for all values, which does
    not pay where most of them are given out. Raises EdgekitError when onnxruntime refuses the model.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = memory_pattern
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized_to is not None:
        options.optimized_model_filepath = str(optimized_to)
    if profile_to is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_to)
    source: Any = model
    if isinstance(model, onnx.ModelProto):
        source = model.SerializeToString()
    elif isinstance(model, Path):
        source = str(model)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen unrelated types here
        reason = str(error).strip().splitlines()[0].removeprefix("[ONNXRuntimeError] : ")
        raise EdgekitError(
            f"onnxruntime {ort.__version__} cannot load the model: {reason}",
            "check that it runs with onnxruntime alone; a custom operator or a newer opset needs another build",
        ) from error


def run(session: Any, feed: Feed, outputs: Sequence[str] | None = None) -> list[np.ndarray]:
    """Run one feed; return the outputs as arrays in the session's order (or that of `outputs`)."""
    try:
        return session.run(outputs, dict(feed))  # type: ignore[no-any-return]
    except Exception as error:  # as above
        reason = str(error).strip().splitlines()[0].removeprefix("[ONNXRuntimeError] : ")
        raise EdgekitError(
            f"the model cannot run on the inputs it was given: {reason}",
            "give the right input size with --size, or inputs with --feeds inputs.npz",
        ) from error
