"""The spend of an error budget is the bad answers of those that slo.yaml lets be bad."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.observing.page.test_traffic import NEWEST_MS, counts, read

from mlplatform.observing.page.queries import error_budget
from mlplatform.observing.page.queries.burn_rates import SpentShares
from mlplatform.observing.page.queries.error_budget import BudgetRow
from mlplatform.observing.slo import objectives
from mlplatform.operations.traffic.buckets import BINS, EDGES
from mlplatform.operations.traffic.projection import TrafficBucket, TrafficReport
from rollout_world import fraud


def budgets(
    found: TrafficReport | None, burned: SpentShares | str | None = None
) -> dict[str, BudgetRow]:
    shipped = objectives.load(objectives.SHIPPED)
    shown = error_budget.budget_table(fraud(), shipped, found, burned)
    assert shown.window_days == 30
    return {one.name: one for one in shown.budgets}


def test_the_spend_of_latency_is_of_all_answers_but_copies() -> None:
    goal_us = 1000 * int(fraud().latency_slo_ms)
    slow = counts(30, took_us=2 * goal_us)
    found = read(
        [
            TrafficBucket(NEWEST_MS, "champion", 1, counts(9_000)),
            TrafficBucket(NEWEST_MS, "challenger", 2, slow),
            TrafficBucket(NEWEST_MS, "unassigned", 1, counts(970)),
            TrafficBucket(NEWEST_MS, "shadow", 2, slow),
        ]
    )
    one = budgets(found)["latency"]
    assert (one.text, one.tone) == ("30 % spent", "good")
    assert one.objective == "99 % of the decisions are durable within 10 ms"
    assert one.note == (
        "30 of 10,000 answers (0.3 %) took longer than 10 ms before their record was written; the "
        "budget is 100 (1 %). The log does not know how long the writing took: Grafana shows the "
        "latency with the writing."
    )


@pytest.mark.parametrize(
    ("bad", "text", "tone"),
    [(0, "0 % spent", "good"), (90, "90 % spent", "bad"), (250, "spent 2.5 times over", "bad")],
)
def test_a_spend_that_is_nearly_or_more_than_the_budget_is_bad(
    bad: int, text: str, tone: str
) -> None:
    latency = counts(10_000 - bad).plus(counts(bad, took_us=1_000_000))
    one = budgets(read([TrafficBucket(NEWEST_MS, "champion", 1, latency)]))["latency"]
    assert (one.text, one.tone) == (text, tone)


@pytest.mark.parametrize(
    ("answers", "text"), [(99, "too few answers to say"), (100, "100 % spent")]
)
def test_a_budget_that_one_answer_would_exceed_is_not_said_to_be_spent(
    answers: int, text: str
) -> None:
    one_slow = counts(answers - 1).plus(counts(1, took_us=1_000_000))
    found = budgets(read([TrafficBucket(NEWEST_MS, "champion", 1, one_slow)]))["latency"]
    assert found.text == text
    assert found.tone == ("bad" if answers >= 100 else "")
    assert ("With fewer than 100 answers, one slow answer" in found.note) is (answers < 100)


@pytest.mark.parametrize("found", [None, read([])])
def test_what_was_not_counted_is_no_data(found: TrafficReport | None) -> None:
    assert {one.text for one in budgets(found).values()} == {"no data"}
    assert "5xx leaves no record" in budgets(found)["availability"].note


def test_the_spend_of_availability_is_what_prometheus_says_of_the_model() -> None:
    one = budgets(None, {("fraud", "availability"): 0.25, ("other", "availability"): 9.0})
    assert one["availability"].text == "25 % spent"
    assert one["availability"].tone == "good"
    assert one["availability"].note == (
        "0.0025 % of the requests were answered 5xx, by the gateways' metrics in Prometheus; the "
        "budget is 0.01 % of them."
    )


@pytest.mark.parametrize(
    ("burned", "note"),
    [
        ({("other", "availability"): 0.1}, "has counted no request of this model"),
        ("Prometheus cannot be asked: it is away", "cannot be asked: it is away"),
    ],
)
def test_a_spend_unknown_to_prometheus_is_no_data(burned: SpentShares | str, note: str) -> None:
    one = budgets(None, burned)["availability"]
    assert (one.text, one.tone) == ("no data", "")
    assert note in one.note


@given(st.lists(st.integers(1, 30_000_000), min_size=1, max_size=50), st.floats(0.01, 30_000))
def test_answers_that_are_no_bin_away_from_the_goal_alone_may_be_counted_wrongly(
    took_us: list[int], goal_ms: float
) -> None:
    places = np.searchsorted(EDGES, took_us, side="right")
    found = error_budget.slower(np.bincount(places, minlength=BINS), goal_ms)
    goal = np.searchsorted(EDGES, 1000 * goal_ms, side="right")
    assert int((places > goal).sum()) <= found <= int((places >= goal).sum())
