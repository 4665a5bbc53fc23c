"""How much of a worker's time goes into files and codecs: no tool that writes the same files can do with less."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass
class Stopwatch:
    """Seconds on the wall: all of them, and those in which files were read, decoded, encoded and written.

    `with` counts what is done meanwhile to the codecs; it is not entered twice at a time.
    """

    busy: float = 0.0
    codecs: float = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.codecs += time.perf_counter() - self._started

    def add(self, other: Stopwatch) -> None:
        """Add what another has counted."""
        self.busy += other.busy
        self.codecs += other.codecs
