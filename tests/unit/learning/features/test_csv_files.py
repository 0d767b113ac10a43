"""CSV from outside: one row is bounded, whatever its quotes do."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest

from mlplatform.learning.features.csv_files import MOST_ROW, CsvFiles
from mlplatform.runtime.errors import InputInvalid


def test_a_row_that_never_ends_is_refused_before_it_is_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "endless.csv"
    path.write_text('a,b\n1,2\n"' + '\n","' * (100 * MOST_ROW))
    with CsvFiles([path]) as files:
        tracemalloc.start()
        with pytest.raises(InputInvalid, match=f"a row of more than {MOST_ROW} characters"):
            files.read(0, {"a": pa.int64()})
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < path.stat().st_size / 4


def test_a_cell_may_go_over_lines_in_as_many_rows_as_there_are(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    rows = MOST_ROW // 4
    path.write_text("a,b\n" + 'x,"1\n2"\n' * rows)
    with CsvFiles([path]) as files:
        table, refusals = files.read(0, {"b": pa.string()})
    assert table["b"].to_pylist() == ["1\n2"] * rows
    assert not refusals
