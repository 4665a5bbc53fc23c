"""What stands beside YOLO labels: names, splits and keypoints, from data.yaml or a list of names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.data import yaml
from edgekit.data.folder import Source
from edgekit.data.mend import Mended

# Folders inside a data set, above which its names may lie.
_INNER = {"images", "labels", "labels_yolo", "train", "val", "valid", "test", "train2017", "val2017"}
_YAMLS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
LISTS = ("classes.txt", "obj.names", "classes.names")
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
MOST_CLASSES = 100_000
MOST_POINTS = 10_000


@dataclass(frozen=True)
class Settings:
    """What a data set says of itself; empty where it says nothing.

    task: `detect`, `segment`, `pose` or `obb`; edgekit writes the last, Ultralytics is told it. folders: split of the
    pictures below each, listed: split of single pictures; all paths absolute.
    """

    names: tuple[str, ...] = ()
    keypoint_shape: tuple[int, int] | None = None
    keypoint_names: tuple[str, ...] = ()
    flip_index: tuple[int, ...] = ()
    task: str = ""
    folders: Mapping[Path, str] = field(default_factory=dict)
    listed: Mapping[Path, str] = field(default_factory=dict)

    def split_of(self, source: Source) -> str | None:
        """Give the split of a picture: by its own line in a list, else by the innermost folder."""
        path = source.path.absolute()
        if path in self.listed:
            return self.listed[path]
        return next((self.folders[above] for above in path.parents if above in self.folders), None)


def read(root: Path, labels: Path, notes: list[Mended]) -> Settings:
    """Read what lies around `root` or in the folder `labels`; what cannot be read is a note."""
    for place in _places(root, labels):
        for path in _yamls(place):
            content = _content(path, notes)
            if isinstance(content, dict) and _names(content.get("names")):
                return _settings(content, path, notes)
        for path in (place / name for name in LISTS if (place / name).is_file()):
            if lines := (_text(path) or "").rstrip().splitlines():
                return Settings(tuple(line.strip() for line in lines), listed=_darknet(place))
    return Settings()


def parse_names(text: str) -> tuple[str, ...]:
    """Read `names` of a data.yaml, a list or a mapping by number; () when there is none or it is no YAML."""
    try:
        content = yaml.parse(text)
    except yaml.YamlError:
        return ()
    return _names(content.get("names")) if isinstance(content, dict) else ()


def _places(root: Path, labels: Path) -> list[Path]:
    """List the folders in which it may lie: the root, those above while it is an inner folder, the labels' own."""
    folder = root.absolute()
    places = [folder]
    while folder.name.lower() in _INNER and folder != folder.parent:
        folder = folder.parent
        places.append(folder)
    return [*places, labels]


def _yamls(place: Path) -> Iterator[Path]:
    """Give the files it may be, the usual names first, then any other YAML (coco128.yaml)."""
    usual = [place / name for name in _YAMLS]
    others = sorted(path for path in (*place.glob("*.yaml"), *place.glob("*.yml")) if path not in usual)
    return (path for path in (*usual, *others) if path.is_file())


def _content(path: Path, notes: list[Mended]) -> Any:
    text = _text(path)
    try:
        return yaml.parse(text) if text is not None else None
    except yaml.YamlError as error:
        notes.append(Mended(path.name, "file", f"not read: {error}", dropped=True))
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8-sig", errors="replace")
    except OSError:
        return None


def _settings(content: Mapping[str, Any], path: Path, notes: list[Mended]) -> Settings:
    shape = _numbers(content.get("kpt_shape"))
    keypoint_shape = (
        (shape[0], shape[1]) if len(shape) == 2 and 0 < shape[0] <= MOST_POINTS and shape[1] in (2, 3) else None
    )
    points = keypoint_shape[0] if keypoint_shape is not None else 0
    flip = _numbers(content.get("flip_idx"))
    if sorted(flip) != list(range(points)) or any(flip[there] != here for here, there in enumerate(flip)):
        if content.get("flip_idx") is not None:
            notes.append(
                Mended(path.name, "keypoints", "flip_idx does not swap keypoints in pairs: not used", dropped=True)
            )
        flip = ()
    folders, listed = _splits(content, path)
    return Settings(
        _names(content["names"]),
        keypoint_shape,
        _keypoint_names(content.get("kpt_names"), points),
        flip,
        str(content.get("task") or ""),
        folders,
        listed,
    )


