"""Tables of features in PostgreSQL, S3 and Delta are imported as the same rows in a file are."""

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
            "row 9: bureau_score",
        ),
        ("UPDATE bureau SET known_at = 'infinity' WHERE customer_id = 9", "cannot be read"),
        ("UPDATE bureau SET known_at = NULL WHERE customer_id = 9", "row 9: known_at is missing"),
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
    assert "b.parquet, row 0: as_of is after known_at" in refused(uri)
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
    assert "row 0: as_of is after known_at" in refused(place)
    assert "its log has no version 7" in refused(place, "--version", "7")
    file = next((tmp_path / "bureau").glob("*.parquet"))
    file.unlink()
    delta(rows())
    assert f"its file {file.name} is gone: VACUUM" in refused(place)
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        assert "deltalake" in refused(place)
        assert "(requirements/delta.txt)" in refused(place)


def test_a_version_is_asked_of_delta_tables_alone(home: Path) -> None:
    path = written(home / "bureau.parquet", rows())
    assert "it has no _delta_log" in refused(str(path), "--version", "1")


def test_where_files_are_read_a_delta_table_is_refused(home: Path, delta: Any) -> None:
    """Some of its files hold rows that it has no longer."""
    place = delta(rows())
    batch = opened(input_of(place), load_definition(NAME), {}, home / "staging")
    with pytest.raises(InputInvalid, match="Delta table's log"), batch:
        raise AssertionError("a batch has begun")
    if "://" not in place:
        done = CliRunner().invoke(commands.app, ("history", "import", NAME, place))
        assert "Delta table's log" in f"{done.output} {done.exception}"
