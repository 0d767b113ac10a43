"""A document as its reader types it: every block of `sh`, in order, in one shell."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Final

from mlplatform.runtime.configuration.declarations import PREFIX
from support.ports import free_port

ROOT: Final = Path(__file__).parents[2]
BLOCK: Final = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEAD: Final = """set -euo pipefail
ended() { mlplatform down > /dev/null 2>&1 || true; }
trap ended EXIT
"""


def blocks(text: str) -> list[str]:
    """The blocks of a document's text, in order."""
    return BLOCK.findall(text)


def typed(text: str, clone: Path, *, limit_s: float) -> str:
    """What all blocks print, typed in a folder that stands for a clone. Before each stands its
    number with the seconds since the start, and behind the last one those of all."""
    (clone / ".venv").symlink_to(ROOT / ".venv")
    names = ("GATEWAY", "PREFECT", "MLFLOW", "PAGE")
    ports = {f"{PREFIX}{name}_PORT": str(free_port()) for name in names}
    own = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
    printed, logs = clone / "printed.txt", clone / "up.log"
    with printed.open("w") as out:
        shell = subprocess.Popen(
            ["bash", "-c", _script(text)],
            cwd=clone, env={**own, **ports}, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
        status = _ended(shell, limit_s)
    assert status == 0, printed.read_text() + (logs.read_text() if logs.exists() else "")
    return printed.read_text()


def said(printed: str, number: int) -> str:
    """What a block printed, by its number, from 1."""
    return printed.partition(f"== block {number} at")[2].partition("== block")[0]


def numbered(text: str, words: str) -> int:
    """The number of the first block that holds these words."""
    return next(number for number, block in enumerate(blocks(text), 1) if words in block)


def _script(text: str) -> str:
    parts = (
        f'echo "== block {number} at $SECONDS s"\n{block}'
        for number, block in enumerate(blocks(text), 1)
    )
    return f'{HEAD}{"".join(parts)}echo "== all in $SECONDS s"'


def _ended(shell: subprocess.Popen[bytes], limit_s: float) -> int | None:
    """Its status; None where it took too long, and was ended with the platform that it started."""
    try:
        return shell.wait(limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGTERM)
        shell.wait(60)
        return None
