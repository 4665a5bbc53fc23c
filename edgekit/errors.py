"""The only exception a user meets."""


class EdgekitError(Exception):
    """Say what went wrong in one sentence and how to mend it in one line.

    `message` quotes the user's own token; `hint` is the way out. The command-line boundary prints both on stderr and
    exits with 2; nothing has been written by then.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """Survive the trip back from a worker process."""
        return type(self), (self.message, self.hint)


class StoppedError(EdgekitError):
    """Say that Ctrl-C was pressed, and what was kept."""
