"""Verdicts: harm acts at once, a sample is read once, no data is never health."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from mlplatform.decisions.records.port import Watermark
from mlplatform.rollouts.journal.journal import GatewayLease
from mlplatform.rollouts.verdicts.judgement import Judgement, Limits, Sources, judge
from mlplatform.rollouts.verdicts.window import (
    MOMENT_MS,
    Traffic,
    canary_traffic,
    champion_traffic,
    shadow_traffic,
)
from mlplatform.runtime.canonical import canonical_json
from rollout_world import canary_rows, shadow_rows, table

SHADOW = Limits(
    error_share=0.01,
    failure_share=0.01,
    guardrail_failures=10,
    flip_share=0.10,
    alert_low=0.005,
    alert_high=0.03,
    percent=None,
    units=300,
    requests=600,
)
CANARY = dataclasses.replace(SHADOW, percent=25.0, units=100, requests=0)
COMPLETE = Sources(
    (Watermark("gateway-1", 10**6, 10**9, 0, True),), (GatewayLease("gateway-1", 1),)
)
LATE = Sources((Watermark("gateway-1", 5, 5, 0, True),), (GatewayLease("gateway-1", 0),))


def shadow(rows: list[dict[str, Any]], sources: Sources = COMPLETE) -> Judgement:
    return judge(shadow_traffic(table(rows), generation=1, version=2), SHADOW, sources)


def canary(
    rows: list[dict[str, Any]], limits: Limits = CANARY, sources: Sources = COMPLETE
) -> Judgement:
    return judge(canary_traffic(table(rows), generation=1), limits, sources)


def fail(rows: list[dict[str, Any]], count: int, arm: str = "challenger") -> list[dict[str, Any]]:
    mine = [row for row in rows if row["arm"] == arm][:count]
    for row in mine:
        row |= {"answered_by": "rules", "degraded": True, "degraded_reason": "deadline"}
    return rows


def test_a_good_shadow_is_healthy_and_says_with_which_numbers() -> None:
    verdict = shadow(shadow_rows(400, 2, generation=1, version=2))
    assert verdict.verdict == "HEALTHY"
    assert set(verdict.evidence["gates"]) == {"failures", "alerts", "flips"}
    assert verdict.evidence["arms"]["challenger"]["requests"] == 600
    assert canonical_json(verdict.evidence)


def test_too_few_customers_are_inconclusive() -> None:
    verdict = shadow(shadow_rows(299, 4, generation=1, version=2))
    assert (verdict.verdict, verdict.reason) == (
        "INCONCLUSIVE",
        "299 of 300 customers needed, 1,196 of 600 requests",
    )


def test_no_records_are_inconclusive() -> None:
    assert shadow([]).verdict == canary([]).verdict == "INCONCLUSIVE"


def test_an_incomplete_log_is_inconclusive_and_names_who_is_behind() -> None:
    verdict = shadow(shadow_rows(400, 2, generation=1, version=2), LATE)
    assert verdict.verdict == "INCONCLUSIVE"
    assert "gateway-1 is at 5" in verdict.reason
    assert "gateway-1 applies generation 0" in verdict.reason


@pytest.mark.parametrize(
    "customers", [pytest.param(20, id="too few"), pytest.param(400, id="enough")]
)
def test_a_gateway_whose_log_is_elsewhere_is_named_and_never_health(customers: int) -> None:
    """It has part of the customers, and nobody who reads this log alone can say how they fared."""
    leases = (*COMPLETE.gateways, GatewayLease("gateway-2", 1))
    rows = shadow_rows(customers, 2, generation=1, version=2)
    verdict = shadow(rows, Sources(COMPLETE.watermarks, leases))
    assert verdict.verdict == "INCONCLUSIVE"
    assert "gateway-2" in verdict.reason
    assert "gateway-1" not in verdict.reason


@pytest.mark.parametrize("alert_share", [0.2, 0.0])
def test_alerts_outside_their_band_are_unhealthy(alert_share: float) -> None:
    limits = dataclasses.replace(SHADOW, alert_low=0.02, alert_high=0.05)
    rows = shadow_rows(400, 2, generation=1, version=2, alert_share=alert_share)
    traffic = shadow_traffic(table(rows), generation=1, version=2)
    assert judge(traffic, limits, COMPLETE).verdict == "UNHEALTHY"


def test_the_verdict_is_the_one_at_the_sample_whenever_somebody_looks() -> None:
    good = shadow_rows(400, 2, generation=1, version=2)
    later = shadow_rows(400, 9, generation=1, version=2)[len(good) :]
    early, late = shadow(good), shadow(good + later)
    assert late.verdict == "HEALTHY"
    assert late.evidence == early.evidence


@pytest.mark.parametrize("alert_share", [0.9, 0.0])
def test_alerts_far_outside_their_band_act_before_the_sample_and_on_an_incomplete_log(
    alert_share: float,
) -> None:
    limits = dataclasses.replace(CANARY, alert_low=0.2, alert_high=0.3)
    rows = canary_rows(80, 25, generation=1, version=2, alert_share=alert_share)
    few = judge(canary_traffic(table(rows[:150]), generation=1), limits, LATE)
    assert few.verdict == "INCONCLUSIVE"  # of fewer than the first look
    enough = canary_rows(80, 90, generation=1, version=2, alert_share=alert_share)
    verdict = judge(canary_traffic(table(enough), generation=1), limits, LATE)
    assert verdict.verdict == "UNHEALTHY"
    assert set(verdict.evidence["gates"]) == {"alerts"}
    assert verdict.evidence["arms"]["challenger"]["answers"] == 50


def test_a_champions_alerts_are_left_to_drift() -> None:
    limits = dataclasses.replace(SHADOW, units=None)
    rows = shadow_rows(400, 2, generation=1, version=2, alert_share=0.9)
    traffic = shadow_traffic(table(rows), generation=1, version=2)
    assert judge(traffic, limits, COMPLETE).verdict == "HEALTHY"


def test_alerts_at_the_edge_of_their_band_act_at_once_no_more_often_than_said() -> None:
    # looked at with 50, 100, ... of some 1 700 answers: 1 % for all looks, 1 % at the sample
    share = stopped(400, seed=25, failing=0.0001, alerting=0.03)
    assert share <= 0.02 + 0.001 + 0.021


def test_decisions_unlike_the_champions_are_unhealthy() -> None:
    rows = shadow_rows(400, 2, generation=1, version=2, alert_share=0.012)
    for row in rows:
        if "kind" not in row and row["unit"] % 4 == 0:
            row["decision"] = "review"
    verdict = shadow(rows)
    assert verdict.verdict == "UNHEALTHY"
    assert "unlike the champion" in verdict.reason


def test_answers_that_are_all_missing_are_not_health() -> None:
    rows = [
        row | ({"score": None, "degraded_reason": "deadline"} if row.get("kind") else {})
        for row in shadow_rows(400, 2, generation=1, version=2)
    ]
    verdict = shadow(rows)
    assert verdict.verdict == "INCONCLUSIVE"
    assert verdict.evidence["dropped"] == {"deadline": 800}


def test_a_guardrail_acts_before_the_sample_and_on_an_incomplete_log() -> None:
    rows = fail(canary_rows(80, 25, generation=1, version=2), 10)
    verdict = canary(rows, sources=LATE)
    assert verdict.verdict == "UNHEALTHY"
    assert verdict.evidence["gates"]["guardrail"]["values"]["low"] > 0.01


def test_fewer_failures_than_the_minimum_never_act_at_once() -> None:
    rows = fail(canary_rows(80, 25, generation=1, version=2), 9)
    assert canary(rows).verdict == "INCONCLUSIVE"


def test_one_customers_failures_are_one_customers() -> None:
    rows = [
        row | {"unit": 0 if row["arm"] == "challenger" else row["unit"]}
        for row in canary_rows(80, 25, generation=1, version=2)
    ]
    assert canary(fail(rows, 20)).verdict == "INCONCLUSIVE"


def test_the_champions_failures_are_not_the_challengers() -> None:
    rows = fail(canary_rows(600, 25, generation=1, version=2), 200, arm="champion")
    assert canary(rows).verdict == "HEALTHY"


def test_a_split_that_was_not_asked_for_is_unhealthy() -> None:
    rows = canary_rows(600, 50, generation=1, version=2)
    verdict = canary(rows)
    assert verdict.evidence["gates"]["split"]["verdict"] == "UNHEALTHY"


def test_where_only_guardrails_are_read_calm_is_healthy() -> None:
    limits = dataclasses.replace(SHADOW, units=None)
    rows = shadow_rows(20, 2, generation=1, version=2)
    traffic = shadow_traffic(table(rows), generation=1, version=2)
    assert judge(traffic, limits, COMPLETE).verdict == "HEALTHY"
    assert judge(traffic, limits, LATE).verdict == "INCONCLUSIVE"


def test_a_champion_that_nobody_asked_is_not_called_healthy() -> None:
    limits = dataclasses.replace(SHADOW, units=None)
    nobody = champion_traffic(table([]), generation=1, version=2)
    verdict = judge(nobody, limits, COMPLETE)
    assert verdict.verdict == "INCONCLUSIVE"
    assert "no request of generation 1" in verdict.reason


def test_a_canary_whose_answers_hardly_count_is_inconclusive() -> None:
    degraded = {"degraded": True, "degraded_reason": "features"}
    rows = canary_rows(600, 25, generation=1, version=2)
    for row in [row for row in rows if row["arm"] == "challenger"][1:]:
        row |= degraded
    verdict = canary(rows)
    assert verdict.verdict == "INCONCLUSIVE"
    assert verdict.reason == "answers that count (not degraded) for 1 of 100 customers"


def test_a_shadow_with_hardly_a_decision_to_compare_is_inconclusive() -> None:
    rows = shadow_rows(400, 2, generation=1, version=2)
    for row in [row for row in rows if "kind" not in row][1:]:
        row |= {"degraded": True, "degraded_reason": "features"}
    verdict = shadow(rows)
    assert verdict.verdict == "INCONCLUSIVE"
    assert verdict.reason == "decisions of both arms for 1 of 400 customers"


A_MOMENT = 50


def simulated(
    rng: np.random.Generator,
    *,
    failing: float,
    alerting: float,
    pausing: float = 0.0,
    units: int = 2000,
) -> Traffic:
    """Canary traffic at 25 %: customers with rates of their own and 1 to 6 requests each.

    Args:
        failing, alerting: shares of requests.
        pausing: share of the moments with a pause, which fails a tenth to a half of its requests.
    """
    requests = rng.integers(1, 7, units)
    unit = rng.permutation(np.repeat(np.arange(units), requests))
    rates = np.stack([rng.beta(share * 8, (1 - share) * 8, units) for share in (failing, alerting)])
    failed, alert = rng.random((2, len(unit))) < rates[:, unit]
    moment = np.arange(len(unit)) // A_MOMENT
    moments = int(moment[-1]) + 1
    pause = np.where(rng.random(moments) < pausing, rng.uniform(0.1, 0.5, moments), 0.0)
    failed |= rng.random(len(unit)) < pause[moment]
    mine = (rng.random(units) < 0.25)[unit]
    never = np.zeros(len(unit), dtype=bool)
    return Traffic(
        generation=1,
        event_ms=np.arange(len(unit)),
        writer=("gateway-1",) * len(unit),
        seq=np.arange(len(unit)),
        unit=unit,
        moment=moment,
        challenger=mine,
        failed=failed & mine,
        excused=never,
        scored=~failed,
        alert=alert & ~failed,
        paired=never,
        flipped=never,
        dropped={},
    )


def stopped(runs: int, seed: int, **rates: float) -> float:
    rng = np.random.default_rng(seed)
    verdicts = [judge(simulated(rng, **rates), CANARY, COMPLETE).verdict for _ in range(runs)]
    assert "INCONCLUSIVE" not in verdicts
    return verdicts.count("UNHEALTHY") / runs


def test_a_challenger_at_its_limits_is_stopped_no_more_often_than_said() -> None:
    # guardrail, failure gate: at their limit, 1 % each; alert gate inside its band; split 0.1 %
    share = stopped(400, seed=21, failing=0.01, alerting=0.015)
    assert share <= 0.021 + 0.015  # three standard errors of 400 runs would be 0.021


def test_failures_of_one_pause_are_one_event() -> None:
    rows = [row | {"recorded_ms": 0} for row in canary_rows(80, 25, generation=1, version=2)]
    assert canary(fail(rows, 20)).verdict == "INCONCLUSIVE"


def test_failures_of_one_pause_are_counted_in_the_evidence() -> None:
    rows = [
        row | {"recorded_ms": 125 * i}
        for i, row in enumerate(canary_rows(40, 100, generation=1, version=2))
    ]
    counts = canary(fail(rows, 4)).evidence["arms"]["challenger"]
    assert (counts["moments"], counts["failed_moments"]) == (20, 2)


def test_a_challenger_that_fails_for_most_of_a_short_step_is_stopped() -> None:
    # as it was seen: good for half a second, then overwhelmed
    failing = [0, 0, 48, 48, 29, 10, 3, 2]
    rows = canary_rows(8 * 48, 100, generation=1, version=2)
    for moment, failures in enumerate(failing):
        mine = rows[moment * 48 : (moment + 1) * 48]
        for row in fail(mine, failures):
            row["recorded_ms"] = moment * MOMENT_MS
    limits = dataclasses.replace(CANARY, percent=100.0, units=len(rows))
    assert canary(rows, limits).verdict == "UNHEALTHY"


def test_pauses_within_the_limit_stop_no_more_often_than_said() -> None:
    # one moment in thirty has a pause, of 30 % of its requests on average: 1 % of all
    share = stopped(400, seed=24, failing=0.0001, alerting=0.015, pausing=1 / 30)
    assert share <= 0.021 + 0.015


def test_counted_by_customer_alone_pauses_would_stop_good_challengers() -> None:
    rng = np.random.default_rng(24)
    verdicts = []
    for _ in range(400):
        traffic = simulated(rng, failing=0.0001, alerting=0.015, pausing=1 / 30)
        alone = dataclasses.replace(traffic, moment=np.arange(len(traffic)))
        verdicts.append(judge(alone, CANARY, COMPLETE).verdict)
    assert verdicts.count("UNHEALTHY") / len(verdicts) > 0.1


def test_a_challenger_as_good_as_the_champion_is_hardly_ever_stopped() -> None:
    assert stopped(300, seed=22, failing=0.001, alerting=0.012) <= 0.01 + 0.01


@pytest.mark.parametrize(
    "rates",
    [
        {"failing": 0.08, "alerting": 0.015},
        {"failing": 0.001, "alerting": 0.15},
        {"failing": 0.0001, "alerting": 0.015, "pausing": 0.6},
    ],
)
def test_a_clearly_worse_challenger_is_stopped(rates: dict[str, float]) -> None:
    assert stopped(100, seed=23, **rates) >= 0.95
