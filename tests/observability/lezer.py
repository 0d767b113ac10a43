"""Grafana's own parsers of LogQL and TraceQL, which run in Node."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
from tests.observability.binaries import cache

SOURCE: Final = Path(__file__).parent / "tools" / "lezer"


def errors(language: str, queries: dict[str, str]) -> dict[str, int]:
    """Queries that are wrong, and after how many characters.

    A test without Node is skipped aloud, and one without the parsers too, unless it has to run.

    Args:
        language: `loki` or `tempo`.
        queries: place → query, without Grafana's variables.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("LogQL and TraceQL are parsed in Node (20 or newer, with npm), not here")
    asked = json.dumps({"language": language, "queries": queries})
    command = [node, str(_installed(npm) / "parse.mjs")]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def _installed(npm: str) -> Path:
    """A folder of the cache with what the lock names, got once."""
    files = sorted(SOURCE.iterdir())
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
    folder = cache() / f"lezer-{digest[:16]}"
    if (folder / "done").exists():
        return folder
    if os.environ.get("MLPLATFORM_TEST_OBSERVABILITY") != "required":
        pytest.skip("the parsers of LogQL and TraceQL are not here: make test-observability")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(SOURCE, folder)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (folder / "done").touch()
    return folder
