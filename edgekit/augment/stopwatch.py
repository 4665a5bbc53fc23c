"""How much of a worker's time goes into files and codecs: no tool that writes the same files can do with less."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Stopwatch:
    """Seconds on the wall: all of them, and those in which files were read, decoded, encoded and written."""

    busy: float = 0.0
    codecs: float = 0.0

    @contextmanager
    def codec(self) -> Iterator[None]:
        """Count what is done meanwhile to the codecs."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.codecs += time.perf_counter() - started

    def add(self, other: Stopwatch) -> None:
        """Add what another has counted."""
        self.busy += other.busy
        self.codecs += other.codecs
