"""Counts are of customers, give outcomes to the assigned arm, and add up in any order."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.decisions.records.port import Watermark
from mlplatform.decisions.records.record import ARM_FAILURES
from mlplatform.model.oip import OWN_FAILURES, FailureReason
from mlplatform.rollouts.journal.basis_evidence import Role
from mlplatform.rollouts.journal.journal import GatewayLease
from mlplatform.rollouts.verdicts.aggregates import OUTAGE_SLICE_MS, Aggregates, Extent
from mlplatform.rollouts.verdicts.completeness import behind
from mlplatform.rollouts.verdicts.latencies import EDGES
from mlplatform.rollouts.verdicts.statistics import Clusters
from rollout_world import counted


def challenger(**fields: Any) -> dict[str, Any]:
    return {"arm": "challenger", "version": 2} | fields


def shadow(**fields: Any) -> dict[str, Any]:
    return challenger(kind="shadow") | fields


def canary(*rows: dict[str, Any]) -> Aggregates:
    return counted(rows, "canary")


def counts(found: Aggregates, *names: str, arm: str = "challenger") -> tuple[int, ...]:
    return tuple(found.arm(arm)[name] for name in names)


def test_a_fallback_is_the_assigned_arms_failure() -> None:
    found = canary(
        challenger(answered_by="champion", degraded=True, degraded_reason="unavailable"),
        challenger(answered_by="challenger", degraded=True, degraded_reason="deadline"),
        challenger(answered_by="rules", degraded=True, degraded_reason="breaker_open"),
        challenger(),
        {"arm": "champion"},
    )
    assert counts(found, "failures", "answers") == (3, 1)
    assert counts(found, "failures", "answers", arm="champion") == (0, 1)


@pytest.mark.parametrize("reason", OWN_FAILURES)
@pytest.mark.parametrize("answered_by", ["challenger", "champion", "small_model", "default"])
def test_the_gateways_own_failure_is_nobodys(reason: str, answered_by: str) -> None:
    excused = challenger(
        answered_by=answered_by, degraded=True, degraded_reason=reason, decision="review"
    )
    found = canary(challenger(unit=1), excused | {"unit": 2})
    assert counts(found, "units", "requests", "failures", "excused") == (1, 1, 0, 1)
    assert counts(found, "answers", "alerts") == (1, 0)
    assert counts(found, "units", arm="champion") == (0,)


def test_every_reason_that_a_prediction_fails_for_has_one_to_blame() -> None:
    assert sorted(ARM_FAILURES + OWN_FAILURES) == sorted(get_args(FailureReason))


def test_excused_requests_are_no_part_of_the_sample_but_of_the_split() -> None:
    excused = challenger(answered_by="rules", degraded=True, degraded_reason="bulkhead")
    found = canary(excused | {"unit": 1}, excused | {"unit": 2}, {"unit": 3}, challenger(unit=2))
    assert counts(found, "units", "requests", "failures") == (1, 1, 0)
    assert found.appeared == (2, 1)


def test_an_overloaded_gateway_does_not_fail_a_provisional_champion() -> None:
    rows = [
        {"version": 2},
        {"version": 1, "answered_by": "previous", "degraded": True, "degraded_reason": "stalled"},
    ]
    assert counts(counted(rows, "champion"), "failures") == (0,)


def test_a_degraded_answer_leaves_the_score_statistics_without_being_a_failure() -> None:
    found = canary(challenger(degraded=True, degraded_reason="features", decision="review"))
    assert counts(found, "requests", "failures", "answers", "alerts") == (1, 0, 0, 0)


def test_where_features_are_stale_no_arm_was_asked() -> None:
    """The small model, the rules or nobody decided: that is nobody's failure."""
    row = challenger(answered_by="rules", degraded=True, degraded_reason="features", score=None)
    found = canary(row)
    assert counts(found, "requests", "failures", "excused") == (0, 0, 1)
    assert counts(found, "answers", "alerts") == (0, 0)


def test_a_missing_score_is_no_answer() -> None:
    assert counts(canary(challenger(score=None)), "answers") == (0,)


def test_sums_are_over_customers() -> None:
    rows = [
        challenger(unit=u, decision=d) for u, d in ((1, "review"), (1, "approve"), (2, "decline"))
    ]
    found = canary(*rows)
    assert counts(found, "units", "requests", "alerts") == (2, 3, 2)
    assert (found.alerts.clusters, found.alerts.products[:2]) == (2, (1 + 1, 1 * 2 + 1 * 1))


def test_other_generations_and_voided_decisions_do_not_count() -> None:
    rows = [
        challenger(decision_id="a"),
        challenger(decision_id="b"),
        challenger(generation=2),
        {"kind": "void", "decision_id": "b", "generation": 0},
    ]
    assert canary(*rows).records == 1


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
    found = counted(rows, "shadow")
    assert found.dropped == {"queue_full": 1}
    assert counts(found, "units", "failures", "alerts", "pairs", "flips") == (3, 2, 1, 1, 1)
    assert counts(found, "units", arm="champion") == (4,)


def test_a_decision_without_a_copy_is_told_once_there_was_time_for_one() -> None:
    rows = [{"decision_id": name, "recorded_ms": 0} for name in ("lone", "copied")]
    rows.append(shadow(decision_id="copied", recorded_ms=20_000))
    assert counted(rows, "shadow").uncopied == 0
    assert counted([*rows, {"recorded_ms": 60_000}], "shadow").uncopied == 1


def test_pairs_need_two_good_answers() -> None:
    rows = [
        {"decision_id": "a", "degraded": True, "degraded_reason": "features"},
        shadow(decision_id="a", decision="review"),
        shadow(decision_id="lone", decision="review"),
    ]
    assert counts(counted(rows, "shadow"), "pairs") == (0,)


