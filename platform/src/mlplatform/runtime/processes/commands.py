"""How one process of the platform starts another: the command line of `mlplatform.process`."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from typing import Final

ENTRY: Final = "mlplatform.process"


def command(name: str, *options: str, python: Sequence[str] = (sys.executable,)) -> tuple[str, ...]:
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
