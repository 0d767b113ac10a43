"""Parquet files that do harm: refused by name before they take room, and the reader lives on."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlplatform.learning.features import parquet_files
from mlplatform.learning.features.parquet_files import ParquetFiles
from mlplatform.learning.features.parquet_work import BATCH_ROWS, VECTOR_BATCH_ROWS
from mlplatform.model.signature_checks import MOST_FIELDS
from mlplatform.runtime.errors import InputInvalid, PlatformError

WANTED = {"a": pa.int64(), "at": pa.timestamp("us")}


def written(path: Path, table: pa.Table, **how: object) -> Path:
    pq.write_table(table, path, **how)
    return path


def rows_of(count: int) -> pa.Table:
    return pa.table(
        {"a": pa.array(np.arange(count)), "at": pa.array(np.arange(count), WANTED["at"])}
    )


def read(path: Path) -> pa.Table:
    with ParquetFiles([path]) as files:
        files.types(0)
        return files.read(0, WANTED)


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
def test_what_was_written_is_read(tmp_path, compression):
    table = rows_of(100_000)
    path = written(tmp_path / "a.parquet", table, compression=compression)
    assert read(path).equals(table)


def test_missing_values_stay_missing(tmp_path):
    table = pa.table({"a": pa.array([1, None, 3]), "at": pa.array([None, 2, 3], WANTED["at"])})
    assert read(written(tmp_path / "a.parquet", table)).equals(table)


def test_no_rows_are_no_rows(tmp_path):
    assert read(written(tmp_path / "a.parquet", rows_of(0))).num_rows == 0


VECTORS = [[1.5, -2.0], None, [0.25, None], [], [3.0, 4.0]]
READ = [[1.5, -2.0], None, [0.25, "nan"], [], [3.0, 4.0]]


@pytest.mark.parametrize("number", [pa.float32(), pa.float64()])
@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
def test_vectors_come_out_as_they_are_in_the_file(tmp_path, number, kind):
    """A missing number is NaN, which every check of vectors refuses; a missing vector is null."""
    count = 3 * VECTOR_BATCH_ROWS + 7
    many = (VECTORS * count)[:count]
    table = pa.table({"a": pa.array(np.arange(count)), "v": pa.array(many, kind(number))})
    path = written(tmp_path / "a.parquet", table, row_group_size=1000)
    wanted = {"a": pa.int64(), "v": pa.list_(number)}
    with ParquetFiles([path]) as files:
        assert files.types(0)["v"] == str(pa.list_(number))
        found = files.read(0, wanted)
        later = list(files.batches(0, wanted, 4_001))
    assert found.schema.field("v").type == pa.list_(number)
    assert found.column("a").to_pylist() == list(range(count))
    said = [v if v is None else ["nan" if n != n else n for n in v] for v in found["v"].to_pylist()]
    assert said == (READ * count)[:count]
    assert later[0].column(0)[0].as_py() == 4_001
    assert str(later[0].column(1)[0].as_py()) == str(found["v"][4_001].as_py())


def test_vectors_of_a_fixed_length_come_out_as_they_are_in_the_file(tmp_path):
    made = np.random.default_rng(1).random((5_000, 64))
    table = pa.table({"v": pa.array(list(made), pa.list_(pa.float64(), 64))})
    path = written(tmp_path / "a.parquet", table)
    with ParquetFiles([path]) as files:
        found = files.read(0, {"v": pa.list_(pa.float64())})
    np.testing.assert_array_equal(np.array(found["v"].to_pylist()), made)


def test_a_table_of_many_columns_is_read_in_smaller_batches(tmp_path):
    """As many fields as a model may have, some of them texts, beside a column that nobody reads."""
    made = np.random.default_rng(1).integers(0, 1000, (2_100, MOST_FIELDS))
    table = pa.table({f"c{n}": pa.array(made[:, n]) for n in range(MOST_FIELDS)})
    words = pa.array([None if n % 7 == 0 else f"w{n}" for n in range(2_100)])
    table = table.set_column(3, "c3", words).append_column("unread", pa.nulls(2_100, pa.int8()))
    path = written(tmp_path / "wide.parquet", table)
    with ParquetFiles([path]) as files:
        assert len(files.types(0)) == MOST_FIELDS + 1
        wanted = {f.name: f.type for f in table.schema if f.name != "unread"}
        batches = list(files.batches(0, wanted))
    assert pa.Table.from_batches(batches).equals(table.drop_columns(["unread"]))
    assert max(batch.num_rows for batch in batches) == BATCH_ROWS * 64 // MOST_FIELDS


def test_types_that_lose_nothing_by_it_become_plain_ones(tmp_path):
    cents = [None, Decimal("0.07"), Decimal("-12.34"), Decimal("1234567890123456789012345.67")]
    prices = [Decimal("0.07"), Decimal("70.10"), None, Decimal(3)]
    words = pa.array(["no", None, "yes", "no"]).dictionary_encode()
    days = [date(2026, 3, 1), None, date(1969, 12, 31), date(2000, 1, 1)]
    table = pa.table(
        {
            "id": pa.array([0, None, 2**32 - 1, 7], pa.uint32()),
            "long_id": pa.array([None, 2**63 - 1, 0, 7], pa.uint64()),
            "amount": pa.array(cents, pa.decimal128(38, 2)),
            "price": pa.array(prices, pa.decimal128(9, 2)),
            "answer": words,
            "text": pa.array(["a", None, "", "b"], pa.large_string()),
            "day": pa.array(days),
            "half": pa.array(np.array([0.5, 1, 2, 4], np.float16)),
        }
    )
    path = written(tmp_path / "a.parquet", pa.concat_tables([table, table.slice(1)]))
    with ParquetFiles([path]) as files:
        kinds = files.types(0)
        assert kinds == {
            "id": "int64", "long_id": "int64", "amount": "double", "price": "double",
            "answer": "string", "text": "string", "day": "timestamp[s]", "half": "float",
        }  # fmt: skip
        found = files.read(0, {name: pa.type_for_alias(kind) for name, kind in kinds.items()})
    rows = found.slice(0, 4).to_pydict()
    assert rows["id"] == [0, None, 2**32 - 1, 7]
    assert rows["long_id"] == [None, 2**63 - 1, 0, 7]
    assert rows["amount"] == [None, 0.07, -12.34, 1234567890123456789012345.67]
    assert rows["price"] == [0.07, 70.1, None, 3.0]
    assert rows["answer"] == ["no", None, "yes", "no"]
    assert rows["text"] == ["a", None, "", "b"]
    assert [d and d.date() for d in rows["day"]] == days
    assert rows["half"] == [0.5, 1, 2, 4]
    assert found.slice(4).equals(found.slice(1, 3))


def test_a_whole_number_that_int64_has_not_is_refused(tmp_path):
    path = written(tmp_path / "a.parquet", pa.table({"a": pa.array([2**63], pa.uint64())}))
    why = "column a has a value of more than 9223372036854775807"
    with pytest.raises(InputInvalid, match=why), ParquetFiles([path]) as files:
        files.read(0, {"a": pa.int64()})


def missing_of_fixed_length(path: Path) -> Path:
    return written(path, pa.table({"a": pa.array([[1.0], None], pa.list_(pa.float64(), 1))}))


def long_vector(path: Path) -> Path:
    one = pa.array([[1.0] * 3, [0.5] * (2**21 + 1)], pa.list_(pa.float64()))
    return written(path, pa.table({"a": one}))


def lists_of_lists(path: Path) -> Path:
    return written(path, pa.table({"a": pa.array([[[1.0]]], pa.list_(pa.list_(pa.float64())))}))


def many_rows(path: Path) -> Path:
    return written(path, pa.table({"a": pa.array(np.zeros(21_000_000, np.int8))}))


def many_groups(path: Path) -> Path:
    return written(path, pa.table({"a": pa.array(np.zeros(10_001, np.int8))}), row_group_size=1)


def many_columns(path: Path) -> Path:
    return written(path, pa.table({f"c{i}": [1] for i in range(4097)}))


def nested(path: Path) -> Path:
    return written(path, pa.table({"a": [[1, 2], [3]]}))


def decompression(path: Path) -> Path:
    """160 MB of zeros out of some kilobytes."""
    zeros = pa.table({"a": pa.array(np.zeros(19_000_000))})
    return written(path, zeros, compression="zstd", use_dictionary=False, data_page_size=1 << 30)


def repeats(path: Path) -> Path:
    """One value five million times: its pages are as small as its file."""
    return written(path, pa.table({"a": pa.array(np.ones(5_000_000))}), compression="zstd")


def texts(path: Path) -> Path:
    return written(path, pa.table({"a": ["x"], "at": ["y"]}))


def cut(path: Path) -> Path:
    written(path, rows_of(1000))
    path.write_bytes(path.read_bytes()[:-20])
    return path


def noise(path: Path) -> Path:
    path.write_bytes(b"PAR1" + os.urandom(2000) + b"PAR1")
    return path


def large_footer(path: Path) -> Path:
    """A footer that says that it is nearly 4 GiB long."""
    path.write_bytes(b"PAR1" + bytes(1000) + (0xFFFFFFF0).to_bytes(4, "little") + b"PAR1")
    return path


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def device(path: Path) -> Path:
    path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize(
    ("made", "why"),
    [
        pytest.param(many_rows, "21000000 rows; the limit is 20000000", id="many rows"),
        pytest.param(many_groups, "10001 row groups; the limit is 10000", id="many row groups"),
        pytest.param(many_columns, "4097 columns; the limit is 4096", id="many columns"),
        pytest.param(nested, "columns within columns|no plain numbers", id="nested columns"),
        pytest.param(lists_of_lists, "no plain numbers", id="lists of lists"),
        pytest.param(missing_of_fixed_length, "a list of a fixed length is missing", id="fixed"),
        pytest.param(long_vector, "numbers of vectors in a batch; the limit", id="a long vector"),
        pytest.param(decompression, "bytes of pages; the limit", id="decompression"),
        pytest.param(repeats, "40000000 bytes of values; the limit", id="repeats"),
        pytest.param(texts, "an invalid response", id="texts where numbers were said to be"),
        pytest.param(cut, "no readable Parquet", id="cut off"),
        pytest.param(noise, "no readable Parquet", id="noise"),
        pytest.param(large_footer, "no readable Parquet", id="a footer of 4 GiB"),
        pytest.param(pipe, "not a plain file", id="a pipe"),
        pytest.param(device, "not taken from a person", id="a link to a device"),
    ],
)
def test_what_is_beyond_the_limits_is_refused_by_name(
    tmp_path: Path, made: Callable[[Path], Path], why: str
) -> None:
    path = made(tmp_path / "history.parquet")
    with pytest.raises(PlatformError, match=why):
        read(path)


def test_rows_are_counted_over_all_files(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_files, "MOST_ROWS", 150)
    paths = [written(tmp_path / f"{i}.parquet", rows_of(100)) for i in range(2)]
    with ParquetFiles(paths) as files:
        assert files.read(0, WANTED).num_rows == 100
        with pytest.raises(InputInvalid, match=r"1\.parquet: more than 150 rows"):
            files.read(1, WANTED)