def test_copies_for_another_version_are_not_this_challengers() -> None:
    assert counted([shadow(version=3)], "shadow").records == 0


def test_a_provisional_champion_is_judged_in_the_challengers_place() -> None:
    rows = [{"version": 2}, {"version": 2, "degraded": True, "degraded_reason": "deadline"}]
    assert counts(counted(rows, "champion"), "failures") == (1,)


def test_an_empty_log_makes_empty_counts() -> None:
    for role in get_args(Role):
        found = counted([], role)
        assert (found.records, found.count("units"), found.extent.until_event_ms) == (0, 0, None)


ROWS = st.lists(
    st.tuples(st.integers(0, 8), st.booleans(), st.booleans(), st.integers(0, 5)), max_size=40
)


def rows_of(drawn: list[tuple[int, bool, bool, int]]) -> list[dict[str, Any]]:
    return [
        {
            "seq": number,
            "decision_id": str(number),
            "unit": unit,
            "arm": "challenger" if mine else "champion",
            "answered_by": "rules" if failed else ("challenger" if mine else "champion"),
            "event_ms": number + jitter,
            "recorded_ms": 90 * number,
        }
        for number, (unit, mine, failed, jitter) in enumerate(drawn)
    ]


@settings(deadline=None)
@given(ROWS, st.integers(0, 45))
def test_what_is_complete_does_not_depend_on_what_came_after_it(
    drawn: list[tuple[int, bool, bool, int]], line_ms: int
) -> None:
    rows = rows_of(drawn)
    early = [row for row in rows if row["event_ms"] <= line_ms]
    looked_later = counted(rows, "canary", until_ms=line_ms)
    assert looked_later.plain() == counted(early, "canary").plain()
    assert looked_later.count("units") == len({r["unit"] for r in early if r["arm"] != "champion"})


@settings(deadline=None)
@given(ROWS, st.randoms())
def test_counts_do_not_depend_on_the_order_of_reading(
    drawn: list[tuple[int, bool, bool, int]], random: Any
) -> None:
    rows = rows_of(drawn)
    shuffled = random.sample(rows, len(rows))
    assert counted(rows, "canary").plain() == counted(shuffled, "canary").plain()


def test_ranges_name_first_and_last_record_of_each_writer() -> None:
    found = canary(challenger(writer="b"), challenger(writer="a"), challenger(writer="b"))
    assert found.extent.ranges == {"a": (2, 2), "b": (1, 3)}


@pytest.mark.parametrize(
    ("span_s", "piece_s"), [(100, 0.25), (500, 0.25), (501, 0.5), (7 * 86_400, 512)]
)
def test_an_outage_is_as_long_as_at_most_two_thousand_of_them_are(
    span_s: int, piece_s: float
) -> None:
    extent = Extent(until_event_ms=1, first_ms=0, last_ms=span_s * 1000 - 1)
    assert OUTAGE_SLICE_MS * 2**extent.outage_bits == 1000 * piece_s


def test_latencies_are_told_to_about_a_percent_and_thresholds_count_what_is_above() -> None:
    rng = np.random.default_rng(3)
    took = np.exp(rng.normal(np.log(4000), 0.5, 2000)).astype(int)
    arms = rng.random(2000) < 0.5
    rows = [
        {"arm": "challenger" if mine else "champion", "latency_us": int(us), "unit": n % 40}
        for n, (mine, us) in enumerate(zip(arms, took, strict=True))
    ]
    found = canary(*rows).latencies
    assert found is not None
    for arm, chosen in enumerate((arms, ~arms)):
        for share in (0.5, 0.99):
            exact = np.quantile(took[chosen], share, method="inverted_cdf")
            assert EDGES[found.quantile(arm, share)] == pytest.approx(exact, rel=0.02)
    own, theirs = 500, 520
    mine, other = ((arms & (took >= EDGES[own])), (~arms & (took >= EDGES[theirs])))
    unit = np.arange(2000) % 40
    per = [np.bincount(unit[flags], minlength=40) for flags in (mine, arms, other, ~arms)]
    whole = Clusters(*per).sums()
    by_day, by_time = found.slow(own, theirs)
    assert by_time.challenger_hits == by_day.challenger_hits == whole.challenger_hits
    assert by_time.champion_hits == by_day.champion_hits == whole.champion_hits
    kept = (0, 1, 4, 7, 8, 9)  # products within one arm: these customers are in both
    assert [by_day.products[n] for n in kept] == [whole.products[n] for n in kept]


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
        "gateway g1 answers, but no living writer of this log has its name",
    )


def test_a_gateway_whose_log_does_not_come_any_more_is_named() -> None:
    """Also where its watermark is past the range, or none was asked for: customers of it lack."""
    marks = [
        Watermark("g0", 9, 20, 0, live=True),
        Watermark("g1", 9, 20, 0, live=True, unheard=True),
    ]
    leases = [GatewayLease("g0", 3), GatewayLease("g1", 3)]
    assert behind(marks, leases, event_ms=10, generation=3) == (
        "gateway g1 answers, but none of its records have come lately",
    )


def test_a_writer_with_spilled_records_is_behind_and_says_so() -> None:
    """A verdict over a range that the spill may still add to is INCONCLUSIVE."""
    marks = [
        Watermark("gw", 10, 900, 0, live=True, spilled=3),
        Watermark("b", 5, 2_000, 0, live=True),
    ]
    assert behind(marks, [], event_ms=1_000, generation=1) == (
        "the log has records of writer gw up to 1970-01-01T00:00:00.900Z; those up to "
        "1970-01-01T00:00:01.000Z are needed, and 3 wait in spills",
    )
