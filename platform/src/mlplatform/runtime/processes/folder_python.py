"""A run of a model folder's Python in a process of its own, without the platform's settings."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

from mlplatform.runtime.configuration.declarations import PREFIX

LIMIT_S: Final = 180.0
MOST_LINES: Final = 12


def run_error(*words: str, settings: dict[str, str] | None = None) -> str | None:
    """Run Python with these words; give the last lines that it printed if it failed, or None.

    Args:
        settings: of the platform's settings those that the process gets.

    Raises:
        TimeoutError: the process took more than LIMIT_S, and was ended.
    """
    others = {name: v for name, v in os.environ.items() if not name.startswith(PREFIX)}
    try:
        done = subprocess.run(
            [sys.executable, "-P", *words],
            env={**others, **(settings or {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"took more than {LIMIT_S:g} s") from error
    if not done.returncode:
        return None
    return "\n  ".join(done.stderr.strip().splitlines()[-MOST_LINES:])
