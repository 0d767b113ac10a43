"""Matured outcomes of each version that was champion, as the last drift check during its tenure saw
them.

One small file for each version, for the model card. Nothing is decided from it, and it may be
deleted: the next drift check writes the present champion's again.
"""

from __future__ import annotations

from pathlib import Path

from mlplatform.rollouts.drift.tenure import MaturedTenure
from mlplatform.runtime.storage.struct_files import read_struct, write_struct


def keep(folder: Path, model: str, tenure: MaturedTenure) -> None:
    """Write the version's newest outcomes over the stored ones."""
    write_struct(_file(folder, model, tenure.version), tenure)


def last(folder: Path, model: str, version: int) -> MaturedTenure | None:
    """The version's last stored outcomes; None if no drift check ran while it was champion.

    Raises:
        Corrupt: the file is not what `keep` writes.
    """
    return read_struct(_file(folder, model, version), MaturedTenure)


def _file(folder: Path, model: str, version: int) -> Path:
    return folder / f"{model}.v{version}.matured.json"
