"""Heavy libraries, imported at their first use, so that `edgekit --help` and every usage error are instant.

`from edgekit.lazy import np` gives an object that becomes numpy when its first attribute is asked for. onnxruntime gets
its telemetry switched off before the import, because its official wheels report home by default since 1.29
(onnxruntime docs/Privacy.md).
"""

from __future__ import annotations

import gc
import importlib
import os
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError

OPENCV_HINT = (
    "reinstall it with: pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python-headless"
)


class _Lazy:
    """Stand in for a module until its first attribute is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        module = _load(self._name)
        self.__dict__.update(module.__dict__)
        return getattr(module, attribute)


def _load(name: str) -> Any:
    if name == "onnxruntime":
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    if name == "numpy":
        # BLAS's threads wait by spinning: beside other work they take several times the CPU and save no time.
        for library in ("OPENBLAS", "MKL"):
            os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    if name == "cv2":
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
        # The size limit is edgekit's own (--max-pixels), judged on the header before OpenCV sees the file.
        os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**34))
    collecting = gc.isenabled()
    gc.disable()  # nothing of what an import makes is garbage, and it would be looked through again and again
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        hint = OPENCV_HINT if name == "cv2" else f"reinstall it with: pip install --force-reinstall {name}"
        raise EdgekitError(f"{name} cannot be imported: {error}", hint) from error
    finally:
        if collecting:
            gc.enable()
    if name == "onnxruntime":
        module.set_default_logger_severity(4)
        module.disable_telemetry_events()
    if name == "cv2":
        module.setNumThreads(1)
        # The environment variable comes too late when somebody imported OpenCV before.
        module.utils.logging.setLogLevel(0)
    return module


if TYPE_CHECKING:
    import cv2
    import numpy as np
    import onnx
    import onnxruntime as ort
else:
    np = _Lazy("numpy")
    cv2 = _Lazy("cv2")
    onnx = _Lazy("onnx")
    ort = _Lazy("onnxruntime")

__all__ = ["cv2", "np", "onnx", "ort"]
