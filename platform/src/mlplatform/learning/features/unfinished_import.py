"""The mark of a history whose rows are imported and whose snapshots are not all made yet; and the
refusal of a history that comes too late."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mlplatform.runtime.errors import Refused
from mlplatform.runtime.storage.files import write_atomically

FILE = "half-taken-in.json"


class UnfinishedImport(msgspec.Struct, frozen=True):
    """An import between its first write and its last.

    Args:
        part: number of the part of the offline table that the import writes.
        rows: digest of the imported history.
        forgotten_ms: midnights whose snapshots were removed, and are made again with the new rows.
    """

    part: int
    rows: str
    forgotten_ms: tuple[int, ...] = ()


def read(folder: Path) -> UnfinishedImport | None:
    """The mark in a model's offline folder; None where there is none."""
    try:
        content = (folder / FILE).read_bytes()
    except FileNotFoundError:
        return None
    return msgspec.json.decode(content, type=UnfinishedImport)


def write(folder: Path, mark: UnfinishedImport) -> None:
    write_atomically(folder / FILE, msgspec.json.encode(mark))


def closed_history(model: str) -> Refused:
    """The refusal of another history, once the model has answered requests."""
    return Refused(
        f"{model} has answered requests, so its history is closed: the decision log records what"
        f" follows. Another history {another_home(model)}"
    )


def another_home(model: str) -> str:
    """The way out for a history that does not go into this home, as the end of a sentence."""
    return f"takes another home (MLPLATFORM_HOME=FOLDER mlplatform history import {model} …)"


def remove(folder: Path) -> None:
    (folder / FILE).unlink(missing_ok=True)
