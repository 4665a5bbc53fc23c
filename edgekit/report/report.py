"""Report: the plain numbers of one compression, its gates and its exit code; renderers format it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from edgekit import files
from edgekit.errors import EdgekitError
from edgekit.spec import nearest

SCHEMA = "edgekit.report/1"


@dataclass(frozen=True)
class Size:
    """Bytes on disk (external data included), and after zip (deflate, level 6)."""

    before: int
    after: int
    ratio: float
    zipped_before: int
    zipped_after: int
    zipped_ratio: float


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one inference, interleaved; `speedup` = before / after with its 95% interval `low`..`high`.

    `ratio_of` says of which time: "cpu" (one thread: other work on the machine does not disturb it) or "wall". Medians
    and percentiles are of wall time, so on a busy machine they need not divide to `speedup`.
    """

    before: float
    after: float
    before_p90: float
    after_p90: float
    speedup: float
    low: float
    high: float
    verdict: str
    runs: int
    threads: int
    ratio_of: str


@dataclass(frozen=True)
class Pair:
    """A quantity before and after: `load` in milliseconds, `memory` in bytes above the bare runtime."""

    before: float
    after: float


@dataclass(frozen=True)
class Accuracy:
    """A score on `n` labelled pictures, 0..1: `metric` is top-1 or mAP; `drop` = before - after, paired 95% interval.

    The others are None where the metric has no such companion.
    """

    metric: str
    before: float
    after: float
    drop: float
    low: float
    high: float
    n: int
    top5_before: float | None = None
    top5_after: float | None = None
    top5_drop: float | None = None
    map50_before: float | None = None
    map50_after: float | None = None
    map50_drop: float | None = None

    @property
    def own(self) -> bool:
        """Whether the user defined the metric: it may be in any unit."""
        return self.metric not in ("top-1", "mAP")


@dataclass(frozen=True)
class Drift:
    """How near the outputs are to the original's on `n` inputs; `agreement` of the top answer, for classifiers."""

    sqnr_db: float
    cosine: float
    agreement: float | None
    n: int
    on: str


@dataclass(frozen=True)
class Counts:
    """How one class fares: right and wrong answers, one class against the rest; shares are 0..1, None where 0 / 0.

    For detectors `ap` is the average precision over IoU 0.50, 0.55 .. 0.95; the others count boxes of score 0.3 and
    above at IoU 0.5, and `tn` is None: there is no counting of what is rightly not found. For classifiers `ap` is None.
    """

    tp: int
    fp: int
    fn: int
    tn: int | None
    precision: float | None
    recall: float | None
    f1: float | None
    ap: float | None = None

    @classmethod
    def of(cls, tp: int, fp: int, fn: int, tn: int | None = None, ap: float | None = None) -> Counts:
        """Work the shares out."""
        shares = ((tp, tp + fp), (tp, tp + fn), (2 * tp, 2 * tp + fp + fn))
        precision, recall, f1 = (part / whole if whole else None for part, whole in shares)
        return cls(tp, fp, fn, tn, precision, recall, f1, ap)

    @property
    def figure(self) -> float | None:
        """The figure that classes are ranked by, 0..1: average precision for detectors, F1 for classifiers."""
        return self.f1 if self.tn is not None else self.ap


@dataclass(frozen=True)
class ClassFigures:
    """One class of a labelled report: `n` pictures (or objects) of it, before and after.

    `lost`, `gained`: its pictures that only the original, only the finished model has right; `p_value`: McNemar's of
    the two. None for detectors.
    """

    name: str
    n: int
    before: Counts
    after: Counts
    lost: int | None = None
    gained: int | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class Answered:
    """How many pictures of the class `label` got the answer `answer`, before and after: a cell of the confusion matrix.

    Both are positions in the report's classes; the answer is None where the scores held a NaN.
    """

    label: int
    answer: int | None
    before: int
    after: int


