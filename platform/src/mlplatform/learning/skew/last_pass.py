"""The end of the last pass over a model's decisions, and its findings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from mlplatform.learning.skew.verdict import SkewReport
from mlplatform.runtime.storage.struct_files import read_struct, write_struct


class LastPass(msgspec.Struct, frozen=True):
    """The end of a pass.

    Args:
        at_ms: when the pass ended, wall time.
        position: per writer, the number of the record after which the next pass begins. It does not
            move while the sample is too small; the next pass then judges these decisions with later
            ones.
    """

    at_ms: int
    position: Mapping[str, int]
    report: SkewReport


def keep(folder: Path, model: str, ended: LastPass) -> None:
    """Store the end of a pass, in place of the one before."""
    write_struct(_file(folder, model), ended)


def last(folder: Path, model: str) -> LastPass | None:
    """The end of the last pass; None before the first.

    Raises:
        Corrupt: the file is not what `keep` writes.
    """
    return read_struct(_file(folder, model), LastPass)


def _file(folder: Path, model: str) -> Path:
    return folder / f"{model}.skew.json"
