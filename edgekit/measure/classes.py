"""Classes: which output of the model each folder of pictures stands for, and whether that can be right."""

from __future__ import annotations

import ast
import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError
from edgekit.lazy import np
from edgekit.spec import nearest

if TYPE_CHECKING:
    from numpy import ndarray

METADATA_KEY = "edgekit.classes"
NOBODY = "-"  # stands for an output that no folder belongs to
GAIN = 0.2  # another assignment is worth a word when it scores this much more, 0..1
HOW = "write one class name a line, in the order of the model's outputs, and give --classes FILE"


@dataclass(frozen=True)
class Classes:
    """The output (0-based) of each folder's class path, the outputs' names where known, and where this comes from.

    `outputs` is the number of classes: 2 for a model with a single score. `sure` is False when only the order of the
    folders' names speaks for it.
    """

    index: Mapping[str, int]
    names: tuple[str, ...]
    outputs: int
    source: str
    sure: bool


@dataclass(frozen=True)
class Assignment:
    """Another one-to-one assignment of folders to outputs, under which the model scores far higher.

    `accuracy` is that of the present one, `better` that of `names` (folders in output order), both 0..1.
    """

    accuracy: float
    better: float
    names: tuple[str, ...]

    def error(self) -> EdgekitError:
        """Say it, with the command that writes the file for --classes."""
        what = f"the folders do not seem to be in the order of the model's outputs: accuracy {self.accuracy:.1%}"
        words = " ".join(shlex.quote(name) for name in self.names)
        return EdgekitError(
            f"{what}, but {self.better:.1%} in another order",
            f"if this is the order, printf '%s\\n' {words} > classes.txt, then give --classes classes.txt",
        )


def resolve(
    labels: Sequence[str], outputs: int, *, file: Path | None = None, metadata: Mapping[str, str] | None = None
) -> Classes:
    """Find the output of each folder; `labels` are class paths, `outputs` the number of scores the model gives.

    In this order: the names in `file`, those in the model's metadata (unless they are none of the folders', and these
    are numbers), folders named by number, folders in sorted order (as torchvision and Keras number them) when there are
    as many as outputs. Raises EdgekitError when none applies, or when a folder is not among the names.
    """
    outputs = max(2, outputs)
    labels = sorted(set(labels))
    if file is not None:
        return _named(labels, read_names(file), outputs, str(file))
    found = names_in(metadata or {})
    names = found[0] if found is not None and len(found[0]) == outputs else ()
    numbered = all(label.rpartition("/")[2].isdecimal() and _position(label, names) is None for label in labels)
    if found is not None and names and not numbered:
        return _named(labels, names, outputs, f"the model's metadata ({found[1]})")
    if len(labels) > outputs:
        raise EdgekitError(f"{len(labels)} class folders ({_some(labels)}), but the model has {outputs} outputs", HOW)
    numbers = _numbers(labels, outputs)
    if numbers is not None:
        # Frameworks sort folder names as text: 0, 1, 10, 11, 2 ... The two orders differ from 11 unpadded numbers on.
        sure = sorted(labels, key=numbers.__getitem__) == labels
        return Classes(numbers, names or _in_order(numbers, outputs), outputs, "folders named by number", sure)
    if len(labels) == outputs:
        index = {label: position for position, label in enumerate(labels)}
        return Classes(index, tuple(labels), outputs, "folder names in sorted order", False)
    raise EdgekitError(
        f"{len(labels)} class folders ({_some(labels)}), but the model has {outputs} outputs: which is which?", HOW
    )


