"""The two streams: stdout is the answer, stderr the conversation.

Whatever is said may hold names of files: what would steer a terminal is shown, never sent.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.words import printable

LONG = 16  # steps from which a stage has a bar
WIDTH = 100  # without a terminal, so that logs are the same everywhere


@dataclass
class Console:
    """How to talk: set once from the command's common flags."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    color: str = "auto"

    def answer(self, text: str) -> None:
        """Print the answer (nothing with --json, whose answer is the document)."""
        if not self.json:
            print(printable(text), flush=True)

    def document(self, values: dict[str, Any]) -> None:
        """Print the one JSON document of --json."""
        print(json.dumps(values, ensure_ascii=True, allow_nan=False, indent=2), flush=True)

    def say(self, text: str) -> None:
        """Say something on stderr, unless --quiet."""
        if not self.quiet:
            print(printable(text), file=sys.stderr, flush=True)

    def detail(self, text: str) -> None:
        """Say something on stderr with --verbose."""
        if self.verbose:
            self.say(text)

    @contextmanager
    def progress(self, task: str) -> Iterator[Callable[[int, int], None]]:
        """Draw a bar with rate and time left on a terminal; in a pipe say one line when it is done."""
        if self.quiet or not sys.stderr.isatty():
            yield lambda done, total: None
            return
        from rich.console import Console as Rich
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        with Progress(*columns, TimeRemainingColumn(), console=Rich(stderr=True), transient=True) as bar:
            handle = bar.add_task(task, total=None, rate="")

            def update(done: int, total: int) -> None:
                speed = bar.tasks[handle].finished_speed or bar.tasks[handle].speed
                bar.update(handle, completed=done, total=total, rate=f"{speed:,.0f}/s" if speed else "")

            yield update

    @contextmanager
    def stages(self, task: str) -> Iterator[tuple[Callable[[str], None], Callable[[int, int], None]]]:
        """Give a way to name stages, one line each, and one to tell how far a long one is.

        On a terminal that draws a bar, which goes when all is done, or at the next stage.
        """
        with ExitStack() as bar:
            updates: list[Callable[[int, int], None]] = []

            def say(text: str) -> None:
                bar.close()
                updates.clear()
                self.say(text)

            def progress(done: int, total: int) -> None:
                if total < LONG:
                    return
                if not updates:
                    updates.append(bar.enter_context(self.progress(task)))
                updates[0](done, total)
                if done >= total:
                    bar.close()
                    updates.clear()

            yield say, progress

    def failed(self, error: EdgekitError, code: int = 2) -> None:
        """Print an error: what on one line, how on the next; with --json also the document."""
        if self.json:
            self.document(failure(error, code))
        lines = [f"error: {printable(error.message)}"]
        if error.hint:
            lines.append(f" hint: {printable(error.hint)}")
        print("\n".join(lines), file=sys.stderr, flush=True)


def failure(error: EdgekitError, code: int) -> dict[str, Any]:
    """Make the document that --json prints of an error."""
    said = {"message": error.message, "hint": error.hint}
    return {"schema": "edgekit.error/1", "error": said, "exit_code": code}
