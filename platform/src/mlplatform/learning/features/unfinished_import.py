"""The mark of a history whose rows are imported and whose snapshots and windows are not all made
yet; and the refusal of a history that comes too late."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import msgspec
import pyarrow as pa

from mlplatform.learning.features.rows import history_schema
from mlplatform.model.definition import ModelDefinition
from mlplatform.runtime.errors import Refused
from mlplatform.runtime.storage.files import write_atomically

FILE = "half-taken-in.json"
DIGEST_ROWS: Final = 65_536


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
        f" follows. Late labels of it: `mlplatform labels import {model} FILE`. Another history"
        f" {another_home(model)}"
    )


def another_home(model: str) -> str:
    """The way out for a history that does not go into this home, as the end of a sentence."""
    return f"needs another home (MLPLATFORM_HOME=FOLDER mlplatform history import {model} …)"


def remove(folder: Path) -> None:
    (folder / FILE).unlink(missing_ok=True)


def history_digest(table: pa.Table, definition: ModelDefinition) -> str:
    """SHA-256, hexadecimal, of a history's rows, however its table is split into chunks."""
    added = definition.declared_optional
    names = history_schema(definition).names  # an added field without a value changes no digest
    names = [n for n in names if n not in added or table.column(n).null_count < len(table)]
    table = table.select(names)
    found = hashlib.sha256()
    for start in range(0, table.num_rows, DIGEST_ROWS):
        for batch in table.slice(start, DIGEST_ROWS).combine_chunks().to_batches():
            found.update(batch.serialize())
    return found.hexdigest()
