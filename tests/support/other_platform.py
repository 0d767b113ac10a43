"""A process that holds a port as the platform of another home does, and answers nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PROGRAM: Final = (
    "import socket, sys; s = socket.create_server(('127.0.0.1', 0));"
    "print(s.getsockname()[1], flush=True); sys.stdin.read()"
)


@contextmanager
def platform_of(home: Path, word: str = "mlplatform") -> Iterator[tuple[int, int]]:
    """The pid and the port of the process, while it runs.

    Args:
        word: a word of its command line, by which it is known.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, word],
        env={**os.environ, "MLPLATFORM_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
    finally:
        process.communicate()
