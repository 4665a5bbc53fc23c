"""Recipe: everything that makes the same model again, with what was decided by measuring."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.compress.method import STEPS, Method
from edgekit.compress.settings import compress
from edgekit.errors import EdgekitError

SETTINGS = ("seed", "isa", "only", "exclude")  # those that the model's bytes follow from


@dataclass(frozen=True)
class Recipe:
    """Steps, the settings named in SETTINGS, and for each step what it decided; empty when nothing was decided yet."""

    steps: tuple[Method, ...]
    settings: Mapping[str, Any]
    decisions: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, steps: tuple[Method, ...], settings: compress, decisions: list[dict[str, Any]]) -> Recipe:
        """Put together what a run was told and what it decided."""
        return cls(steps, {name: getattr(settings, name) for name in SETTINGS}, tuple(decisions))

    def to_dict(self) -> dict[str, Any]:
        """Give plain values; `typed` has the steps as a person writes them."""
        return {
            "steps": [step.to_dict() for step in self.steps],
            "typed": [str(step) for step in self.steps],
            **self.settings,
            "decisions": list(self.decisions),
        }


def parse(text: str, name: str) -> Recipe:
    """Read the recipe of a report written by `--report x.json`; `name` is for the error when it is none."""
    try:
        document = json.loads(text)
        recipe = document["recipe"]
        steps, decisions = recipe["steps"], recipe["decisions"]
        settings = {key: tuple(recipe[key]) if isinstance(recipe[key], list) else recipe[key] for key in SETTINGS}
        if len(steps) != len(decisions) or not all(isinstance(each, dict) for each in decisions):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise EdgekitError(
            f"--recipe {name}: not a report of edgekit compress", "give what --report x.json wrote"
        ) from None
    return Recipe(tuple(STEPS.read(step, f"--recipe {name}") for step in steps), settings, tuple(decisions))
