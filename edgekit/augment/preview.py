"""The contact sheet of `edgekit augment --preview`: a row a source, original first, then its variants and their ops."""

from __future__ import annotations

from typing import Any

from edgekit.augment.variants import Recipe, variants
from edgekit.data import images
from edgekit.data.folder import Listing, read
from edgekit.data.sample import Sample
from edgekit.data.sheet import Tile, contact_sheet, png
from edgekit.errors import EdgekitError

ROWS = 8
COLUMNS = 9


def sheet(listing: Listing, recipe: Recipe) -> bytes:
    """Draw a few sources, spread over the folder; give the PNG. Raises EdgekitError when none of them can be read."""
    rows: list[list[Tile]] = []
    count = len(listing.sources)
    for index in sorted({i * count // ROWS for i in range(ROWS)}):
        source = listing.sources[index]
        try:
            picture = images.decode(read(source, recipe.max_bytes), recipe.max_pixels)
            rows.append(_row(recipe, Sample(source.key, picture.pixels, source.label)))
        except (EdgekitError, OSError):  # it will be a rejected row
            continue
    if not rows:
        raise EdgekitError(
            f"{listing.root}: none of the {min(count, ROWS)} pictures tried for the preview can be used",
            "leave --preview out: rejected.jsonl will say why",
        )
    return png(contact_sheet(rows))


def _row(recipe: Recipe, source: Sample) -> list[Tile]:
    tiles = [Tile(source.image, (source.key.rsplit("/", 1)[-1], *([source.label] if source.label else [])))]
    for variant in variants(recipe, source):
        if len(tiles) == COLUMNS:
            break
        if variant is not None:
            lines = [f"k{variant.number:02d}", *(_caption(op) for op in variant.ops)]
            tiles.append(Tile(variant.sample.image, tuple(lines)))
    return tiles


def _caption(op: dict[str, Any]) -> str:
    numbers = [
        f"{value:.3g}" for key, value in op["params"].items() if isinstance(value, (int, float)) and key != "seed"
    ]
    return " ".join([op["name"], *numbers])
