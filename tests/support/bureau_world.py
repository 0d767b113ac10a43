"""A credit bureau's table about the clients of a history: late rows, corrections and all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

TIMES = ("as_of", "known_at")
TTL = pd.Timedelta(days=40)
COLUMNS = ("customer_id", *TIMES, "bureau_score", "open_loans")
UNKNOWN_SHARE = 0.05
"""Of the clients, whom the bureau has never heard of."""
CORRECTED_SHARE, LATE_SHARE = 0.2, 0.15
"""Of the reports: given again with other values; followed by one that comes after the request."""


def bureau_table(requests: pa.Table, until: pd.Timestamp, seed: int = 5) -> pd.DataFrame:
    """A report before each request, in whole seconds, that tells a little of how it turned out.

    Args:
        requests: of a history: `customer_id`, `event_time`, `label`.
        until: nothing is known later.
    """
    draw, asked = np.random.default_rng(seed), requests.to_pandas()
    clients = np.sort(asked["customer_id"].unique())
    unknown = draw.choice(clients, int(UNKNOWN_SHARE * len(clients)), replace=False)
    asked = asked[~asked["customer_id"].isin(unknown)].reset_index(drop=True)
    count, at = len(asked), asked["event_time"].dt.floor("s")
    days = lambda low, high: pd.to_timedelta(  # noqa: E731
        draw.integers(int(low * 86_400), int(high * 86_400), count), unit="s"
    )
    reports = pd.DataFrame({"customer_id": asked["customer_id"], "as_of": at - days(2, 30)})
    reports["known_at"] = reports["as_of"] + days(0, 3)
    score = 640.0 - 70.0 * asked["label"].astype(float) + draw.normal(0, 60, count)
    reports["bureau_score"] = score.round(1).where(draw.random(count) > 0.03)
    loans = pd.Series(draw.poisson(2, count), dtype="Int64")
    reports["open_loans"] = loans.where(draw.random(count) > 0.1)
    corrected = reports.assign(
        known_at=reports["known_at"] + days(0.1, 30), bureau_score=reports["bureau_score"] + 50
    )[draw.random(count) < CORRECTED_SHARE]
    late = reports.assign(
        as_of=at - days(0, 1), known_at=at + days(0.1, 3), bureau_score=reports["bureau_score"] - 50
    )[draw.random(count) < LATE_SHARE]
    table = pd.concat([reports, corrected, late])
    table = table[table["known_at"] <= until].drop_duplicates(["customer_id", *TIMES])
    return table.sample(frac=1, random_state=seed).reset_index(drop=True)


def arrow(table: pd.DataFrame) -> pa.Table:
    """The table as a bank's program writes it to Parquet."""
    types: list[Any] = [pa.int64(), *[pa.timestamp("us")] * 2, pa.float64(), pa.int64()]
    schema = pa.schema(list(zip(COLUMNS, types, strict=True)))
    return pa.Table.from_pandas(table[list(COLUMNS)], schema=schema, preserve_index=False)


def insert(postgres: Any, database: Any, table: pd.DataFrame) -> None:
    """The rows behind those of a table of PostgreSQL, which is made if it is not there."""
    postgres.run(
        "CREATE TABLE IF NOT EXISTS bureau (note text, open_loans smallint, bureau_score numeric,"
        " known_at timestamptz, as_of timestamptz, customer_id integer)",
        database,
    )
    for first in range(0, len(table), 2_000):
        part = table.iloc[first : first + 2_000]
        rows = ", ".join(_literal(*row) for row in part[list(COLUMNS)].itertuples(index=False))
        postgres.run(f"INSERT INTO bureau VALUES {rows}", database)


def _literal(
    customer: int, as_of: pd.Timestamp, known_at: pd.Timestamp, score: Any, loans: Any
) -> str:
    values = ("NULL" if pd.isna(value) else str(value) for value in (loans, score))
    times = (f"'{moment.isoformat()}Z'" for moment in (known_at, as_of))
    return f"('', {', '.join((*values, *times))}, {customer})"


def password_file(folder: Path, database: Any) -> Path:
    """A file of PostgreSQL's clients with the password of a database."""
    path = folder / "pgpass"
    word = str(database.password()).replace("\\", "\\\\").replace(":", "\\:")
    path.touch(mode=0o600)
    path.write_text(f"*:*:*:*:{word}\n")
    return path
