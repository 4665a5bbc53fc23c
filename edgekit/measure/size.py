"""Size of a model: bytes on disk, and bytes in the compressed package that ships it."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import graph
from edgekit.errors import EdgekitError
from edgekit.lazy import onnx

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MEGABYTE = 1_000_000
"""Bytes in a MB: SI, as flash and download sizes are sold, not 2**20."""

_CHUNK = 1 << 20
_ZLIB_LEVEL = 6  # the default of zip, gzip, apk and wheel builders


def file_bytes(path: str | Path) -> int:
    """Return the bytes of the model at `path`, with the external data files that its tensors point to.

    Each external file counts once and whole. Raises EdgekitError when a file is missing or is not ONNX.
    """
    return sum(file.stat().st_size for file in model_files(path))


def zipped_bytes(model: str | Path | bytes) -> int:
    """Return the bytes after zlib compression at level 6, of a model's files or of its serialized bytes.

    This is what the model adds to an app package or an over-the-air update. Memory does not grow with the model.
    Raises EdgekitError as `file_bytes` does.
    """
    if isinstance(model, bytes):
        return _deflated([model])
    return sum(_deflated(_chunks(file)) for file in model_files(model))


def model_files(path: str | Path) -> list[Path]:
    """Return the model file at `path`, followed by its external data files in order of name.

    Raises EdgekitError when one of them is missing or the model is not ONNX.
    """
    path = Path(path)
    if not path.is_file():
        raise EdgekitError(f"there is no file {str(path)!r}", "check the path")
    if path.suffix != ".onnx":  # a reference file of another format is just a file
        return [path]
    external = [path.parent / location for location in sorted(_external_locations(path))]
    for file in external:
        if not file.is_file():
            raise EdgekitError(
                f"{str(path)!r} keeps weights in {file.name!r}, which is not there", "copy both together"
            )
    return [path, *external]


def _external_locations(path: Path) -> set[str]:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # as heavy as onnx

    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise EdgekitError(f"{str(path)!r} is not an ONNX model", "give a .onnx file") from error
    return {
        entry.value
        for tensor in graph.all_tensors(model)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _deflated(chunks: Iterable[bytes]) -> int:
    deflate = zlib.compressobj(_ZLIB_LEVEL)
    return sum(len(deflate.compress(chunk)) for chunk in chunks) + len(deflate.flush())
