"""The SQL of windows gives what their tiles give, bit for bit."""

from __future__ import annotations

import math
import random
import struct
import time
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from mlplatform.learning.features.windows.sql import windows_sql
from mlplatform.model.windows.declaration import Filter, Window
from mlplatform.model.windows.tiles import SeriesReader, fold, new_columns, series_of
from mlplatform.runtime.units import DAY_MS

KEYS = {"customer": "customer_id", "terminal": "terminal_id"}
VALUED = ("sum", "mean", "std", "min", "max")
WINDOWS = (
    Window(name="n_10m", entity="customer", aggregate="count", window="10m", resolution="1m"),
    Window(name="n_1h", entity="customer", aggregate="count", window="1h", resolution="1m"),
    Window(
        name="n_delayed", entity="customer", aggregate="count", window="20m", resolution="1m",
        delay="15m",
    ),
    *(
        Window(
            name=f"since_{delay}", entity="customer", aggregate="seconds_since", window="1h",
            resolution="1m", delay=delay,
        )
        for delay in (None, "1m", "30m")
    ),
    *(
        Window(
            name=f"{a}_2h_{delay}", entity="customer", aggregate=a, of="amount", window="2h",
            resolution="10m", delay=delay,
        )
        for a in VALUED
        for delay in (None, "20m")
    ),
    Window(
        name="large", entity="terminal", aggregate="count", window="1h", resolution="5m",
        where=Filter(field="amount", op=">=", value=50),
    ),
    Window(
        name="at_shops", entity="customer", aggregate="sum", of="amount", window="1d",
        resolution="1h", where=Filter(field="place", op="==", value="it's"),
    ),
)  # fmt: skip
SHARED = series_of(WINDOWS, KEYS)
SCHEMA = pa.schema(
    [
        *((name, pa.int64()) for name in ("_row", "_event_ms", "_rank", "_seen")),
        ("customer_id", pa.int64()), ("terminal_id", pa.string()), ("amount", pa.float64()),
        ("place", pa.string()),
    ]
)  # fmt: skip


def payments(seed: int, count: int = 250) -> list[dict[str, Any]]:
    """Payments as they become known: some late, some from the future, some answered while others
    were on their way."""
    chance, at_ms, found = random.Random(seed), 10**12, []
    for number in range(count):
        at_ms += int(chance.expovariate(1 / 60_000))
        kind, event_ms = chance.random(), at_ms
        if kind < 0.2:
            event_ms -= chance.randrange(300_000)
        elif kind < 0.3:
            event_ms += chance.randrange(-4, 4) * 3_600_000
        found.append({
            "_row": number, "_rank": number, "_event_ms": event_ms,
            "_seen": max(number - 1 - chance.choice([0, 0, 0, 1, 3, 10]), -1),
            "customer_id": chance.randrange(4), "terminal_id": chance.choice(["a", "b'", "c"]),
            "amount": chance.choice([chance.random() * 100, 0.0, 12.345, 999_999.995]),
            "place": chance.choice(["it's", "web", None]),
        })  # fmt: skip
    return found


def served(rows: list[dict[str, Any]]) -> list[dict[str, float | None]]:
    """Every window of each payment by tiles of what was known when it was answered."""
    found = []
    for row in rows:
        values: dict[str, float | None] = {}
        for series, windows in SHARED:
            columns = new_columns(series)
            for other in rows:
                if other["_rank"] <= row["_seen"] and other[series.key] == row[series.key]:
                    fold(columns, series, other["_event_ms"], other)
            SeriesReader(series, windows).fill(values, columns, row["_event_ms"])
        found.append(values)
    return found


def bits(value: float | None) -> bytes:
    return b"missing" if value is None or math.isnan(value) else struct.pack("<d", value)


@pytest.mark.parametrize("seed", range(4))
def test_what_sql_finds_is_what_was_served_late_payments_and_all(seed: int) -> None:
    rows = payments(seed)
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    with duckdb.connect(config={"threads": 1}) as db:
        db.register("payments", table)
        found = db.sql(windows_sql(SHARED, "payments", "true")).to_arrow_table().to_pylist()

    by_row = {one["_row"]: one for one in found}
    expected = served(rows)
    assert len(found) == len(rows)
    differing = [
        (number, name, by_row[number][name], right)
        for number, values in enumerate(expected)
        for name, right in values.items()
        if bits(by_row[number][name]) != bits(right)
    ]
    assert differing == []
    assert any(values["sum_2h_None"] for values in expected)


def test_windows_are_given_for_the_payments_that_are_asked_for_alone() -> None:
    rows = payments(9, 60)
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    with duckdb.connect(config={"threads": 1}) as db:
        db.register("payments", table)
        found = db.sql(windows_sql(SHARED, "payments", "_row >= 40")).fetchall()

    assert sorted(row for row, *_ in found) == list(range(40, 60))


def test_a_busy_entity_costs_about_as_much_as_many_that_are_not() -> None:
    """Whose gateways answer beside each other, so that each request misses the last few."""

    def cpu_s(terminals: int, count: int = 20_000) -> float:
        chance = random.Random(1)
        at = sorted(chance.randrange(DAY_MS) for _ in range(count))
        missed = [chance.randrange(4) for _ in range(count)]
        rows = [
            {
                "_row": n, "_event_ms": at[n], "_rank": n, "_seen": max(n - 1 - missed[n], -1),
                "customer_id": 1, "terminal_id": str(n % terminals), "amount": 60.0, "place": "",
            }
            for n in range(count)
        ]  # fmt: skip
        windows = tuple(w for w in WINDOWS if w.entity == "terminal")
        with duckdb.connect(config={"threads": 1}) as db:
            db.register("requests", pa.Table.from_pylist(rows, schema=SCHEMA))
            sql = windows_sql(series_of(windows, KEYS), "requests", "true")
            begun_s = time.process_time()
            assert len(db.execute(sql).fetchall()) == count
            return time.process_time() - begun_s

    assert cpu_s(1) < 8 * min(cpu_s(400) for _ in range(2))
