"""A feature is named where bounds prove it; its cause is what most of the wrong values share."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from mlplatform.learning.features.pushes.gaps import StreamGap, lost_values
from mlplatform.learning.skew.cells import Cell, LateInterval
from mlplatform.learning.skew.verdict import FeatureSkew, SkewReport, cause, judge
from mlplatform.learning.validation.feature_gates import judge_skew
from mlplatform.model.folders import load_definition
from mlplatform.runtime.units import DAY_MS, HOUR_MS

GATES = load_definition("fraud").gates
REFUSES = msgspec.structs.replace(GATES, skew="refuse")


def cell(outcome: str, number: int = 0, **more: object) -> Cell:
    values = {"served": 2.0, "expected": 1.0} | more
    return Cell("f", f"d{number}", number, outcome=outcome, **values)  # type: ignore[arg-type]


def judged(wrong: int, sampled: int) -> FeatureSkew:
    cells = [cell("different" if n < wrong else "equal", n) for n in range(sampled)]
    (found,) = judge(cells, ["f"], 0.01)
    return found


@pytest.mark.parametrize(
    ("wrong", "sampled", "verdict"),
    [
        (0, 0, "not known"),
        (0, 100, "not known"),
        (1, 100, "not known"),
        (0, 2_000, "equal"),
        (5, 2_000, "equal"),
        (20, 2_000, "not known"),
        (60, 2_000, "skewed"),
        (20, 100, "skewed"),
    ],
)
def test_a_verdict_is_what_the_bounds_prove(wrong: int, sampled: int, verdict: str) -> None:
    assert judged(wrong, sampled).verdict == verdict


LATE = LateInterval(5 * HOUR_MS, 6 * HOUR_MS, HOUR_MS)
EARLIER = LateInterval(2 * HOUR_MS, 3 * HOUR_MS, 30 * 60_000)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([cell("late", holds=LATE)] * 3, "frozen feed since 1970-01-01 05:00 UTC"),
        ([cell("late", holds=LATE), cell("late", holds=EARLIER)], "late by 45 min"),
        ([cell("late", holds=LateInterval(9, None))] * 2, "late events"),
        ([cell("missing", served=None, note="stale")] * 3, "defaults served: the state was"),
        ([cell("missing", served=None)] * 3, "defaults served, though there was a value"),
        ([cell("missing", served=None, note="unserved")], "definition changed: records do not"),
        ([cell("different", note="redefined")] * 2, "definition changed: the snapshot"),
        ([cell("different", note="store")] * 2, "the online store holds other values"),
        ([cell("different")] * 2, "2 times what it should be"),
        (
            [cell("different", served=4.0, expected=3.0), cell("different")],
            "off by +1",
        ),
        (
            [cell("different", served=9.0, expected=3.5), cell("different")],
            "or from other records",
        ),
        ([cell("different", expected=None)] * 2, "values where there should be none"),
        ([cell("different")] * 3 + [cell("late", holds=LATE)], "(3 of 4)"),
        (
            [cell("different", served=2.0 * n, expected=1.0 * n) for n in range(1, 100)]
            + [cell("different", expected=None)],
            "2 times what it should be (99 of 100)",
        ),
        (
            [cell("different", expected=None)] * 3 + [cell("different")],
            "values where there should be none (3 of 4)",
        ),
        (
            [cell("different", expected=None)] * 2 + [cell("different")] * 2,
            "or from other records",
        ),
        (
            [cell("different")] * 3 + [cell("different", served=4.0, expected=3.0)] * 2,
            "off by +1",
        ),
        (
            [cell("different")] * 3 + [cell("different", served=9.0, expected=1.0)] * 2,
            "2 times what it should be (3 of 5)",
        ),
        (
            [cell("different", served=n * n, expected=1.0 * n) for n in range(3, 9)]
            + [cell("different", expected=None)] * 2,
            "or from other records",
        ),
    ],
)
def test_a_cause_is_one_sentence(wrong: list[Cell], said: str) -> None:
    assert said in cause(wrong)


def report(*features: FeatureSkew) -> SkewReport:
    return SkewReport(
        model="fraud", from_ms=1, to_ms=2, population=5_000, sampled=2_000, unreadable=0,
        share=0.01, features=features,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "told", "refused"),
    [
        (report(judged(0, 2_000)), "passed", "passed"),
        (report(judged(500, 2_000)), "passed", "failed"),
        (report(judged(1, 100)), "passed", "inconclusive"),
        (None, "passed", "inconclusive"),
    ],
    ids=["equal", "skewed", "not known", "never looked"],
)
def test_the_gate_tells_and_refuses_where_model_yaml_says_so(
    found: SkewReport | None, told: str, refused: str
) -> None:
    assert judge_skew(found, GATES, is_first=False).verdict == told
    assert judge_skew(found, REFUSES, is_first=False).verdict == refused


def test_what_is_only_told_is_in_the_reason() -> None:
    found = judge_skew(report(judged(500, 2_000)), GATES, is_first=False)
    assert "1 of 1 features are skewed: f: computed otherwise" in found.reason
    assert found.reason.endswith("(reported only: gates.skew)")


def test_values_that_a_topic_dropped_are_named_with_the_verdict() -> None:
    gaps = [
        StreamGap("bank", 0, "", 10, 12, DAY_MS, 2 * DAY_MS),
        StreamGap("bank", 1, "", 7, 7, None, 3 * DAY_MS),
    ]

    def named(from_ms: int | None, to_ms: int | None, many: int = 2) -> str:
        found = lost_values("bureau", gaps[:many], ttl_ms=DAY_MS, from_ms=from_ms, to_ms=to_ms)
        return "" if found is None else found.summary

    assert named(None, None) == (
        "bureau lacks up to 4 messages of bank, which the topic dropped unread (found on 1970-01-04"
        " 00:00 UTC)"
    )
    assert named(3 * DAY_MS, None, 1) == (
        "bureau lacks up to 3 messages of bank published since 1970-01-02 00:00 UTC, which the"
        " topic dropped unread (found on 1970-01-03 00:00 UTC)"
    )
    assert "lacks 1 message of" in named(4 * DAY_MS, None)
    assert named(4 * DAY_MS + 1, None) == ""
    assert named(0, DAY_MS - 1, 1) == ""
    assert named(None, None, 0) == ""

    lost = lost_values("bureau", gaps, ttl_ms=DAY_MS, from_ms=None, to_ms=None)
    assert lost is not None
    told = judge_skew(replace(report(judged(0, 2_000)), lost=(lost,)), GATES, is_first=False)
    assert told.verdict == "passed"
    assert f"all 1 features are what they should be; {lost.summary}; 2,000 of" in told.reason


def test_a_first_version_has_served_nothing_yet() -> None:
    assert judge_skew(None, REFUSES, is_first=True).verdict == "passed"


def test_nobody_is_sent_to_look_at_features_that_a_model_does_not_read() -> None:
    """`mlplatform skew` refuses such a model, so a gate that waits for it would refuse for ever."""
    found = judge_skew(None, REFUSES, is_first=False, has_features=False)
    assert found.verdict == "passed"
    assert found.reason == "the model reads no features: its inputs are all of the request"
