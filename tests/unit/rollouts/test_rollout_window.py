"""Windows count customers, give outcomes to the assigned arm, and end at their sample."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.decisions.records.port import Watermark
from mlplatform.decisions.records.record import ARM_FAILURES
from mlplatform.model.oip import OWN_FAILURES, FailureReason
from mlplatform.rollouts.journal.journal import GatewayLease
from mlplatform.rollouts.verdicts.window import (
    arm_windows,
    behind,
    canary_traffic,
    champion_traffic,
    cut_at_failure,
    cut_at_sample,
    first_appearances,
    log_ranges,
    shadow_traffic,
)
from rollout_world import table


def challenger(**fields: Any) -> dict[str, Any]:
    return {"arm": "challenger", "version": 2} | fields


def shadow(**fields: Any) -> dict[str, Any]:
    return challenger(kind="shadow") | fields


def canary(*rows: dict[str, Any]) -> Any:
    return canary_traffic(table(rows), generation=1)


def test_a_fallback_is_the_assigned_arms_failure() -> None:
    traffic = canary(
        challenger(answered_by="champion", degraded=True, degraded_reason="unavailable"),
        challenger(answered_by="challenger", degraded=True, degraded_reason="deadline"),
        challenger(answered_by="rules", degraded=True, degraded_reason="breaker_open"),
        challenger(),
        {"arm": "champion"},
    )
    mine, other = arm_windows(traffic, len(traffic))
    assert (sum(mine.failures), sum(mine.answers)) == (3, 1)
    assert (sum(other.failures), sum(other.answers)) == (0, 1)


@pytest.mark.parametrize("reason", OWN_FAILURES)
@pytest.mark.parametrize("answered_by", ["challenger", "champion", "small_model", "default"])
def test_the_gateways_own_failure_is_nobodys(reason: str, answered_by: str) -> None:
    excused = challenger(
        answered_by=answered_by, degraded=True, degraded_reason=reason, decision="review"
    )
    mine, other = arm_windows(canary(challenger(unit=1), excused | {"unit": 2}), 2)
    assert (mine.units, mine.requests, mine.failures, mine.excused) == (1, (1, 0), (0, 0), (0, 1))
    assert (mine.answers, mine.alerts) == ((1, 0), (0, 0))
    assert other.units == 0


def test_every_reason_that_a_prediction_fails_for_has_one_to_blame() -> None:
    assert sorted(ARM_FAILURES + OWN_FAILURES) == sorted(get_args(FailureReason))


def test_excused_requests_are_no_part_of_the_sample_but_of_the_split() -> None:
    excused = challenger(answered_by="rules", degraded=True, degraded_reason="bulkhead")
    traffic = canary(excused | {"unit": 1}, excused | {"unit": 2}, {"unit": 3}, challenger(unit=2))
    assert cut_at_sample(traffic, units=1) == 4
    assert cut_at_sample(traffic, units=2) is None
    assert cut_at_failure(traffic, failures=1) is None
    assert first_appearances(traffic, 4) == (2, 3)


def test_an_overloaded_gateway_does_not_fail_a_provisional_champion() -> None:
    rows = [
        {"version": 2},
        {"version": 1, "answered_by": "previous", "degraded": True, "degraded_reason": "stalled"},
    ]
    traffic = champion_traffic(table(rows), generation=1, version=2)
    assert sum(arm_windows(traffic, len(traffic))[0].failures) == 0


def test_a_degraded_answer_leaves_the_score_statistics_without_being_a_failure() -> None:
    row = challenger(degraded=True, degraded_reason="features", decision="review")
    mine, _ = arm_windows(canary(row), 1)
    assert (mine.requests, mine.failures, mine.answers, mine.alerts) == ((1,), (0,), (0,), (0,))


def test_where_features_are_stale_no_arm_was_asked() -> None:
    """The small model, the rules or nobody decided: that is nobody's failure."""
    row = challenger(answered_by="rules", degraded=True, degraded_reason="features", score=None)
    mine, _ = arm_windows(canary(row), 1)
    assert (mine.requests, mine.failures, mine.excused) == ((0,), (0,), (1,))
    assert (mine.answers, mine.alerts) == ((0,), (0,))


