"""The time that a predictor may take to load a bundle, by the bundle's size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

LEAST_BYTES_PER_S: Final = 50_000_000
"""Least rate at which a bundle is read and digested while it loads, on a shared machine."""


def load_deadline_s(policy_s: int, bundle_bytes: int) -> int:
    """Seconds after its start by which a predictor must answer that it is ready.

    Args:
        policy_s: `serving.load_deadline_s` of model.yaml: of a bundle without weights to speak of.
        bundle_bytes: size of the bundle's files.
    """
    return policy_s + math.floor(bundle_bytes / LEAST_BYTES_PER_S)


def folder_bytes(folder: Path) -> int:
    """Bytes of a bundle's files, all of which are digested on loading; 0 if there is no folder."""
    return sum(f.stat().st_size for f in folder.iterdir()) if folder.is_dir() else 0
