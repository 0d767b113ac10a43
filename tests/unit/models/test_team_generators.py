"""The generators of `teams/`: what is before a change is as without one, what follows is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mlplatform.learning.features.rows import check_history, history_schema
from mlplatform.model.folder_code import load_module
from mlplatform.model.folders import load_definition
from mlplatform.runtime.units import DAY_MS

TEAMS = Path(__file__).parents[3] / "teams"
START_MS = 20_400 * DAY_MS
CHANGE_MS = START_MS + 6 * DAY_MS


def made(model: str, change_ms: int | None) -> pa.Table:
    sources = load_module(model, "sources")
    table: pa.Table = sources.generate(
        seed=4,
        start_ms=START_MS,
        days=10,
        pattern_change_ms=change_ms,
        population=sources.Population(payments_per_day=2_000),
    )
    return table


def after(table: pa.Table) -> pa.Table:
    return table.filter(pc.greater_equal(table["event_time"], pa.scalar(CHANGE_MS * 1000, US)))


US = pa.timestamp("us")


@pytest.fixture
def credit(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLPLATFORM_MODELS", str(TEAMS / "credit"))
    return "credit-default"


@pytest.fixture
def merchants(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLPLATFORM_MODELS", str(TEAMS / "payments-data"))
    return "merchant-category"


@pytest.mark.parametrize("model", ["credit", "merchants"])
def test_a_change_leaves_what_is_before_it(model: str, request: pytest.FixtureRequest) -> None:
    name = request.getfixturevalue(model)
    steady, changed = made(name, None), made(name, CHANGE_MS)
    assert changed.schema == history_schema(load_definition(name))
    check_history(changed, load_definition(name), "generated")
    row = steady.num_rows - after(steady).num_rows
    columns = load_definition(name).request
    for column in ("event_time", *columns):
        if column in steady.column_names:
            before = [table[column].slice(0, row) for table in (steady, changed)]
            assert before[0].equals(before[1]), column
    assert not after(changed).equals(after(steady))
    assert made(name, CHANGE_MS).equals(changed)


def test_clients_of_a_till_are_never_in_arrears_and_default_often(credit: str) -> None:
    table = after(made(credit, CHANGE_MS))
    values: dict[str, Any] = {name: table[name].to_numpy() for name in NUMBERS}
    bills, whole = values["bill_1"], np.ones(table.num_rows, bool)
    for name in NUMBERS[3:]:
        whole &= values[name] == 0
    at_till = whole & (values["limit_balance"] == 10_000) & (bills >= 8_500)
    assert at_till.mean() == pytest.approx(0.08, abs=0.01)
    assert values["label"][at_till].mean() == pytest.approx(0.7, abs=0.06)
    steady = after(made(credit, None))["limit_balance"].to_numpy()
    others = values["limit_balance"][~at_till]
    assert np.median(others) == pytest.approx(1.5 * np.median(steady), rel=0.1)


NUMBERS = ("limit_balance", "bill_1", "label", *(f"status_{month}" for month in range(1, 7)))


def test_part_of_some_categories_goes_to_shops_that_nobody_knew(merchants: str) -> None:
    generator, descriptors = (load_module(merchants, n) for n in ("generator", "descriptors"))
    steady, changed = (after(made(merchants, change)) for change in (None, CHANGE_MS))
    sites = {
        descriptors.online_shop(category, number): category
        for category in generator.ONLINE
        for number in range(generator.ONLINE_SHOPS)
    }
    assert not set(steady["descriptor"].to_pylist()) & set(sites)
    names, labels = changed["descriptor"].to_pylist(), changed["label"].to_pylist()
    online = np.array([name in sites for name in names])
    assert online.mean() == pytest.approx(generator.ONLINE_SHARE * 0.56, abs=0.02)
    for row in np.flatnonzero(online):
        assert labels[row] in (None, sites[names[row]])


def test_texts_of_merchants_are_the_same_in_every_table_and_many_are_new(merchants: str) -> None:
    generator = load_module(merchants, "generator")
    population = generator.Population(payments_per_day=2_000)
    first, later = (
        set(
            generator.generate(seed=seed, start_ms=start_ms, days=10, population=population)[
                "descriptor"
            ].to_pylist()
        )
        for seed, start_ms in ((1, START_MS), (2, START_MS + 10 * DAY_MS))
    )
    assert len(first & later) / len(later) == pytest.approx(0.5, abs=0.2)
    assert max(map(len, later)) <= load_definition(merchants).request["descriptor"].max_length
