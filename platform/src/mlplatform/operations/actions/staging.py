"""Staged inputs of jobs, kept until their job has ended."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mlplatform.operations.compute.jobs import ITEMS, SHARED
from mlplatform.runtime.units import DAY_S

LEFT_S: Final = 7 * DAY_S
"""Seconds after which a run removes inputs that a killed run left behind."""


def inputs(staging: Path, name: str, write: Callable[[Path, Path], None]) -> Path:
    """The folder of that name; `write(shared, items)` fills it, and it appears whole or not at all.

    An existing folder is used as it is, because a job may be reading it.
    """
    _sweep(staging)
    folder = staging / name
    if folder.is_dir():
        return folder
    draft = folder.with_name(f".{name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    (draft / SHARED).mkdir(parents=True)
    (draft / ITEMS).mkdir()
    try:
        write(draft / SHARED, draft / ITEMS)
        os.rename(draft, folder)
    except OSError:
        if not folder.is_dir():  # another process created it first; its content is the same
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _sweep(staging: Path) -> None:
    staging.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in staging.iterdir():
        if time.time() - folder.stat().st_mtime > LEFT_S:
            shutil.rmtree(folder, ignore_errors=True)
