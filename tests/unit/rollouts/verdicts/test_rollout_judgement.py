"""Verdicts: harm acts at once, health is shown, no data is never health."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from mlplatform.decisions.records.port import Watermark
from mlplatform.model.policies.rollout import StopLimits, Tolerance
from mlplatform.rollouts.journal.journal import GatewayLease
from mlplatform.rollouts.passes.error_parts import (
    PARTS,
    Phase,
    gate_errors,
    guardrail_error,
    outcome_errors,
    phases,
)
from mlplatform.rollouts.passes.summary import TITLES
from mlplatform.rollouts.verdicts.judgement import GateLimits, Judgement, Sources, StepPolicy
from mlplatform.rollouts.verdicts.verdict import ALIKE, Errors, Prediction
from mlplatform.runtime.canonical import canonical_json
from rollout_world import canary_rows, fraud, judged, shadow_rows

POLICY = fraud().rollout
ERRORS = Errors(stop=0.0005, missed=0.05)
AS_THE_CHAMPION = Prediction(alert_ratio=1.0, disagreement=0.0)
SHADOW_STEP = StepPolicy(
    stop=POLICY.stop,
    tolerance=Tolerance(failures=0.1, alerts=1.0, disagreement=0.5),
    errors=ERRORS,
    predicted=AS_THE_CHAMPION,
    percent=None,
    units=300,
    requests=600,
    pods=1,
)
CANARY_STEP = dataclasses.replace(
    SHADOW_STEP,
    tolerance=Tolerance(failures=0.15, latency_p50=2.0),
    percent=25.0,
    units=100,
    requests=0,
)
HALF = dataclasses.replace(
    CANARY_STEP, percent=50.0, tolerance=Tolerance(failures=0.02, latency_p50=2.0)
)
SHADOW = GateLimits(error_share=0.01, failure_share=0.005, guardrail_failures=10, step=SHADOW_STEP)
CANARY = dataclasses.replace(SHADOW, step=CANARY_STEP)
CHAMPION = dataclasses.replace(SHADOW, step=None)
COMPLETE = Sources(
    (Watermark("gateway-1", 10**6, 10**9, 0, True),), (GatewayLease("gateway-1", 1),)
)
LATE = Sources((Watermark("gateway-1", 5, 5, 0, True),), (GatewayLease("gateway-1", 0),))


def shadow(rows: list[dict[str, Any]], sources: Sources = COMPLETE) -> Judgement:
    return judged(rows, "shadow", SHADOW, sources)


def canary(
    rows: list[dict[str, Any]], limits: GateLimits = CANARY, sources: Sources = COMPLETE
) -> Judgement:
    return judged(rows, "canary", limits, sources)


def fail(rows: list[dict[str, Any]], count: int, arm: str = "challenger") -> list[dict[str, Any]]:
    mine = [row for row in rows if row["arm"] == arm][:count]
    for row in mine:
        row |= {"answered_by": "rules", "degraded": True, "degraded_reason": "deadline"}
    return rows


def test_a_good_shadow_is_healthy_and_says_what_was_shown() -> None:
    verdict = shadow(shadow_rows(400, 6, generation=1, version=2, alert_share=0.02))
    gates = verdict.evidence["gates"]
    assert verdict.verdict == "HEALTHY", verdict.reason
    assert set(gates) == {"failures", "alerts", "disagreement", "utilisation"}
    said, *_, asked = gates["failures"]["reason"].split(". ")
    assert said.endswith("fewer of its requests in time than the champion (95 % certain)")
    assert asked == "This step allows up to 10 percentage points fewer."
    assert verdict.evidence["arms"]["challenger"]["requests"] == 2400
    assert canonical_json(verdict.evidence)


def test_too_few_customers_are_inconclusive() -> None:
    verdict = shadow(shadow_rows(299, 8, generation=1, version=2, alert_share=0.02))
    assert (verdict.verdict, verdict.reason) == (
        "INCONCLUSIVE",
        "The sample is still too small. It has 299 of the 300 customers that the step needs.",
    )


def test_no_records_are_inconclusive() -> None:
    assert shadow([]).verdict == canary([]).verdict == "INCONCLUSIVE"


def test_an_incomplete_log_is_inconclusive_and_names_who_is_behind() -> None:
    verdict = shadow(shadow_rows(400, 6, generation=1, version=2, alert_share=0.02), LATE)
    assert verdict.verdict == "INCONCLUSIVE"
    assert "gateway-1 up to 1970-01-01T00:00:00.005Z" in verdict.reason
    assert "gateway-1 applies generation 0" in verdict.reason


def test_live_traffic_is_judged_by_the_records_that_are_complete() -> None:
    """Its newest records are always a little ahead of what the writers have promised."""
    rows = shadow_rows(400, 8, generation=1, version=2, alert_share=0.02)
    reached = rows[4800]["event_ms"]
    sources = Sources((Watermark("gateway-1", 10**6, reached, 0, True),), COMPLETE.gateways)
    verdict = shadow(rows, sources)
    assert verdict.verdict == "HEALTHY", verdict.reason
    assert verdict.evidence["until_event_ms"] == reached
    assert verdict.evidence["records"] == 4802


@pytest.mark.parametrize(
    "customers", [pytest.param(20, id="too few"), pytest.param(400, id="enough")]
)
def test_a_gateway_whose_log_is_elsewhere_is_named_and_never_health(customers: int) -> None:
    """It has part of the customers, and nobody who reads this log alone can say how they fared."""
    leases = (*COMPLETE.gateways, GatewayLease("gateway-2", 1))
    rows = shadow_rows(customers, 6, generation=1, version=2, alert_share=0.02)
    verdict = shadow(rows, Sources(COMPLETE.watermarks, leases))
    assert verdict.verdict == "INCONCLUSIVE"
    assert "gateway-2" in verdict.reason
    assert "gateway-1" not in verdict.reason


@pytest.mark.parametrize(("alert_share", "told"), [(0.2, "more"), (0.0, "fewer")])
def test_a_challenger_that_alerts_unlike_the_champion_is_stopped_in_shadow(
    alert_share: float, told: str
) -> None:
    rows = shadow_rows(
        400, 6, generation=1, version=2, alert_share=alert_share, champion_alert_share=0.05
    )
    verdict = shadow(rows, LATE)  # harm that was seen stays seen
    assert verdict.verdict == "UNHEALTHY"
    assert verdict.evidence["gates"]["alerts"]["verdict"] == "UNHEALTHY"
    assert (verdict.evidence["gates"]["alerts"]["values"]["share"] > 0) == (told == "more")


def test_alerts_that_replay_predicted_are_no_harm() -> None:
    """After a drift the champion alerts on everything: its successor is not to do the same."""
    rows = shadow_rows(400, 8, generation=1, version=2, alert_share=0.05, champion_alert_share=0.2)
    step = dataclasses.replace(SHADOW_STEP, predicted=Prediction(0.25, 0.95))
    limits = dataclasses.replace(SHADOW, step=step)
    assert judged(rows, "shadow", limits, COMPLETE).verdict == "HEALTHY"
    assert judged(rows, "shadow", SHADOW, COMPLETE).verdict == "UNHEALTHY"


def test_no_alert_in_common_is_stopped_though_there_are_as_many() -> None:
    rows = shadow_rows(
        400, 20, generation=1, version=2, alert_share=0.03, champion_alert_share=0.03
    )
    verdict = shadow(rows)
    assert verdict.evidence["gates"]["disagreement"]["verdict"] == "UNHEALTHY"
    assert verdict.evidence["gates"]["alerts"]["verdict"] != "UNHEALTHY"


@pytest.mark.parametrize(
    ("predicted", "verdict"),
    [
        pytest.param(Prediction(1.0, 0.0, alone=0.0), "UNHEALTHY", id="replay saw none"),
        pytest.param(Prediction(1.0, 0.7, alone=0.0), "HEALTHY", id="replay saw as many"),
        pytest.param(Prediction(1.0, 0.0), "HEALTHY", id="as earlier releases counted"),
    ],
)
def test_a_challenger_that_declines_what_the_champion_reviews_is_stopped_in_shadow(
    predicted: Prediction, verdict: str
) -> None:
    """As many alerts, on the same payments; but seven of ten are another decision."""
    rows = shadow_rows(400, 30, generation=1, version=2, alert_share=0.03)
    flagged = [row for row in rows if "arm" in row and row["decision"] == "review"]
    for number, row in enumerate(flagged):
        row["decision"] = "decline" if number % 10 < 7 else "review"
    step = dataclasses.replace(SHADOW_STEP, predicted=predicted)
    found = judged(rows, "shadow", dataclasses.replace(SHADOW, step=step), COMPLETE)
    gates = found.evidence["gates"]
    assert gates["alerts"]["verdict"] == "HEALTHY"
    assert gates["disagreement"]["verdict"] == verdict
    assert found.verdict == verdict


def test_alerts_between_two_expectations_are_no_harm() -> None:
    """More than the champion's and fewer than predicted: neither is proven against both."""
    rows = shadow_rows(
        400, 50, generation=1, version=2, alert_share=0.02, champion_alert_share=0.01
    )
    step = dataclasses.replace(SHADOW_STEP, predicted=Prediction(1.0, 1.0, 0.03))
    limits = dataclasses.replace(SHADOW, step=step)
    gates = judged(rows, "shadow", limits, COMPLETE).evidence["gates"]
    assert gates["alerts"]["verdict"] == "HEALTHY"