def test_a_missing_score_is_no_answer() -> None:
    mine, _ = arm_windows(canary(challenger(score=None)), 1)
    assert mine.answers == (0,)


def test_sums_are_per_customer() -> None:
    rows = [
        challenger(unit=u, decision=d) for u, d in ((1, "review"), (1, "approve"), (2, "decline"))
    ]
    mine, _ = arm_windows(canary(*rows), 3)
    assert (mine.units, mine.requests, mine.alerts) == (2, (2, 1), (1, 1))


def test_other_generations_and_voided_decisions_do_not_count() -> None:
    rows = [
        challenger(decision_id="a"),
        challenger(decision_id="b"),
        challenger(generation=2),
        {"kind": "void", "decision_id": "b", "generation": 0},
    ]
    assert len(canary(*rows)) == 1


def test_a_copy_that_was_dropped_is_counted_but_not_judged() -> None:
    rows = [
        {"decision_id": "a", "unit": 1},
        shadow(decision_id="a", unit=1, score=None, decision=None, degraded_reason="queue_full"),
        {"decision_id": "b", "unit": 2},
        shadow(decision_id="b", unit=2, score=None, decision=None, degraded_reason="deadline"),
        {"decision_id": "c", "unit": 3},
        shadow(decision_id="c", unit=3, score=None, decision=None, degraded_reason="unavailable"),
        {"decision_id": "d", "unit": 4},
        shadow(decision_id="d", unit=4, decision="review"),
    ]
    traffic = shadow_traffic(table(rows), generation=1, version=2)
    mine, champion = arm_windows(traffic, len(traffic))
    assert traffic.dropped == {"queue_full": 1}
    assert (mine.units, sum(mine.failures), sum(mine.alerts)) == (3, 2, 1)
    assert (sum(mine.pairs), sum(mine.flips)) == (1, 1)
    assert champion.units == 4


def test_pairs_need_two_good_answers() -> None:
    rows = [
        {"decision_id": "a", "degraded": True, "degraded_reason": "features"},
        shadow(decision_id="a", decision="review"),
        shadow(decision_id="lone", decision="review"),
    ]
    traffic = shadow_traffic(table(rows), generation=1, version=2)
    assert sum(arm_windows(traffic, len(traffic))[0].pairs) == 0


def test_copies_for_another_version_are_not_this_challengers() -> None:
    traffic = shadow_traffic(table([shadow(version=3)]), generation=1, version=2)
    assert len(traffic) == 0


def test_a_provisional_champion_is_judged_in_the_challengers_place() -> None:
    rows = [{"version": 2}, {"version": 2, "degraded": True, "degraded_reason": "deadline"}]
    traffic = champion_traffic(table(rows), generation=1, version=2)
    assert sum(arm_windows(traffic, 2)[0].failures) == 1


def test_an_empty_log_makes_empty_windows() -> None:
    traffic = canary_traffic(table([]), generation=1)
    assert cut_at_sample(traffic, units=1) is None
    assert arm_windows(traffic, 0)[0].units == 0


ROWS = st.lists(
    st.tuples(st.integers(0, 8), st.booleans(), st.booleans(), st.integers(0, 5)), max_size=40
)


def rows_of(drawn: list[tuple[int, bool, bool, int]]) -> list[dict[str, Any]]:
    return [
        {
            "unit": unit,
            "arm": "challenger" if mine else "champion",
            "answered_by": "rules" if failed else ("challenger" if mine else "champion"),
            "event_ms": number + jitter,
        }
        for number, (unit, mine, failed, jitter) in enumerate(drawn)
    ]


@given(ROWS, st.integers(1, 6))
def test_a_cut_does_not_depend_on_what_came_after_it(
    drawn: list[tuple[int, bool, bool, int]], units: int
) -> None:
    rows = rows_of(drawn)
    whole = canary(*rows)
    cut = cut_at_sample(whole, units=units)
    if cut is None:
        return
    last_ms = int(whole.event_ms[cut - 1])
    early = table([r | {"seq": n} for n, r in enumerate(rows, 1) if r["event_ms"] <= last_ms])
    looked_early = canary_traffic(early, generation=1)
    assert cut_at_sample(looked_early, units=units) == cut
    assert arm_windows(looked_early, cut) == arm_windows(whole, cut)
    assert arm_windows(whole, cut)[0].units == units
    assert arm_windows(whole, cut - 1)[0].units == units - 1
    assert first_appearances(whole, cut)[0] == units


