"""Augment a folder of pictures as other tools do, without edgekit, in a process of its own: augment.py runs this.

    python benchmarks/augment_rivals.py TOOL RECIPE COPIES WORKERS QUALITY SRC OUT

TOOL and RECIPE are keys of TOOLS and RECIPES. Prints {"seconds": ..., "files": ...}: the time from after the imports to
the last file, and how many were written. Runs with any interpreter that has the tool.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

Transform = Callable[..., Any]

FORKED: list[Transform] = []  # the recipe, made before the processes are: they find it here


def composed(library: Any, recipe: str) -> Transform:
    """Say a recipe in the words that Albumentations and augrs have in common; `augment.RECIPES` has edgekit's."""
    mirror = library.HorizontalFlip
    if recipe == "flip":
        return library.Compose([mirror(p=1)])
    if recipe == "flips":
        return library.Compose([mirror(p=0.5), library.VerticalFlip(p=0.5), library.RandomRotate90(p=0.75)])
    reflect = 4  # cv2.BORDER_REFLECT_101
    ops = [
        mirror(p=0.5),
        library.Rotate(limit=(-15, 15), border_mode=reflect, p=1),
        library.RandomBrightnessContrast(brightness_limit=(-0.2, 0.2), contrast_limit=(0, 0), p=1),
    ]
    if recipe == "heavy":
        ops += [
            library.HueSaturationValue(hue_shift_limit=(-5, 5), sat_shift_limit=(-30, 30), val_shift_limit=(0, 0), p=1),
            library.GaussianBlur(blur_limit=(0, 0), sigma_limit=(0.1, 1), p=1),
            library.GaussNoise(std_range=(0, 0.03), p=1),
        ]
    return library.Compose(ops)


def of_albumentations(recipe: str) -> Transform:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations

    return composed(albumentations, recipe)


def of_augrs(recipe: str) -> Transform:
    import augrs

    return composed(augrs, recipe)


def nothing(_: str) -> Transform:
    """Leave the picture as it is: what is left is reading, decoding, encoding and writing."""
    return dict


# ---- the loop that people write around Albumentations: read, then K times transform and write


def loop(
    made: Callable[[str], Transform],
    recipe: str,
    copies: int,
    workers: int,
    quality: int,
    source: Path,
    out: Path,
    *,
    reread: bool = False,
    colours: bool = True,
) -> float:
    """Run it with as many processes; `reread`: once an output, `colours`: turn BGR to RGB and back, as ops expect."""
    import cv2

    cv2.setNumThreads(1)
    FORKED.append(made(recipe))
    out.mkdir(parents=True)
    started = time.perf_counter()
    one = partial(_picture, copies, quality, out, reread, colours)
    paths = sorted(source.iterdir())
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        for _ in pool.imap_unordered(one, paths, chunksize=max(1, min(64, len(paths) // (4 * workers)))):
            pass
    return time.perf_counter() - started


def _picture(copies: int, quality: int, out: Path, reread: bool, colours: bool, path: Path) -> None:
    import cv2

    (transform,) = FORKED
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix == ".jpg" else []
    for number in range(copies):
        if reread or not number:
            image = cv2.imread(str(path))
            if colours:
                image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        made = transform(image=image)["image"]
        if colours:
            made = cv2.cvtColor(made, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(out / f"{path.stem}_{number}{path.suffix}"), made, flags)


# ---- Augmentor: a pipeline of its own, in threads


def augmentor(recipe: str, copies: int, workers: int, quality: int, source: Path, out: Path) -> float:
    """Run its pipeline over all pictures once a copy."""
    from Augmentor import Pipeline
    from PIL import Image

    save = Image.Image.save
    # Augmentor has no setting for it.
    Image.Image.save = lambda image, path: save(image, path, quality=quality)  # type: ignore[method-assign,assignment]
    # It takes as many threads as Python likes, and no number.
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:workers]))
    started = time.perf_counter()
    with Path(os.devnull).open("w") as quiet, contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        line = Pipeline(str(source), str(out))
        line.set_save_format("auto")
        line.flip_left_right(1 if recipe == "flip" else 0.5)
        if recipe == "flips":
            line.flip_top_bottom(0.5)
            line.rotate_random_90(0.75)
        if recipe == "rotate":
            line.rotate(1, 15, 15)
            line.random_brightness(1, 0.8, 1.2)
        for _ in range(copies):
            line.process()
    return time.perf_counter() - started


TOOLS: dict[str, Callable[[str, int, int, int, Path, Path], float]] = {
    "albumentations": partial(loop, of_albumentations),
    "rereading": partial(loop, of_albumentations, reread=True),
    "augrs": partial(loop, of_augrs),
    "augmentor": augmentor,
    "codecs": partial(loop, nothing, colours=False),
}


def versions() -> Iterator[str]:
    """Name the tools that this interpreter has."""
    from importlib import metadata

    for name in ("albumentations", "Augmentor", "augrs-py", "opencv-python-headless", "pillow", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            yield f"{name} {metadata.version(name)}"


def main(arguments: Sequence[str]) -> None:
    if arguments == ["versions"]:
        print(", ".join(versions()))
        return
    tool, recipe, copies, workers, quality, source, out = arguments
    seconds = TOOLS[tool](recipe, int(copies), int(workers), int(quality), Path(source), Path(out))
    print(json.dumps({"seconds": seconds, "files": sum(1 for _ in Path(out).iterdir())}))


if __name__ == "__main__":
    main(sys.argv[1:])