def test_a_pair_that_was_never_replayed_is_not_stopped_for_disagreeing() -> None:
    rows = shadow_rows(
        400, 20, generation=1, version=2, alert_share=0.03, champion_alert_share=0.03
    )
    step = dataclasses.replace(SHADOW_STEP, predicted=ALIKE)
    limits = dataclasses.replace(SHADOW, step=step)
    gates = judged(rows, "shadow", limits, COMPLETE).evidence["gates"]
    assert gates["disagreement"]["verdict"] == "INCONCLUSIVE"
    assert "Validate the version again" in gates["disagreement"]["reason"]


def test_a_copy_that_no_caller_would_have_waited_for_is_a_failure() -> None:
    rows = shadow_rows(400, 6, generation=1, version=2, alert_share=0.02)
    for row in rows:
        row["latency_us"] = 4_000_000 if row.get("kind") == "shadow" else 4000
    found = judged(rows, "shadow", SHADOW, COMPLETE, within_us=24_000)
    assert found.evidence["gates"]["failures"]["verdict"] == "UNHEALTHY"


def test_one_slow_call_is_not_the_cost_of_a_row() -> None:
    """A cold start: the first call was large and slow, all others carried one row."""
    rows = shadow_rows(400, 6, generation=1, version=2, alert_share=0.02)
    first = [row for row in rows if row.get("kind") == "shadow"][:8]
    for row in first:
        row |= {"recorded_ms": 1, "latency_us": 400_000}
    found = shadow(rows).evidence["gates"]["utilisation"]
    assert found["verdict"] == "HEALTHY", found["reason"]


