"""Windows as they are declared, and the arithmetic of their tiles."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.model.definition import RequestField
from mlplatform.model.windows.declaration import Filter, Window, check_same, read_by, rules
from mlplatform.model.windows.tiles import (
    LATE_MS,
    Columns,
    Series,
    SeriesReader,
    fold,
    new_columns,
    series_of,
)
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.units import MINUTE_MS

REQUEST = {
    "customer": RequestField(type="int64", entity="customer", pseudonymous=True),
    "terminal": RequestField(type="string", entity="terminal"),
    "amount": RequestField(type="float64", minimum=0, maximum=1e6),
    "tip": RequestField(type="float64"),
}
GOOD = {
    "name": "mean_1h", "entity": "customer", "aggregate": "mean", "of": "amount",
    "window": "1h", "resolution": "1m",
}  # fmt: skip
KEYS = {"customer": "customer", "terminal": "terminal"}


def wrong(*windows: dict[str, object]) -> list[str]:
    declared = msgspec.convert(list(windows), tuple[Window, ...])
    return [f"{key}: {wanted}" for holds, key, _, wanted in rules(declared, REQUEST) if not holds]


def one_series(*windows: Window) -> Series:
    ((series, _),) = series_of(windows, KEYS)
    return series


def test_a_window_of_each_kind_is_taken() -> None:
    assert wrong(GOOD, {**GOOD, "name": "n", "aggregate": "count", "of": None}) == []
    by_text = {"field": "terminal", "op": "==", "value": "abroad"}
    assert wrong({**GOOD, "where": by_text, "delay": "7d", "resolution": "10m"}) == [
        "windows.0.delay: a multiple of the resolution 10m, at most 90d"
    ]
    assert wrong({**GOOD, "where": by_text, "delay": "7h", "resolution": "10m"}) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"entity": "card"}, "windows.0.entity: an entity that a request field declares"),
        (
            {"name": "Amount"},
            "windows.0.name: letters, digits and _, a letter first, and no request field's name",
        ),
        (
            {"name": "_row"},
            "windows.0.name: letters, digits and _, a letter first, and no request field's name",
        ),
        ({"window": "91d", "resolution": "7d"}, "windows.0.window: at most 90d"),
        ({"resolution": "7m"}, "windows.0.resolution: a whole part of 1h"),
        ({"window": "2d"}, "windows.0.resolution: 2d in at most 400 parts"),
        ({"of": "terminal"}, "windows.0.of: a request field of type int64 or float64"),
        ({"of": None}, "windows.0.of: a request field of type int64 or float64"),
        ({"aggregate": "count"}, "windows.0.of: no field for count"),
        (
            {"of": "tip"},
            "windows.0.of: a field with request.tip.minimum and .maximum within 687194767 (or fewer"
            " digits than 2): its sums are exact then",
        ),
        (
            {"where": {"field": "customer", "op": "==", "value": 1}},
            "windows.0.where.field: a request field that is not a pseudonym",
        ),
        (
            {"where": {"field": "terminal", "op": ">", "value": "a"}},
            "windows.0.where.op: == or != for a field of type string",
        ),
        (
            {"where": {"field": "amount", "op": ">", "value": "a"}},
            "windows.0.where.value: a value of type float64",
        ),
        (
            {"where": {"field": "amount", "op": ">", "value": 10**400}},
            "windows.0.where.value: a value of type float64",
        ),
    ],
)
def test_a_window_that_nothing_can_be_made_of_is_told_by_its_key(
    change: dict[str, object], told: str
) -> None:
    assert told in wrong({**GOOD, **change})


def test_names_that_differ_in_case_alone_are_one_name_to_sql() -> None:
    """Training would take the first one's values for both."""
    assert wrong(GOOD, {**GOOD, "name": "Mean_1h"}) == [
        "windows: names that differ in more than case"
    ]


PLACE = {"field": "terminal", "op": "==", "value": "abroad"}
N_1H = {**GOOD, "name": "n_1h", "aggregate": "count", "of": None}
RATIO = {
    "name": "burst", "entity": "customer", "aggregate": "ratio", "of": "mean_1h", "to": "n_1h",
}  # fmt: skip