def read_names(path: Path) -> tuple[str, ...]:
    """Read class names in output order: one a line (`-` for none), a JSON list, or JSON {"0": "name", ...}.

    Blank lines do not count.
    """
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise EdgekitError(f"--classes {path}: no such file", HOW) from None
    except (OSError, UnicodeDecodeError) as error:
        raise EdgekitError(f"--classes {path}: cannot be read: {error}", HOW) from None
    if text.lstrip()[:1] in ("[", "{"):
        names = _structured(text)
        if names is None:
            raise EdgekitError(f'--classes {path}: neither a list of names nor {{"0": "name", ...}}', HOW)
        return names
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def miscounted(source: str, names: int, outputs: int) -> EdgekitError:
    """Say that there are not as many names as outputs."""
    return EdgekitError(
        f"{source}: {names} class names, but the model has {outputs} outputs",
        f"give {outputs} names, one for each output; {NOBODY} stands for an output without a folder",
    )


def names_in(metadata: Mapping[str, str]) -> tuple[tuple[str, ...], str] | None:
    """Find class names in a model's metadata, and the key they are under; None when there are none.

    Reads edgekit's own key, `names` as Ultralytics writes it, and lists (JSON or with commas) under usual keys.
    """
    for key in (METADATA_KEY, "names", "classes", "labels", "class_names"):
        text = metadata.get(key, "").strip()
        names = _structured(text)
        if names is None and text and text[0] not in "[{":
            names = tuple(part.strip() for part in re.split(r"[,\n]", text) if part.strip())
        if names and len(names) > 1:
            return names, key
    return None


@dataclass(frozen=True)
class Folders:
    """Labelled pictures: the folder of each as a number, and the output of each folder, None when it must be found."""

    rows: ndarray
    columns: ndarray | None

    @classmethod
    def of(cls, labels: Sequence[str | None], classes: Classes | None) -> Folders:
        """Number the folders of pictures, none when a picture has none; outputs are those of `classes` where sure."""
        named = [] if None in labels else [str(label) for label in labels]
        folders = sorted(set(named))
        rows = np.array([folders.index(label) for label in named], np.int64)
        known = classes is not None and classes.sure and all(folder in classes.index for folder in folders)
        return cls(rows, np.array([classes.index[folder] for folder in folders]) if classes and known else None)

    def can_judge(self, outputs: int) -> bool:
        """Tell whether there are several folders, not more than outputs, and pictures enough to find which is which."""
        folders = len(set(self.rows.tolist()))
        enough = 8 if self.columns is not None else 10 * folders
        return 1 < folders <= max(2, outputs) and len(self.rows) >= enough

    def chance(self) -> float:
        """Say the accuracy, 0..1, that a model which recognises nothing is not likely to exceed."""
        share = float(np.bincount(self.rows).max()) / len(self.rows)
        # Looking for the best assignment finds some even in noise.
        return share + 2 * math.sqrt(share * (1 - share) / len(self.rows)) + (0.0 if self.columns is not None else 0.1)

    def judge(self, outputs: ndarray) -> tuple[float, ndarray]:
        """Give the accuracy, 0..1, and the log-likelihood of each of the first pictures from `outputs` (n x classes).

        The likelihood is under the temperature that suits these outputs best: confidence does not count.
        """
        rows, shares = self.rows[: len(outputs)], probabilities(outputs)
        answers = shares.argmax(axis=1)
        columns = self.columns
        if columns is None:
            table = np.zeros((int(self.rows.max()) + 1, shares.shape[1]))
            np.add.at(table, (rows, answers), 1)
            columns = assign(table)
        own = columns[rows]
        likelihoods = [_likelihoods(np.log(shares) / heat, own) for heat in (0.5, 0.7, 1, 1.4, 2, 3, 5, 8, 16)]
        return float((answers == own).mean()), max(likelihoods, key=lambda values: float(values.mean()))


def _likelihoods(logits: ndarray, own: ndarray) -> ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.subtract(shifted[np.arange(len(own)), own], np.log(np.exp(shifted).sum(axis=1)))


