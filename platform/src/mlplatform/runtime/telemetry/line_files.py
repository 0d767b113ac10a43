"""Log lines on disk, found by the ids that they name."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

NAMED: Final = ("trace_id", "decision_id", "run_id")


def find(folder: Path, ids: Collection[str]) -> Iterator[dict[str, Any]]:
    """Every line of every process, old files included, that names one of the ids; in no order."""
    texts = [each.encode() for each in ids]
    for path in sorted(folder.glob("*.log*")):
        with path.open("rb") as file:
            for raw in file:
                if any(text in raw for text in texts):
                    line = _line(raw)
                    if any(line.get(name) in ids for name in NAMED):
                        yield line


def _line(raw: bytes) -> dict[str, Any]:
    """The fields of a line; empty if a process wrote something else."""
    try:
        found = json.loads(raw)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
