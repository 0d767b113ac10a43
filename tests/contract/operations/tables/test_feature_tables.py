"""Tables of features in PostgreSQL and S3 are imported as the same rows in a file are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.external_world import NAME, T_S, model_with_table, table, written
from tests.support.team_folder import command, team_folder
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.operations import wiring
from mlplatform.operations.tables import imported_tables, postgres_table
from mlplatform.operations.tables.locations import input_of
from mlplatform.runtime.errors import ConfigInvalid
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
