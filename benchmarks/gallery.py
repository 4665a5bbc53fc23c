"""Draw every op: a picture before it, and at its defaults and at both bounds of its flag, to be looked at.

python benchmarks/gallery.py [PICTURE] [--out build/gallery] [--only fog,rain]     # one PNG an op, and index.html
"""

from __future__ import annotations

import argparse
import html
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgekit.augment.op import OPS, Op, apply
from edgekit.augment.preview import color
from edgekit.data import images
from edgekit.data.sample import Object, Sample

ROOT = Path(__file__).parents[1]
PHOTOS = ROOT / "sample_data" / "photos"
CELL, GAP, LINE = 420, 6, 18
DRAWS = 3  # at the defaults


def main() -> None:
    """Draw the ops."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", nargs="?", type=Path, default=PHOTOS / "chelsea.jpg")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gallery")
    parser.add_argument("--only", default="", help="names of ops, with commas between")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    source = labelled(given.picture)
    others = [labelled(path) for path in sorted(PHOTOS.glob("*.jpg")) if path.name != given.picture.name]
    wanted = [cls for cls in OPS if not given.only or cls.spec_name() in given.only.split(",")]
    for cls in wanted:
        (given.out / f"{cls.spec_name()}.png").write_bytes(images.encode(page(cls, source, others), "png"))
        print(cls.spec_name())
    rows = [
        f'<h2>{cls.spec_name()}</h2><p>{html.escape(cls.help())}</p><img src="{cls.spec_name()}.png">' for cls in OPS
    ]
    (given.out / "index.html").write_text("<!doctype html><title>ops</title>" + "\n".join(rows))


def labelled(path: Path) -> Sample:
    """Read a picture, and put a grid of boxes and points into it."""
    picture = images.decode(path.read_bytes(), 10**8).pixels
    height, width = picture.shape[:2]
    objects = tuple(
        Object(
            number,
            np.array([x - 0.1, y - 0.1, x + 0.1, y + 0.1]) * [width, height, width, height],
            keypoints=np.array([[x * width, y * height, 2.0]]),
            polygons=(np.array([[x, y - 0.08], [x + 0.08, y], [x, y + 0.08], [x - 0.08, y]]) * [width, height],),
        )
        for number, (x, y) in enumerate([(0.25, 0.25), (0.75, 0.25), (0.5, 0.5), (0.25, 0.75), (0.75, 0.75)])
    )
    return Sample(path.name, picture, objects=objects)


def page(cls: type[Op], source: Sample, others: list[Sample]) -> np.ndarray:
    """Draw the picture, a few draws at the defaults, and two at each bound of the op's flag."""
    tiles = [tile(source, "before")]
    tiles += [drawn(cls(), source, others, seed) for seed in range(DRAWS)]
    flag = cls.flag_field()
    for bound in [] if flag is None else (flag.bounds.ge, flag.bounds.le):
        op = cls.from_dict({flag.name: bound})
        tiles += [drawn(op, source, others, seed) for seed in range(2)]
    height = max(len(one) for one in tiles)
    padded = [
        cv2.copyMakeBorder(one, 0, height - len(one), 0, 0, cv2.BORDER_CONSTANT, value=(250,) * 3) for one in tiles
    ]
    blank = np.full_like(padded[0], 250)
    padded += [blank] * (-len(padded) % 4)
    return np.concatenate([np.concatenate(padded[row : row + 4], axis=1) for row in range(0, len(padded), 4)])


def drawn(op: Op, source: Sample, others: list[Sample], seed: int) -> np.ndarray:
    """Apply one draw, and write its parameters below."""
    rng = np.random.default_rng(seed)
    params = op.sample(rng, source, others[: op.partners])
    moved = op.matrix(params, source.size)
    if moved is not None and moved[1][0] * moved[1][1] > 2**26:
        return tile(source, f"{op}: {moved[1][0]}x{moved[1][1]}, not drawn")
    out = apply(op, params, source, others[: op.partners]).sample
    return tile(out, f"{op}: {said(params)} {out.size[0]}x{out.size[1]}")


def said(params: dict[str, Any]) -> str:
    """Write parameters with few digits."""
    return json.dumps(json.loads(json.dumps(params), parse_float=lambda text: round(float(text), 2)))


def tile(sample: Sample, text: str) -> np.ndarray:
    """Draw a picture with its labels and a line of text."""
    width, height = sample.size
    scale = CELL / max(width, height)
    small = cv2.resize(
        sample.image, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA
    )
    for one in sample.objects:
        ink = color(one.number)
        left, top, right, bottom = np.rint(one.box * scale).astype(int).tolist()
        cv2.rectangle(small, (left, top), (right, bottom), ink, 1)
        cv2.polylines(small, [np.rint(part * scale).astype(np.int32) for part in one.polygons], True, ink, 1)
        if one.keypoints is not None and one.keypoints[0, 2]:
            cv2.circle(small, tuple(np.rint(one.keypoints[0, :2] * scale).astype(int).tolist()), 3, ink, -1)
    framed = np.full((len(small) + 3 * LINE, CELL + GAP, 3), 250, np.uint8)
    framed[: len(small), : small.shape[1]] = small
    for number in range(3):
        line = text[62 * number : 62 * (number + 1)]
        at = (2, len(small) + LINE * (number + 1) - 5)
        cv2.putText(framed, line, at, cv2.FONT_HERSHEY_SIMPLEX, 0.37, (30, 30, 30), 1, cv2.LINE_AA)
    return framed


if __name__ == "__main__":
    main()
