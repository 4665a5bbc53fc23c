"""Labels that are there and of no use: files called as labels are that no layout could read, each with the reason.

Only the places where labels usually are get looked at, and the content of JSON, XML and YAML files there alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from edgekit.data import coco, splits, voc, yaml, yolo
from edgekit.data.headers import PICTURE_SUFFIXES
from edgekit.data.mend import Mended
from edgekit.words import counted

if TYPE_CHECKING:
    from edgekit.data.folder import Listing

_STARTS = ("annotations", "_annotations", "instances", "person_keypoints")  # of the names of files of labels
_FOLDERS = frozenset(
    ("label", "labels", "labels_yolo", "labels_voc", "annotation", "annotations", "anns", "xml", "xmls", "bboxes")
)
_LABELS = (".txt", ".xml", ".json")
_YAMLS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_LARGEST = 1 << 28  # bytes of a file that is read to say why
_ENTRIES = 1000  # of a folder of labels that are looked at


def unread(listing: Listing) -> tuple[Mended, ...]:
    """Find what looks like labels of a set in which no layout of labels was found; a note for each file or folder."""
    return tuple(
        Mended(_shown(path, listing.root), "file", f"looks like labels and could not be read: {why}", dropped=True)
        for path, why in _found(listing)
    )


def _shown(path: Path, root: Path) -> str:
    """Name a file from the folder of the pictures."""
    return Path(os.path.relpath(path, root.absolute())).as_posix()


def _found(listing: Listing) -> Iterator[tuple[Path, str]]:
    root = listing.root.absolute()
    inside = [root, *(place for place in _entries(root) if splits.of_word(place.name) and place.is_dir())]
    # Pictures in `images` have their labels beside that folder.
    around = [root.parent] if root.name.lower() in _IMAGES else []
    for place in (*inside, *around):
        for path in _entries(place):
            if path.is_dir():
                why = _of_folder(path, listing) if path.name.lower() in _FOLDERS else ""
            else:
                why = _of_file(path)
            if why:
                yield path, why
    for place in (root.parent, root.parent / "annotations"):  # instances_val2017.json of val2017, when it is no JSON
        for path in _entries(place) if place not in around else ():
            if root.name in path.name and path.name.startswith(_STARTS) and path.suffix == ".json":
                why = _of_json(path)
                if why.startswith(_NO_JSON):
                    yield path, why
    apart = sum(path is not None and path.parent.name not in voc.LABELS for _, path in voc.find(listing))
    if apart:  # beside their pictures
        yield root, f"{counted(apart, '.xml file')} beside pictures, none of which is of Pascal VOC"


_NO_JSON = "it is no JSON"
_IMAGES = ("images", "imgs", "image", "img", "jpegimages")


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _of_file(path: Path) -> str:
    """Say why a file that is called as labels are cannot be used; nothing of any other."""
    name, suffix = path.name.lower(), path.suffix.lower()
    if name in _YAMLS:
        return _of_yaml(path)
    if not name.startswith(_STARTS):
        return ""
    if suffix == ".json":
        return _of_json(path)
    if suffix == ".xml":
        return "Pascal VOC has one XML file a picture; one file of all is not read: export it as COCO"
    if suffix in (".csv", ".txt"):
        return "tables are not read: export it as COCO, YOLO or Pascal VOC"
    return ""


def _of_yaml(path: Path) -> str:
    try:
        content = yaml.parse(path.read_text(encoding="utf-8", errors="replace"))
    except yaml.YamlError as error:
        return str(error)
    except OSError as error:
        return error.strerror or "cannot be read"
    if not isinstance(content, dict) or not {"names", "nc"} & content.keys():
        return ""
    return f"it is of a YOLO data set, and no picture has a label file (in {' or '.join(yolo.LABELS)}, or beside it)"


def _of_json(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            return f"it is no COCO file of these pictures, of {path.stat().st_size / 1e6:,.0f} MB"
        content = json.loads(path.read_bytes())
    except OSError as error:
        return error.strerror or "cannot be read"
    except (ValueError, RecursionError) as error:
        return f"{_NO_JSON} ({str(error)[:80]})"
    if not coco.is_coco(content):
        return "it is no COCO file: images, annotations and categories are not all as they should be"
    return "none of the pictures that it describes is here"


def _of_folder(folder: Path, listing: Listing) -> str:
    """Say why a folder called as those of labels cannot be used; nothing when it has none or only pictures."""
    files = [path for path in _below(folder) if path.suffix.lower() in _LABELS]
    if not files or any(path.suffix.lower() in PICTURE_SUFFIXES for path in _entries(folder)[:_ENTRIES]):
        return ""
    first = files[0]
    if first.suffix.lower() == ".json":
        return f"{first.name}: {_of_json(first)}"
    stems = {source.path.stem for source in listing.sources}
    if not any(path.stem in stems for path in files):
        return f"none of its files is called as a picture is ({first.name})"
    if first.suffix.lower() == ".xml":
        return f"{first.name}: {_of_xml(first)}" if folder.name in voc.LABELS else "call it Annotations"
    if folder.name not in yolo.LABELS:
        return "call it labels"
    if not any(path is not None for _, path in yolo.find(listing)):
        return "labels/a/NAME.txt is of images/a/NAME.jpg: these are in other folders"
    return f"{first.name}: it is not of YOLO: lines of a class and of four or more numbers of 0 to 1"


def _of_xml(path: Path) -> str:
    try:
        if path.stat().st_size <= _LARGEST and b"<!ENTITY" not in (data := path.read_bytes()):
            ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        return f"no XML ({error})"
    except OSError as error:
        return error.strerror or "cannot be read"
    return "it is not of Pascal VOC"


def _below(folder: Path) -> Iterator[Path]:
    """Give the first files of a folder and of the folders of splits in it."""
    for place in (folder, *(one for one in _entries(folder) if splits.of_word(one.name) and one.is_dir())):
        yield from (path for path in _entries(place)[:_ENTRIES] if path.is_file())
