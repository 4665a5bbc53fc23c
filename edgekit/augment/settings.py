"""What `edgekit augment` can be told: flags, configuration keys, help and bounds, in one place."""

from __future__ import annotations

from edgekit.augment.presets import PRESETS
from edgekit.spec import Spec, option, spec

# Of `data.dataset` and `data.frame`, which are not imported for a help text.
KINDS = ("coco", "yolo", "voc", "masks", "folder", "none")
FRAMES = ("auto", "upright", "raw")

TEXT_FILES = "Text files"  # the help panel of all that is for them alone


@spec
class augment(Spec):
    """Write an expanded, labelled copy of a folder of pictures, or of a text file, with a manifest."""

    ops: tuple[str, ...] = option((), help='an op in its general form: "rotate 15 p=0.3"', metavar="OP", panel="Recipe")
    preset: str | None = option(
        None, help="a recipe by its name, before all other ops", choices=tuple(PRESETS), panel="Recipe"
    )
    copies: int = option(
        4, help="variants of each picture; 0: none", ge=0, le=9999, short="-n", metavar="K", panel="Recipe"
    )
    corruptions: bool = option(
        False, help="make an evaluation set instead: the 15 corruptions of ImageNet-C", panel="Recipe"
    )
    severity: str = option("1,2,3,4,5", help="how strong corruptions are", metavar="1,3,5", panel="Recipe")
    seed: int = option(0, help="seed of every random draw", ge=0, panel="Recipe")
    originals: bool = option(True, help="copy the original pictures too, byte for byte", panel="Recipe")
    quality: int | None = option(
        None, help="quality of lossy files, instead of the source's own", ge=1, le=100, panel="Recipe"
    )
    text: bool = option(False, help="the pictures show text: ops that mirror are refused", panel="Recipe")
    text_column: str | None = option(
        None,
        help="what holds the text of a .csv or .jsonl SRC: a name, or a number where there is no header; "
        "text, or the only one, if not given",
        metavar="COLUMN",
        panel=TEXT_FILES,
    )
    label_column: str | None = option(
        None, help="what holds its label, for the manifest; label if not given", metavar="COLUMN", panel=TEXT_FILES
    )
    labels: str = option(
        "auto", help="layout of the labels read", choices=("auto", *KINDS), metavar="KIND", panel="Labels"
    )
    to: str | None = option(
        None, help="layout written; the one read if not given", choices=KINDS, metavar="KIND", panel="Labels"
    )
    labels_frame: str = option(
        "auto", help="what labels are on: the upright picture, or as stored (raw)", choices=FRAMES, panel="Labels"
    )
    min_visibility: float = option(
        0.1, help="share of an object that has to be left for it to stay", ge=0, le=1, panel="Labels"
    )
    box_method: str = option(
        "ellipse", help="what of a box alone is turned", choices=("ellipse", "corners"), panel="Labels"
    )
    split: str | None = option(
        None, help="make splits of a set that has none: shares of train, val, test", metavar="80/10/10", panel="Splits"
    )
    group_by: str | None = option(
        None,
        help="what never falls apart: folder, a regular expression with a (group), or FILE.csv:COLUMN",
        metavar="RULE",
        panel="Splits",
    )
    balance: bool = option(False, help="raise every class to the largest one, by more variants", panel="Splits")
    per_class: int | None = option(
        None, help="raise every class to N pictures, instead of -n", ge=1, metavar="N", panel="Splits"
    )
    max_copies: int = option(
        20, help="most variants of a picture when classes are raised", ge=1, le=9999, metavar="K", panel="Splits"
    )
    out: str | None = option(
        None, help="folder to make; SRC-augmented beside SRC if not given", metavar="DIR", path=True
    )
    replay: str | None = option(
        None,
        help="make outputs again from their rows, and compare: OUT/manifest.jsonl, or its :17, :3-10, :NAME",
        metavar="ROWS",
    )
    preview: str | None = option(None, help="draw a contact sheet too (PNG)", metavar="FILE", path=True)
    follow_links: bool = option(False, help="follow links that lead outside of SRC, and enter folders that are links")
    max_pixels: int = option(100_000_000, help="refuse pictures that claim more pixels", ge=1, metavar="N")
    workers: int = option(0, help="processes; 0 is one a core", ge=0, le=1024)
    force: bool = option(False, help="replace an output that edgekit made")
    if_changed: bool = option(False, help="replace it too, but make anew only what has changed since")
    dry_run: bool = option(False, help="say what would be written, and write nothing (but --preview)")
    strict: bool = option(False, help="exit 1 when a picture could not be used, or a label had to be mended")


@spec
class verify(Spec):
    """Check that an output of augment is still what was written: every digest, row and file, and nothing else."""
