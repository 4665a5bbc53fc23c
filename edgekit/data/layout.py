"""Layouts: the labels of a detection data set, read without a pixel, whichever form they are in.

Boxes are in `Sample`'s frame: continuous pixels of the upright picture, x to the right and y down from the top left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.data.folder import Source, scan
from edgekit.data.headers import Header, Unreadable, read_header
from edgekit.errors import EdgekitError
from edgekit.lazy import np
from edgekit.spec import nearest

if TYPE_CHECKING:
    from numpy import ndarray

KINDS = ("yolo", "coco")
FORMS = (
    "give YOLO labels (labels/NAME.txt for images/NAME.jpg, or NAME.txt beside NAME.jpg) or COCO's (a .json with "
    "images, annotations and categories in the folder or the one above)"
)


@dataclass(frozen=True, eq=False)
class Annotated:
    """One picture file and the objects in it.

    boxes: Nx4 float64, x0 y0 x1 y1 in pixels of the upright picture, x0 < x1 and y0 < y1; YOLO's are clipped to it,
    COCO's are what the file says. classes: N int64, positions in the data set's names. crowd: N bool, a box around many
    objects that are not told apart. width, height: the upright picture's, in pixels.
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

    names: of the classes, in order; empty when nothing says them. warnings: what was passed over, a sentence each.
    kind: one of KINDS. origin: the labels' file or folder.
    """

    pictures: tuple[Annotated, ...]
    names: tuple[str, ...]
    warnings: tuple[str, ...]
    kind: str
    origin: Path


@dataclass(frozen=True, eq=False)
class Labels:
    """What a layout says of one picture: `Annotated`'s fields, boxes still to be placed in the upright picture."""

    boxes: ndarray
    classes: ndarray
    crowd: ndarray


def recognise(root: Path) -> str | None:
    """Tell which labels a folder of pictures has: `coco`, `yolo`, or None for neither; `coco` when it has both.

    Raises EdgekitError when there is no such folder or no picture in it.
    """
    # The layouts are tenants of this module: they make its types.
    from edgekit.data import coco, yolo

    listing = scan(root)
    if coco.find(listing) is not None:
        return "coco"
    return "yolo" if yolo.is_labelled(yolo.find(listing)) else None


def read(root: Path, kind: str | None = None) -> Detections:
    """Read the labels of the pictures in `root`; `kind` is one of KINDS, None to recognise it.

    Raises EdgekitError when there is no such folder, no picture in it, or no labels of that kind.
    """
    from edgekit.data import coco, yolo

    if kind is not None and kind not in KINDS:
        near = nearest(kind, KINDS)
        raise EdgekitError(f"{kind}: no such form of labels", f"did you mean {near}?" if near else f"use {KINDS}")
    listing = scan(root)
    if kind in (None, "coco"):
        document = coco.find(listing)
        if document is not None:
            return coco.read(listing, document)
    if kind in (None, "yolo"):
        pairs = yolo.find(listing)
        if (kind == "yolo" and pairs) or yolo.is_labelled(pairs):
            return yolo.read(listing, pairs)
    raise EdgekitError(f"{root}: no {f'{kind} ' if kind else ''}labels of objects found", FORMS)


def annotate(
    entries: Iterable[tuple[Source, Callable[[Header], Labels]]], warnings: list[str]
) -> tuple[Annotated, ...]:
    """Place the labels of each picture once its header is known; a picture without a readable header is a warning.

    An entry's function gets the header and gives labels in pixels of the upright picture.
    """
    made = []
    for source, place in entries:
        try:
            header = read_header(source.path.read_bytes())
        except (Unreadable, OSError) as error:
            warnings.append(f"{source.key}: left out: {_reason(error)}")
            continue
        width, height = upright_size(header)
        if not width or not height:
            warnings.append(f"{source.key}: left out: {header.format} pictures are not read")
            continue
        labels = place(header)
        made.append(Annotated(source, labels.boxes, labels.classes, labels.crowd, width, height))
    return tuple(sorted(made, key=lambda one: one.source.key))


def upright_size(header: Header) -> tuple[int, int]:
    """Give width and height in pixels as they are once orientation is applied."""
    return (header.height, header.width) if header.orientation >= 5 else (header.width, header.height)


def make_labels(rows: Iterable[tuple[int, tuple[float, ...], bool]]) -> Labels:
    """Gather (class, (x0, y0, x1, y1), crowd) of the objects of a picture into arrays."""
    objects = list(rows)
    return Labels(
        boxes=np.array([box for _, box, _ in objects], np.float64).reshape(-1, 4),
        classes=np.array([number for number, _, _ in objects], np.int64),
        crowd=np.array([crowd for _, _, crowd in objects], bool),
    )


def _reason(error: Unreadable | OSError) -> str:
    return error.message if isinstance(error, Unreadable) else error.strerror or "cannot be read"
