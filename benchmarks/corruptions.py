"""Compare edgekit's corruptions with the published code on ten photographs, and print a Markdown table.

    python benchmarks/corruptions.py ASSETS --reference PYTHON

ASSETS holds images/coco_val64; the first ten by name are made 256 pixels on their shorter side and cut to 224x224.
Reference is what `corruptions_reference.py` runs with. Random numbers differ, so that random corruptions are compared
by what they do: the PSNR against the clean picture, and the mean and standard deviation of what they add to it, in
levels of 255; "again" is the published code with other random numbers, the yardstick for all of them. "apart" is the
mean absolute difference between edgekit's and the published picture, "most" the largest; for random ones they say
little.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import cv2
import numpy as np

from edgekit.augment.corrupt import NAMES, suite
from edgekit.augment.draws import generator
from edgekit.augment.op import apply
from edgekit.data.sample import Sample

COUNT, SIDE, SHORT = 10, 224, 256
REFERENCE = Path(__file__).with_name("corruptions_reference.py")


def pictures(folder: Path) -> np.ndarray:
    cut = []
    for path in sorted(folder.glob("*.jpg"))[:COUNT]:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        scale = SHORT / min(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        top, left = ((length - SIDE) // 2 for length in image.shape[:2])
        cut.append(image[top : top + SIDE, left : left + SIDE])
    return np.stack(cut)


def published(folder: Path, python: str, seed: int) -> np.ndarray:
    out = folder / f"{seed}.npy"
    subprocess.run([python, str(REFERENCE), str(folder / "in.npy"), str(out), str(seed)], check=True)
    return np.load(out, mmap_mode="r")


def psnr(images: np.ndarray, clean: np.ndarray) -> float:
    errors = ((images.astype(np.float64) - clean) ** 2).mean(axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(255**2 / errors)))


def residual(images: np.ndarray, clean: np.ndarray) -> str:
    added = images.astype(np.float64) - clean
    return f"{added.mean():.1f} ± {added.std(axis=(1, 2, 3)).mean():.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("assets", type=Path)
    parser.add_argument("--reference", required=True, metavar="PYTHON")
    arguments = parser.parse_args()
    clean = pictures(arguments.assets / "images" / "coco_val64" / "images")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        np.save(folder / "in.npy", clean)
        theirs, again = (published(folder, arguments.reference, seed) for seed in (0, 1))
        print("| corruption | severity | apart | most | PSNR | published | again | added | published | again |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        for one in suite("1,2,3,4,5"):
            ours = []
            for number, image in enumerate(clean):
                sample = Sample(str(number), image)
                params = one.sample(generator(0, sample.key, one.number, 0), sample)
                ours.append(apply(one, params, sample).sample.image)
            mine = np.stack(ours)
            first, second = (made[NAMES.index(one.kind), one.severity - 1] for made in (theirs, again))
            apart = np.abs(mine.astype(int) - first)
            scores = " | ".join(f"{psnr(images, clean):.1f}" for images in (mine, first, second))
            added = " | ".join(residual(images, clean) for images in (mine, first, second))
            print(f"| {one.kind} | {one.severity} | {apart.mean():.2f} | {apart.max()} | {scores} | {added} |")


if __name__ == "__main__":
    main()
