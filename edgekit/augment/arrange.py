"""Splits, groups, leaks and balance: what is decided about a set of pictures before any of them is augmented."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgekit.augment import pool
from edgekit.augment.balance import balance
from edgekit.augment.plan import is_split
from edgekit.data import groups, leaks, splits
from edgekit.data.folder import read
from edgekit.data.headers import read_header
from edgekit.data.masks import VOID
from edgekit.data.writer import schema_of
from edgekit.errors import EdgekitError
from edgekit.lazy import np
from edgekit.words import counted

if TYPE_CHECKING:
    from edgekit.augment.plan import Plan
    from edgekit.augment.settings import augment
    from edgekit.augment.variants import Recipe
    from edgekit.data.dataset import Entry
    from edgekit.data.folder import Source
    from edgekit.data.leaks import Fingerprint

    Progress = Callable[[int, int], None]
    Say = Callable[[str], None]

NAMED = 5  # classes that a message names, before it counts the others
SAME_GROUP = "same group"


def arrange(plan: Plan, settings: augment, recipe: Recipe, progress: Progress, say: Say) -> Plan:
    """Group, split and balance the pictures as the settings say; `say` takes what is worth knowing, a sentence each.

    Raises EdgekitError when a rule cannot be read or does not fit the set.
    """
    shares = splits.shares_of(settings.split) if settings.split is not None else ()
    raised = settings.balance or settings.per_class is not None
    if shares:
        _check_unsplit(plan)
    if settings.group_by is not None:
        plan = _grouped(plan, settings.group_by, say)
    if not shares and not raised:
        return plan
    seen = _look(plan, recipe, settings.workers, progress, prints=bool(shares))
    if shares:
        plan = _split(plan, seen, shares, f"{settings.split}", recipe.seed, say)
    return _balanced(plan, seen, settings, recipe, say) if raised else plan


# ---- what the pictures hold


@dataclass(frozen=True)
class Seen:
    """What a picture is told by, None when it is not wanted or cannot be read; and the names of its classes."""

    print: Fingerprint | None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Look:
    """Task of the pool: look at a picture and at its labels."""

    plan: Plan
    recipe: Recipe
    prints: bool
    classes: bool

    def process(self, source: Source) -> Seen:
        """Read it; one that cannot be used holds nothing."""
        found: Fingerprint | None = None
        classes: tuple[str, ...] = ()
        with suppress(EdgekitError, OSError):
            data = read(source, self.recipe.max_bytes)
            if self.classes:
                classes = tuple(sorted(self._classes(source, data)))
            if self.prints:
                found = leaks.fingerprint(data, self.recipe.max_pixels)
        return Seen(found, classes)

    def _classes(self, source: Source, data: bytes) -> set[str]:
        header = read_header(data)
        known = self.plan.known
        if known is None:
            return {source.label} if source.label is not None else set()
        entry = self.plan.entries[source.key]
        if entry.label is not None:
            return {entry.label}
        name = schema_of(known).name
        objects = entry.read(header).objects
        if objects or entry.mask is None:
            return {name(one.number) for one in objects}
        mask, _ = entry.read_mask(header)
        if mask is None:
            return set()
        values = np.unique(mask.values).tolist()
        if mask.colours is not None:
            return {str(tuple(mask.colours[value].tolist())) for value in values if mask.colours[value].any()}
        return {name(value - 1) for value in values if value and value != VOID}

    def forget(self, source: Source) -> None:
        """Take nothing back: nothing is written."""

    def died(self, source: Source) -> Seen:
        """Hold nothing."""
        return Seen(None)


def _look(
    plan: Plan, recipe: Recipe, workers: int, progress: Progress, *, prints: bool, classes: bool = True
) -> list[Seen]:
    seen: list[Seen] = []
    task = _Look(plan, recipe, prints, classes)
    with closing(pool.process(plan.sources, task, workers)) as answers:
        for answer in answers:
            seen.append(answer)
            progress(len(seen), len(plan.sources))
    return seen


# ---- groups and splits


def _replaced(plan: Plan, entries: Sequence[Entry], **changes: Any) -> Plan:
    assert plan.known is not None
    found = splits.ordered(entry.split for entry in entries)
    made = replace(plan, known=replace(plan.known, entries=tuple(entries), splits=found), **changes)
    made.check()
    return made


def _grouped(plan: Plan, rule: str, say: Say) -> Plan:
    assert plan.known is not None
    entries = plan.known.entries
    found = groups.groups_of(rule, [entry.key for entry in entries], plan.listing.root)
    alone = [entry.key for entry, group in zip(entries, found, strict=True) if group is None]
    if alone:
        say(f"{counted(len(alone), 'picture', 'is', 'are')} in no group (first: {alone[0]})")
    grouped = [replace(entry, group=group) for entry, group in zip(entries, found, strict=True)]
    return _replaced(plan, grouped, choices={**plan.choices, "group_by": rule})


def _check_unsplit(plan: Plan) -> None:
    assert plan.known is not None
    known = plan.known
    told = [entry for entry in known.entries if entry.split is not None]
    if is_split(known) or any(splits.of_folders(entry.key) == entry.split for entry in told):
        raise EdgekitError(
            f"{plan.listing.root}: has splits already: {', '.join(known.splits)}",
            "leave --split out, or give the folder of one split",
        )


def _split(plan: Plan, seen: Sequence[Seen], shares: splits.Shares, text: str, seed: int, say: Say) -> Plan:
    """Deal out groups; pictures that are copies of one another are of one group, so that no split shares one."""
    assert plan.known is not None
    entries = plan.known.entries
    links = [(pair.first, pair.second) for pair in leaks.pairs([one.print for one in seen])]
    tops = groups.joined(len(entries), [*links, *groups.together([entry.group for entry in entries])])
    lots: dict[int, splits.Lot] = {}
    for top, entry, one in zip(tops, entries, seen, strict=True):
        name = f"group\0{entry.group}" if entry.group is not None else f"key\0{entry.key}"
        lot = lots.get(top, splits.Lot(name, 0))
        lots[top] = splits.Lot(min(lot.name, name), lot.size + 1, lot.classes.union(one.classes))
    try:
        dealt = splits.deal(tuple(lots.values()), shares, seed)
    except EdgekitError as error:
        raise EdgekitError(f"{plan.listing.root}: {error.message}", error.hint) from None
    for split, _ in shares[1:]:
        missing = splits.absent(tuple(lots.values()), dealt, split)
        if missing:
            every = len({name for lot in lots.values() for name in lot.classes})
            say(f"{split} has no picture of {len(missing):,} of the {every:,} classes: {_few(missing)}")
    of = dict(zip(lots, dealt, strict=True))
    made = [replace(entry, split=of[top]) for entry, top in zip(entries, tops, strict=True)]
    counts = Counter(entry.split for entry in made)
    said = {"shares": text, "groups": len(lots), "pictures": {split: counts[split] for split, _ in shares}}
    return _replaced(plan, made, dealt=True, choices={**plan.choices, "split": said})


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if names[NAMED:] else "")


# ---- leaks


def with_leaks(plan: Plan, recipe: Recipe, workers: int, progress: Progress) -> Plan:
    """Find the pictures that lie in two splits, as copies or by their groups; splits made here have none."""
    if plan.known is None or plan.dealt or not is_split(plan.known):
        return plan
    entries = plan.known.entries
    # Pictures in no split beside a folder `test` are augmented: what they leak is what train would.
    rest = splits.TRAIN if splits.TRAIN not in plan.known.splits else None
    of = [entry.split or rest for entry in entries]
    seen = _look(plan, recipe, workers, progress, prints=True, classes=False)
    copies = leaks.leaks(leaks.pairs([one.print for one in seen]), of)
    links = [leaks.Pair(*link, leaks.SAME_FILE) for link in groups.together([entry.group for entry in entries])]
    known = {pair.second for pair in copies}
    grouped = [replace(pair, how=SAME_GROUP) for pair in leaks.leaks(links, of) if pair.second not in known]
    return replace(plan, leaks=tuple(_leak(pair, entries, of) for pair in (*copies, *grouped)))


def _leak(pair: leaks.Pair, entries: Sequence[Entry], of: Sequence[str | None]) -> Mapping[str, str]:
    first, second = entries[pair.first], entries[pair.second]
    group = {"group": second.group or ""} if pair.how == SAME_GROUP else {}
    row = {"picture": second.key, "split": of[pair.second] or "", "how": pair.how, **group}
    return {**row, "of": first.key, "of_split": of[pair.first] or ""}


def leak_lines(plan: Plan) -> list[str]:
    """Say the leaks, a sentence for each two splits."""
    found: dict[tuple[str, str, bool], list[Mapping[str, str]]] = {}
    for row in plan.leaks:
        found.setdefault((row["split"], row["of_split"], row["how"] == SAME_GROUP), []).append(row)
    lines = []
    for (split, of, grouped), rows in found.items():
        many, first = counted(len(rows), "picture"), rows[0]
        are = "is" if len(rows) == 1 else "are"
        if grouped:
            what = f"{are} of a group that is in {of} too"
            lines.append(f"{many} of {split} {what} (first: {first['picture']}, group {first['group']})")
        else:
            pair = f"{first['picture']} = {first['of']}, {first['how']}"
            lines.append(f"{many} of {split} {are} also in {of} (first: {pair})")
    return lines


# ---- balance


def _balanced(plan: Plan, seen: Sequence[Seen], settings: augment, recipe: Recipe, say: Say) -> Plan:
    if not plan.augmented:
        return plan
    raised = "--per-class" if settings.per_class is not None else "--balance"
    if settings.per_class is None and recipe.copies > settings.max_copies:
        raise EdgekitError(
            f"-n {recipe.copies} is more than --max-copies {settings.max_copies}", "raise --max-copies, or lower -n"
        )
    holds = {
        source.key: one.classes for source, one in zip(plan.sources, seen, strict=True) if plan.is_augmented(source.key)
    }
    if not any(holds.values()):
        raise EdgekitError(
            f"{plan.listing.root}: has no classes that {raised} could raise",
            "give class folders or labels of objects, or leave it out",
        )
    made = balance(
        holds,
        copies=recipe.copies,
        most=settings.max_copies,
        originals=recipe.originals,
        per_class=settings.per_class,
        seed=recipe.seed,
    )
    if made.short:
        listed = _few([f"{name} ({count:,})" for name, count in made.short.items()])
        say(f"below {made.target:,} pictures even with {settings.max_copies:,} variants of each: {listed}")
    said = {"target": made.target, "max_copies": settings.max_copies, "per_class": settings.per_class}
    numbers = dict(zip(holds, made.copies, strict=True))
    return replace(
        plan, numbers=numbers, holds=holds, choices={**plan.choices, "balance": {**said, "short": made.short}}
    )
