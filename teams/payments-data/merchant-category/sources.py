"""Where the history comes from: Parquet files in the model's own columns, or the generator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from mlplatform.authoring import load_definition
from mlplatform.authoring.history import FileCheck, columns_of, examine_history

from .generator import Population, generate

__all__ = ["COLUMNS", "Population", "examine_transactions", "generate"]

MODEL: Final = "merchant-category"
NO_COLUMNS: Final[Mapping[str, str]] = MappingProxyType({})
COLUMNS: Final = columns_of(load_definition(MODEL))


def examine_transactions(
    path: Path, *, now_ms: int | None = None, columns: Mapping[str, str] = NO_COLUMNS
) -> FileCheck:
    """The payments of a Parquet file, or of a folder's.

    Args:
        now_ms: no row may be later; None where the data is from another time than ours.
        columns: of the history → the file's, where they differ.

    Raises:
        InputInvalid: names the file, and the column or the row.
    """
    definition = load_definition(MODEL)
    return examine_history(path, definition=definition, now_ms=now_ms, columns=columns)
