"""Tables of features in PostgreSQL, S3, Delta and Iceberg are imported as the same rows in a file
are."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support import iceberg_tables
from tests.support.delta_tables import appended
from tests.support.external_world import NAME, T_S, model_with_table, table, written
from tests.support.team_folder import command, team_folder
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.model.folders import load_definition
from mlplatform.operations import wiring
from mlplatform.operations.tables import imported_tables, postgres_table
from mlplatform.operations.tables.locations import input_of
from mlplatform.operations.tables.sources import opened
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid
from mlplatform.runtime.units import DAY_S

pytestmark = pytest.mark.slow
COUNT = 1_500


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    model_with_table(tmp_path / "models")
    with team_folder(tmp_path / "models", tmp_path / "home"):
        yield tmp_path


def rows() -> pa.Table:
    return table([(n, n * 60, n * 60 + 5, None if n % 7 == 0 else n / 4) for n in range(COUNT)])


def stored() -> pa.Table:
    """What was taken in, in the order of its event times."""
    paths = wiring.platform().offline(NAME).external("bureau").every()
    return pa.concat_tables(map(pq.read_table, paths)).sort_by("event_timestamp")


def refused(*words: str) -> str:
    done = CliRunner().invoke(commands.app, ["features", "import", NAME, "bureau", *words])
    assert done.exit_code != 0
    staging = wiring.settings().home.staging
    assert not staging.exists() or list(staging.iterdir()) == []
    assert wiring.platform().offline(NAME).external("bureau").every() == []
    return f"{done.output} {done.exception}"


@pytest.fixture
def database(postgres: Any) -> Iterator[Any]:
    database = postgres.database()
    yield database
    postgres.drop(database)


@pytest.fixture
def place(postgres: Any, database: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a table with the rows, in no order, in types of its own."""
    path = tmp_path / "pgpass"
    word = str(database.password()).replace("\\", "\\\\").replace(":", "\\:")
    path.touch(mode=0o600)
    path.write_text(f"*:*:*:*:{word}\n")
    monkeypatch.setenv("PGPASSFILE", str(path))
    postgres.run(
        "CREATE TABLE bureau (note jsonb, is_listed boolean, open_loans smallint, bureau_score"
        " numeric, known_at timestamptz, as_of timestamp, customer_id integer)",
        database,
    )
    postgres.run(
        "INSERT INTO bureau SELECT '{}', score > 5, trunc(score), score,"
        f" to_timestamp({T_S} + n * 60 + 5), to_timestamp({T_S} + n * 60) AT TIME ZONE 'UTC', n"
        f" FROM (SELECT n, CASE WHEN n % 7 = 0 THEN NULL ELSE n / 4.0 END AS score"
        f" FROM generate_series({COUNT} - 1, 0, -1) AS n) AS made",
        database,
    )
    return f"{database.url}{'&' if '?' in database.url else '?'}table=bureau"


