"""A table with columns of its own, of which a team's function makes requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from tests.support.team_folder import team_folder

from mlplatform.model.folders import load_definition
from mlplatform.operations.tables.conversion import Conversion, conversion_of, converted
from mlplatform.operations.tables.input_files import RowBlock, TableFiles, check_columns
from mlplatform.operations.tables.request_rows import requests_of
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid, Refused

NAME = "credit-default"
MODELS = Path(__file__).parents[4] / "teams" / "credit"
KEY = b"k" * 32
ROWS = 7


@pytest.fixture(scope="module", autouse=True)
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with team_folder(MODELS, tmp_path_factory.mktemp("home") / "var", NAME):
        yield


def clients(**changed: Any) -> pa.Table:
    """Clients in the columns of UCI's file."""
    columns: dict[str, Any] = {
        "ID": np.arange(1, ROWS + 1), "LIMIT_BAL": np.full(ROWS, 20_000),
        "SEX": [1, 2, 1, 2, 1, 2, 1], "EDUCATION": [1, 2, 3, 4, 0, 5, 6],
        "MARRIAGE": [1] * ROWS, "AGE": [24, 30, 39, 40, 55, 60, 79],
        **{f"PAY_{n}": [0] * ROWS for n in (0, 2, 3, 4, 5, 6)},
        **{f"BILL_AMT{n}": [3913.0] * ROWS for n in range(1, 7)},
        **{f"PAY_AMT{n}": [689.5] * ROWS for n in range(1, 7)},
        "default.payment.next.month": [0] * ROWS,
    }  # fmt: skip
    return pa.table({**columns, **changed})


def blocks(path: Path, rows: int = 4) -> list[RowBlock]:
    definition, conversion = load_definition(NAME), conversion_of(NAME)
    check_columns([path], definition, {}, conversion)
    with TableFiles(definition, {}, rows=rows, conversion=conversion) as files:
        return list(files.blocks(path, path.name, 0))


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_clients_in_ucis_columns_become_requests_in_their_order(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"uci{suffix}"
    (pq.write_table if suffix == ".parquet" else pyarrow.csv.write_csv)(clients(), path)
    found = blocks(path)
    assert [block.rows.num_rows for block in found] == [4, 3]
    made = [
        requests_of(block.rows, block.unread, load_definition(NAME), as_of_ms=1, key=KEY)
        for block in found
    ]
    assert [one.problems for one in made] == [{}, {}]
    rows = [row for one in made for row in one.table.to_pylist()]
    assert [row["request_id"] for row in rows] == [f"uci-{n}" for n in range(1, ROWS + 1)]
    words = ["graduate_school", "university", "high_school", *["other"] * 4]
    assert [row["education"] for row in rows] == words
    assert [row["sex"] for row in rows][:2] == ["male", "female"]
    assert rows[3]["age_group"] == "40-49"


def test_a_table_in_the_models_own_columns_is_read_as_it_is(tmp_path: Path) -> None:
    conversion = conversion_of(NAME)
    assert conversion is not None
    uci = clients().rename_columns(
        [{c.usual[0]: c.name for c in conversion.columns}.get(n, n) for n in clients().column_names]
    )
    own = conversion.requests(uci)
    pq.write_table(own, tmp_path / "own.parquet")
    (block,) = blocks(tmp_path / "own.parquet", rows=1_000)
    assert block.rows.sort_by("request_id").to_pylist() == own.to_pylist()


def test_a_missing_column_is_named_by_what_the_table_is_like(tmp_path: Path) -> None:
    path = tmp_path / "uci.parquet"
    pq.write_table(clients().drop_columns(["AGE"]), path)
    with pytest.raises(InputInvalid, match="there is no column for age;"):
        blocks(path)
    pq.write_table(pa.table({"request_id": ["a"], "limit_balance": [1.0]}), path)
    with pytest.raises(InputInvalid, match="there is no column for customer_id, education"):
        blocks(path)


def failing(table: pa.Table) -> pa.Table:
    raise ValueError("no such word")


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (failing, "batch_requests of sources.py failed: ValueError: no such word"),
        (lambda t: t.slice(1), "gives 6 rows; wanted: a table of 7 rows"),
        (lambda t: None, "gives NoneType; wanted: a table of 7 rows"),
        (lambda t: pa.table({"request_id": ["a"] * 7}), "gives no column customer_id"),
    ],
)
def test_what_a_function_gives_must_be_a_request_for_each_row(function: Any, problem: str) -> None:
    with pytest.raises(Refused, match=problem):
        converted(Conversion((), function, ""), clients(), load_definition(NAME), "a.parquet")


def test_columns_without_a_function_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Half:
        BATCH_COLUMNS = ()

    monkeypatch.setattr(
        "mlplatform.operations.tables.conversion.load_module", lambda model, name: Half
    )
    with pytest.raises(ConfigInvalid, match="both BATCH_COLUMNS and batch_requests"):
        conversion_of(NAME)
