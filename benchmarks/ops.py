"""Time every op on one picture of 640x427, beside the least that OpenCV itself needs for it where that can be said.

python benchmarks/ops.py [--only fog,rain]     # milliseconds of CPU; one thread; best of several runs, median of draws
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from edgekit.augment.op import OPS, apply
from edgekit.data import images
from edgekit.data.sample import Sample

PHOTO = Path(__file__).parents[1] / "sample_data" / "photos" / "coffee.jpg"
SIZE = (640, 427)
DRAWS, RUNS = 7, 5


def main() -> None:
    """Print a row an op."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names of ops, with commas between")
    wanted = parser.parse_args().only.split(",")
    cv2.setNumThreads(1)
    picture = cv2.resize(images.decode(PHOTO.read_bytes(), 10**8).pixels, SIZE, interpolation=cv2.INTER_CUBIC)
    sample = Sample("x", picture)
    floors = plain(picture)
    print(f"{'op':<22}{'ms':>7}{'OpenCV':>9}")
    for cls in OPS:
        if wanted != [""] and cls.spec_name() not in wanted:
            continue
        op, times = cls(), []
        others = [Sample(f"{number}", picture[:, ::-1].copy()) for number in range(op.partners)]
        for seed in range(DRAWS):
            params = op.sample(np.random.default_rng(seed), sample, others)
            times.append(best(lambda op=op, params=params, others=others: apply(op, params, sample, others)))
        floor = floors.get(cls.spec_name())
        print(f"{cls.spec_name():<22}{statistics.median(times):>7.2f}" + (f"{best(floor):>9.2f}" if floor else ""))


def best(call: Callable[[], object]) -> float:
    """Give the milliseconds of CPU that the fastest of several calls takes: other work on the machine counts less."""
    times = []
    for _ in range(RUNS):
        start = time.process_time()
        call()
        times.append(1e3 * (time.process_time() - start))
    return min(times)


def plain(picture: np.ndarray) -> dict[str, Callable[[], object]]:
    """Give one OpenCV call, or the few that it takes, for ops that have such a thing."""
    turn = cv2.getRotationMatrix2D((320, 213), 10, 1)
    slant = cv2.getPerspectiveTransform(
        np.float32([[0, 0], [640, 0], [640, 427], [0, 427]]), np.float32([[9, 9], [630, 3], [640, 420], [4, 427]])
    )
    columns, rows = np.meshgrid(np.arange(640, dtype=np.float32) + 0.3, np.arange(427, dtype=np.float32) + 0.7)
    table = np.arange(256, dtype=np.uint8)
    mixed = np.eye(3) * 0.8 + 0.05
    line = np.ones((7, 7), np.float32) / 49
    veil = np.full_like(picture, 200)
    weights = np.full(picture.shape[:2], 0.5, np.float32)
    normal = np.empty(picture.shape, np.int16)
    noisy = {
        name: lambda: cv2.add(picture, cv2.randn(normal, 0, 7), dtype=cv2.CV_8U)
        for name in ("noise", "shot-noise", "iso-noise")
    }
    warped = {name: lambda: cv2.warpAffine(picture, turn, SIZE) for name in ("rotate", "scale", "shear")}
    bent = {
        name: lambda: cv2.remap(picture, columns, rows, cv2.INTER_LINEAR) for name in ("elastic", "grid-distortion")
    }
    looked = {name: lambda: cv2.LUT(picture, table) for name in ("brightness", "contrast", "gamma", "invert")}
    looked |= dict.fromkeys(("posterize", "solarize"), looked["gamma"])
    blended = {name: lambda: cv2.blendLinear(picture, veil, weights, weights) for name in ("fog", "rain", "snow")}
    return {
        **noisy, **warped, **bent, **looked, **blended,
        "flip": lambda: cv2.flip(picture, 1),
        "vflip": lambda: cv2.flip(picture, 0),
        "rot90": lambda: cv2.rotate(picture, cv2.ROTATE_90_CLOCKWISE),
        "transpose": lambda: cv2.transpose(picture),
        "perspective": lambda: cv2.warpPerspective(picture, slant, SIZE),
        "resize": lambda: cv2.resize(picture, (224, 224), interpolation=cv2.INTER_AREA),
        "random-resized-crop": lambda: cv2.resize(picture[50:350, 50:500], SIZE, interpolation=cv2.INTER_LINEAR),
        "saturation": lambda: cv2.transform(picture, mixed),
        "hue": lambda: cv2.transform(picture, mixed),
        "grayscale": lambda: cv2.transform(picture, mixed),
        "clahe": lambda: cv2.createCLAHE(2, (8, 8)).apply(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)),
        "equalize": lambda: cv2.equalizeHist(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)),
        "sharpen": lambda: cv2.filter2D(picture, -1, line[:3, :3]),
        "blur": lambda: cv2.GaussianBlur(picture, (0, 0), 0.6),
        "motionblur": lambda: cv2.filter2D(picture, -1, line[:5, :5]),
        "defocus": lambda: cv2.filter2D(picture, -1, line[:5, :5]),
        "jpeg": lambda: cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], 1),
        "mixup": lambda: cv2.addWeighted(picture, 0.6, veil, 0.4, 0.0),
    }  # fmt: skip


if __name__ == "__main__":
    main()
