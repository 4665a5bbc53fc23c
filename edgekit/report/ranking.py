"""Which classes, confusions and candidates a report shows first, and what it says of the worst."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.report.report import Answered, Candidate, ClassFigures, Report

SHOWN = 10
_CHANCE = 0.05


def loss(one: ClassFigures) -> float:
    """Say how much a class lost: -1..1, more is worse.

    For classifiers (lost - gained) / (n + 2), the adjusted paired difference of Agresti and Min (2005), so that a class
    of one picture that is now wrong does not outdo one of fifty, ten of which are. For detectors the drop in average
    precision, made smaller by n / (n + 2) to the same end.
    """
    if one.lost is not None and one.gained is not None:
        return (one.lost - one.gained) / (one.n + 2)
    if one.before.ap is None or one.after.ap is None:
        return 0.0
    return (one.before.ap - one.after.ap) * one.n / (one.n + 2)


def most_lost(classes: Sequence[ClassFigures]) -> ClassFigures | None:
    """Give the class that lost most, the weakest of equals; None when none lost."""
    worst = next(iter(worst_first(classes)), None)
    return worst if worst is not None and worst.n and loss(worst) > 0 else None


def weakest(classes: Sequence[ClassFigures]) -> ClassFigures | None:
    """Give the class with the lowest figure in the finished model, the first of equals."""
    return next(iter(weakest_first(classes)), None)


def weakest_first(classes: Sequence[ClassFigures]) -> list[ClassFigures]:
    """Sort the classes that have pictures by the finished model's figure, the lowest first."""
    return sorted((one for one in classes if one.n), key=lambda one: (one.after.figure or 0.0, -loss(one)))


def worst_first(classes: Sequence[ClassFigures]) -> list[ClassFigures]:
    """Sort all classes for a table: those that lost most first, then the weakest; those without pictures last."""
    return sorted(classes, key=lambda one: (not one.n, -loss(one), one.after.figure or 0.0))


def within_chance(one: ClassFigures, classes: Sequence[ClassFigures]) -> bool:
    """Tell whether chance alone makes the worst of so many classes lose as much (McNemar, by Bonferroni)."""
    tried = sum(1 for other in classes if other.n)
    return one.p_value is not None and one.p_value * tried > _CHANCE


def figure_name(classes: Sequence[ClassFigures]) -> str:
    """Name the figure that classes are ranked by."""
    return "F1" if any(one.after.tn is not None for one in classes) else "AP"


def most_confused(report: Report) -> list[Answered]:
    """Give the wrong answers, the most frequent of the finished model first."""
    wrong = [one for one in report.confusion if one.label != one.answer]
    return sorted(wrong, key=lambda one: (-one.after, -one.before))


def candidates(search: Sequence[Candidate], most: int) -> tuple[list[Candidate], int]:
    """Give the candidates that matter most, in the order they were tried, and how many are left out."""
    order = sorted(range(len(search)), key=lambda place: (not search[place].chosen, not search[place].pareto, place))
    kept = sorted(order[:most])
    return [search[place] for place in kept], len(search) - len(kept)


def standing(one: Candidate) -> str:
    """Say in a word or two what became of a candidate."""
    words = ["chosen"] if one.chosen else []
    words += [] if one.within else ["over budget"]
    return ", ".join(words) or ("Pareto" if one.pareto else "")
