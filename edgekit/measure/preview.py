"""The contact sheet of `edgekit compress --preview`: what the model sees of a few pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.data.folder import read
from edgekit.data.headers import Unreadable
from edgekit.data.images import decode
from edgekit.data.sheet import Tile, contact_sheet, png
from edgekit.errors import EdgekitError
from edgekit.lazy import np
from edgekit.measure import synthetic
from edgekit.measure.calibration import LARGEST

if TYPE_CHECKING:
    import numpy

    from edgekit.measure.material import Material
    from edgekit.measure.preprocess import Preprocess

SHOWN = 8


def sheet(material: Material) -> bytes:
    """Draw each picture as it is and as the model is fed it; without pictures, the synthetic ones. Gives the PNG."""
    if material.decision is None:
        raise EdgekitError("there are no pictures to preview: the inputs came ready-made", "leave --preview out")
    preprocess = material.decision.preprocess
    rows = [[Tile(pixels, (name,)), _seen(pixels, preprocess)] for name, pixels in _pictures(material, preprocess)]
    if not rows:
        raise EdgekitError("none of the pictures tried for the preview can be read", "see that they are pictures")
    return png(contact_sheet(rows))


def _pictures(material: Material, preprocess: Preprocess) -> list[tuple[str, numpy.ndarray]]:
    found = []
    for source in material.pictures[:SHOWN]:
        try:
            found.append((source.key.rsplit("/", 1)[-1], decode(read(source, LARGEST)).pixels))
        except (Unreadable, OSError):
            continue
    if not material.pictures:
        drawn = synthetic.pictures(SHOWN, preprocess.size, 0)
        found = [(f"synthetic {number}", pixels) for number, pixels in enumerate(drawn)]
    return found


def _seen(pixels: numpy.ndarray, preprocess: Preprocess) -> Tile:
    shown = np.clip(np.rint(preprocess.fit(pixels)), 0, 255).astype(np.uint8)
    if preprocess.color == "bgr":
        shown = shown[..., ::-1]
    array = preprocess.apply(pixels).astype(np.float32)
    shape = "x".join(map(str, array.shape))
    return Tile(np.ascontiguousarray(shown), (f"{shape} {preprocess.color}", f"{array.min():.2f} to {array.max():.2f}"))