@given(ROWS, st.integers(1, 6), st.randoms())
def test_a_window_does_not_depend_on_the_order_of_reading(
    drawn: list[tuple[int, bool, bool, int]], units: int, random: Any
) -> None:
    records = table(rows_of(drawn))
    order = list(range(len(records)))
    random.shuffle(order)
    one = canary_traffic(records, generation=1)
    other = canary_traffic(records.take(order) if order else records, generation=1)
    assert np.array_equal(one.seq, other.seq)
    assert cut_at_sample(one, units=units) == cut_at_sample(other, units=units)
    assert cut_at_failure(one, failures=units) == cut_at_failure(other, failures=units)


def test_a_sample_needs_its_requests_too() -> None:
    traffic = canary(*[challenger(unit=n % 2) for n in range(6)])
    assert cut_at_sample(traffic, units=2) == 2
    assert cut_at_sample(traffic, units=2, requests=5) == 5
    assert cut_at_sample(traffic, units=2, requests=7) is None


def test_log_ranges_name_first_and_last_record_of_each_writer() -> None:
    traffic = canary(challenger(writer="b"), challenger(writer="a"), challenger(writer="b"))
    assert log_ranges(traffic, 3) == {"a": [2, 2], "b": [1, 3]}
    assert log_ranges(traffic, 1) == {"b": [1, 1]}


def test_whoever_may_still_write_is_named() -> None:
    marks = [
        Watermark("done", 1, 5, 0, live=False),
        Watermark("ahead", 1, 10, 0, live=True),
        Watermark("late", 1, 9, 0, live=True),
        Watermark("silent", 0, None, 0, live=True),
        *(Watermark(name, 1, 10, 0, live=True) for name in ("g1", "g2", "g3")),
    ]
    leases = [GatewayLease("g1", 3), GatewayLease("g2", 2), GatewayLease("g3", None)]
    found = " ".join(behind(marks, leases, event_ms=10, generation=3))
    assert all(name in found for name in ("late", "silent", "g2", "g3"))
    assert not any(name in found for name in ("done", "ahead", "g1"))


@pytest.mark.parametrize(
    "marks",
    [
        pytest.param([], id="its records lie in another log"),
        pytest.param([Watermark("g1", 9, 10, 0, live=False)], id="its writer has ended here"),
    ],
)
def test_a_gateway_that_answers_without_a_living_writer_is_named(marks: list[Watermark]) -> None:
    here = Watermark("g0", 9, 10, 0, live=True)
    leases = [GatewayLease("g0", 3), GatewayLease("g1", 3)]
    assert behind([here, *marks], leases, event_ms=10, generation=3) == (
        "gateway g1 answers, and no living writer of this log has its name",
    )


def test_a_gateway_whose_log_does_not_come_any_more_is_named() -> None:
    """Also where its watermark is past the range, or none was asked for: customers of it lack."""
    marks = [
        Watermark("g0", 9, 20, 0, live=True),
        Watermark("g1", 9, 20, 0, live=True, unheard=True),
    ]
    leases = [GatewayLease("g0", 3), GatewayLease("g1", 3)]
    assert behind(marks, leases, event_ms=10, generation=3) == (
        "gateway g1 answers, and nothing of its log has come lately",
    )


def test_a_writer_with_spilled_records_is_behind_and_says_so() -> None:
    """A verdict over a range that the spill may still add to is INCONCLUSIVE."""
    marks = [
        Watermark("gw", 10, 900, 0, live=True, spilled=3),
        Watermark("b", 5, 2_000, 0, live=True),
    ]
    assert behind(marks, [], event_ms=1_000, generation=1) == (
        "writer gw is at 900, before 1000, with 3 records spilled",
    )
