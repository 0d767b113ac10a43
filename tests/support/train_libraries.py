"""Libraries that models are fitted with by locks of their own: said aloud where one is missing."""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from mlplatform.learning.training.packages import LOCKS, libraries


def needed(name: str) -> Any:
    """The library; a test without it is skipped aloud, or fails where it has to be there."""
    if importlib.util.find_spec(name) is None:
        message = f"{name.upper()} IS NOT TESTED: make {LOCKS[name]} installs it"
        if os.environ.get("MLPLATFORM_TEST_TRAIN") == "required":
            pytest.fail(message)
        pytest.skip(message)
    return importlib.import_module(name)


def needed_of(folder: Path) -> None:
    """A test that fits this model is skipped aloud, or fails, where its library is missing."""
    for name in libraries(folder):
        needed(name)


def needed_file(path: Path, what: str) -> None:
    """A test of data that not every machine has is skipped aloud where it is not."""
    if not path.is_file():
        pytest.skip(f"{what} IS NOT TESTED: {path} is not here")
