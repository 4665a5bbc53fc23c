"""Boxes: the view of a detection data set that accuracy is measured with, whichever layout its labels are in.

Boxes are in `Sample`'s frame: continuous pixels of the upright picture, x to the right and y down from the top left.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.data import dataset
from edgekit.data.folder import Source, scan
from edgekit.data.headers import Unreadable
from edgekit.errors import EdgekitError
from edgekit.lazy import np
from edgekit.spec import nearest

if TYPE_CHECKING:
    from numpy import ndarray

    from edgekit.data.dataset import Entry, Labelled

KINDS = ("coco", "yolo", "voc")
FORMS = (
    "give YOLO labels (labels/NAME.txt for images/NAME.jpg, or NAME.txt beside NAME.jpg), COCO's (a .json with "
    "images, annotations and categories in the folder or the one above) or Pascal VOC's (Annotations/NAME.xml)"
)


@dataclass(frozen=True, eq=False)
class Annotated:
    """One picture file and the objects in it.

    boxes: Nx4 float64, x0 y0 x1 y1 in pixels of the upright picture and inside it, x0 < x1 and y0 < y1. classes: N
    int64, positions in the data set's names. crowd: N bool, a box around many objects that are not told apart. width,
    height: the upright picture's, in pixels.
    """

    source: Source
    boxes: ndarray
    classes: ndarray
    crowd: ndarray
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class Detections:
    """A detection data set: its readable pictures in the order of their keys, those without objects included.

    names: of the classes, in order; empty when nothing says them. warnings: what was mended or passed over, a sentence
    a picture. kind: one of KINDS. origin: the labels' file or folder.
    """

    pictures: tuple[Annotated, ...]
    names: tuple[str, ...]
    warnings: tuple[str, ...]
    kind: str
    origin: Path


def recognise(root: Path) -> str | None:
    """Tell which labels of boxes a folder of pictures has: one of KINDS, the first in their order, or None.

    Raises EdgekitError when there is no such folder or no picture in it.
    """
    kind = dataset.recognise(root)
    return kind if kind in KINDS else None


def read(root: Path, kind: str | None = None) -> Detections:
    """Read the labels of the pictures in `root`; `kind` is one of KINDS, None to recognise it.

    Raises EdgekitError when there is no such folder, no picture in it, or no labels of that kind.
    """
    if kind is not None and kind not in KINDS:
        near = nearest(kind, KINDS)
        raise EdgekitError(f"{kind}: no such form of labels", f"did you mean {near}?" if near else f"use {KINDS}")
    listing = scan(root)
    known = kind or dataset.recognise(listing)
    if known not in KINDS:
        raise EdgekitError(f"{root}: no labels of objects found", FORMS)
    found = dataset.read(listing, known)
    pictures, warnings = [], list(found.warnings)
    for entry in found.entries:
        try:
            labelled = entry.read()
        except (Unreadable, OSError) as error:
            warnings.append(str(dataset.unreadable(entry.key, error)))
            continue
        pictures.append(_annotated(entry, labelled))
        if labelled.mended:
            more = f" (and {len(labelled.mended) - 1} more)" if len(labelled.mended) > 1 else ""
            warnings.append(f"{labelled.mended[0]}{more}")
    return Detections(tuple(pictures), found.names, tuple(warnings), found.kind, found.origin)


def _annotated(entry: Entry, labelled: Labelled) -> Annotated:
    objects = labelled.objects
    return Annotated(
        entry.source,
        boxes=np.array([one.box for one in objects], np.float64).reshape(-1, 4),
        classes=np.array([one.number for one in objects], np.int64),
        crowd=np.array([one.crowd for one in objects], bool),
        width=labelled.width,
        height=labelled.height,
    )
