"""CSV from outside: one row is bounded, whatever its quotes do."""

from __future__ import annotations

import gc
import math
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest

from mlplatform.learning.features.csv_files import MOST_ROW, CsvFiles
from mlplatform.learning.features.parquet_work import MOST_COLUMNS, VECTOR_BATCH_ROWS
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


def test_a_cell_may_hold_a_vector_as_a_json_list(tmp_path: Path) -> None:
    path, kind = tmp_path / "vectors.csv", pa.list_(pa.float64())
    rows = 2 * VECTOR_BATCH_ROWS + 5
    cells = ['"[0.1, -2, 1e-30]"', "", '"[1, null]"', '"[1, ""x""]"', "0.5", "[7]"]
    path.write_text("id,face\n" + "".join(f"{n},{cells[n % 6]}\n" for n in range(rows)))
    with CsvFiles([path]) as files:
        assert files.types(0)["face"] == "string"
        table, refusals = files.read(0, {"face": kind})
        (first, *_) = files.batches(0, {"face": kind}, rows - 1)
    found = table["face"].to_pylist()
    assert len(found) == rows
    assert found[:2] == [[0.1, -2.0, 1e-30], None]
    assert found[2][0] == 1.0
    assert math.isnan(found[2][1])
    assert found[3:6] == [None, None, [7.0]]
    texts = ['face[1] is "x"; wanted: a number', "face is '0.5'; wanted: numbers in brackets"]
    for refusal, row, text in zip(refusals, (3, 4), texts, strict=False):
        assert str(refusal).startswith(f"vectors.csv, row {row}, counted from 0: {text}")
    assert len(refusals) == sum(n % 6 in (3, 4) for n in range(rows))
    assert first.rows.num_rows == 1


def test_a_hidden_vector_is_in_no_message(tmp_path: Path) -> None:
    path = tmp_path / "vectors.csv"
    path.write_text('face\n"[1, ""x""]"\n')
    with CsvFiles([path]) as files:
        (batch,) = files.batches(0, {"face": pa.list_(pa.float64())}, hidden=["face"])
    assert [problem.text for problem in batch.problems] == ["face; wanted: a number"]


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        pytest.param(
            ",".join(f"c{n}" for n in range(MOST_COLUMNS + 1)),
            f"{MOST_COLUMNS + 1} columns; the limit is {MOST_COLUMNS}: write only those",
            id="too many columns",
        ),
        pytest.param("a,b,a", "its first line has a twice; wanted:", id="a name twice"),
        pytest.param("a,,b", "column 1 of its first line", id="no name"),
        pytest.param("", "it has no first line", id="an empty line"),
    ],
)
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_wrong_line_of_names_is_told_and_leaves_nothing_open(
    tmp_path: Path, head: str, problem: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{head}\n1,2,3\n")
    with pytest.raises(InputInvalid, match=problem), CsvFiles([path]) as files:
        files.types(0)
    gc.collect()


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_batches_that_nobody_ends_are_ended_after_their_files(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a\n" + "1\n" * 70_000)
    with CsvFiles([path]) as files:
        batches = files.batches(0, {"a": pa.int64()})
        assert next(batches).rows.num_rows == 65_536
    del batches
    gc.collect()


def test_as_many_columns_as_a_file_may_have_are_read(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    row = ",".join(str(n) for n in range(MOST_COLUMNS))
    path.write_text(",".join(f"c{n}" for n in range(MOST_COLUMNS)) + "\n" + f"{row}\n" * 3_000)
    with CsvFiles([path]) as files:
        batches = list(files.batches(0, {"c4": pa.int64(), "c4000": pa.int64()}))
    assert [batch.rows.num_rows for batch in batches] == [1024, 1024, 952]
    assert batches[-1].rows.to_pylist()[-1] == {"c4": 4, "c4000": 4000}