@pytest.fixture
def bucket(s3: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return str(s3.bucket())


@pytest.mark.postgres
def test_a_table_of_postgresql_gives_what_a_file_gives(home: Path, place: str) -> None:
    dry = command("features", "import", NAME, "bureau", place, "--dry-run", "--json")
    assert json.loads(dry)["new"] == COUNT
    done = json.loads(command("features", "import", NAME, "bureau", place, "--json"))
    assert (done["rows"], done["new"], done["entities served"]) == (COUNT, COUNT, COUNT)
    from_table = stored()
    path = written(home / "bureau.parquet", rows())
    again = json.loads(command("features", "import", NAME, "bureau", str(path), "--json"))
    assert (again["new"], stored()) == (0, from_table)


@pytest.mark.postgres
def test_what_is_wrong_in_a_table_is_named_and_nothing_is_left(
    home: Path, place: str, database: Any, postgres: Any
) -> None:
    assert "no table other" in refused(place.replace("=bureau", "=other"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postgres_table, "MOST_TEXT_BYTES", 10_000)
        assert "more than 10000 bytes" in refused(place)
    for change, words in (
        (
            "UPDATE bureau SET bureau_score = 'Infinity' WHERE customer_id = 9",
            "row 9, counted from 0: bureau_score",
        ),
        ("UPDATE bureau SET known_at = 'infinity' WHERE customer_id = 9", "cannot be read"),
        (
            "UPDATE bureau SET known_at = NULL WHERE customer_id = 9",
            "row 9, counted from 0: known_at is missing",
        ),
        ("ALTER TABLE bureau ALTER open_loans TYPE text", "open_loans is string; wanted: int64"),
        ("ALTER TABLE bureau DROP is_listed", "there is no column is_listed"),
    ):
        postgres.run(change, database)
        assert words in refused(place), change


@pytest.mark.postgres
def test_no_message_shows_a_password(home: Path, place: str) -> None:
    user, rest = place.removeprefix("postgresql://").split("@", 1)
    secret = f"postgresql://{user.split(':')[0]}:hush-hush@{rest}"
    with pytest.raises(ConfigInvalid) as found:
        input_of(secret, "PATH")
    assert "hush-hush" not in str(found.value) + refused(secret)
    (home / "pgpass").write_text("*:*:*:*:hush-hush\n")
    assert "hush-hush" not in refused(place)
    (home / "pgpass").write_text("")
    assert "PostgreSQL at" in refused(place)


@pytest.mark.s3
def test_objects_give_what_a_folder_gives(home: Path, bucket: str, s3: Any) -> None:
    client, whole = s3.client(), rows()
    for name, part in (("a.parquet", whole.slice(0, 900)), ("day/b.parquet", whole.slice(900))):
        path = written(home / name.replace("/", "-"), part)
        client.upload_file(str(path), bucket, f"bureau/{name}")
    client.put_object(Bucket=bucket, Key="bureau/_SUCCESS", Body=b"")
    uri = f"s3://{bucket}/bureau"
    done = json.loads(command("features", "import", NAME, "bureau", uri, "--json"))
    assert (done["rows"], done["new"], done["entities served"]) == (COUNT, COUNT, COUNT)
    again = json.loads(command("features", "import", NAME, "bureau", uri, "--json"))
    assert again["new"] == 0
    assert stored().column("bureau_score").to_pylist() == whole["bureau_score"].to_pylist()
    assert list(wiring.settings().home.staging.iterdir()) == []


@pytest.mark.s3
def test_what_is_wrong_in_a_bucket_is_named_and_nothing_is_left(
    home: Path, bucket: str, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, uri = s3.client(), f"s3://{bucket}/bureau"
    assert "0 .parquet and .csv files" in refused(uri)
    for name, part in (("a", rows()), ("b", table([(1, DAY_S, 0, 1.0)]))):
        path = written(home / f"{name}.parquet", part)
        client.upload_file(str(path), bucket, f"bureau/{name}.parquet")
    assert "b.parquet, row 0, counted from 0: as_of is after known_at" in refused(uri)
    client.put_object(Bucket=bucket, Key="bureau/b.parquet", Body=b"PAR1 truncated")
    assert "b.parquet" in refused(uri)
    monkeypatch.setattr(imported_tables, "MOST_BYTES", 1_000)
    assert "wanted: 1000 or fewer" in refused(uri)
    secret = s3.environment["AWS_SECRET_ACCESS_KEY"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    assert secret not in refused(uri)


def put_folder(client: Any, folder: Path, bucket: str, prefix: str) -> None:
    """Upload what a folder has, and remove the objects that it has no longer."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.*")}
    files = {name: path for name, path in files.items() if path.is_file()}
    for name, path in files.items():
        client.upload_file(str(path), bucket, f"{prefix}/{name}")
    listed = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/").get("Contents", ())
    for key in {one["Key"] for one in listed} - {f"{prefix}/{name}" for name in files}:
        client.delete_object(Bucket=bucket, Key=key)


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.s3)])
def delta(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A function that writes a commit of a Delta table, and gives the place where the table is."""
    if request.param == "folder":
        return lambda rows, **options: str(appended(tmp_path / "bureau", rows, **options))
    bucket, client = request.getfixturevalue("bucket"), request.getfixturevalue("s3").client()

    def write(rows: pa.Table, **options: Any) -> str:
        put_folder(client, appended(tmp_path / "bureau", rows, **options), bucket, "bank/bureau")
        return f"s3://{bucket}/bank/bureau"

    return write


def imported(place: str, *words: str) -> tuple[Any, ...]:
    """Version, its files and those that were read; rows, and how many were new."""
    done = json.loads(command("features", "import", NAME, "bureau", place, "--json", *words))
    return tuple(done[name] for name in ("version", "files", "files read", "rows", "new"))


def test_a_delta_table_gives_what_a_file_gives_and_then_only_what_is_new(
    home: Path, delta: Any, tmp_path: Path
) -> None:
    whole = rows()
    place = delta(whole.slice(0, 900).append_column("day", pa.array(["a /%"] * 900)), by=["day"])
    assert imported(place, "--dry-run") == (0, 1, 1, 900, 900)
    assert imported(place) == (0, 1, 1, 900, 900)
    delta(whole.slice(900).append_column("day", pa.array(["b"] * (COUNT - 900))))
    deltalake.DeltaTable(str(tmp_path / "bureau")).create_checkpoint()
    delta(whole.slice(0, 0).append_column("day", pa.array([], pa.string())))
    assert imported(place, "--version", "0") == (0, 1, 0, 0, 0)
    assert imported(place) == (2, 2, 1, COUNT - 900, COUNT - 900)
    assert imported(place) == (2, 2, 0, 0, 0)
    assert stored().column("bureau_score").to_pylist() == whole["bureau_score"].to_pylist()
    path = written(home / "bureau.parquet", whole)
    again = json.loads(command("features", "import", NAME, "bureau", str(path), "--json"))
    assert again["new"] == 0
    assert "version" not in again
    staging = wiring.settings().home.staging
    assert not staging.exists() or list(staging.iterdir()) == []


def test_what_is_wrong_with_a_delta_table_is_named_and_nothing_is_left(
    home: Path, delta: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = delta(rows())
    delta(table([(1, DAY_S, 0, 1.0)]))
    assert "row 0, counted from 0: as_of is after known_at" in refused(place)
    assert "its log has no version 7" in refused(place, "--version", "7")
    file = next((tmp_path / "bureau").glob("*.parquet"))
    file.unlink()
    delta(rows())
    assert f"its file {file.name} is gone: VACUUM" in refused(place)
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        assert "deltalake" in refused(place)
        assert "(requirements/delta.txt)" in refused(place)


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.s3)])
def iceberg(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A function that gives the place of an Iceberg table to which rows are added first, or which
    is changed otherwise."""
    folder = tmp_path / "bureau"
    is_bucket = request.param == "bucket"
    bucket = request.getfixturevalue("bucket") if is_bucket else ""
    client = request.getfixturevalue("s3").client() if is_bucket else None

    def write(rows: pa.Table | None = None, **options: Any) -> str:
        if rows is not None:
            iceberg_tables.appended(folder, rows, **options)
        if client is None:
            return str(folder)
        put_folder(client, folder, bucket, "bank/bureau")
        return f"s3://{bucket}/bank/bureau"

    return write


def imported_from_iceberg(place: str, *words: str) -> tuple[Any, ...]:
    """The files of a snapshot and those that were read; rows, and how many were new."""
    done = json.loads(command("features", "import", NAME, "bureau", place, "--json", *words))
    assert done["snapshot"] > 0
    return tuple(done[name] for name in ("files", "files read", "rows", "new"))


def test_an_iceberg_table_gives_what_a_file_gives_and_then_only_what_is_new(
    home: Path, iceberg: Any, tmp_path: Path
) -> None:
    whole, folder = rows(), tmp_path / "bureau"
    place = iceberg(whole.slice(0, 900), by=[("as_of", "day"), ("is_listed", "identity")])
    files = len(iceberg_tables.data_files(folder))
    assert imported_from_iceberg(place, "--dry-run") == (files, files, 900, 900)
    assert imported_from_iceberg(place) == (files, files, 900, 900)
    first = iceberg_tables.loaded(folder).snapshots()[0].snapshot_id
    iceberg(whole.slice(900))
    now = len(iceberg_tables.data_files(folder))
    assert imported_from_iceberg(place, "--version", str(first)) == (files, 0, 0, 0)
    named = f"{place}/metadata/{iceberg_tables.metadata_files(folder)[-1].name}"
    assert imported_from_iceberg(named, "--dry-run")[2:] == (COUNT - 900, COUNT - 900)
    assert imported_from_iceberg(place) == (now, now - files, COUNT - 900, COUNT - 900)
    assert imported_from_iceberg(named) == (now, 0, 0, 0)
    scores = stored().column("bureau_score").to_pylist()
    assert sorted(scores, key=repr) == sorted(whole["bureau_score"].to_pylist(), key=repr)
    path = written(home / "bureau.parquet", whole)
    again = json.loads(command("features", "import", NAME, "bureau", str(path), "--json"))
    assert again["new"] == 0
    staging = wiring.settings().home.staging
    assert not staging.exists() or list(staging.iterdir()) == []


def test_what_is_wrong_with_an_iceberg_table_is_named_and_nothing_is_left(
    home: Path, iceberg: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "bureau"
    place = iceberg(rows())
    (file,) = iceberg_tables.data_files(folder)
    iceberg_tables.with_deletes(folder, 1, iceberg_tables.positions([(file, 0), (file, 7)]))
    assert imported_from_iceberg(iceberg(), "--dry-run") == (1, 1, COUNT - 2, COUNT - 2)
    iceberg_tables.with_deletes(folder, 2, iceberg_tables.by_values([3]))
    assert "equality deletes" in refused(iceberg())
    assert "it has no snapshot 7;" in refused(place, "--version", "7")
    assert "nowhere.metadata.json is gone" in refused(f"{place}/metadata/nowhere.metadata.json")
    other = iceberg_tables.with_metadata(
        folder, lambda found: found["snapshots"][-1].update({"manifest-list": "s3://other/x.avro"})
    )
    assert "s3://other/x.avro lies outside of its folder" in refused(iceberg())
    other.unlink()
    file.unlink()
    assert f"its file data/{file.name} is gone: expire" in refused(
        iceberg(), "--version", str(iceberg_tables.loaded(folder).snapshots()[0].snapshot_id)
    )


def test_a_version_is_asked_of_tables_that_have_some_alone(home: Path) -> None:
    path = written(home / "bureau.parquet", rows())
    words = refused(str(path), "--version", "1")
    assert "is not a Delta or Iceberg table, it has no _delta_log and no *.metadata.json" in words


def test_where_files_are_read_a_delta_table_is_refused(home: Path, delta: Any) -> None:
    """Some of its files hold rows that it has no longer."""
    refuses_table(home, delta(rows()), "Delta table's log")


def test_where_files_are_read_an_iceberg_table_is_refused(home: Path, iceberg: Any) -> None:
    refuses_table(home, iceberg(rows()), "Iceberg table's metadata")


def refuses_table(home: Path, place: str, problem: str) -> None:
    batch = opened(input_of(place), load_definition(NAME), {}, home / "staging")
    with pytest.raises(InputInvalid, match=problem), batch:
        raise AssertionError("a batch has begun")
    if "://" not in place:
        done = CliRunner().invoke(commands.app, ("history", "import", NAME, place))
        assert problem in f"{done.output} {done.exception}"