def test_a_step_without_an_alert_has_shown_nothing_about_alerts() -> None:
    verdict = shadow(shadow_rows(400, 6, generation=1, version=2, alert_share=0.0))
    assert verdict.verdict == "INCONCLUSIVE"
    assert "no alert is expected." in verdict.reason


def test_a_step_without_a_request_has_no_verdict_on_alerts_for_that_reason() -> None:
    reason = shadow([]).evidence["gates"]["alerts"]["reason"]
    assert reason == "Nothing to check yet: the challenger has answered no request."


def test_a_champions_alerts_are_left_to_drift() -> None:
    rows = shadow_rows(400, 2, generation=1, version=2, alert_share=0.9)
    assert judged(rows, "shadow", CHAMPION, COMPLETE).verdict == "HEALTHY"


def test_copies_that_timed_out_are_failures() -> None:
    rows = [
        row | ({"score": None, "degraded_reason": "deadline"} if row.get("kind") else {})
        for row in shadow_rows(400, 2, generation=1, version=2)
    ]
    verdict = shadow(rows)
    assert verdict.verdict == "UNHEALTHY"
    assert "failed to answer 800 of 800 requests (100.00 %) in time" in verdict.reason


def test_copies_that_were_never_sent_show_nothing() -> None:
    rows = [
        row
        for row in shadow_rows(400, 6, generation=1, version=2, alert_share=0.02)
        if row.get("kind") != "shadow" or row["unit"] % 4
    ]
    verdict = shadow(rows)
    assert verdict.verdict == "INCONCLUSIVE"
    assert "were never put to the challenger" in verdict.reason


