"""`edgekit augment --corruptions`: what it takes, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgekit.augment import corrupt
from edgekit.augment.variants import Recipe
from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    from edgekit.augment.labels import Rules
    from edgekit.augment.plan import Plan
    from edgekit.augment.settings import augment
    from edgekit.cli.signature import Typed

# What is of training sets alone: refused when it is typed; what a configuration file says of it does not hold.
OTHERS = ("ops", "preset", "copies", "text", "split", "group_by", "balance", "per_class", "max_copies")


def effective(settings: augment, typed: Typed, rules: Rules) -> tuple[augment, Recipe]:
    """Give the settings that hold for an evaluation set, and its recipe.

    Originals are wanted only when --originals is typed. Raises EdgekitError for what does not go with it.
    """
    if not settings.corruptions:
        raise EdgekitError("--severity is of --corruptions", "add that, or leave it out")
    for name in OTHERS:
        value = typed.values[name]
        if value is not None:
            what = f"--{name.replace('_', '-')}" if name != "ops" else f"an op ({value[0]})"
            raise EdgekitError(
                f"{what} and --corruptions do not go together: those make an evaluation set", "leave one of them out"
            )
    suite = corrupt.suite(settings.severity)
    settings = replace(settings, split=None, group_by=None, balance=False, per_class=None, text=False)
    originals = typed.values["originals"] is True
    seed, limit = settings.seed, settings.max_pixels
    return settings, Recipe((), len(suite), seed, originals, settings.quality, limit, rules, suite)


def said(recipe: Recipe) -> str:
    """Say which corruptions; nothing when there are none."""
    if not recipe.suite:
        return ""
    levels = ", ".join(str(level) for level in sorted({one.severity for one in recipe.suite}))
    return f"{len(corrupt.NAMES)} corruptions, severity {levels}"


def lines(plan: Plan) -> list[tuple[str, str]]:
    """Say what an evaluation set is of; nothing for any other."""
    if not plan.evaluated:
        return []
    known = plan.known
    splits = f" of {' and '.join(known.splits)}" if known is not None and known.splits else ""
    return [("marked", f"an evaluation set{splits}: not for training")]