def test_a_window_of_each_new_kind_is_taken() -> None:
    assert (
        wrong(
            GOOD,
            N_1H,
            RATIO,
            {**N_1H, "name": "rate", "aggregate": "rate", "per": "1h"},
            {**N_1H, "name": "abroad", "aggregate": "share", "matching": PLACE},
            {**GOOD, "name": "first", "aggregate": "first"},
            {**GOOD, "name": "last", "aggregate": "last"},
            {**GOOD, "name": "places", "aggregate": "distinct", "of": "terminal"},
            {**GOOD, "name": "customers", "aggregate": "distinct", "of": "customer"},
        )
        == []
    )


@pytest.mark.parametrize(
    ("window", "told"),
    [
        ({**N_1H, "aggregate": "rate"}, "per: a span like 1h: the time that the rate is for"),
        ({**N_1H, "per": "1h"}, "per: nothing for count"),
        (
            {**N_1H, "aggregate": "share"},
            "matching: a filter {field, op, value}: which requests are the share",
        ),
        (
            {**N_1H, "aggregate": "share", "matching": {**PLACE, "op": ">"}},
            "matching.op: == or != for a field of type string",
        ),
        (
            {**N_1H, "aggregate": "share", "matching": {**PLACE, "field": "customer"}},
            "matching.field: a request field that is not a pseudonym",
        ),
        ({**GOOD, "matching": PLACE}, "matching: nothing for mean"),
        ({**GOOD, "to": "n_1h"}, "to: nothing for mean"),
        ({**GOOD, "aggregate": "last", "of": "terminal"},
         "of: a request field of type int64 or float64"),
        ({**GOOD, "aggregate": "distinct", "of": "amount"},
         "of: a request field of type int64 or string"),
        ({**GOOD, "aggregate": "distinct", "of": None},
         "of: a request field of type int64 or string"),
        ({**GOOD, "window": None}, "window: a span like 10m, 6h, 30d"),
        ({**GOOD, "resolution": None}, "resolution: a span like 10m, 6h, 30d"),
        ({**RATIO, "window": "1h"}, "window: nothing for ratio: of and to have theirs"),
        ({**RATIO, "delay": "1h"}, "delay: nothing for ratio: of and to have theirs"),
        ({**RATIO, "where": PLACE}, "where: nothing for ratio: of and to have theirs"),
        ({**RATIO, "to": None}, "to: the window that is divided by"),
        (
            {**RATIO, "of": "amount"},
            "of: a window of customer that is not a ratio: of mean_2h, n_2h",
        ),
        (
            {**RATIO, "entity": "terminal"},
            "to: a window of terminal that is not a ratio: of none",
        ),
        (
            {**RATIO, "to": "burst"},
            "to: a window of customer that is not a ratio: of mean_2h, n_2h",
        ),
    ],
)  # fmt: skip
def test_what_an_aggregate_needs_or_does_not_take_is_told_by_its_key(
    window: dict[str, object], told: str
) -> None:
    others = ({**GOOD, "name": "mean_2h"}, {**N_1H, "name": "n_2h"})
    assert f"windows.2.{told}" in wrong(*others, window)


def test_a_bundle_that_reads_a_ratio_holds_the_windows_that_it_divides() -> None:
    """One of them declared otherwise would be another ratio under its name."""
    declared = msgspec.convert([GOOD, N_1H, RATIO, {**N_1H, "name": "n_2h"}], tuple[Window, ...])

    trained = read_by({"burst"}, declared)
    assert [w.name for w in trained] == ["mean_1h", "n_1h", "burst"]
    check_same(trained, declared)
    changed = msgspec.structs.replace(declared[1], window="2h")
    with pytest.raises(ConfigInvalid, match="windows: n_1h"):
        check_same(trained, (declared[0], changed, *declared[2:]))


@pytest.mark.parametrize("span", ["0m", "1w", "m", "1.5h", "-1d", "90"])
def test_a_span_is_a_number_of_minutes_hours_or_days(span: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**GOOD, "window": span}, Window)


def test_windows_of_one_field_and_resolution_share_their_tiles() -> None:
    hour = Window(name="a", entity="customer", aggregate="count", window="1h", resolution="1m")
    since = Window(
        name="b", entity="customer", aggregate="seconds_since", window="2h", resolution="1m"
    )
    mean = msgspec.convert(GOOD, Window)
    found = series_of((hour, since, mean), KEYS)

    assert [[w.name for w in members] for _, members in found] == [["mean_1h", "a", "b"]]
    assert found[0][0].columns == ("tile", "count", "last_ms", "sum")
    assert found[0][0].retained == 120 + 1 + LATE_MS // MINUTE_MS


