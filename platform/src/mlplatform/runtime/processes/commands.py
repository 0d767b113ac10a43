"""How one process of the platform starts another: the command line of `mlplatform.process`."""

from __future__ import annotations

import sys
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
