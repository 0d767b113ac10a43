"""How one process of the platform starts another: the command line of `mlplatform.process`."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from typing import Final

ENTRY: Final = "mlplatform.process"
PYTHON: Final = (sys.executable, "-P")
"""Without `-P` the first place for modules is the working folder, and whoever may write into it
could put one of theirs before ours."""


def command(name: str, *options: str, python: Sequence[str] = PYTHON) -> tuple[str, ...]:
    """The words that start the process of that name.

    Args:
        python: the interpreter, and what it is told.
    """
    return (*python, "-m", ENTRY, name, *options)


def stopping_at_signals() -> threading.Event:
    """An event that is set at SIGTERM or SIGINT; to be asked for in the main thread."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    return stopping
