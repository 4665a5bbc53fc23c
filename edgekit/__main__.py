"""`edgekit`, and `python -m edgekit`: nothing is imported here that takes time."""

from __future__ import annotations

import gc
import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line; a Ctrl-C while it is imported waits until it can be answered."""
    before = None
    if hasattr(signal, "pthread_sigmask"):  # a Unix
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    from edgekit.cli import app

    try:
        app.main(before)
    finally:
        gc.freeze()  # or all that there is would be looked through for garbage, twice, before the process ends


if __name__ == "__main__":
    main()
