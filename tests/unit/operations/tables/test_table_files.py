"""Files of an input that are small share a confined process, and each is read as if alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from mlplatform.learning.features import parquet_files
from mlplatform.learning.features.parquet_files import ParquetFiles
from mlplatform.model.folders import load_definition
from mlplatform.operations.tables import input_files
from mlplatform.operations.tables.input_files import GROUP_FILES, TableFiles, blocks
from mlplatform.operations.tables.sources import opened
from mlplatform.runtime.errors import InputInvalid, NotFound

DEFINITION = load_definition("fraud")
ROWS = 25


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The files of each process that is started, by name."""
    found: list[list[str]] = []

    class NotedFiles(ParquetFiles):
        def __init__(self, paths: Sequence[Path], **more: Any) -> None:
            super().__init__(paths, **more)
            found.append([path.name for path in paths])

    monkeypatch.setattr(input_files, "ParquetFiles", NotedFiles)
    return found


def written(folder: Path, names: Sequence[str], rows: int = ROWS) -> list[Path]:
    for number, name in enumerate(names):
        table = pa.table(
            {
                "request_id": [f"{number}.{row}" for row in range(rows)],
                "customer_id": [7] * rows,
                "terminal_id": [3] * rows,
                "amount": [float(number)] * rows,
            }
        )
        write = pq.write_table if name.endswith(".parquet") else pyarrow.csv.write_csv
        write(table, folder / name)
    return [folder / name for name in names]


def read(paths: Sequence[Path], first: int = 0, rows: int = 10) -> Iterator[list[Any]]:
    """The ids of each block, file by file, as a batch reads them."""
    with TableFiles(DEFINITION, {}, rows=rows) as files:
        for number, path in enumerate(paths):
            for block in files.blocks(path, path.name, first, paths[number + 1 :]):
                yield [path.name, block.number, *block.rows["request_id"].to_pylist()]


@pytest.mark.parametrize("first", [0, 1, 9])
def test_small_files_share_a_process_and_give_the_blocks_that_they_give_alone(
    tmp_path: Path, started: list[list[str]], first: int
) -> None:
    names = ["a.parquet", "b.parquet", "c.csv", "d.parquet", "e.parquet"]
    paths = written(tmp_path, names)
    together = list(read(paths, first))
    assert started == [["a.parquet", "b.parquet"], ["d.parquet", "e.parquet"]]
    alone = [
        [path.name, block.number, *block.rows["request_id"].to_pylist()]
        for path in paths
        for block in blocks(path, path.name, DEFINITION, {}, rows=10, first=first)
    ]
    assert together == alone
    assert len(together) == (3 - first if first < 3 else 1) * len(paths)


def test_a_process_has_a_limit_of_files_and_of_bytes(
    tmp_path: Path, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = written(tmp_path, [f"{n:02d}.parquet" for n in range(GROUP_FILES + 2)], rows=1)
    assert sum(1 for _ in read(paths)) == len(paths)
    assert [len(names) for names in started] == [GROUP_FILES, 2]
    started.clear()
    size = max(path.stat().st_size for path in paths)
    monkeypatch.setattr(input_files, "GROUP_BYTES", 2 * size)
    list(read(paths[:5]))
    assert [len(names) for names in started] == [2, 2, 1]
    started.clear()
    monkeypatch.setattr(input_files, "GROUP_BYTES", size - 1)  # each is large
    list(read(paths[:2]))
    assert [len(names) for names in started] == [1, 1]


@pytest.mark.parametrize("name", ["wide.parquet", "wide.csv"])
def test_a_table_may_have_thousands_of_columns_that_no_request_has(
    tmp_path: Path, name: str
) -> None:
    written(tmp_path, ["a.parquet"])
    table = pq.read_table(tmp_path / "a.parquet")
    for number in range(2_000):
        table = table.append_column(f"unread_{number}", pa.array([number] * ROWS))
    write = pq.write_table if name.endswith(".parquet") else pyarrow.csv.write_csv
    write(table, tmp_path / name)
    (block,) = read([tmp_path / name], rows=100)
    assert block[2:] == [f"0.{row}" for row in range(ROWS)]


def test_the_limit_of_rows_is_that_of_each_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = written(tmp_path, ["a.parquet", "b.parquet"])
    monkeypatch.setattr(parquet_files, "MOST_ROWS", ROWS)
    assert sum(1 for _ in read(paths)) == 6
    with ParquetFiles(paths) as files:
        files.read(0, {"amount": pa.float64()})
        with pytest.raises(InputInvalid, match="25 rows with the files above"):
            files.read(1, {"amount": pa.float64()})


def test_a_later_file_that_is_gone_is_told_in_its_turn(
    tmp_path: Path, started: list[list[str]]
) -> None:
    paths = written(tmp_path, ["a.parquet", "b.parquet"])
    paths[1].unlink()
    paths[1].mkdir()
    found = read(paths)
    assert [next(found)[1] for _ in range(3)] == [0, 1, 2]
    assert started == [["a.parquet"]]
    with pytest.raises((InputInvalid, NotFound), match=r"b\.parquet"):
        next(found)


def test_a_damaged_file_is_named_and_leaves_those_before_it_read(tmp_path: Path) -> None:
    paths = written(tmp_path, ["a.parquet", "b.parquet", "c.parquet"])
    paths[1].write_bytes(b"PAR1 no file PAR1")
    found = read(paths, rows=100)
    assert next(found)[0] == "a.parquet"
    with pytest.raises(InputInvalid, match=r"b\.parquet: no readable Parquet"):
        next(found)


@pytest.mark.parametrize("other", ["part.tsv", "part.csv.gz", "PART.CSV", "month=01/part.parquet"])
def test_rows_that_a_batch_would_miss_are_refused_by_the_name_of_their_file(
    tmp_path: Path, other: str
) -> None:
    written(tmp_path, ["a.parquet", "b.csv"])
    for name in ("_SUCCESS", ".hidden", "a.parquet.crc", "README.md"):
        (tmp_path / name).write_text("beside")
    with opened(tmp_path, DEFINITION, {}, tmp_path.parent / "staging") as found:
        assert [one.name for one in found.files] == ["a.parquet", "b.csv"]
    (tmp_path / other).parent.mkdir(exist_ok=True)
    (tmp_path / other).write_text("rows")
    named = other.split("/", maxsplit=1)[0] + "/" if "/" in other else other
    with (
        pytest.raises(InputInvalid, match=f"it has {named}, whose rows would be missed"),
        opened(tmp_path, DEFINITION, {}, tmp_path.parent / "staging"),
    ):
        raise AssertionError("read in part")
