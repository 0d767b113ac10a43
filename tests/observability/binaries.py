"""Where Prometheus, Alertmanager and the OpenTelemetry Collector are on this machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

import pytest

ALIASES: Final = {"alertmanager": ("alertmanager", "prometheus-alertmanager")}
"""Debian calls it by another name."""


def cache() -> Path:
    """As `MLPLATFORM_OBSERVABILITY_CACHE` says, or below the user's cache folder."""
    named = os.environ.get("MLPLATFORM_OBSERVABILITY_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(home) / "mlplatform" / "observability"


def find(program: str) -> Path | None:
    """A program that is installed, or that `make observability-tools` put into the cache."""
    folders = (cache() / "bin", cache() / "unpacked" / "usr" / "bin")
    for name in ALIASES.get(program, (program,)):
        found = shutil.which(name)
        if found is not None:
            return Path(found)
        for folder in folders:
            if (folder / name).exists():
                return folder / name
    return None


def needed(program: str) -> Path:
    """The program; a test without it is skipped aloud, or fails where it has to be there."""
    found = find(program)
    if found is None:
        message = f"{program} is not here: make observability-tools gets it"
        if os.environ.get("MLPLATFORM_OBSERVABILITY_TOOLS") == "required":
            pytest.fail(message)
        pytest.skip(message)
    return found
