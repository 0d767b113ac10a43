"""A challenger that fails more is proven to in few requests, and one outage proves nothing."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlplatform.rollouts.verdicts import comparison
from mlplatform.rollouts.verdicts.aggregates import day_totals
from mlplatform.rollouts.verdicts.statistics import (
    Clusters,
    RareEvents,
    excess_evidence,
    first_of_each,
    proven_excess,
)
from mlplatform.rollouts.verdicts.verdict import Bound, Errors

LIMIT, BESIDE = 0.005, 19
RUNS, STEPS, EACH = 600, 30, 100
"""Challengers, looks at each, and its requests between two of them; its champion has 19 times as
many."""


def watched(mine: float, other: float, outage: int = 1) -> np.ndarray:
    """The most evidence at any interim analysis, of arms that fail these shares of requests by
    outages."""
    rng = np.random.default_rng([outage, round(1e4 * mine)])
    n = STEPS * EACH
    starts = rng.random((RUNS, n)) < mine / outage
    ends = np.concatenate([np.zeros((RUNS, outage), bool), starts], axis=1)[:, :n]
    failed = (starts.cumsum(axis=1) - ends.cumsum(axis=1)) > 0
    looks = np.arange(EACH, n + 1, EACH)
    events = [
        [first_of_each(np.stack([run[:k], np.ones(k)], axis=1).astype(np.int64)) for k in looks]
        for run in failed
    ]
    hits, trials = (np.array([[getattr(e, name) for e in row] for row in events])
                    for name in ("hits", "trials"))  # fmt: skip
    theirs = rng.binomial(BESIDE * EACH, other, hits.shape).cumsum(axis=1).astype(float)
    champion = RareEvents(theirs, np.broadcast_to(BESIDE * looks.astype(float), hits.shape))
    return excess_evidence([RareEvents(hits, trials)], champion, more=LIMIT)


@pytest.mark.parametrize("outage", [1, 12])
@pytest.mark.parametrize("champion", [0.0, 0.01])
def test_harm_at_the_limit_is_called_proven_at_any_look_no_more_often_than_said(
    champion: float, outage: int
) -> None:
    most = watched(champion + LIMIT, champion, outage).max(axis=1)
    for error in (0.1, 0.02):
        wrong = float((most >= math.log(1 / error)).mean())
        assert wrong <= error + 3 * math.sqrt(error / len(most))


@pytest.mark.parametrize(("more", "requests"), [(0.05, 300), (0.02, 2_000)])
def test_a_challenger_that_fails_more_is_proven_to_within(more: float, requests: int) -> None:
    evidence = watched(0.001 + more, 0.001)[:, requests // EACH - 1]
    assert (evidence >= math.log(4_000)).mean() >= 0.5


@pytest.mark.parametrize("length", [1, 40, 2_000])
def test_one_outage_is_one_event_however_long_it_is(length: int) -> None:
    well = np.tile([0, 1], (50, 1))
    outage = np.tile([[1, 1], [0, 1], [1, 1]], (length, 1))  # a third goes well meanwhile
    found = first_of_each(np.concatenate([well, outage, well]))
    assert found == RareEvents(1.0, 50 + 1 + 45)
    champion = RareEvents(0.0, 1e9)
    assert proven_excess([found], champion, error_share=1 / 3000) == 0.0


def test_a_customers_day_is_one_event_and_counts_until_its_first_failure() -> None:
    counts = np.array([[0, 7, 0, 0], [1, 1, 0, 0], [9, 9, 0, 0], [1, 9, 0, 0], [0, 0, 3, 5]])
    assert day_totals(counts)[15:].tolist() == [3, 7 + 1 + 1 + 5]


def test_a_step_is_not_passed_while_more_than_the_limit_is_counted() -> None:
    """What is left open may be within the tolerance: few customers are exposed, and more is to be
    known of a challenger that seems to do harm."""

    def verdict(failures: int) -> str:
        one, none = np.ones(1_200, dtype=np.int64), np.zeros(1_200, dtype=np.int64)
        view = Clusters((np.arange(1_200) < failures).astype(np.int64), one, none, one).sums()
        found: Any = SimpleNamespace(
            failures=[view],
            provable_failures=[view],
            failure_events=([RareEvents(failures, 1_200)], RareEvents(0, 1_200)),
        )
        gate = comparison.failure_gate(found, Bound(LIMIT, 0.05), Errors(1 / 3000, 0.05))
        return gate.verdict

    assert [verdict(n) for n in (1, 6, 9, 60)] == [
        "HEALTHY", "HEALTHY", "INCONCLUSIVE", "UNHEALTHY",
    ]  # fmt: skip


def test_no_more_is_proven_than_was_counted() -> None:
    """Arms that fail the same requests, large customers by day and small ones by night: views that
    leave out what follows an event tell of more than there is."""
    failed, asked = np.full(1_000, 4, dtype=np.int64), np.full(1_000, 1_000, dtype=np.int64)
    view = Clusters(failed, asked, failed, asked).sums()
    found: Any = SimpleNamespace(
        failures=[view],
        provable_failures=[view],
        failure_events=([RareEvents(100, 1_000)], RareEvents(4_000, 1_000_000)),
    )
    assert proven_excess(*found.failure_events, error_share=1 / 3000) > LIMIT
    gate = comparison.failure_gate(found, Bound(LIMIT, 0.05), Errors(1 / 3000, 0.05))
    assert gate.verdict == "HEALTHY"
