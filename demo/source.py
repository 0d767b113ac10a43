"""What the demo plays: generated payments, or Parquet files in the handbook's schema."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlplatform.model.folders import load_definition
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.units import DAY_MS
from models.fraud import sources

MODEL = "fraud"
FIRST_DAY_MS = 1_772_323_200_000  # 2026-03-01, a Sunday
HISTORY_DAYS = 63  # 30-day windows, their delay, a training window and label maturity
QUIET_DAYS = 2
LIVE_DAYS = 40
REQUESTS_A_DAY = 6_000


@dataclass(frozen=True, slots=True)
class Source:
    """Transactions before and after the day on which the model goes live.

    Args:
        change_ms: event time at which the pattern changes.
        description: where the data is from and how the change is brought about.
    """

    history: pa.Table
    live: pa.Table
    go_live_ms: int
    change_ms: int
    description: str


def prepare(transactions: Path | None, seed: int, cache: Path) -> Source:
    """The demo's data, the same for the same arguments; kept in `cache` for `--resume`.

    Raises:
        InputInvalid: the files are not in the schema, or hold too few days.
    """
    file = cache / "transactions.parquet"
    if not file.exists():
        keep(file, _generated(seed) if transactions is None else _recorded(transactions))
    return _split(pq.read_table(file), transactions)


def keep(file: Path, table: pa.Table) -> None:
    """Write a Parquet file, which is whole or not there."""
    draft = file.with_suffix(".draft")
    pq.write_table(table, draft)
    draft.rename(file)


def _generated(seed: int) -> pa.Table:
    change = FIRST_DAY_MS + (HISTORY_DAYS + QUIET_DAYS) * DAY_MS
    return sources.generate(
        seed=seed,
        start_ms=FIRST_DAY_MS,
        days=HISTORY_DAYS + LIVE_DAYS,
        pattern_change_ms=change,
        maturity_days=load_definition(MODEL).label.maturity_days,
        population=sources.Population(customers=3_000, payments_per_day=REQUESTS_A_DAY),
    )


def _recorded(path: Path) -> pa.Table:
    table = sources.read_transactions(path)
    first = _first_midnight(table)
    days = (int(pc.max(event_ms(table)).as_py()) - first) // DAY_MS
    if days < HISTORY_DAYS + QUIET_DAYS + 15:
        wanted = HISTORY_DAYS + QUIET_DAYS + 15
        raise InputInvalid(str(path), None, f"{days} days of payments; the demo needs {wanted}")
    table = sources.sample_customers(table, min(1.0, REQUESTS_A_DAY * days / table.num_rows))
    change = first + (HISTORY_DAYS + QUIET_DAYS) * DAY_MS
    return sources.with_pattern_change(table, change)


def _split(table: pa.Table, transactions: Path | None) -> Source:
    go_live = _first_midnight(table) + HISTORY_DAYS * DAY_MS
    cut = pa.scalar(go_live * 1000, pa.timestamp("us"))
    before = pc.less(table.column("event_time"), cut)
    made = "generated payments; at the change new fraud patterns start and spending rises"
    if transactions is not None:
        made = (
            f"payments from {transactions.name}, a sample of customers; from the change on every "
            "amount is multiplied by 1.4 (the recording itself has no change). Labels exist there "
            "even for payments that were declined, which flatters precision"
        )
    return Source(
        history=table.filter(before),
        live=table.filter(pc.invert(before)),
        go_live_ms=go_live,
        change_ms=go_live + QUIET_DAYS * DAY_MS,
        description=made,
    )


def event_ms(table: pa.Table, column: str = "event_time") -> pa.ChunkedArray[Any]:
    """A time column in epoch milliseconds."""
    whole = table.column(column).cast(pa.timestamp("ms"), safe=False)
    return whole.cast(pa.int64())


def _first_midnight(table: pa.Table) -> int:
    first = int(pc.min(event_ms(table)).as_py())
    return first - first % DAY_MS
