"""What a file that is no ONNX model is instead."""

from __future__ import annotations

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (4, b"TFL3", "a TensorFlow Lite model"),
    (4, b"ORTM", "an onnxruntime .ort model"),
    (0, b"PK\x03\x04", "a zip archive, as torch.save and Keras write it"),
    (0, b"\x89HDF", "an HDF5 file, as Keras writes it"),
    (0, b"ftrt", "a TensorRT engine"),
    (0, b"ptrt", "a TensorRT engine"),
    (0, b"\x80\x02", "a Python pickle"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<html", "a web page"),
    (0, b"<?xml", "an XML file, as OpenVINO writes it"),
    (0, b"\x89PNG", "a picture"),
    (0, b"\xff\xd8\xff", "a picture"),
)


def kind(data: bytes) -> str | None:
    """Name the kind of file that these bytes start, when it is a known one other than ONNX."""
    for offset, magic, name in _MAGIC:
        if data[offset : offset + len(magic)].lower() == magic.lower():
            return name
    head = data[:512]
    # An ONNX file starts with small numbers, which are no printable characters.
    return "a text file" if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head) else None