def probabilities(outputs: ndarray) -> ndarray:
    """Turn scores (n x classes; n x 1 for a binary model) into probabilities: softmax or sigmoid, unless they are."""
    values = np.nan_to_num(outputs.astype(np.float64), posinf=1e9, neginf=-1e9)
    within = bool((values >= -1e-6).all() and (values <= 1 + 1e-6).all())
    if values.shape[1] == 1:
        yes = values if within else 1 / (1 + np.exp(-np.clip(values, -50, 50)))
        values = np.concatenate([1 - yes, yes], axis=1)
    elif not within:
        values = np.exp(values - values.max(axis=1, keepdims=True))
    values = np.clip(values, 1e-12, None)
    return np.divide(values, values.sum(axis=1, keepdims=True))


def information(outputs: ndarray) -> tuple[float, ndarray]:
    """Give the mutual information of picture and class, in nats, of scores (n x classes), and each picture's part."""
    shares = probabilities(outputs)
    scores: ndarray = (shares * np.log(shares / shares.mean(axis=0))).sum(axis=1)
    return float(scores.mean()), scores


def detections(outputs: ndarray) -> tuple[float, ndarray]:
    """Give the same for outputs (n x values) some of which are probabilities of their own, as a detector's scores."""
    inside = ((outputs >= 0) & (outputs <= 1)).all(axis=0)
    yes = np.clip(outputs[:, inside].astype(np.float64), 1e-6, 1 - 1e-6)
    mean = yes.mean(axis=0)
    scores: ndarray = (yes * np.log(yes / mean) + (1 - yes) * np.log((1 - yes) / (1 - mean))).sum(axis=1)
    return float(scores.mean()), scores


def reassignment(confusion: Mapping[tuple[int, int], int], classes: Classes) -> Assignment | None:
    """Look for another assignment of folders to outputs that scores over GAIN more, beyond what luck explains.

    `confusion` counts pictures by (the folder's present output, the model's answer); answers below 0 are none.
    """
    labels = sorted(classes.index)
    row = {classes.index[label]: position for position, label in enumerate(labels)}
    table = np.zeros((len(labels), classes.outputs), np.int64)
    for (label, answer), count in confusion.items():
        if answer >= 0 and label in row:
            table[row[label], answer] += count
    total = max(1, sum(confusion.values()))
    now = sum(int(table[row[output], output]) for output in row) / total
    # No assignment beats each folder's most frequent answer.
    if table.max(axis=1).sum() / total - now <= GAIN:
        return None
    chosen = assign(table)
    better = int(table[np.arange(len(labels)), chosen].sum()) / total
    if better - now <= GAIN or better <= GAIN / 2 + _luck(table):
        return None
    index = {label: int(output) for label, output in zip(labels, chosen, strict=True)}
    return Assignment(now, better, _in_order(index, classes.outputs))


def assign(table: ndarray) -> ndarray:
    """Give each row (n) its own column (m >= n) so that the sum of the chosen cells of `table` (n x m) is largest.

    Shortest augmenting paths with potentials, O(n^2 m) (Jonker and Volgenant, Computing 38, 1987). Gives int64 (n,).
    """
    cost = -np.asarray(table, np.float64)
    rows, columns = cost.shape
    price = np.zeros(columns)
    income = np.zeros(rows)
    owner = np.full(columns, -1)
    for start in range(rows):
        distance = np.full(columns, np.inf)
        came_from = np.full(columns, -1)
        done = np.zeros(columns, bool)
        row, last, reached = start, -1, 0.0
        visited = [start]
        while True:
            through = reached + cost[row] - income[row] - price
            nearer = ~done & (through < distance)
            distance[nearer], came_from[nearer] = through[nearer], last
            last = int(np.where(done, np.inf, distance).argmin())
            reached = distance[last]
            done[last] = True
            row = int(owner[last])
            if row < 0:
                break
            visited.append(row)
        income[start] += reached
        for seen in np.flatnonzero(done):
            slack = reached - distance[seen]
            price[seen] -= slack
            if owner[seen] >= 0:
                income[owner[seen]] += slack
        while last >= 0:
            before = int(came_from[last])
            owner[last] = start if before < 0 else owner[before]
            last = before
    chosen = np.full(rows, -1)
    taken = np.flatnonzero(owner >= 0)
    chosen[owner[taken]] = taken
    return chosen