def test_failures_act_before_the_sample_and_on_an_incomplete_log() -> None:
    rows = fail(canary_rows(80, 25, generation=1, version=2), 20)
    verdict = canary(rows, sources=LATE)
    assert verdict.verdict == "UNHEALTHY"
    assert verdict.evidence["gates"]["failures"]["values"]["proven"] > 0.005


def test_one_customers_failures_are_one_customers() -> None:
    rows = [
        row | {"unit": 0 if row["arm"] == "challenger" else row["unit"]}
        for row in canary_rows(80, 25, generation=1, version=2)
    ]
    assert canary(fail(rows, 20)).evidence["gates"]["failures"]["verdict"] == "INCONCLUSIVE"


def test_failures_of_one_pause_are_one_event() -> None:
    rows = [row | {"recorded_ms": 0} for row in canary_rows(80, 25, generation=1, version=2)]
    assert canary(fail(rows, 20)).verdict == "INCONCLUSIVE"


def test_the_champions_failures_are_not_the_challengers() -> None:
    rows = fail(canary_rows(600, 25, generation=1, version=2), 60, arm="champion")
    assert canary(rows).verdict == "HEALTHY"


def test_a_pause_that_only_the_champion_is_waited_for_is_no_harm_of_the_challenger() -> None:
    """Both met it; a challenger is given less time, as the champion stands behind it."""
    rows = fail(canary_rows(2000, 25, generation=1, version=2), 20)
    for row in [row for row in rows if row["arm"] == "champion"][:60]:
        row["latency_us"] = 30_000
    step = dataclasses.replace(CANARY_STEP, tolerance=Tolerance(failures=0.04))
    limits = dataclasses.replace(CANARY, step=step)

    def shown(within_us: float) -> float:
        found = judged(rows, "canary", limits, COMPLETE, within_us=within_us)
        return float(found.evidence["gates"]["failures"]["values"]["share"])

    assert (shown(24_000.0), shown(1e9)) == (0.0, 0.04)


def test_a_challenger_that_starves_the_champion_does_not_excuse_itself() -> None:
    rows = canary_rows(1200, 25, generation=1, version=2)
    for arm, count in (("challenger", 100), ("champion", 300)):
        rows = fail(rows, count, arm=arm)
    gate = canary(rows).evidence["gates"]["failures"]
    assert gate["verdict"] == "UNHEALTHY"
    assert "however many the champion fails" in gate["reason"]


def test_a_split_that_was_not_asked_for_is_unhealthy() -> None:
    rows = canary_rows(600, 50, generation=1, version=2)
    verdict = canary(rows)
    assert verdict.evidence["gates"]["split"]["verdict"] == "UNHEALTHY"


