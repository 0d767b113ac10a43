"""Each aggregate of a window is what plain Python finds among the payments, in tiles as in SQL."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, get_args

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlplatform.learning.features.windows.online import WindowValues
from mlplatform.learning.features.windows.sql import tiles_sql, windows_sql
from mlplatform.model.windows import distinct_count
from mlplatform.model.windows.declaration import Aggregate, Filter, Window, span_ms
from mlplatform.model.windows.distinct_count import ESTIMATES
from mlplatform.model.windows.ratios import ratios_of
from mlplatform.model.windows.tiles import LATE_MS, Series, fold, new_columns, series_of
from mlplatform.runtime.units import MINUTE_MS

KEYS = {"customer": "customer_id"}
WEB = Filter(field="place", op="==", value="web")
LARGE = Filter(field="amount", op=">=", value=50)
FRAMES: tuple[dict[str, Any], ...] = (
    {"window": "10m", "resolution": "1m"},
    {"window": "2h", "resolution": "10m"},
    {"window": "1h", "resolution": "10m", "delay": "30m"},
)
OF: dict[str, dict[str, Any]] = {
    "count": {},
    "rate": {"per": "1h"},
    "share": {"matching": WEB},
    "sum": {"of": "amount"},
    "first": {"of": "amount"},
    "last": {"of": "amount"},
    "distinct": {"of": "place"},
    "seconds_since": {},
}


def declared() -> tuple[Window, ...]:
    found = [
        Window(name=f"{kind}_{n}", entity="customer", aggregate=kind, **OF[kind], **frame)  # type: ignore[arg-type]
        for n, frame in enumerate(FRAMES)
        for kind in OF
    ]
    more: list[dict[str, Any]] = [
        {"name": "large_share", "aggregate": "share", "matching": LARGE, **FRAMES[1]},
        {"name": "web_last", "aggregate": "last", "of": "amount", "where": WEB, **FRAMES[1]},
        {"name": "devices", "aggregate": "distinct", "of": "device", **FRAMES[1]},
        {"name": "burst", "aggregate": "ratio", "of": "count_0", "to": "count_1"},
        {"name": "to_sum", "aggregate": "ratio", "of": "last_0", "to": "sum_1"},
        {"name": "to_delayed", "aggregate": "ratio", "of": "sum_1", "to": "count_2"},
    ]
    return (*found, *(Window(entity="customer", **one) for one in more))


WINDOWS = declared()
BY_NAME = {window.name: window for window in WINDOWS}
SHARED = series_of(WINDOWS, KEYS)
SCHEMA = pa.schema(
    [
        *((name, pa.int64()) for name in ("_row", "_event_ms", "_rank", "_seen", "customer_id")),
        ("amount", pa.float64()), ("place", pa.string()), ("device", pa.int64()),
    ]
)  # fmt: skip


class Payment(NamedTuple):
    gap_ms: int
    late_ms: int
    unseen: int
    customer_id: int
    amount: float
    place: str | None
    device: int


PAYMENTS = st.lists(
    st.builds(
        Payment,
        gap_ms=st.sampled_from([0, 1, 20_000, MINUTE_MS, 15 * MINUTE_MS]),
        late_ms=st.sampled_from([0, 0, 0, 1, -MINUTE_MS, *(n * MINUTE_MS for n in (1, 40, 300))]),
        unseen=st.sampled_from([0, 0, 1, 4]),
        customer_id=st.integers(0, 1),
        amount=st.sampled_from([0.0, 12.345, 50.0, 99.995, 999_999.995]),
        place=st.sampled_from(["web", "shop", "it's", "", None]),
        device=st.integers(-3, 3),
    ),
    max_size=25,
)  # fmt: skip


def rows_of(payments: Sequence[Payment]) -> list[dict[str, Any]]:
    """Payments in the order in which they become known."""
    at_ms, found = 10**12, []
    for number, one in enumerate(payments):
        at_ms += one.gap_ms
        found.append({
            "_row": number, "_rank": number, "_event_ms": at_ms - one.late_ms,
            "_seen": max(number - 1 - one.unseen, -1), "customer_id": one.customer_id,
            "amount": one.amount, "place": one.place, "device": one.device,
        })  # fmt: skip
    return found


def known_to(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        one
        for one in rows
        if one["_rank"] <= row["_seen"] and one["customer_id"] == row["customer_id"]
    ]


def in_tiles(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    values = WindowValues(WINDOWS, KEYS)
    tiles = []
    for series in values.series:
        columns = new_columns(series)
        for one in known_to(row, rows):
            fold(columns, series, one["_event_ms"], one)
        tiles.append(columns if columns[0] else None)
    return dict(values.row(tiles, {}, row["_event_ms"]).values)


def in_sql(rows: Sequence[dict[str, Any]]) -> dict[int, dict[str, float | None]]:
    with duckdb.connect(config={"threads": 1}) as db:
        db.register("payments", pa.Table.from_pylist(list(rows), schema=SCHEMA))
        text = windows_sql(SHARED, "payments", "true", ratios_of(WINDOWS))
        found = db.sql(text).to_arrow_table().to_pylist()
    return {one.pop("_row"): one for one in found}


def is_web(row: dict[str, Any]) -> bool:
    return row["place"] == "web"


def truth(
    window: Window, series: Series, row: dict[str, Any], known: Sequence[dict[str, Any]]
) -> float | None:
    """A window's value from the payments themselves."""
    counted = [one for one in known if window.where is None or is_web(one)]
    at_ms, tile_ms = row["_event_ms"], span_ms(window.resolution or "")
    delay_ms = span_ms(window.delay) if window.delay else 0
    top = (at_ms - delay_ms) // tile_ms
    kept = max((one["_event_ms"] // tile_ms for one in counted), default=0) - series.retained
    inside = [
        one
        for one in counted
        if top - span_ms(window.window or "") // tile_ms <= one["_event_ms"] // tile_ms <= top
        and one["_event_ms"] // tile_ms > kept
    ]
    end_ms = (top + 1) * tile_ms if delay_ms else at_ms
    from_ms = top * tile_ms - span_ms(window.window or "")
    cents = [(one["_event_ms"], math.floor(one["amount"] * 100 + 0.5)) for one in inside]
    match window.aggregate:
        case "count":
            return float(len(inside))
        case "rate":
            return len(inside) * 3_600_000.0 / (end_ms - from_ms)
        case "sum":
            return sum(x for _, x in cents) / 100
        case "distinct":
            values = {one[window.of or ""] for one in inside} - {"", None}
            return float(ESTIMATES[len({distinct_count.place(value) for value in values})])
        case _ if not inside:
            return None
        case "share":
            large = window.matching == LARGE
            matched = [one for one in inside if (one["amount"] >= 50 if large else is_web(one))]
            return len(matched) / len(inside)
        case "first":
            return min(cents)[1] / 100
        case "last":
            return max(cents)[1] / 100
        case "seconds_since":
            return max(at_ms - max(cents)[0], 0) / 1000
        case other:
            raise AssertionError(other)


def every_truth(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    known = known_to(row, rows)
    found = {w.name: truth(w, series, row, known) for series, windows in SHARED for w in windows}
    for name in ("burst", "to_sum", "to_delayed"):
        above, below = found[BY_NAME[name].of or ""], found[BY_NAME[name].to or ""]
        found[name] = None if above is None or not below else above / below
    return found


def bits(values: dict[str, float | None]) -> dict[str, bytes | None]:
    return {n: None if v is None else struct.pack("<d", v) for n, v in sorted(values.items())}


@given(PAYMENTS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_each_cell_is_the_same_in_tiles_in_sql_and_in_plain_python(
    payments: list[Payment],
) -> None:
    rows = rows_of(payments)
    found = in_sql(rows)

    assert sorted(found) == list(range(len(rows)))
    for row in rows:
        expected = bits(every_truth(row, rows))
        assert bits(in_tiles(row, rows)) == expected
        assert bits(found[row["_row"]]) == expected


@given(PAYMENTS, st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_tiles_of_a_history_are_those_of_its_payments_in_any_order(
    payments: list[Payment], chance: random.Random
) -> None:
    rows = [row for row in rows_of(payments) if row["customer_id"] == 0]
    shuffled = list(rows)
    chance.shuffle(shuffled)
    with duckdb.connect(config={"threads": 1}) as db:
        db.register("payments", pa.Table.from_pylist(rows, schema=SCHEMA))
        db.execute(
            "CREATE VIEW history AS SELECT *, epoch_ms(_event_ms) AS event_time FROM payments"
        )
        for series, _ in SHARED:
            columns = new_columns(series)
            for row in shuffled:
                fold(columns, series, row["_event_ms"], row)
            made = db.sql(tiles_sql(series, "history")).to_arrow_table()
            for name, column in zip(series.columns, columns, strict=True):
                newest = columns[0][-1] if columns[0] else 0
                kept = [
                    value
                    for tile, value in zip(
                        made["tile"].to_pylist(), made[name].to_pylist(), strict=True
                    )
                    if tile > newest - series.retained
                ]
                assert kept == list(column), name


@pytest.mark.parametrize("amount", [1e300, -1e300, 2.0**47, -(2.0**47), math.inf, math.nan])
def test_a_value_that_no_window_takes_counts_neither_in_tiles_nor_in_sql(amount: float) -> None:
    """A history may hold it from before its field had bounds."""
    first, second, last = rows_of([Payment(MINUTE_MS, 0, 0, 0, 50.0, "web", 1)] * 3)
    second["amount"] = amount
    rows = [first, second, last]

    found = in_sql(rows)[2]
    assert (found["sum_0"], found["last_0"]) == (50.0, 50.0)
    assert bits(found) == bits(in_tiles(last, rows))


def test_every_aggregate_has_its_place_here() -> None:
    """`std`, `min`, `max`, `mean`: a recount in tests/unit/model/windows/test_windows.py."""
    assert {w.aggregate for w in WINDOWS} == {*get_args(Aggregate)} - {"std", "min", "max", "mean"}


@pytest.mark.parametrize(
    ("values", "most"), [(3, 0.06), (50, 0.06), (250, 0.06), (500, 0.08), (1000, 0.15)]
)
def test_the_number_of_distinct_values_has_the_error_that_is_told(values: int, most: float) -> None:
    """The root of the mean square over 400 sets of texts."""
    errors = []
    for turn in range(400):
        places = {distinct_count.place(f"{turn}-{number}") for number in range(values)}
        errors.append(ESTIMATES[len(places)] / values - 1)
    assert math.sqrt(sum(e * e for e in errors) / len(errors)) < most
    assert abs(sum(errors) / len(errors)) < most / 3


def test_the_bitmap_is_full_at_its_last_estimate() -> None:
    assert (ESTIMATES[0], ESTIMATES[1], ESTIMATES[-1]) == (0, 1, 1568)
    assert list(ESTIMATES) == sorted(set(ESTIMATES))


def test_windows_that_share_requests_share_tiles_whatever_they_ask() -> None:
    of = partial(Window, entity="customer", window="1h", resolution="1m")
    windows = (
        of(name="n", aggregate="count"),
        of(name="web", aggregate="share", matching=WEB),
        of(name="large", aggregate="share", matching=LARGE),
        of(name="places", aggregate="distinct", of="place"),
        of(name="mean", aggregate="mean", of="amount"),
    )
    found = [[w.name for w in members] for _, members in series_of(windows, KEYS)]

    assert found == [["mean", "n", "web", "places"], ["large"]]
    (first, _), (second, _) = series_of(windows, KEYS)
    assert first.columns == (
        *("tile", "count", "sum", "matched", "bits_0", "bits_1", "bits_2", "bits_3"),
    )
    assert second.columns == ("tile", "count", "matched")
    assert first.retained == 61 + LATE_MS // MINUTE_MS
