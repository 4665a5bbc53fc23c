"""The pictures that two classifiers answer differently: copied, with the answers, the most confident first."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import files
from edgekit.data import images
from edgekit.data.headers import Unreadable
from edgekit.data.sheet import Tile, contact_sheet, png
from edgekit.errors import EdgekitError
from edgekit.lazy import np
from edgekit.measure import evaluate
from edgekit.measure.drift import is_scores
from edgekit.session import open_session, run

if TYPE_CHECKING:
    from numpy import ndarray
    from onnx import ModelProto

    from edgekit.data.folder import Source
    from edgekit.measure.material import Material

SCHEMA = "edgekit.disagreements/1"
MANIFEST, SHEET = "disagreements.jsonl", "sheet.png"
TILES, COLUMNS = 48, 8
_UNSAFE = re.compile(r"[^\w.-]+")
_LONGEST = 40  # characters of a name within a file's name


@dataclass(frozen=True)
class Made:
    """What was written: the folder, and for each model beside the first how many pictures it answers differently."""

    folder: str
    counts: dict[str, int]
    pictures: int


@dataclass(frozen=True)
class Differing:
    """A picture with two answers (0-based classes) and each model's probability of its own.

    `confidence`: how sure both are, 0..1: the mean of the two margins, each model's own answer above the other's.
    """

    source: Source
    before: int
    after: int
    sure_before: float
    sure_after: float
    confidence: float


def check(models: Sequence[ModelProto], material: Material) -> None:
    """Raise EdgekitError, before the work, when there is nothing that could be answered differently."""
    if len(models) < 2:
        raise EdgekitError("--disagreements compares models, and one was given", "give two: a.onnx b.onnx")
    if not material.pictures:
        raise EdgekitError("--disagreements needs pictures", "give them with --data DIR")
    if material.objects is not None or evaluate.score_count(models[0]) is None:
        raise EdgekitError(
            "--disagreements is for classifiers: the first output is not that of one", "leave --disagreements out"
        )


def find(before: Any, after: Any, material: Material) -> list[Differing]:
    """Run two sessions over the pictures of the report; give those answered differently, the most confident first."""
    decision, unit = material.decision, True
    kept: list[tuple[Source, ndarray, ndarray]] = []
    if decision is None:
        return []
    for source in material.pictures:
        feed = evaluate.feed_of(source, decision)
        if feed is None:
            continue
        answers = [run(session, feed)[0][:1] for session in (before, after)]
        if not all(is_scores(each.shape) for each in answers) or answers[0].shape != answers[1].shape:
            raise EdgekitError(
                "the models' first outputs are not class scores of one shape", "leave --disagreements out"
            )
        x, y = (np.nan_to_num(each.reshape(-1).astype(np.float64)) for each in answers)
        unit = unit and all(bool(((each >= 0) & (each <= 1)).all()) for each in (x, y))
        # Whether scores are probabilities is only known at the end; the order of several is the same either way.
        if len(x) == 1 or x.argmax() != y.argmax():
            kept.append((source, x, y))
    differing = [_differing(source, shares(x, unit=unit), shares(y, unit=unit)) for source, x, y in kept]
    apart = [one for one in differing if one.before != one.after]
    return sorted(apart, key=lambda one: (-one.confidence, one.source.key))


def shares(scores: ndarray, *, unit: bool) -> ndarray:
    """Turn the scores of one picture (classes,) into probabilities; a single score becomes those of both answers.

    With `unit` they are probabilities already, else logits.
    """
    if len(scores) == 1:
        one = float(scores[0]) if unit else float(1 / (1 + np.exp(-np.clip(scores[0], -500, 500))))
        return np.array([1 - one, one])
    if unit:
        return scores / max(float(scores.sum()), 1e-12)
    exponents = np.exp(scores - scores.max())
    return np.asarray(exponents / exponents.sum())


def _differing(source: Source, x: ndarray, y: ndarray) -> Differing:
    a, b = int(x.argmax()), int(y.argmax())
    margins = float(x[a] - x[b]), float(y[b] - y[a])
    return Differing(source, a, b, float(x[a]), float(y[b]), sum(margins) / 2)


def write(folder: Path, models: Sequence[Path], material: Material, *, force: bool, threads: int = 1) -> Made:
    """Make the folder: copies of the pictures, a manifest, a contact sheet; a folder each for more than two models.

    Raises EdgekitError when it exists, unless `force` is given and edgekit made it.
    """
    counts = {}
    with files.staged_folder(folder, refusal(folder, material, force=force)) as stage:
        reference = open_session(models[0], threads=threads)
        names = [path.name for path in models[1:]]
        for number, path in enumerate(models[1:]):
            found = find(reference, open_session(path, threads=threads), material)
            inner = stage if len(names) == 1 else stage / f"{number + 1}__{_safe(path.stem)}"
            inner.mkdir(exist_ok=True)
            _fill(inner, found, material)
            counts[str(path)] = len(found)
        stamp = {
            "schema": SCHEMA,
            "generator": files.MADE_BY,
            "models": [str(path) for path in models],
            "pictures": len(material.pictures),
            "differing": counts,
        }
        (stage / files.STAMP).write_text(json.dumps(stamp, indent=2) + "\n")
    return Made(str(folder), counts, len(material.pictures))


def refusal(folder: Path, material: Material | None, *, force: bool) -> Callable[[], None]:
    """Give the check that raises EdgekitError unless the folder may be made here."""

    def check_folder() -> None:
        files.require_writable(folder.parent)
        files.refuse_existing(folder, force=force, what="disagreements")
        target = folder.resolve()
        for source in material.pictures[:1] if material is not None else ():
            root = source.path.resolve().parents[source.key.count("/")]
            if target == root or root in target.parents or target in root.parents:
                raise EdgekitError(f"{folder}: lies in or around the pictures", "choose another place")

    return check_folder


def _fill(folder: Path, found: Sequence[Differing], material: Material) -> None:
    rows, tiles = [], []
    for number, one in enumerate(found):
        before, after = (_name(answer, material) for answer in (one.before, one.after))
        stem, suffix = _safe(one.source.path.stem), one.source.path.suffix.lower()
        name = f"{number + 1:04d}__{_safe(before)}__{_safe(after)}__{stem}{suffix}"
        data = one.source.path.read_bytes()
        files.copy(one.source.path, data, folder / name)
        label = one.source.label if material.labelled is not None else None
        row = {
            "file": name,
            "source": one.source.key,
            "label": label,
            "before": {"class": one.before, "name": before, "share": round(one.sure_before, 6)},
            "after": {"class": one.after, "name": after, "share": round(one.sure_after, 6)},
            "confidence": round(one.confidence, 6),
        }
        rows.append(json.dumps(row, ensure_ascii=True))
        if number < TILES:
            tiles += _tile(data, one, before, after, label)
    (folder / MANIFEST).write_text("".join(f"{row}\n" for row in rows))
    if tiles:
        lines = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
        (folder / SHEET).write_bytes(png(contact_sheet(lines)))


def _tile(data: bytes, one: Differing, before: str, after: str, label: str | None) -> list[Tile]:
    try:
        pixels = images.decode(data).pixels
    except Unreadable:  # it changed since it was run
        return []
    answers = (f"{before} {100 * one.sure_before:.0f}%", f"> {after} {100 * one.sure_after:.0f}%")
    return [Tile(pixels, (*answers, *([f"is {label}"] if label is not None else [])))]


def _name(answer: int, material: Material) -> str:
    names = material.class_names
    return names[answer] if answer < len(names) else f"class {answer}"


def _safe(name: str) -> str:
    return _UNSAFE.sub("_", name)[:_LONGEST].strip(".") or "_"
