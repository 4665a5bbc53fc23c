"""`edgekit inspect model.onnx --groups`: which channels can be pruned together, what they take, what has to stay."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgekit import graph
from edgekit.cli.console import WIDTH
from edgekit.cli.inspect import headline
from edgekit.compress.prune.groups import find_groups
from edgekit.compress.prune.prepare import prepared
from edgekit.errors import EdgekitError
from edgekit.lazy import np
from edgekit.measure import work
from edgekit.report.text import milliseconds
from edgekit.words import counted, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from onnx import ModelProto

    from edgekit.cli.console import Console
    from edgekit.compress.prune.groups import Frozen, Group
    from edgekit.measure.anatomy import Anatomy

LONGEST_NAME, SHORTEST_NAME = 36, 12
ABOUT = """\
Time is that of the layers that make a group's channels and of those that read them, bytes are
those of the constants along them. Shares overlap: most layers read one group and make another."""
WHOLE = "*: all of its channels may go; of the others some have to stay."


@dataclass(frozen=True)
class Prunable:
    """One group of channels: `channels` can go singly, all of them where `removable`.

    `ms` and `time_share` (0..1) of the layers that make and read them, None where the model could not be run;
    `byte_share` (0..1) of all constants lies along them. Shares of several groups overlap.
    """

    name: str
    channels: int
    removable: bool
    makers: tuple[str, ...]
    readers: tuple[str, ...]
    ms: float | None
    time_share: float | None
    byte_share: float


def check_model(path: Path, model: ModelProto) -> None:
    """Raise EdgekitError for a model whose channels can no longer be taken out."""
    if graph.is_quantized(model):
        raise EdgekitError(
            f"{path}: is quantised already, and channels are pruned before that",
            "give the float model that it was made from",
        )


def find(model: ModelProto, found: Anatomy) -> tuple[list[Prunable], tuple[Frozen, ...]]:
    """Give the groups that can be pruned, the costliest first, and those that cannot."""
    ready = prepared(model)  # as the constants of the groups are named
    groups = find_groups(ready)
    weights = {tensor.name: work.tensor_bytes(tensor) for tensor in ready.graph.initializer}
    rows = [_prunable(group, found, weights) for group in groups.groups]
    return sorted(rows, key=lambda row: (-(row.ms or 0.0), -row.byte_share)), groups.frozen


def _prunable(group: Group, found: Anatomy, weights: Mapping[str, int]) -> Prunable:
    readers = tuple(dict.fromkeys(reader.node for reader in group.readers))
    layers = {*group.makers, *readers}
    parts = [part for part in found.layers if part.name in layers and not part.added]
    return Prunable(
        name=group.name,
        channels=group.size,
        removable=group.removable,
        makers=group.makers,
        readers=readers,
        ms=None if found.ms is None else sum(part.ms or 0.0 for part in parts),
        time_share=None if found.ms is None else sum(part.share or 0.0 for part in parts),
        byte_share=bytes_along(group, weights) / max(1, sum(weights.values())),
    )


def bytes_along(group: Group, weights: Mapping[str, int]) -> float:
    """Count the bytes of constants, of `weights` bytes each, that would go with all of the group's channels."""
    others: dict[str, dict[int, np.ndarray]] = {}
    for place in (*group.places, *(reader.weight for reader in group.readers)):
        axes = others.setdefault(place.constant, {})
        axes[place.axis] = axes.get(place.axis, True) & (place.channels < 0)
    return sum(
        weights[name] * (1 - float(np.prod([np.mean(other) for other in axes.values()])))
        for name, axes in others.items()
    )


def to_dict(found: Anatomy, groups: Sequence[Prunable], frozen: Iterable[Frozen]) -> dict[str, Any]:
    """Give the document of `inspect --json` with `groups` and `frozen` in it."""
    return found.to_dict() | {
        "groups": [asdict(group) for group in groups],
        "frozen": [{"name": one.name, "channels": one.size, "reason": one.reason} for one in frozen],
    }


def answer(found: Anatomy, model: ModelProto, top: int, console: Console) -> None:
    """Print the document, or the tables."""
    groups, frozen = find(model, found)
    if console.json:
        console.document(to_dict(found, groups, frozen))
    else:
        _tables(found, groups, frozen, top)


def _tables(found: Anatomy, groups: Sequence[Prunable], frozen: Sequence[Frozen], top: int) -> None:
    """Print the groups and below them what has to stay whole, at most `top` of each."""
    print(f"{headline(found)}\n\n{counted(len(groups), 'group')} of channels can be pruned, {len(frozen)} cannot")
    if groups:
        print(f"{ABOUT}\n{WHOLE}\n" if any(group.removable for group in groups) else f"{ABOUT}\n")
        rows = [("made by", "channels", "time", "share", "bytes", "read by"), *map(_cells, groups[:top])]
        print("\n".join([*_laid_out(rows), *_rest(len(groups), top)]))
    if frozen:
        rows = [("stays whole", "channels", "why"), *((one.name, str(one.size), one.reason) for one in frozen[:top])]
        print("\n".join(["", *_laid_out(rows), *_rest(len(frozen), top)]))


def _cells(group: Prunable) -> tuple[str, ...]:
    time = "" if group.ms is None else milliseconds(group.ms)
    share = "" if group.time_share is None else f"{100 * group.time_share:.1f} %"
    channels = f"{group.channels}{'*' if group.removable else ' '}"
    makers, readers = (_first_of(names) for names in (group.makers, group.readers))
    return makers, channels, time, share, f"{100 * group.byte_share:.1f} %", readers


def _first_of(names: Sequence[str]) -> str:
    """Give the first name and how many more there are."""
    return f"{names[0]} +{len(names) - 1}" if len(names) > 1 else "".join(names)


def _laid_out(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Set columns of numbers right, the first and the last, which are names or words, left and within the width."""
    numbers = [max(len(row[column]) for row in rows) for column in range(1, len(rows[0]) - 1)]
    first = min(LONGEST_NAME, max(len(row[0]) for row in rows))
    last = max(SHORTEST_NAME, WIDTH - first - sum(numbers) - 2 * len(numbers) - 4)
    lines = []
    for row in rows:
        middle = "  ".join(f"{cell:>{width}}" for cell, width in zip(row[1:-1], numbers, strict=True))
        lines.append(f"  {_cut(row[0], first):<{first}}  {middle}  {_cut(row[-1], last)}".rstrip())
    return lines


def _cut(text: str, room: int) -> str:
    """Shorten a name to its end, which is where names differ."""
    safe = printable(text)
    return safe if len(safe) <= room else f"...{safe[3 - room :]}"


def _rest(number: int, top: int) -> list[str]:
    return [f"and {number - top} more; --top {number} shows all"] if number > top else []
