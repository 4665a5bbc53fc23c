"""Turn a folder of pictures and an ONNX model into a smaller, faster, still accurate edge model."""

__version__ = "0.1.0"
