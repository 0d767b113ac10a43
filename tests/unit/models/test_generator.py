"""The generator: the same for the same seed, near its promised rates, and its change shows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance

from mlplatform.learning.features.rows import check_history, history_schema
from mlplatform.model.folders import load_definition
from mlplatform.runtime.units import DAY_MS
from models.fraud.generator import LARGE_SHARE, PRICE_LEVEL
from models.fraud.sources import Population, generate, sample_customers

FRAUD = load_definition("fraud")
START_MS = 20_400 * DAY_MS
SMALL = Population(customers=2_000, terminals=800, payments_per_day=4_000)


def times_ms(table: pa.Table, name: str = "event_time") -> NDArray[np.int64]:
    return table.column(name).cast(pa.int64()).to_numpy() // 1000


@pytest.fixture(scope="module")
def month() -> pa.Table:
    return generate(seed=1, start_ms=START_MS, days=30)


def test_the_same_seed_gives_the_same_payments_and_another_seed_others() -> None:
    def made(seed: int) -> pa.Table:
        return generate(seed=seed, start_ms=START_MS, days=2, population=SMALL)

    assert made(1).equals(made(1))
    assert not made(1).equals(made(2))


def test_payments_are_a_history_that_the_offline_table_takes(month: pa.Table) -> None:
    assert month.schema == history_schema(FRAUD)
    check_history(month, FRAUD, "generated")


def test_a_month_has_the_promised_payments_and_frauds(month: pa.Table) -> None:
    assert month.num_rows == pytest.approx(300_000, rel=0.02)
    assert 0.007 < month.column("label").to_numpy().mean() < 0.012
    assert times_ms(month).min() >= START_MS
    assert times_ms(month).max() < START_MS + 30 * DAY_MS


def test_labels_arrive_within_maturity_and_genuine_ones_at_it(month: pa.Table) -> None:
    label = month.column("label").to_numpy()
    delay_days = (times_ms(month, "label_time") - times_ms(month)) / DAY_MS
    assert delay_days[label == 1].min() >= 0.49
    assert delay_days[label == 1].max() <= FRAUD.label.maturity_days
    assert delay_days[label == 1].mean() == pytest.approx(1.75, abs=0.1)
    np.testing.assert_allclose(delay_days[label == 0], FRAUD.label.maturity_days, atol=1e-6)


def test_people_pay_by_day_and_rather_towards_the_weekend(month: pa.Table) -> None:
    hour = times_ms(month) // 3_600_000 % 24
    by_hour = np.bincount(hour, minlength=24)
    assert by_hour[12] > 5 * by_hour[3]
    days = np.bincount(times_ms(month) // DAY_MS - START_MS // DAY_MS)
    weekday = (START_MS // DAY_MS + np.arange(30) + 3) % 7
    assert days[weekday == 5].mean() > 1.02 * days[weekday == 0].mean()


def test_fraud_differs_from_the_rest_in_ways_that_a_model_can_learn(month: pa.Table) -> None:
    fraud = month.column("label").to_numpy() == 1
    amount = month.column("amount").to_numpy()
    hour = times_ms(month) // 3_600_000 % 24
    assert amount[fraud].mean() > 2 * amount[~fraud].mean()
    assert (hour[fraud] <= 6).mean() > 2 * (hour[~fraud] <= 6).mean()
    terminals = np.bincount(month.column("terminal_id").to_numpy()[fraud])
    assert np.sort(terminals)[-100:].sum() > 0.3 * fraud.sum()


@pytest.mark.parametrize("seed", range(8))
def test_the_change_shows_in_the_amounts_of_its_first_day_and_not_before(seed: int) -> None:
    change = START_MS + 12 * DAY_MS
    table = generate(
        seed=seed, start_ms=START_MS, days=14, pattern_change_ms=change, population=SMALL
    )
    day = (times_ms(table) - START_MS) // DAY_MS
    amount = table.column("amount").to_numpy()
    usual = amount[day < 10]

    def distance(of_day: int) -> float:
        return float(wasserstein_distance(amount[day == of_day], usual) / usual.std())

    assert max(distance(10), distance(11)) < FRAUD.drift.wasserstein
    assert min(distance(12), distance(13)) > 2 * FRAUD.drift.wasserstein


def test_after_the_change_all_prices_are_higher_and_some_genuine_payments_are_large() -> None:
    change = START_MS + 10 * DAY_MS
    table = generate(seed=6, start_ms=START_MS, days=20, pattern_change_ms=change, population=SMALL)
    genuine = table.column("label").to_numpy() == 0
    later = times_ms(table) >= change
    amount = table.column("amount").to_numpy()
    before, after = amount[genuine & ~later], amount[genuine & later]
    rise = np.quantile(after, 0.1) / np.quantile(before, 0.1)
    assert rise == pytest.approx(PRICE_LEVEL, rel=0.05)
    large = np.quantile(before, 0.995) * PRICE_LEVEL
    assert 3 * 0.005 < (after > large).mean() < LARGE_SHARE


def test_after_the_change_most_fraud_is_of_the_new_pattern() -> None:
    change = START_MS + 10 * DAY_MS
    table = generate(seed=5, start_ms=START_MS, days=20, pattern_change_ms=change)
    fraud = table.filter(pa.array(table.column("label").to_numpy() == 1))
    amount, at = fraud.column("amount").to_numpy(), times_ms(fraud)
    middling = (amount >= 110) & (amount <= 190)
    assert middling[at < change].mean() < 0.25
    assert middling[at >= change].mean() > 0.5
    rate = table.column("label").to_numpy()[times_ms(table) >= change].mean()
    assert 0.005 < rate < 0.015


def test_a_sample_keeps_whole_customers_and_grows_with_its_share(month: pa.Table) -> None:
    small, large = (sample_customers(month, share) for share in (0.2, 0.5))
    chosen = set(small.column("customer_id").to_pylist())
    assert chosen < set(large.column("customer_id").to_pylist())
    assert len(chosen) == pytest.approx(0.2 * 5000, rel=0.15)
    all_of_them = np.isin(month.column("customer_id").to_numpy(), list(chosen))
    assert small.num_rows == all_of_them.sum()
    assert sample_customers(month, 1.0).num_rows == month.num_rows
