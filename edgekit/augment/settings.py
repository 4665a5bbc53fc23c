"""What `edgekit augment` can be told: flags, configuration keys, help and bounds, in one place."""

from __future__ import annotations

from edgekit.spec import Spec, option, spec


@spec
class augment(Spec):
    """Write an expanded, labelled copy of a folder of pictures, with a manifest."""

    ops: tuple[str, ...] = option((), help='an op in its general form: "rotate 15 p=0.3"', metavar="OP", panel="Recipe")
    copies: int = option(4, help="variants of each picture", ge=1, le=9999, short="-n", metavar="K", panel="Recipe")
    seed: int = option(0, help="seed of every random draw", ge=0, panel="Recipe")
    originals: bool = option(True, help="copy the original pictures too, byte for byte", panel="Recipe")
    quality: int | None = option(
        None, help="quality of lossy files, instead of the source's own", ge=1, le=100, panel="Recipe"
    )
    out: str | None = option(
        None, help="folder to make; SRC-augmented beside SRC if not given", metavar="DIR", path=True
    )
    preview: str | None = option(None, help="draw a contact sheet too (PNG)", metavar="FILE", path=True)
    max_pixels: int = option(100_000_000, help="refuse pictures that claim more pixels", ge=1, metavar="N")
    workers: int = option(0, help="processes; 0 is one a core", ge=0, le=1024)
    force: bool = option(False, help="replace an output that edgekit made")
    dry_run: bool = option(False, help="say what would be written, and write nothing (but --preview)")
    strict: bool = option(False, help="exit 1 when a picture could not be used")