@dataclass(frozen=True)
class Distribution:
    """How long single runs took: their counts between `edges`, milliseconds that grow by the same factor."""

    edges: tuple[float, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One node as onnxruntime runs it: what it runs in, its share of the time, and the noise it is reached by.

    `share`: 0..1 of the time of all nodes. `sqnr_db`: of its output against the original's; None where the original has
    no such value. `why`: why it runs in what it runs in. `mend`: what would make it cheaper; "" for nothing.
    """

    name: str
    type: str
    int8: bool
    ms: float
    share: float
    sqnr_db: float | None = None
    why: str = ""
    mend: str = ""


@dataclass(frozen=True)
class Candidate:
    """One model that the search measured, on the pictures it chooses by.

    `drop`: of the score against labels where there are any, else of the agreement with the original, 0..1; None where
    neither exists. `within`: inside the budgets. `pareto`: no other is better in speed, size and nearness together.
    Speed is None for what was too far off to be timed.
    """

    name: str
    speedup: float | None
    low: float | None
    high: float | None
    bytes: int
    sqnr_db: float
    drop: float | None
    within: bool
    pareto: bool
    chosen: bool


@dataclass(frozen=True)
class Elsewhere:
    """What the model scores on another kind of CPU, emulated on `n` pictures: `figure` is what `metric` says."""

    isa: str
    metric: str
    here: float
    there: float
    n: int
    sentence: str


@dataclass(frozen=True)
class Gate:
    """One rule, the value it was judged on and whether it holds."""

    rule: str
    value: float
    passed: bool


@dataclass(frozen=True)
class Report:
    """Everything `edgekit compress` has to say."""

    model: Mapping[str, Any]
    out: Mapping[str, Any]
    recipe: Mapping[str, Any]
    done: tuple[str, ...]
    notes: tuple[str, ...]
    size: Size
    latency: Latency
    drift: Drift
    accuracy: Accuracy | None
    load: Pair
    memory: Pair | None
    nodes: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    calibration: Mapping[str, Any]
    machine: Mapping[str, Any]
    python: str
    gates: tuple[Gate, ...] = ()
    seconds: float = 0.0
    headline: str = ""
    classes: tuple[ClassFigures, ...] = ()
    confusion: tuple[Answered, ...] = ()  # the cells that are not 0, in order
    distribution: Distribution | None = None
    layers: tuple[Layer, ...] = ()
    search: tuple[Candidate, ...] = ()
    elsewhere: Elsewhere | None = None

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return all(gate.passed for gate in self.gates)

    @property
    def exit_code(self) -> int:
        """0 when every gate holds, else 1."""
        return 0 if self.passed else 1

    def to_dict(self) -> dict[str, Any]:
        """Give the versioned document of --json and --report x.json; gate names are its paths."""
        return {
            "schema": SCHEMA,
            "generator": files.MADE_BY,
            **_plain(asdict(self)),
            "passed": self.passed,
            "exit_code": self.exit_code,
        }


def _plain(value: Any) -> Any:
    """Give what JSON can hold: lists for tuples, null for what is not a finite number."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Rule:
    """A gate as it was written: `accuracy.drop<=0.01`."""

    text: str
    section: str
    key: str
    operator: str
    limit: float

    @property
    def needs_labels(self) -> bool:
        """Whether it can only be judged on labelled pictures."""
        return self.section == "accuracy"


SECTIONS: dict[str, type] = {
    "size": Size,
    "latency": Latency,
    "accuracy": Accuracy,
    "drift": Drift,
    "load": Pair,
    "memory": Pair,
}
OPERATORS = ("<=", ">=", "==", "<", ">")
INTERVALS = {"latency": "speedup", "accuracy": "drop"}  # which key a section's low..high belongs to


def gate_names() -> list[str]:
    """List the paths that a gate can be put on."""
    return [f"{s}.{f.name}" for s, cls in SECTIONS.items() for f in fields(cls) if "str" not in str(f.type)]


def parse_gate(text: str) -> Rule:
    """Read `accuracy.drop<=0.01`; raise EdgekitError for a name or an operator that does not exist."""
    for operator in OPERATORS:
        name, found, limit = text.partition(operator)
        if found:
            break
    else:
        raise EdgekitError(f"gate {text!r} has no comparison", "write it like 'accuracy.drop<=0.01'")
    name = name.strip()
    if name not in gate_names():
        near = nearest(name, gate_names())
        hint = f"did you mean {near}?" if near else f"there is {', '.join(gate_names())}"
        raise EdgekitError(f"gate {text!r}: no such number: {name}", hint)
    try:
        number = float(limit)
        if math.isnan(number):
            raise ValueError("nan")
    except ValueError:
        raise EdgekitError(
            f"gate {text!r}: {limit.strip()!r} is not a number", "write it like 'accuracy.drop<=0.01'"
        ) from None
    section, key = name.split(".")
    return Rule(text, section, key, operator, number)


def judge(rule: Rule, sections: Mapping[str, Any], *, strict: bool) -> Gate:
    """Judge a rule on the point estimate, or with `strict` on the interval's bad end."""
    section = sections[rule.section]
    value = None if section is None else getattr(section, rule.key)
    if value is None:
        raise EdgekitError(
            f"gate {rule.text!r}: {rule.section}.{rule.key} could not be measured for this model on this machine",
            f"leave it out, or gate another of {', '.join(gate_names())}",
        )
    if strict and INTERVALS.get(rule.section) == rule.key:
        value = section.high if rule.operator.startswith("<") else section.low
    holds = {
        "<=": value <= rule.limit,
        ">=": value >= rule.limit,
        "==": value == rule.limit,
        "<": value < rule.limit,
        ">": value > rule.limit,
    }
    return Gate(rule.text, float(value), holds[rule.operator])
