"""Labels in a Parquet or CSV file, of requests that were imported or answered before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from mlplatform.learning.features.columns import (
    TIMES,
    Check,
    ExpectedColumn,
    FileCheck,
    kept_refusals,
    match_columns,
)
from mlplatform.learning.features.history_files import (
    LABEL_KINDS,
    MOST_REFUSALS,
    REQUEST_IDS,
    in_schema,
    opened_files,
    read_columns,
)
from mlplatform.learning.features.input_files import CSV, CSV_FILES, PARQUET
from mlplatform.learning.features.rows import (
    IMPOSSIBLE_LABELS,
    LABELS,
    is_missing,
    known_by,
    labels_schema,
)
from mlplatform.model.definition import ModelDefinition
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid

COLUMNS: Final = LABELS.names[:3]
AT_IMPORT: Final = "without it, a label counts as stated when it is imported"
_LAST: Final[Any] = 2**63 - 1
_PARSED: Final[Mapping[str, Callable[[str], Any]]] = {"binary": int, "classes": str, "real": float}


def label_columns_of(definition: ModelDefinition, *, has_label: bool) -> tuple[ExpectedColumn, ...]:
    """The columns of a file of labels.

    Args:
        has_label: whether the file says each row's label.
    """
    kinds, meaning = LABEL_KINDS[definition.task]
    found = (
        ("request_id", REQUEST_IDS, ("request_id", "decision_id"), "id of the request", ""),
        ("label", kinds, ("label",), meaning, ""),
        ("label_time", TIMES, ("label_time",), "when it was stated; not in the future", AT_IMPORT),
    )
    return tuple(
        ExpectedColumn(
            name,
            tuple(map(str, types)),
            usual,
            frozenset(name.split("_")),
            means,
            is_needed=not without,
            without=without,
        )
        for name, types, usual, means, without in found
        if name != "label" or has_label
    )


def examine_labels(
    path: Path,
    *,
    definition: ModelDefinition,
    now_ms: int | None,
    columns: Mapping[str, str],
    label: str | None = None,
) -> FileCheck:
    """The labels in a file, as rows with `COLUMNS` in its order; `label_time` may be null.

    Args:
        now_ms: latest time of a label; None if the data is from another time than ours.
        columns: name of a column here → the file's, where the names differ.
        label: the label of every row of a file that has none.

    Raises:
        InputInvalid: the file or a row is wrong; the message names them.
        ConfigInvalid: the model can have no such label.
    """
    if path.is_dir() or not path.is_file() or path.suffix.lower() not in (PARQUET, *CSV_FILES):
        problem = f"wanted: one {PARQUET} or {CSV} file of labels"
        raise InputInvalid(str(path), None, problem)
    kinds = {"request_id": REQUEST_IDS, "label_time": TIMES}
    if label is None:
        kinds["label"] = LABEL_KINDS[definition.task][0]
    wanted = label_columns_of(definition, has_label=label is None)
    schema = pa.schema([labels_schema(definition).field(name) for name in COLUMNS])
    with ExitStack() as until:
        (file,) = opened_files([path], until)
        names = match_columns(wanted, file.types, columns, path.name)
        found, refusals = read_columns(file, names, kinds)
    unread = tuple(name for name in file.types if name not in names.values())
    if refusals:
        return _refused(found, refusals, names, unread)
    if label is not None:
        found = found.append_column("label", _repeated(label, definition, len(found)))
    if "label_time" not in found.column_names:
        missing: Any = pa.nulls(len(found), schema.field("label_time").type)
        found = found.append_column("label_time", missing)
    table = in_schema(found, schema, path.name)
    if not table.num_rows:
        raise InputInvalid(path.name, None, "there is no row in it")
    rows = np.arange(table.num_rows)
    for check in _checks(table, definition, now_ms):
        refusals += check.refusals(path.name, rows)
    return _refused(table, refusals, names, unread)


def _refused(
    table: pa.Table,
    refusals: Sequence[InputInvalid],
    names: Mapping[str, str],
    unread: tuple[str, ...],
) -> FileCheck:
    kept, refused = kept_refusals(refusals, MOST_REFUSALS)
    return FileCheck(table, kept, names, unread, refused)


def _repeated(text: str, definition: ModelDefinition, rows: int) -> pa.Array[Any]:
    """A column of one label."""
    kind = labels_schema(definition).field("label").type
    try:
        column: Any = pa.array([_PARSED[definition.task](text)], kind)
    except (ValueError, OverflowError, pa.ArrowInvalid):
        column = None
    wrong, problem = True, "label is none of this model's"
    if column is not None:
        flags, problem = IMPOSSIBLE_LABELS[definition.task](pa.chunked_array([column]), definition)
        wrong = bool(flags[0])
    if wrong:
        raise ConfigInvalid("--label", text, f"a label of {definition.name}: here {problem}")
    repeated: pa.Array[Any] = column.take(pa.array(np.zeros(rows, np.int64)))
    return repeated


def _checks(table: pa.Table, definition: ModelDefinition, now_ms: int | None) -> list[Check]:
    ids, labels, times = (table.column(name) for name in COLUMNS)
    unsaid = is_missing(labels)
    impossible, problem = IMPOSSIBLE_LABELS[definition.task](labels, definition)
    found = [
        Check(is_missing(ids), "request_id is missing"),
        Check(unsaid, "label is missing"),
        Check(impossible & ~unsaid, problem, labels),
        _contradictions(table),
    ]
    return found if now_ms is None else [*found, known_by(times, "label_time", now_ms)]


def _contradictions(table: pa.Table) -> Check:
    """Check that no earlier row has another label of the same request and time, because nobody
    could tell which one counts."""
    ids, labels, times = (
        table.column(name).combine_chunks().dictionary_encode("encode").indices.to_numpy()
        for name in COLUMNS
    )
    row = np.arange(len(ids))
    by_key = np.lexsort((row, times, ids))
    ids, labels, times = ids[by_key], labels[by_key], times[by_key]
    starts = np.ones(len(row), bool)
    starts[1:] = (ids[1:] != ids[:-1]) | (times[1:] != times[:-1])
    first = labels[np.flatnonzero(starts)][np.cumsum(starts) - 1]
    wrong = np.zeros(len(row), bool)
    wrong[by_key] = labels != first
    problem = "an earlier row has another label of this request_id at the same label_time"
    return Check(wrong, problem, table.column("request_id"))


def in_order_of_time(table: pa.Table) -> pa.Table:
    """The labels by their time, those without one last; of one time in the order of the file."""
    times = table.column("label_time").cast(pa.int64()).fill_null(_LAST).to_numpy()
    return table.take(np.argsort(times, kind="stable"))
