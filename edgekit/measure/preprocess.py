"""Preprocess: how a picture becomes a model's input, and its forms as flags, JSON and ten lines of Python."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError
from edgekit.lazy import cv2, np
from edgekit.spec import Bounds, Field, nearest, suggest

if TYPE_CHECKING:
    from pathlib import Path

    from numpy import ndarray

METADATA_KEY = "edgekit.preprocess"
CHANNELS = {"grey": 1, "rgb": 3, "bgr": 3, "rgba": 4}
LAYOUTS = ("NCHW", "NHWC", "CHW", "HWC", "NHW", "HW")
RESIZES = ("squash", "crop", "letterbox")
PLACES = ("centre", "top-left")
DTYPES = ("float32", "float16", "float64", "uint8", "int8")
SCALING = ("range", "mean", "std")  # one decision: none of them means anything without the others

# What nets are fed with; the numbers are torchvision's, Keras' "tf" and "caffe" modes and plain pixels.
PRESETS: dict[str, dict[str, Any]] = {
    "imagenet": {"range": (0.0, 1.0), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "color": "rgb"},
    "unit": {"range": (0.0, 1.0), "mean": (0.0,), "std": (1.0,), "color": "rgb"},
    "signed": {"range": (-1.0, 1.0), "mean": (0.0,), "std": (1.0,), "color": "rgb"},
    "raw": {"range": (0.0, 255.0), "mean": (0.0,), "std": (1.0,), "color": "rgb"},
    "caffe": {"range": (0.0, 255.0), "mean": (103.939, 116.779, 123.68), "std": (1.0,), "color": "bgr"},
}


@dataclass(frozen=True)
class Preprocess:
    """How a picture is fed: resized, coloured, scaled to `range`, then (x - mean) / std.

    size: height and width in pixels, 1..8192. resize: `squash` ignores the aspect ratio, `crop` brings the shorter side
    to size / crop_ratio and cuts out the centre, `letterbox` fits the whole picture in and fills the rest with `fill`
    (0..255), at the `centre` or `top-left`. range: what 0 and 255 become before mean and std; of these there is one, or
    one a channel in the order of `color`. Integer dtypes are rounded and clipped. Raises EdgekitError for a value that
    is out of bounds.
    """

    size: tuple[int, int]
    resize: str = "squash"
    crop_ratio: float = 1.0
    range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    color: str = "rgb"
    layout: str = "NCHW"
    dtype: str = "float32"
    fill: int = 114
    where: str = "centre"

    def __post_init__(self) -> None:
        check(vars(self))
        for field in ("mean", "std"):
            values = getattr(self, field)
            if len(values) not in (1, self.channels):
                what = f"{len(values)} values for {self.channels} channel(s) ({self.color})"
                shown = ",".join(f"{value:g}" for value in values)
                raise EdgekitError(f"--{field} {shown}: {what}", f"give one, or {self.channels}")
        if "C" not in self.layout and self.channels != 1:
            what = f"--color {self.color}: the model's input ({self.layout}) has no channels"
            raise EdgekitError(what, "use --color grey")

    @property
    def channels(self) -> int:
        """How many channels the model is fed."""
        return CHANNELS[self.color]

    def recolored(self, color: str) -> Preprocess:
        """Give the same scaling of each channel in another order of channels."""
        return self if color == self.color else replace(self, color=color, mean=self.mean[::-1], std=self.std[::-1])

    def apply(self, pixels: ndarray) -> ndarray:
        """Turn a picture (HxWxC, uint8 or uint16, C = 1 grey, 3 RGB, 4 RGBA) into the model's input.

        Gives `dtype` in `layout`, its batch axis being 1. Alpha is dropped, as by the loaders that nets are trained
        with; 16-bit values are divided by 257, so none is clipped. Shrinking averages areas, enlarging is bilinear.
        """
        return self.scale(self.fit(pixels))

    def fit(self, pixels: ndarray) -> ndarray:
        """Colour and resize a picture: HxWxC at the model's size and channels, values 0..255, uint8 or float32."""
        image = _recolor(pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32) / 257, self.color)
        height, width, top, left = self.placement(image.shape[0], image.shape[1])
        if (height, width) != image.shape[:2]:
            shrinks = height <= image.shape[0] and width <= image.shape[1]
            # Detectors are trained on letterboxes made without averaging: by it YOLOX-Nano loses 0.9 points mAP.
            averages = shrinks and self.resize != "letterbox"
            mode = cv2.INTER_AREA if averages else cv2.INTER_LINEAR
            image = cv2.resize(image, (width, height), interpolation=mode).reshape(height, width, self.channels)
        if self.resize == "crop":
            return image[top : top + self.size[0], left : left + self.size[1]]
        if self.resize == "letterbox":
            canvas = np.full((*self.size, self.channels), self.fill, image.dtype)
            canvas[top : top + height, left : left + width] = image
            return canvas
        return image

    def placement(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Say where a picture goes: its height and width once resized, and the top left corner.

        The corner is that of the picture in the input (`letterbox`), or that of the input in the picture (`crop`).
        """
        rows, columns = self.size
        if self.resize == "squash":
            return rows, columns, 0, 0
        if self.resize == "crop":
            scale = max(rows / height, columns / width) / self.crop_ratio
            tall, wide = max(rows, round(height * scale)), max(columns, round(width * scale))
            return tall, wide, (tall - rows) // 2, (wide - columns) // 2
        scale = min(rows / height, columns / width)
        tall, wide = (min(rows, max(1, round(height * scale))), min(columns, max(1, round(width * scale))))
        if self.where == "top-left":
            return tall, wide, 0, 0
        return tall, wide, (rows - tall) // 2, (columns - wide) // 2

    def scale(self, image: ndarray) -> ndarray:
        """Turn what `fit` gives into the model's input, batch axis included."""
        low, high = self.range
        mean, std = np.asarray(self.mean), np.asarray(self.std)
        factor, shift = (high - low) / 255 / std, (low - mean) / std
        if "C" not in self.layout:
            image = image[..., 0]
        elif self.layout.endswith("CHW"):
            image, factor, shift = image.transpose(2, 0, 1), factor.reshape(-1, 1, 1), shift.reshape(-1, 1, 1)
        values: ndarray = np.multiply(image, factor.astype(np.float32), dtype=np.float32, order="C")
        values += shift.astype(np.float32)
        if self.dtype in ("uint8", "int8"):
            limits = np.iinfo(self.dtype)
            values = np.clip(np.rint(values), limits.min, limits.max)
        values = values.astype(self.dtype, copy=False)
        return values[None] if self.layout.startswith("N") else values

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON values; what only matters to a letterbox is left out of other resizes."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        if self.resize != "letterbox":
            del values["fill"], values["where"]
        return values

    def to_json(self) -> str:
        """Write it as the ONNX metadata value of METADATA_KEY."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], origin: str = "") -> Preprocess:
        """Read what `to_dict` gives; only `size` must be there."""
        checked = check(values, origin)
        if "size" not in checked:
            raise EdgekitError(f"{origin or 'preprocess'}: no size", "give it as [height, width]")
        return cls(**checked)

    def python(self, name: str, names: Sequence[str] = (), batch: int = 1, top: str = "scores[0].argmax()") -> str:
        """Write a Python program that runs the model `name` on one picture with exactly this preprocessing.

        It needs numpy, OpenCV and onnxruntime, takes the picture's path as its argument and prints the top class (`top`
        says how it is found): its name when `names` gives them, else its number. `batch` is the model's fixed batch.
        """
        code = {"rgb": "COLOR_BGR2RGB", "grey": "COLOR_BGR2GRAY", "rgba": "COLOR_BGR2RGBA"}.get(self.color)
        top = f"{list(names)!r}[{top}]" if names else top
        session = f'ort.InferenceSession({json.dumps(name)}, providers=["CPUExecutionProvider"])'
        return "\n".join(
            [
                "import sys\n\nimport cv2 as cv\nimport numpy as np\nimport onnxruntime as ort\n",
                "image = cv.imread(sys.argv[1])  # BGR, upright",
                *([f"image = cv.cvtColor(image, cv.{code})"] if code else []),
                *_python_resize(self),
                *_python_scale(self, batch),
                f"session = {session}",
                "scores = session.run(None, {session.get_inputs()[0].name: x})[0]",
                f"print({top})",
                "",
            ]
        )


def preset(name: str, channels: int = 3, color: str | None = None) -> dict[str, Any]:
    """Give a preset's range, mean, std and color: for grey averaged, for another `color` in its order."""
    if name not in PRESETS:
        near = nearest(name, PRESETS)
        hint = f"did you mean {near}?" if near else f"there is {', '.join(PRESETS)}"
        raise EdgekitError(f"--preset {name}: no such preset", hint)
    found = dict(PRESETS[name])
    if channels != 3:
        averaged = {key: (round(sum(found[key]) / len(found[key]), 6),) for key in ("mean", "std")}
        return {**found, **averaged, "color": "grey" if channels == 1 else "rgba"}
    if color in ("rgb", "bgr") and color != found["color"]:
        return {**found, "mean": found["mean"][::-1], "std": found["std"][::-1], "color": color}
    return found


