"""The command line by which one process of the platform starts another: `mlplatform.process`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

ENTRY: Final = "mlplatform.process"
PYTHON: Final = (sys.executable, "-P")
"""The interpreter and its options. Without `-P` Python looks for modules in the working folder
first, where another user may have put one in place of ours."""


def command(name: str, *options: str, python: Sequence[str] = PYTHON) -> tuple[str, ...]:
    """The words that start the process with this name.

    Args:
        python: the interpreter and its options.
    """
    return (*python, "-m", ENTRY, name, *options)
