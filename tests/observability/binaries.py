"""Where the servers of `make test-observability` are on this machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def cache() -> Path:
    """As `MLPLATFORM_TEST_OBSERVABILITY_CACHE` says, or below the user's cache folder."""
    named = os.environ.get("MLPLATFORM_TEST_OBSERVABILITY_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(home) / "mlplatform" / "observability"


def find(program: str) -> Path | None:
    """A program that is installed, or that `make observability-tools` put into the cache."""
    installed = shutil.which(program)
    folders = (cache() / "bin", cache() / "unpacked" / "usr" / "bin")
    found = [Path(installed)] if installed else [folder / program for folder in folders]
    return next((path for path in found if path.exists()), None)


def needed(program: str) -> Path:
    """The program; a test without it is skipped aloud, or fails where it has to be there."""
    found = find(program)
    if found is None:
        message = f"{program} is not here: make observability-tools gets it"
        if os.environ.get("MLPLATFORM_TEST_OBSERVABILITY") == "required":
            pytest.fail(message)
        pytest.skip(message)
    return found