def _names(part: Any) -> tuple[str, ...]:
    if isinstance(part, list):
        part = {str(number): name for number, name in enumerate(part)}
    if not isinstance(part, dict) or not part:
        return ()
    numbered = {int(key): str(name) for key, name in part.items() if key.isdecimal() and isinstance(name, (str, int))}
    if not numbered or max(numbered) > MOST_CLASSES:
        return ()
    return tuple(numbered.get(number, str(number)) for number in range(max(numbered) + 1))


def _keypoint_names(part: Any, points: int) -> tuple[str, ...]:
    """Read names of keypoints: a list, or one a class, of which the first is taken."""
    if isinstance(part, dict):
        part = next(iter(part.values()), None)
    names = tuple(str(name) for name in part) if isinstance(part, list) else ()
    return names if points and len(names) == points else ()


def _numbers(part: Any) -> tuple[int, ...]:
    words = part if isinstance(part, list) else []
    return tuple(int(word) for word in words if isinstance(word, str) and word.isdecimal())


# ---- splits


def _splits(content: Mapping[str, Any], path: Path) -> tuple[dict[Path, str], dict[Path, str]]:
    """Read train, val and test: a folder or a list of pictures, or several; the first that claims a folder has it.

    A folder that is both train and val is a set that is not split.
    """
    claims: dict[Path, list[str]] = {}
    listed: dict[Path, str] = {}
    bases = _bases(content.get("path"), path.parent.absolute())
    for key, split in _SPLITS.items():
        part = content.get(key)
        for word in part if isinstance(part, list) else [part]:
            place = _resolved(word, bases) if isinstance(word, str) else None
            if place is None:
                continue
            if place.is_dir():
                claims.setdefault(place, []).append(split)
                continue
            for picture in _listed(place, bases):
                listed.setdefault(picture, split)
    folders = {place: found[0] for place, found in claims.items() if not {"train", "val"} <= set(found)}
    return folders, listed


def _bases(word: Any, folder: Path) -> list[Path]:
    """List where its paths may begin: what `path` says, from the file or the working folder's point of view."""
    named = [_plain(folder / word)] if isinstance(word, str) else []
    return [*(base for base in named if base.is_dir()), folder]


def _resolved(word: str, bases: Sequence[Path]) -> Path | None:
    """Find a folder or file; one that is not there is tried without what leads out (../train/images of Roboflow)."""
    inner = word.replace("\\", "/")
    while inner.startswith("../"):
        inner = inner.removeprefix("../")
    tried = [_plain(base / way) for way in (word.replace("\\", "/"), inner) for base in bases]
    return next((place for place in tried if place.exists()), None)


def _darknet(folder: Path) -> dict[Path, str]:
    """Read train.txt, valid.txt ... beside a list of names: pictures, which CVAT puts below a folder `data`."""
    listed: dict[Path, str] = {}
    for word, split in _SPLITS.items():
        for line in (_text(folder / f"{word}.txt") or "").splitlines():
            name = line.strip().replace("\\", "/")
            places = [_plain(folder / name), _plain(folder / name.removeprefix("data/"))] if name else []
            for place in (place for place in places if place.is_file()):
                listed.setdefault(place, split)
    return listed


def _listed(file: Path, bases: Sequence[Path]) -> Iterator[Path]:
    for line in (_text(file) or "").splitlines():
        word = line.strip().replace("\\", "/")
        if not word:
            continue
        places = [_plain(base / word) for base in (file.parent, *bases)]
        yield next((place for place in places if place.is_file()), places[0])


def _plain(path: Path) -> Path:
    """Take `.` and `..` out of a path without following links."""
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and len(parts) > 1:
            parts.pop()
        elif part != ".":
            parts.append(part)
    return Path(*parts)
