"""Tables of PostgreSQL and objects of S3 give what files give, and take results as folders do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import inf, nan
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.table_world import read, table, world, write

from mlplatform.learning.features.parquet_files import ParquetFiles
from mlplatform.operations import wiring
from mlplatform.operations.tables import postgres_table
from mlplatform.operations.tables.batch import TableBatch, score_table
from mlplatform.operations.tables.locations import Table, input_of
from mlplatform.operations.tables.postgres_table import ColumnSelection, export_columns
from mlplatform.runtime.errors import (
    ConfigInvalid,
    InputInvalid,
    NotFound,
    Refused,
    Unavailable,
)

ROWS = 2_400
COLUMNS = ("row", "request_id", "score", "decision", "reasons", "error")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> wiring.Platform:
    return world(tmp_path_factory.mktemp("home"))


def scored(platform: wiring.Platform, source: str, output: str) -> dict[str, Any]:
    asked = TableBatch("fraud", source, output, partition_rows=1000)
    return score_table(platform, asked, lambda one: None)


@pytest.fixture
def passwords(postgres: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path, address = tmp_path / "pgpass", postgres.address
    word = str(address.password()).replace("\\", "\\\\").replace(":", "\\:")
    path.touch(mode=0o600)
    path.write_text(f"# ours\nelsewhere:*:*:*:no\n{address.host}:{address.port}:*:*:{word}\n")
    monkeypatch.setenv("PGPASSFILE", str(path))
    return path


@pytest.fixture
def url(postgres: Any) -> Iterator[str]:
    """Of a database in which `payments` holds the rows, in no order, one without an amount."""
    database = postgres.database()
    rows = table(ROWS).to_pylist()
    rows[7]["amount"] = None
    texts = [
        f"('r{n:05d}', '{row['event_time'].isoformat()}Z', {row['customer_id']},"
        f" {row['terminal_id']}, {'NULL' if row['amount'] is None else repr(row['amount'])})"
        for n, row in enumerate(rows)
    ]
    postgres.run(
        "CREATE TABLE payments (request_id text, event_time timestamptz, customer_id integer,"
        " terminal_id bigint, amount double precision, note jsonb)",
        database,
    )
    into = "INSERT INTO payments (request_id, event_time, customer_id, terminal_id, amount) VALUES "
    postgres.run(into + ", ".join(reversed(texts)), database)
    yield database.url
    postgres.drop(database)


def joined(url: str, name: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}table={name}"


@pytest.mark.postgres
def test_a_table_is_scored_in_the_order_of_its_row_id(
    platform: wiring.Platform, url: str, passwords: Path, tmp_path: Path, postgres: Any
) -> None:
    rows = table(ROWS)
    ids = pa.array([f"r{n:05d}" for n in range(ROWS)])
    amounts = rows["amount"].to_pylist()
    amounts[7] = None
    same = rows.set_column(0, "request_id", ids).set_column(4, "amount", pa.array(amounts))
    scored(platform, str(write(tmp_path / "a.parquet", same)), str(tmp_path / "file"))
    manifest = scored(platform, joined(url, "public.payments"), str(tmp_path / "table"))
    assert read(tmp_path / "table").select(COLUMNS) == read(tmp_path / "file").select(COLUMNS)
    assert (manifest["output"]["rows"], manifest["output"]["errors"]) == (ROWS, 1)
    assert str(postgres.address.password()) not in (tmp_path / "table" / "_plan.json").read_text()
    assert scored(platform, joined(url, "public.payments"), str(tmp_path / "table")) == manifest


@pytest.mark.postgres
def test_a_table_that_changed_and_one_that_is_not_there_are_refused(
    platform: wiring.Platform, url: str, passwords: Path, tmp_path: Path, postgres: Any
) -> None:
    where = joined(url, "payments")
    scored(platform, where, str(tmp_path / "out"))
    with pytest.raises(NotFound, match="no table elsewhere"):
        scored(platform, joined(url, "elsewhere"), str(tmp_path / "none"))
    passwords.chmod(0o640)
    with pytest.raises(ConfigInvalid, match="0600"):
        scored(platform, where, str(tmp_path / "out"))
    passwords.chmod(0o600)
    passwords.write_text("*:*:*:*:wrong\n")
    with pytest.raises(Unavailable, match="PostgreSQL at"):
        scored(platform, where, str(tmp_path / "out"))
    assert not list(platform.settings.home.staging.glob("table-*"))


@pytest.fixture
def bucket(s3: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return str(s3.bucket())


@pytest.mark.postgres
def test_a_table_may_not_fill_the_disk(
    platform: wiring.Platform,
    url: str,
    passwords: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(postgres_table, "MOST_TEXT_BYTES", 10_000)
    with pytest.raises(InputInvalid, match="payments: its columns take more than 10000 bytes"):
        scored(platform, joined(url, "payments"), str(tmp_path / "out"))
    assert list(platform.settings.home.staging.iterdir()) == []


@pytest.mark.s3
def test_objects_are_scored_into_objects_and_go_on_after_a_loss(
    platform: wiring.Platform, bucket: str, s3: Any, tmp_path: Path
) -> None:
    client = s3.client()
    for name, rows in (("a.parquet", table(ROWS)), ("b.parquet", table(600, 1))):
        client.upload_file(str(write(tmp_path / "in" / name, rows)), bucket, f"in/{name}")
    client.put_object(Bucket=bucket, Key="in/_SUCCESS", Body=b"")
    scored(platform, str(tmp_path / "in"), str(tmp_path / "out"))
    manifest = scored(platform, f"s3://{bucket}/in", f"s3://{bucket}/out")

    def content() -> pa.Table:
        found = client.list_objects_v2(Bucket=bucket, Prefix="out/part-")["Contents"]
        for one in found:
            client.download_file(bucket, one["Key"], str(tmp_path / os.path.basename(one["Key"])))
        return read(tmp_path)

    assert content() == read(tmp_path / "out")
    client.delete_object(Bucket=bucket, Key="out/_manifest.json")
    client.put_object(Bucket=bucket, Key="out/part-00000-00001.parquet", Body=b"lost")
    again = scored(platform, f"s3://{bucket}/in", f"s3://{bucket}/out")
    assert again["output"] == manifest["output"]
    assert content() == read(tmp_path / "out")
    client.upload_file(str(write(tmp_path / "c.parquet", table(600, 2))), bucket, "in/b.parquet")
    with pytest.raises(Refused, match=r"b\.parquet with other content"):
        scored(platform, f"s3://{bucket}/in", f"s3://{bucket}/out")
    assert not [p for p in pq.ParquetDataset(tmp_path / "out").files if "_" in os.path.basename(p)]


ARRAYS = [
    ("'{0.1,-2,1e-30}'", [0.1, -2.0, 1e-30]),
    ("NULL", None),
    ("'{}'", []),
    ("'{1,NULL,NaN,Infinity,-Infinity}'", [1.0, nan, nan, inf, -inf]),
]


@pytest.fixture
def database(postgres: Any) -> Iterator[Any]:
    """An empty one."""
    database = postgres.database()
    yield database
    postgres.drop(database)


def exported(url: str, path: Path) -> pa.Table:
    """All columns of `faces`, by the order of `id`."""
    source = input_of(joined(url, "faces"))
    assert isinstance(source, Table)
    export_columns(source, lambda kinds: ColumnSelection(list(kinds), ["id"]), path)
    return pq.read_table(path)


@pytest.mark.postgres
def test_arrays_of_numbers_are_vectors(
    database: Any, passwords: Path, tmp_path: Path, postgres: Any
) -> None:
    columns = "id text, r real[], d double precision[], n numeric[]"
    postgres.run(f"CREATE TABLE faces ({columns})", database)
    rows = [f"('{n}', {text}, {text}, {text})" for n, (text, _) in enumerate(ARRAYS)]
    postgres.run(f"INSERT INTO faces VALUES {', '.join(rows)}", database)
    found = exported(database.url, tmp_path / "faces.parquet")
    expected = pa.array([vector for _, vector in ARRAYS], pa.list_(pa.float64()))
    for name in ("r", "d", "n"):
        column = found.column(name).combine_chunks()
        assert repr(column.to_pylist()) == repr(expected.to_pylist()), name
    with ParquetFiles([tmp_path / "faces.parquet"]) as files:
        read_again = files.read(0, {"d": pa.list_(pa.float64())}).column("d").to_pylist()
    assert repr(read_again) == repr(expected.to_pylist())


@pytest.mark.postgres
def test_an_array_of_arrays_is_named_by_its_row(
    database: Any, passwords: Path, tmp_path: Path, postgres: Any
) -> None:
    postgres.run("CREATE TABLE faces (id text, face real[])", database)
    rows = "('a', '{1}'), ('b', '{{0.25,0.5},{1,2}}')"
    postgres.run(f"INSERT INTO faces VALUES {rows}", database)
    problem = r"faces, row 1, counted from 0: column face\[0\] is \[0.25, 0.5\]; wanted: a number"
    with pytest.raises(InputInvalid, match=problem):
        exported(database.url, tmp_path / "faces.parquet")
    assert list(tmp_path.glob("faces*.text")) == []