def recount(payments: list[tuple[int, float]], window: Window, series: Series, at_ms: int) -> float:
    """A window's value from the payments themselves."""
    kept = [(t, x) for t, x in payments if series.where is None or x >= 50]
    if not kept:
        return 0.0 if window.aggregate in ("count", "sum") else math.nan
    newest = max(t for t, _ in kept) // series.tile_ms
    top = at_ms // series.tile_ms - window.delay_tiles
    inside = [
        (t, math.floor(x * series.scale + 0.5))
        for t, x in kept
        if top - window.tiles <= t // series.tile_ms <= top
        and t // series.tile_ms > newest - series.retained
    ]
    n, total = len(inside), sum(x for _, x in inside)
    if window.aggregate == "count":
        return float(n)
    if window.aggregate == "sum":
        return total / series.scale
    if not n:
        return math.nan
    squares = sum(x * x for _, x in inside)
    return {
        "mean": lambda: total / n / series.scale,
        "min": lambda: min(x for _, x in inside) / series.scale,
        "max": lambda: max(x for _, x in inside) / series.scale,
        "seconds_since": lambda: max(at_ms - max(t for t, _ in inside), 0) / 1000,
        "std": lambda: math.sqrt(n * squares - total * total) / n / series.scale,
    }[window.aggregate]()


@given(
    payments=st.lists(
        st.tuples(st.integers(0, 400 * MINUTE_MS), st.sampled_from([0.0, 0.015, 49.99, 50, 1e6])),
        max_size=60,
    ),
    aggregate=st.sampled_from(["count", "sum", "mean", "std", "min", "max", "seconds_since"]),
    window=st.sampled_from(["10m", "30m", "2h"]),
    resolution=st.sampled_from(["1m", "10m"]),
    delay=st.sampled_from([None, "10m", "1h"]),
    filtered=st.booleans(),
    at_ms=st.integers(0, 500 * MINUTE_MS),
    seed=st.integers(0, 9),
)
def test_payments_added_one_by_one_in_any_order_are_what_a_recount_finds(
    payments: list[tuple[int, float]],
    aggregate: str,
    window: str,
    resolution: str,
    delay: str | None,
    filtered: bool,
    at_ms: int,
    seed: int,
) -> None:
    of = None if aggregate in ("count", "seconds_since") else "amount"
    where = Filter(field="amount", op=">=", value=50) if filtered else None
    declared = msgspec.convert(
        {"name": "w", "entity": "customer", "aggregate": aggregate, "window": window,
         "resolution": resolution, "of": of, "delay": delay}, Window,
    )  # fmt: skip
    declared = msgspec.structs.replace(declared, where=where)
    series = one_series(declared)
    columns: Columns = new_columns(series)
    shuffled = payments.copy()
    random.Random(seed).shuffle(shuffled)
    for event_ms, amount in shuffled:
        fold(columns, series, event_ms, {"amount": amount})

    values: dict[str, float | None] = {}
    SeriesReader(series, [declared]).fill(values, columns, at_ms)
    found = math.nan if (read := values["w"]) is None else read
    expected = recount(payments, declared, series, at_ms)
    assert found == pytest.approx(expected, rel=1e-12, nan_ok=True)
    if aggregate not in ("std", "mean"):
        assert found == expected or math.isnan(expected)
    assert len(columns[0]) <= series.retained
    assert list(columns[0]) == sorted(set(columns[0]))


def test_what_an_entity_takes_does_not_grow_with_its_payments() -> None:
    declared = msgspec.convert(GOOD, Window)
    series = one_series(declared)
    columns = new_columns(series)
    for minute in range(3_000):
        fold(columns, series, minute * MINUTE_MS, {"amount": 1e6})

    assert len(columns[0]) == series.retained == 60 + 1 + 60


def test_a_payment_without_the_value_counts_for_none_of_its_windows() -> None:
    series = one_series(msgspec.convert(GOOD, Window))
    columns = new_columns(series)

    assert not fold(columns, series, 0, {"amount": math.nan})
    assert not fold(columns, series, 0, {})
    assert columns == new_columns(series)