def _luck(table: ndarray) -> float:
    """Say what the best assignment may reach on answers that have nothing to do with the folders.

    The largest of 20 shuffles, each judged by every row's most frequent answer, which no assignment exceeds.
    """
    rng, best = np.random.default_rng(0), 0
    rows = np.repeat(np.arange(table.shape[0]), table.sum(axis=1))
    answers = np.repeat(np.arange(table.shape[1]), table.sum(axis=0))
    for _ in range(20):
        shuffled = np.zeros_like(table)
        np.add.at(shuffled, (rows, rng.permutation(answers)), 1)
        best = max(best, int(shuffled.max(axis=1).sum()))
    return best / max(1, len(rows))


def _named(labels: Sequence[str], names: tuple[str, ...], outputs: int, source: str) -> Classes:
    if len(names) != outputs:
        raise miscounted(source, len(names), outputs)
    found = {label: _position(label, names) for label in labels}
    missing = [label for label, position in found.items() if position is None]
    if missing:
        known = {_plain(name): name for name in names if name != NOBODY}
        near = [nearest(_plain(label), known) for label in missing[:3]]
        hints = [f"{label} -> {known[word]}" for label, word in zip(missing, near, strict=False) if word]
        raise EdgekitError(
            f"{source}: no class for the folder(s) {_some(missing)}",
            f"rename: {', '.join(hints)}?" if hints else f"it has {_some([n for n in names if n != NOBODY])}",
        )
    index = {label: position for label, position in found.items() if position is not None}
    shared = [label for label, count in Counter(index.values()).items() if count > 1]
    if shared:
        same = [label for label in labels if index[label] == shared[0]]
        raise EdgekitError(
            f"{source}: the folders {_some(same)} are all the class {names[shared[0]]!r}", "put them into one folder"
        )
    return Classes(index, names, outputs, source, True)


def _position(label: str, names: tuple[str, ...]) -> int | None:
    """Find a folder among the names: as it is, spelled alike, by its last part, or by a leading identifier."""
    last = label.rpartition("/")[2]
    spelled = [_plain(name) for name in names]
    leading = [name.split()[0].rstrip(":,") if name else "" for name in names]
    ways = (
        (label, list(names)),
        (_plain(label), spelled),
        (last, list(names)),
        (_plain(last), spelled),
        (last, leading),
    )
    for word, words in ways:
        if word not in ("", NOBODY) and words.count(word) == 1:
            return words.index(word)
    return None


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _structured(text: str) -> tuple[str, ...] | None:
    """Read a list of names or a map from output to name, in JSON or as Python writes it."""
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    value: Any = None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text.strip())
            break
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    if isinstance(value, dict):
        positions = {int(key): name for key, name in value.items() if str(key).isdecimal()}
        if len(positions) != len(value) or not positions or max(positions) > 1_000_000:
            return None
        return tuple(str(positions.get(position, NOBODY)) for position in range(max(positions) + 1))
    if isinstance(value, (list, tuple)) and all(isinstance(name, (str, int)) for name in value):
        return tuple(str(name).strip() for name in value)
    return None


def _numbers(labels: Sequence[str], outputs: int) -> dict[str, int] | None:
    lasts = [label.rpartition("/")[2] for label in labels]
    if not labels or not all(re.fullmatch(r"[0-9]{1,9}", last) for last in lasts):
        return None
    numbers = {label: int(last) for label, last in zip(labels, lasts, strict=True)}
    if len(set(numbers.values())) < len(labels):
        return None
    largest = max(numbers, key=numbers.__getitem__)
    if numbers[largest] >= outputs:
        raise EdgekitError(f"the folder {largest}: the model's outputs are numbered 0 to {outputs - 1}", HOW)
    return numbers


def _in_order(index: Mapping[str, int], outputs: int) -> tuple[str, ...]:
    names = {position: label for label, position in index.items()}
    return tuple(names.get(position, NOBODY) for position in range(outputs))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
