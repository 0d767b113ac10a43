"""Grafana's own parsers of LogQL and TraceQL, which run in Node."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from tests.observability.binaries import cache, needed

SOURCE: Final = Path(__file__).parent / "tools" / "lezer"


def errors(language: str, queries: dict[str, str]) -> dict[str, int]:
    """Queries that are wrong, and after how many characters.

    Args:
        language: `loki` or `tempo`.
        queries: place → query, without Grafana's variables.
    """
    node, npm = needed("node"), needed("npm")
    asked = json.dumps({"language": language, "queries": queries})
    command = [str(node), str(_installed(npm) / "parse.mjs")]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _installed(npm: Path) -> Path:
    """A folder of the cache with what the lock names, got once."""
    files = sorted(SOURCE.iterdir())
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
    folder = cache() / f"lezer-{digest[:16]}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(SOURCE, folder)
        command = [str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
        (folder / "done").touch()
    return folder