@pytest.mark.parametrize(
    ("slower", "verdict"), [(1.0, "HEALTHY"), (1.75, "INCONCLUSIVE"), (3.0, "UNHEALTHY")]
)
def test_a_slower_challenger_within_its_deadline_is_seen(slower: float, verdict: str) -> None:
    rng = np.random.default_rng(5)
    rows = canary_rows(2400, 25, generation=1, version=2)
    for row in rows:
        scale = slower if row["arm"] == "challenger" else 1.0
        row["latency_us"] = int(scale * rng.lognormal(np.log(4000), 0.3))
    limits = dataclasses.replace(
        CANARY, step=dataclasses.replace(CANARY_STEP, stop=SLOW, tolerance=TOLERANT)
    )
    assert canary(rows, limits).evidence["gates"]["latency_p50"]["verdict"] == verdict


SLOW = StopLimits(
    alerts=10.0, disagreement=1.0, latency_p50=2.0, latency_p99=3.0, utilisation=1.0, recall=1.0
)
TOLERANT = Tolerance(failures=0.15, latency_p50=1.7)


@pytest.mark.parametrize(("row_ms", "verdict"), [(0.05, "HEALTHY"), (3.0, "UNHEALTHY")])
def test_a_model_that_would_be_too_busy_with_all_the_traffic_is_seen_in_shadow(
    row_ms: float, verdict: str
) -> None:
    """Alone, a row takes as long as its deadline allows; it is the rate that it does not stand."""
    rng = np.random.default_rng(6)
    rows = shadow_rows(400, 20, generation=1, version=2, alert_share=0.02)
    now_ms, copies = 0.0, 0
    for row in rows:
        now_ms += rng.exponential(1.0)  # both arms' records: 500 requests a second
        row["recorded_ms"] = int(now_ms)
    calls = [row for row in rows if row.get("kind") == "shadow"]
    while copies < len(calls):
        size = int(rng.integers(1, 9))
        took_ms = 1.0 + row_ms * size * rng.lognormal(0, 0.2)
        for row in calls[copies : copies + size]:
            row |= {"latency_us": int(1000 * took_ms), "recorded_ms": calls[copies]["recorded_ms"]}
        copies += size
    assert shadow(rows).evidence["gates"]["utilisation"]["verdict"] == verdict


def test_where_only_the_guardrail_is_read_calm_is_healthy() -> None:
    rows = shadow_rows(20, 2, generation=1, version=2)
    assert judged(rows, "shadow", CHAMPION, COMPLETE).verdict == "HEALTHY"
    assert judged(rows, "shadow", CHAMPION, LATE).verdict == "INCONCLUSIVE"


def test_a_champion_that_nobody_asked_is_not_called_healthy() -> None:
    verdict = judged([], "champion", CHAMPION, COMPLETE)
    assert verdict.verdict == "INCONCLUSIVE"
    assert "(generation 1 of the routes)" in verdict.reason


def test_a_champions_guardrail_waits_for_enough_failures() -> None:
    def champion(failures: int) -> str:
        rows = fail(canary_rows(12, 0, generation=1, version=1), failures, arm="champion")
        return judged(rows, "champion", CHAMPION, COMPLETE, version=1).verdict

    assert (champion(9), champion(10)) == ("HEALTHY", "UNHEALTHY")


def test_a_canary_whose_answers_hardly_count_is_inconclusive() -> None:
    degraded = {"degraded": True, "degraded_reason": "features"}
    rows = canary_rows(600, 25, generation=1, version=2)
    for row in [row for row in rows if row["arm"] == "challenger"][1:]:
        row |= degraded
    verdict = canary(rows)
    assert verdict.verdict == "INCONCLUSIVE"
    assert "1 of 150 customers (0.67 %) have an answer that counts" in verdict.reason


def test_failures_of_one_pause_are_counted_in_the_evidence() -> None:
    rows = [
        row | {"recorded_ms": 125 * i}
        for i, row in enumerate(canary_rows(40, 100, generation=1, version=2))
    ]
    counts = canary(fail(rows, 4)).evidence["arms"]["challenger"]
    assert (counts["moments"], counts["failed_moments"]) == (20, 2)


