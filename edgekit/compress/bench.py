"""The Workbench that `run.py` gives to the steps: what they may ask, answered by `measure`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from edgekit.measure import figures, latency
from edgekit.measure.calibration import Calibration
from edgekit.session import open_session

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgekit.measure.drift import DriftResult
    from edgekit.session import Feed

LATENCY_FEEDS = 8
SHORT_SECONDS = 3.0  # of a comparison that only helps to choose


@dataclass
class Bench:
    """Calibration feeds, held-back drift, whole-graph latency, and the notes that steps leave.

    `calibrate` and `choose` share no picture with each other or with the report.
    """

    calibrate: Calibration
    choose: Calibration
    int8: str
    seed: int = 0
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    threads: int = 1
    cores: int = 1
    seconds: float = SHORT_SECONDS
    say: Callable[[str], None] = lambda text: None
    notes: list[str] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)

    def feeds(self, samples: int) -> Iterator[Feed]:
        """Give at most `samples` calibration inputs, always the same ones in the same order."""
        return islice(iter(self.calibrate), samples)

    def latency_feeds(self) -> Sequence[Feed]:
        """Give the few inputs that latency is measured on."""
        return list(islice(iter(self.choose), LATENCY_FEEDS))

    def drift(self, before: ModelProto, after: ModelProto) -> DriftResult:
        """Compare outputs on the held-back inputs."""
        return figures.compare_outputs(
            open_session(before, threads=self.cores), open_session(after, threads=self.cores), self.choose
        )

    def speed(self, before: ModelProto, after: ModelProto) -> latency.Comparison:
        """Compare latency, shortly."""
        feeds = self.latency_feeds()
        openers = [latency.session_runner(model, feeds, self.threads) for model in (before, after)]
        return latency.compare(*openers, seconds=self.seconds, seed=self.seed, threads=self.threads)

    def note(self, text: str) -> None:
        """Keep a sentence for the report."""
        self.notes.append(text)

    def decide(self, text: str) -> None:
        """Keep what an automatic step chose, in a few words, for the report's first line."""
        self.decisions.append(text)
