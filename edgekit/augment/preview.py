"""The contact sheet of `edgekit augment --preview`: a row a source, original first, then its variants and their ops."""

from __future__ import annotations

import colorsys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgekit.augment.variants import Recipe, variants
from edgekit.data.sheet import Tile, contact_sheet, png, thumbnail
from edgekit.errors import EdgekitError
from edgekit.lazy import cv2, np

if TYPE_CHECKING:
    from edgekit.augment.plan import Plan
    from edgekit.augment.variants import Partners
    from edgekit.data.sample import Object, Sample

ROWS = 8
COLUMNS = 9


def sheet(plan: Plan, recipe: Recipe) -> bytes:
    """Draw a few sources, spread over the folder; give the PNG. Raises EdgekitError when none of them can be read."""
    rows: list[list[Tile]] = []
    if recipe.suite:  # some of all
        recipe = replace(recipe, copies=min(recipe.copies, COLUMNS - 1))
    sources = plan.augmented or plan.sources
    for index in sorted({i * len(sources) // ROWS for i in range(ROWS)}):
        source = sources[index]
        try:
            rows.append(_row(recipe, plan.load(source, recipe), plan.partners(recipe, source.key)))
        except (EdgekitError, OSError):  # it will be a rejected row
            continue
    if not rows:
        raise EdgekitError(
            f"{plan.listing.root}: none of the {min(len(sources), ROWS)} pictures tried for the preview can be used",
            "leave --preview out: rejected.jsonl will say why",
        )
    return png(contact_sheet(rows))


def _row(recipe: Recipe, source: Sample, partners: Partners | None) -> list[Tile]:
    tiles = [Tile(drawn(source), (source.key.rsplit("/", 1)[-1], *([source.label] if source.label else [])))]
    for variant in variants(recipe, source, partners):
        if len(tiles) == COLUMNS:
            break
        if variant is not None:
            lines = [f"k{variant.number:02d}", *(_caption(op) for op in variant.ops)]
            tiles.append(Tile(drawn(variant.sample), tuple(lines)))
    return tiles


def drawn(sample: Sample) -> np.ndarray:
    """Draw boxes, outlines, keypoints and masks, a colour a class, on a picture the size of a tile: HxWx3 uint8."""
    if sample.mask is None and not sample.objects:
        return sample.image
    small = thumbnail(sample.image)
    height, width = small.shape[:2]
    scale = np.array([width, height], np.float64) / sample.size
    if sample.mask is not None:
        values = cv2.resize(_bytes(sample.mask), (width, height), interpolation=cv2.INTER_NEAREST)
        for value in np.unique(values[values > 0]).tolist():
            _tint(small, values == value, color(value - 1))
    for one in sample.objects:
        _outline(small, one, scale)
    return small


def _bytes(mask: np.ndarray) -> np.ndarray:
    """Number the values of a mask: 0 stays 0, 255 of 8 bits (not labelled) too."""
    values = np.where(mask == 255, 0, mask) if mask.dtype == np.uint8 else mask
    return (values.astype(np.int64) % 65_521).astype(np.uint16)


def _outline(small: np.ndarray, one: Object, scale: np.ndarray) -> None:
    ink = color(one.number)
    if one.region is not None:
        region = cv2.resize(one.region.view(np.uint8), small.shape[1::-1], interpolation=cv2.INTER_AREA)
        _tint(small, region > 0, ink)
    parts = [np.round(part * scale * 16).astype(np.int32) for part in one.polygons]
    if parts:
        filled = np.zeros(small.shape[:2], np.uint8)
        cv2.fillPoly(filled, [part >> 4 for part in parts], 1)
        _tint(small, filled > 0, ink)
        cv2.polylines(small, parts, True, ink, 1, cv2.LINE_AA, 4)
    left, top, right, bottom = np.round(one.box * np.tile(scale, 2)).astype(int).tolist()
    if not one.oriented:
        cv2.rectangle(small, (left, top), (max(left, right - 1), max(top, bottom - 1)), ink, 1)
    for x, y, seen in [] if one.keypoints is None else one.keypoints.tolist():
        if seen > 0:
            at = (round(x * scale[0]), round(y * scale[1]))
            cv2.circle(small, at, 2, ink, cv2.FILLED if seen > 1 else 1, cv2.LINE_AA)


def _tint(small: np.ndarray, where: np.ndarray, ink: tuple[int, int, int]) -> None:
    small[where] = (small[where].astype(np.uint16) + np.array(ink, np.uint16)) // 2


def color(number: int) -> tuple[int, int, int]:
    """Give the colour of a class: hues a golden section apart, so that neighbours differ."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.6180339887 % 1.0, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _caption(op: dict[str, Any]) -> str:
    numbers = [
        f"{value:.3g}" for key, value in op["params"].items() if isinstance(value, (int, float)) and key != "seed"
    ]
    chosen = [row["name"] for row in op["params"].get("ops", ())]  # by a policy
    name = f"{op['fields']['kind']} {op['fields']['severity']}" if op["name"] == "corruption" else op["name"]
    return " ".join([name, *numbers, *chosen])