@pytest.mark.parametrize(
    ("failing", "verdict"),
    [
        pytest.param(range(300, 370), "INCONCLUSIVE", id="one outage of ten minutes"),
        pytest.param(range(0, 840, 12), "UNHEALTHY", id="as many failures at all times"),
    ],
)
def test_one_outage_soon_after_a_steps_start_is_no_proof(failing: range, verdict: str) -> None:
    """Two hours of one payment in nine seconds: each would be an outage of its own."""
    rows = [
        row | {"recorded_ms": 8_640 * (i // 2), "arm": arm, "version": 1 + (arm == "challenger")}
        for i, row in enumerate(canary_rows(1_680, 50, generation=1, version=2))
        for arm in [("challenger", "champion")[i % 2]]
    ]
    failed = [row for row in rows if row["arm"] == "challenger"]
    fail([failed[number] for number in failing], len(failing))
    gates = canary(rows, dataclasses.replace(CANARY, step=HALF)).evidence["gates"]
    assert gates["failures"]["verdict"] == verdict, gates["failures"]["reason"]


@pytest.mark.parametrize(
    ("challenger_us", "immaterial_us", "verdict"),
    [
        pytest.param(850, 0.0, "UNHEALTHY", id="a quarter more is harm"),
        pytest.param(850, 500.0, "HEALTHY", id="unless it is too little to matter"),
        pytest.param(1500, 500.0, "UNHEALTHY", id="as more is not"),
        pytest.param(7500, 500.0, "UNHEALTHY", id="and of slow models the ratio decides"),
    ],
)
def test_a_latency_that_is_higher_by_next_to_nothing_stops_nobody(
    challenger_us: int, immaterial_us: float, verdict: str
) -> None:
    rows = canary_rows(4000, 25, generation=1, version=2, alert_share=0.02)
    champion_us = 600 if challenger_us < 5000 else 5000
    for number, row in enumerate(rows):
        mine = row["arm"] == "challenger"
        usual_us = challenger_us if mine else champion_us
        row["latency_us"] = round(usual_us * (0.9 + (number * 7 % 40) / 200))
    step = dataclasses.replace(CANARY_STEP, immaterial_us=immaterial_us)
    found = canary(rows, dataclasses.replace(CANARY, step=step))
    gate = found.evidence["gates"]["latency_p50"]
    assert gate["verdict"] == verdict, gate["reason"]
    if verdict == "HEALTHY":
        assert "0.5 ms above the champion's" in found.evidence["gates"]["latency_p99"]["reason"]


def test_a_rollouts_error_is_shared_out_among_the_gates_that_a_phase_asks() -> None:
    """A new gate has to be in `PARTS`: else more false alarms than the policy says."""
    in_shadow = shadow(shadow_rows(400, 6, generation=1, version=2, alert_share=0.02))
    in_canary = canary(canary_rows(2000, 25, generation=1, version=2, alert_share=0.02))
    asked: dict[Phase, Judgement] = {"shadow": in_shadow, "first_step": in_canary}
    for phase, found in (asked | {"later_step": in_canary}).items():
        assert set(found.evidence["gates"]) | {"recall"} == set(PARTS[phase])
    assert set().union(*PARTS.values()) <= set(TITLES)
    spent = [
        gate_errors(POLICY, phase).of(gate).stop
        for phase in phases(POLICY)
        for gate in PARTS[phase]
        if gate not in ("recall", "guardrail")
    ]
    of_all = sum(spent) + guardrail_error(POLICY) + outcome_errors(POLICY).stop
    assert of_all == pytest.approx(POLICY.false_alarm_share)


@pytest.mark.parametrize("gate", sorted(set().union(*PARTS.values())))
def test_no_gate_has_more_than_a_quarter_of_a_rollouts_error(gate: str) -> None:
    asked = [phase for phase in phases(POLICY) if gate in PARTS[phase]]
    of_gate = sum(gate_errors(POLICY, phase).of(gate).stop for phase in asked)
    assert 0 < of_gate <= POLICY.false_alarm_share / 4