def parse(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Read flags or config values: `size` 224 or WIDTHxHEIGHT, `mean` 0.5 or 0.485,0.456,0.406, `range` 255 or -1,1 ...

    Gives the fields that were said (and `preset`, when it was), with a reason for those that follow from others: when
    one of range, mean and std is given, mean and std become 0 and 1 unless they are, and the range 0..255 when one of
    them is above 1, else 0..1. Raises EdgekitError for what cannot be read or is out of bounds.
    """
    said = {key.replace("-", "_"): value for key, value in values.items() if value is not None}
    name = said.pop("preset", None)
    fields, reasons = check({key: _read(key, value) for key, value in said.items()}), {}
    if name is not None:
        preset(name)
        return {"preset": name, **fields}, {}
    if not fields.keys() & set(SCALING):
        return fields, {}
    for field, neutral in (("mean", (0.0,)), ("std", (1.0,))):
        if field not in fields:
            fields[field], reasons[field] = neutral, "since another of range, mean and std was given"
    if "range" not in fields:
        above = [field for field in ("mean", "std") if field in said and max(map(abs, fields[field])) > 1]
        fields["range"] = (0.0, 255.0) if above else (0.0, 1.0)
        reasons["range"] = f"since {above[0]} is above 1" if above else "since mean and std are not above 1"
    return fields, reasons


def check(values: Mapping[str, Any], origin: str = "") -> dict[str, Any]:
    """Check plain values of some fields; give them in the fields' types or raise EdgekitError."""
    unknown = [key for key in values if key not in _FIELDS]
    if unknown:
        names = [key.replace("_", "-") for key in _FIELDS]
        raise EdgekitError(f"{origin or 'preprocess'}: no such field: {', '.join(unknown)}", suggest(unknown, names))
    return {key: _checked(key, value, origin) for key, value in values.items()}


def _checked(key: str, value: Any, origin: str) -> Any:
    field = _FIELDS[key]
    if key not in _LISTS:
        return field.check(value, "", origin)
    parts = list(value) if isinstance(value, (list, tuple)) else [value]
    if key == "size" and len(parts) == 1:
        parts *= 2
    checked = tuple(field.check(part, "", origin) for part in parts)
    counts, example = _LISTS[key]
    if len(checked) not in counts or (key == "range" and checked[0] >= checked[1]):
        given = ",".join(f"{part:g}" for part in checked)
        raise EdgekitError(f"{origin or '--' + key} {given}: not a {key}", f"use something like {example}")
    return checked


def declared(metadata: Mapping[str, str], model_path: Path | None) -> list[tuple[str, dict[str, Any], str]]:
    """Read what a model's files say of its preprocessing: (`metadata` or `sidecar`, some fields, where), best first.

    Understands edgekit's own metadata, that of Ultralytics, and Hugging Face's preprocessor_config.json beside the
    model (or above it when the model's folder is called `onnx`). Raises EdgekitError when one of them cannot be read.
    """
    found = []
    if METADATA_KEY in metadata:
        origin = f"metadata {METADATA_KEY}"
        found.append(("metadata", check(read_json(metadata[METADATA_KEY], origin), origin), METADATA_KEY))
    if metadata.get("author") == "Ultralytics":
        crop = metadata.get("task") == "classify"
        resize = {"resize": "crop", "crop_ratio": 1.0} if crop else {"resize": "letterbox"}
        side = re.findall(r"\d+", metadata.get("imgsz", ""))
        size = {"size": (int(side[0]), int(side[-1]))} if side else {}
        found.append(("metadata", {**preset("unit"), **resize, **size}, "as Ultralytics feeds its models"))
    if model_path is not None:
        folder = model_path.parent
        for place in (folder, folder.parent) if folder.name == "onnx" else (folder,):
            path = place / "preprocessor_config.json"
            if path.is_file():
                values = check(_hugging_face(read_json(path.read_text("utf-8"), str(path))), str(path))
                found.append(("sidecar", values, str(path)))
                break
    return found


def _hugging_face(said: Mapping[str, Any]) -> dict[str, Any]:
    """Translate preprocessor_config.json; what it leaves out has the defaults of transformers' image processors."""
    if not said.keys() & {"image_mean", "image_std", "size", "do_rescale", "do_normalize"}:
        return {}
    factor = said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1.0
    offset = 1.0 if said.get("rescale_offset") else 0.0
    normal = said if said.get("do_normalize", True) else {}
    fields: dict[str, Any] = {"range": (-offset, round(255 * factor, 6) - offset)}
    fields |= {"mean": normal.get("image_mean", 0.0), "std": normal.get("image_std", 1.0)}
    fields |= {"color": "bgr"} if said.get("do_flip_channel_order") else {}
    size, cropped = _sides(said.get("size")), _sides(said.get("crop_size"))
    if not size or not said.get("do_resize", True):
        return fields
    if cropped and said.get("do_center_crop"):
        return {**fields, "size": cropped, "resize": "crop", "crop_ratio": min(1.0, min(cropped) / min(size))}
    if "shortest_edge" not in str(said["size"]):
        return {**fields, "size": size, "resize": "squash"}
    return {**fields, "size": size, "resize": "crop", "crop_ratio": said.get("crop_pct") or 1.0}


def _sides(value: Any) -> tuple[int, int] | None:
    """Read a size as transformers write it: 224, {"height": 224, "width": 224} or {"shortest_edge": 224}."""
    sides = value if isinstance(value, dict) else {"height": value}
    height = sides.get("height", sides.get("shortest_edge"))
    return (height, sides.get("width", height)) if isinstance(height, int) else None


def read_json(text: str, origin: str) -> dict[str, Any]:
    """Read a JSON object; raise EdgekitError naming `origin`."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise EdgekitError(f"{origin}: not JSON: {error}", "mend or remove it") from None
    if not isinstance(values, dict):
        raise EdgekitError(f"{origin}: not a JSON object", "mend or remove it")
    return values


def _recolor(image: ndarray, color: str) -> ndarray:
    """Bring 1, 3 or 4 channels to those of `color`; keep HxWxC."""
    if color == "grey":
        if image.shape[2] == 1:
            return image
        grey: ndarray = cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_RGB2GRAY)
        return grey[..., None]
    if color == "rgba":
        if image.shape[2] == 4:
            return image
        alpha = np.full((*image.shape[:2], 1), 255, image.dtype)
        return np.concatenate([_recolor(image, "rgb"), alpha], axis=2)
    rgb = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3]
    return np.ascontiguousarray(rgb[..., ::-1] if color == "bgr" else rgb)


def _python_resize(wanted: Preprocess) -> list[str]:
    rows, columns = wanted.size
    inner, outer = "h, w = image.shape[:2]", f"top, left = abs(h - {rows}) // 2, abs(w - {columns}) // 2"
    mode = "cv.INTER_AREA if h <= image.shape[0] and w <= image.shape[1] else cv.INTER_LINEAR"
    mode = "cv.INTER_LINEAR" if wanted.resize == "letterbox" else mode
    resized = f"image = cv.resize(image, (w, h), interpolation={mode})"
    if wanted.resize == "squash":
        return [f"h, w = {rows}, {columns}", resized]
    if wanted.resize == "crop":
        scale = f"scale = max({rows} / h, {columns} / w) / {wanted.crop_ratio!r}"
        fitted = f"h, w = max({rows}, round(h * scale)), max({columns}, round(w * scale))"
        return [inner, scale, fitted, resized, outer, f"image = image[top : top + {rows}, left : left + {columns}]"]
    scale = f"scale = min({rows} / h, {columns} / w)"
    fitted = f"h, w = min({rows}, max(1, round(h * scale))), min({columns}, max(1, round(w * scale)))"
    start = outer if wanted.where == "centre" else "top = left = 0"
    edges = f"top, {rows} - h - top, left, {columns} - w - left"
    border = f"image = cv.copyMakeBorder(image, {edges}, cv.BORDER_CONSTANT, value=({wanted.fill},) * 4)"
    return [inner, scale, fitted, resized, start, border]


def _python_scale(wanted: Preprocess, batch: int) -> list[str]:
    low, high = wanted.range
    scaled = "image.astype(np.float32)"
    if (low, high) != (0.0, 255.0):
        scaled += " / 255" if high - low == 1 else f" * {high - low!r} / 255"
    if low:
        scaled += f" + {low!r}"
    for field, sign, neutral in (("mean", "-", 0.0), ("std", "/", 1.0)):
        values = getattr(wanted, field)
        if set(values) != {neutral}:
            scaled = f"({scaled}) {sign} {repr(values[0]) if len(values) == 1 else f'np.float32({list(values)!r})'}"
    if wanted.dtype in ("uint8", "int8"):
        scaled = f"np.clip(np.rint({scaled}), {np.iinfo(wanted.dtype).min}, {np.iinfo(wanted.dtype).max})"
    shaped = f".reshape({wanted.size[0]}, {wanted.size[1]}, 1)" if wanted.channels == 1 else ""
    shaped += {"CHW": ".transpose(2, 0, 1)", "HWC": "", "HW": "[..., 0]"}[wanted.layout.removeprefix("N")]
    shaped += "[None]" if wanted.layout.startswith("N") else ""
    shaped += f".repeat({batch}, axis=0)" if batch > 1 else ""
    return [f"x = {scaled}", f"x = np.ascontiguousarray(x{shaped}, dtype=np.{wanted.dtype})"]


def _read(field: str, value: Any) -> Any:
    """Turn a flag's text into a plain value."""
    if not isinstance(value, str) or field not in _LISTS:
        return [0, value] if field == "range" and isinstance(value, (int, float)) else value
    if field == "size":
        parts = re.fullmatch(r"\s*(\d+)(?:[xX](\d+))?\s*", value)
        if parts is None:
            raise EdgekitError(f"--size {value}: not a size", f"use something like {_LISTS['size'][1]}")
        return [int(parts[2] or parts[1]), int(parts[1])]
    numbers = value.split(",")
    return ["0", *numbers] if field == "range" and len(numbers) == 1 else numbers


# Fields of several values: how many there may be, and how they are written.
_LISTS = {
    "size": ((2,), "--size 224, or --size 320x240 (width x height)"),
    "range": ((2,), "--range 1, --range 255 or --range -1,1"),
    "mean": ((1, 3, 4), "--mean 0.5, or one a channel: --mean 0.485,0.456,0.406"),
    "std": ((1, 3, 4), "--std 0.5, or one a channel: --std 0.229,0.224,0.225"),
}
_FIELDS = {
    "size": Field("size", int, None, Bounds("", ge=1, le=8192)),
    "resize": Field("resize", str, None, Bounds("", choices=RESIZES)),
    "crop_ratio": Field("crop_ratio", float, None, Bounds("", ge=0.1, le=1)),
    "range": Field("range", float, None, Bounds("")),
    "mean": Field("mean", float, None, Bounds("")),
    "std": Field("std", float, None, Bounds("", ge=1e-9)),
    "color": Field("color", str, None, Bounds("", choices=tuple(CHANNELS))),
    "layout": Field("layout", str, None, Bounds("", choices=LAYOUTS)),
    "dtype": Field("dtype", str, None, Bounds("", choices=DTYPES)),
    "fill": Field("fill", int, None, Bounds("", ge=0, le=255)),
    "where": Field("where", str, None, Bounds("", choices=PLACES)),
}
