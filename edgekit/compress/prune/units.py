"""Units: channels of a group that lie in the same constants, so that only their number matters for the time.

Where a narrow stream is padded into a wide one (the shortcuts of ResNets for CIFAR, He et al. 2015), a group has
channels that all stages carry and others that only the last one does; each such kind is one unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.lazy import np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from edgekit.compress.prune.groups import Group

# A group of more kinds of channels than this is one unit all the same.
MOST_KINDS = 6


@dataclass(frozen=True)
class Unit:
    """Channels (int64, rising) of one group; all of them may go where `removable`."""

    name: str
    group: Group
    channels: np.ndarray
    removable: bool

    @property
    def size(self) -> int:
        """The number of channels."""
        return int(self.channels.size)


def units(groups: Sequence[Group]) -> list[Unit]:
    """Give the units of these groups, those of one group in the order of their first channels."""
    found = []
    for group in groups:
        lies = np.zeros((group.size, len(group.places)), bool)
        for number, place in enumerate(group.places):
            lies[place.channels[place.channels >= 0], number] = True
        _, kinds = np.unique(lies, axis=0, return_inverse=True)
        order = list(dict.fromkeys(kinds.reshape(-1).tolist()))
        if not 1 < len(order) <= MOST_KINDS:
            found.append(Unit(group.name, group, np.arange(group.size), group.removable))
            continue
        for number, kind in enumerate(order, 1):
            channels = np.flatnonzero(kinds.reshape(-1) == kind)
            found.append(Unit(f"{group.name} #{number}", group, channels, True))
    return found


def which_go(
    parts: Iterable[Unit], kept: Mapping[str, int], orders: Mapping[str, Iterable[int]] | None = None
) -> dict[str, list[int]]:
    """Give the channels that go, in rising order by group, when so many of these units are kept.

    `orders`: by group, its channels, the first to go first; without, the last ones go. What may not go together stays.
    """
    found: dict[str, list[int]] = {}
    by_group: dict[str, list[Unit]] = {}
    for unit in parts:
        by_group.setdefault(unit.group.name, []).append(unit)
    for name, each in by_group.items():
        group = each[0].group
        order = list(range(group.size))[::-1] if orders is None else [int(channel) for channel in orders[name]]
        left = {unit.name: unit.size - kept.get(unit.name, unit.size) for unit in each}
        taken = _first(group, each, order, left)
        if taken:
            found[name] = sorted(taken)
    return found


def _first(group: Group, each: Sequence[Unit], order: Sequence[int], left: dict[str, int]) -> list[int]:
    """Give the first channels of `order`, so many of each unit as `left` says, that may go together."""
    if sum(left.values()) == group.size and group.removable:
        return list(order)
    home = {int(channel): unit.name for unit in each for channel in unit.channels}
    stay = [set(range(group.size)), *(set(part.tolist()) for part in group.parts)]  # one of each at least
    taken = []
    for channel in order:
        if not left[home[channel]] or any(part == {channel} for part in stay):
            continue
        left[home[channel]] -= 1
        for part in stay:
            part.discard(channel)
        taken.append(channel)
    return taken
