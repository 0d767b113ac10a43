"""How one process of the platform starts another: the command line of `mlplatform.process`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

ENTRY: Final = "mlplatform.process"
PYTHON: Final = (sys.executable, "-P")
"""Without `-P` Python looks for modules in the working folder first. A user who may write there
could put a module of their own before ours."""


def command(name: str, *options: str, python: Sequence[str] = PYTHON) -> tuple[str, ...]:
    """The words that start the process of that name.

    Args:
        python: the interpreter and its options.
    """
    return (*python, "-m", ENTRY, name, *options)
