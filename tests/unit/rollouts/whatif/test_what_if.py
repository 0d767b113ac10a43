"""What two bundles decide differently, by what their model decides: pure, from arrays."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from mlplatform.learning.validation.replay_result import ReplayResult
from mlplatform.model.policies.decision_scale import DecisionScale, Quantity
from mlplatform.rollouts.whatif.changes import DisagreementLimits, what_if
from mlplatform.rollouts.whatif.report import WhatIf
from mlplatform.rollouts.whatif.requests import (
    NEGATIVE,
    POSITIVE,
    UNKNOWN,
    ClassLabels,
    InputBands,
    NumberLabels,
    OutcomeLabels,
    Requests,
    word_bands,
)
from mlplatform.runtime.errors import Refused
from mlplatform.runtime.units import DAY_MS

GRADES = DecisionScale(("grant", "refer", "refuse"), ("refer", "refuse"))
SIZES = DecisionScale(("small", "usual", "large"), (), by_class=True)
EUR = Quantity("EUR", 20.0)
NUMBER = DecisionScale(("none",), (), number=EUR)
RISK = DecisionScale(("usual", "high"), ("high",), number=EUR)
LIMITS = DisagreementLimits(tolerance=0.2, limit=0.1)
OF_ALERTS = {"reference_alerts", "candidate_alerts", "both_alerts"}


def result(scale: DecisionScale, places: Any, scores: Any = None) -> ReplayResult:
    decisions = np.array(places, np.int8)
    given = np.zeros(len(decisions)) if scores is None else np.array(scores, np.float64)
    return ReplayResult(scale, given, decisions)


def requests(one: ReplayResult, other: ReplayResult, labels: Any, **more: Any) -> Requests:
    """Requests of as many customers as there are, on four days."""
    rows = len(one.decisions)
    return Requests(
        event_ms=np.arange(rows, dtype=np.int64) * 4 * DAY_MS // rows,
        unit=np.arange(rows, dtype=np.int64),
        reference=one,
        candidate=other,
        labels=labels,
        bands=more.pop("bands", {}),
        **more,
    )


def unlabelled(scale: DecisionScale, rows: int) -> Any:
    if scale.task == "classes":
        return ClassLabels(
            rows=np.zeros(0, np.int64), place=np.zeros(0, np.int64),
            reference=np.zeros((0, 3)), candidate=np.zeros((0, 3)),
            labelled=0, immature=rows, unlabelled=0,
        )  # fmt: skip
    if scale.task == "real":
        return NumberLabels(np.full(rows, np.nan), immature=rows, unlabelled=0, quantile=0.5)
    return OutcomeLabels(np.full(rows, UNKNOWN, np.int8), np.zeros(rows, bool), capacity=0.2)


def asked(found: WhatIf) -> dict[str, Any]:
    """The JSON of it."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(found))
    assert msgspec.json.decode(msgspec.json.encode(found), type=WhatIf) == found
    return plain


def test_outcomes_in_an_order_are_told_by_alerts_and_nothing_of_other_kinds_is() -> None:
    one, other = result(GRADES, [0, 0, 1, 2, 2, 0, 0, 1]), result(GRADES, [0, 1, 1, 2, 0, 0, 0, 1])
    labels = OutcomeLabels(
        np.array([NEGATIVE, NEGATIVE, POSITIVE, UNKNOWN, POSITIVE, NEGATIVE, UNKNOWN, NEGATIVE]),
        np.array([False] * 3 + [True] + [False] * 4), capacity=0.5,
    )  # fmt: skip
    found = what_if(requests(one, other, labels), LIMITS)
    assert found.flips.count == 2
    assert found.decisions == {
        "grant": {"grant": 3, "refer": 1, "refuse": 0},
        "refer": {"grant": 0, "refer": 2, "refuse": 0},
        "refuse": {"grant": 1, "refer": 0, "refuse": 1},
    }
    assert found.known is not None
    assert (found.known.positives, found.known.hidden, found.known.immature) == (2, 1, 1)
    assert found.disagreement is not None
    assert (found.disagreement.count, found.disagreement.trials) == (2, 5), "flagged by one alone"
    assert not asked(found).keys() & {"changes", "top", "differences", "measured"}


def test_classes_are_told_by_the_largest_changes_and_without_alerts_no_row_is_of_them() -> None:
    places = np.tile([0, 1, 2], 100)
    moved = places.copy()
    moved[:30:3], moved[1:61:3] = 1, 2  # 10 from small to usual, 20 from usual to large
    one, other = result(SIZES, places), result(SIZES, moved)
    found = what_if(requests(one, other, unlabelled(SIZES, 300)), LIMITS)
    assert found.changes is not None
    assert [(c.reference, c.candidate, c.requests) for c in found.changes] == [
        ("usual", "large", 20),
        ("small", "usual", 10),
    ]
    assert found.changes[0].share == pytest.approx(20 / 300)
    assert found.flips.count == 30
    assert found.disagreement is not None
    assert (found.disagreement.count, found.disagreement.trials) == (30, 300)
    assert found.disagreement.share == pytest.approx(0.1)
    assert found.disagreement.passes == pytest.approx(0.3)
    assert found.disagreement.stops == pytest.approx(0.2)
    assert found.flips.low is not None
    assert (found.disagreement.low, found.disagreement.high) == (found.flips.low, found.flips.high)
    left_out = {"decisions", "differences", "known", "top"} | OF_ALERTS
    assert not asked(found).keys() & left_out


def test_classes_of_two_orders_are_compared_by_their_names() -> None:
    turned = DecisionScale(("large", "small", "usual", "huge"), ("huge",), by_class=True)
    one, other = result(SIZES, [0, 1, 2, 2]), result(turned, [1, 2, 0, 3])
    found = what_if(requests(one, other, unlabelled(SIZES, 4)), LIMITS)
    assert found.changes is not None
    assert [(c.reference, c.candidate) for c in found.changes] == [("large", "huge")]
    assert found.candidate_alerts is not None, "one of the two has alerts"
    assert (found.candidate_alerts.count, found.both_alerts) == (1, 0)


def test_the_classes_that_a_caller_may_choose_from_are_compared_as_sets() -> None:
    one, other = result(SIZES, [0, 0, 0, 1]), result(SIZES, [0, 0, 0, 0])
    tops = (np.array([[0, 1]] * 4, np.int8), np.array([[0, 1], [0, 2], [0, 1], [0, 1]], np.int8))
    found = what_if(requests(one, other, unlabelled(SIZES, 4), tops=tops), LIMITS)
    assert found.top is not None
    assert (found.top.classes, found.top.changed.count) == (2, 1)


def test_a_step_that_does_not_ask_passes_at_no_share() -> None:
    one = result(SIZES, [0, 1, 2])
    limits = DisagreementLimits(tolerance=None, limit=0.99)
    found = what_if(requests(one, result(SIZES, [1, 1, 2]), unlabelled(SIZES, 3)), limits)
    assert "passes" not in asked(found)["disagreement"]
    assert found.disagreement is not None
    assert found.disagreement.stops == 1.0, "a share ends there"


def test_without_an_alert_of_either_arm_nothing_is_predicted_of_their_disagreement() -> None:
    one = result(GRADES, [0, 0, 0])
    found = what_if(requests(one, one, unlabelled(GRADES, 3)), LIMITS)
    assert "disagreement" not in asked(found)


def test_of_numbers_the_distribution_of_what_moved_is_told() -> None:
    before = np.linspace(100, 400, 1000)
    moved = before + np.repeat([0.0, 5.0, -30.0, 50.0], 250)
    one, other = result(NUMBER, np.zeros(1000), before), result(NUMBER, np.zeros(1000), moved)
    found = what_if(requests(one, other, unlabelled(NUMBER, 1000)), LIMITS)
    told = found.differences
    assert told is not None
    assert (told.unit, told.tolerance) == ("EUR", 20.0)
    assert told.mean == pytest.approx(6.25)
    assert told.mean_absolute == pytest.approx(21.25)
    assert (told.lower, told.higher) == (250, 250)
    assert found.flips.count == 500
    assert list(told.quantiles) == ["least", "p1", "p5", "p25", "p50", "p75", "p95", "p99", "most"]
    assert told.quantiles["least"] == pytest.approx(-30)
    assert told.quantiles["p50"] == pytest.approx(2.5)
    assert told.quantiles["most"] == pytest.approx(50)
    left_out = {"decisions", "changes", "known", "top"} | OF_ALERTS
    assert not asked(found).keys() & left_out
    assert "without" not in asked(found)["differences"]


def test_a_number_that_is_none_counts_as_moved_and_is_in_no_mean() -> None:
    one, other = result(NUMBER, [0, 0, 0], [1, 2, 3]), result(NUMBER, [0, 0, 0], [1, np.nan, 53])
    found = what_if(requests(one, other, unlabelled(NUMBER, 3)), LIMITS)
    assert found.flips.count == 2
    assert found.differences is not None
    assert (found.differences.without, found.differences.mean) == (1, 25.0)


def test_of_numbers_with_outcomes_both_are_told() -> None:
    one = result(RISK, [0, 0, 1], [10.0, 495.0, 600.0])
    other = result(RISK, [0, 1, 1], [10.0, 505.0, 600.0])
    found = what_if(requests(one, other, unlabelled(RISK, 3)), LIMITS)
    assert found.decisions is not None
    assert found.decisions["usual"]["high"] == 1
    assert found.flips.count == 0, "within the tolerance"
    assert found.candidate_alerts is not None
    assert found.candidate_alerts.count == 2


def test_bundles_of_two_kinds_or_units_are_refused() -> None:
    days = DecisionScale(("none",), (), number=Quantity("days", 20.0))
    for one, other, said in (
        (SIZES, GRADES, "classes.*binary"),
        (NUMBER, days, "EUR.*days"),
    ):
        both = requests(result(one, [0]), result(other, [0]), unlabelled(one, 1))
        with pytest.raises(Refused, match=said):
            what_if(both, LIMITS)


def test_segments_are_bands_of_numbers_and_words_of_categories() -> None:
    one = result(NUMBER, np.zeros(6), [0.0] * 6)
    other = result(NUMBER, np.zeros(6), [0.0, 0.0, 30.0, 30.0, -30.0, 0.0])
    bands = {
        "amount": InputBands(np.array([0, 0, 1, 1, 1, -1]), edges=(50.0,)),
        "channel": InputBands(np.array([1, 1, 2, 2, 0, -1]), words=("(unknown)", "web", "shop")),
    }
    found = what_if(requests(one, other, unlabelled(NUMBER, 6), bands=bands), LIMITS)
    told = [(s.input, s.above, s.upto, s.value, s.requests, s.flips) for s in found.segments]
    assert told == [
        ("amount", None, None, None, 1, 0),
        ("amount", None, 50.0, None, 2, 0),
        ("amount", 50.0, None, None, 3, 3),
        ("channel", None, None, None, 1, 0),
        ("channel", None, None, "(unknown)", 1, 1),
        ("channel", None, None, "web", 2, 0),
        ("channel", None, None, "shop", 2, 2),
    ]
    assert found.segments[2].mean_difference == pytest.approx(10.0)
    assert not {"reference_alerts", "candidate_alerts"} & asked(found)["segments"][0].keys()
    assert "value" not in asked(found)["segments"][0]
    both = result(GRADES, [0, 1])
    alone = what_if(
        requests(both, both, unlabelled(GRADES, 2), bands={"a": InputBands(np.array([0, 0]))}),
        LIMITS,
    )
    (segment,) = asked(alone)["segments"]
    assert (segment["reference_alerts"], segment["candidate_alerts"]) == (1, 1)
    assert "mean_difference" not in segment


def test_of_many_words_the_rarer_ones_are_one_band() -> None:
    places = np.array([0, 1, 2, 2, 2, 3, 3, 4, 5])
    bands = word_bands(places, ("a", "b", "c", "d"), most=2)
    assert bands.words == ("(unknown)", "a", "b", "(other words)")
    assert bands.codes.tolist() == [-1, 0, 1, 1, 1, 2, 2, 3, 3]
    assert word_bands(places, ("a", "b", "c", "d"), most=4).words == (
        "(unknown)", "a", "b", "c", "d",
    )  # fmt: skip


def test_labels_of_classes_measure_both_on_the_same_requests() -> None:
    rng = np.random.default_rng(3)
    right = rng.integers(0, 3, 600)
    sure = np.eye(3)[right] * 0.7 + 0.1
    blurred = np.where((rng.random(600) < 0.3)[:, None], sure[:, [1, 2, 0]], sure)
    labels = ClassLabels(
        rows=np.arange(600), place=right, reference=blurred, candidate=sure,
        labelled=700, immature=50, unlabelled=30,
    )  # fmt: skip
    one, other = result(SIZES, blurred.argmax(1)), result(SIZES, sure.argmax(1))
    found = what_if(requests(one, other, labels), LIMITS).measured
    assert found is not None
    assert (found.labelled, found.requests, found.immature, found.unlabelled) == (700, 600, 50, 30)
    by_name = {m.name: m for m in found.measures}
    assert list(by_name) == ["accuracy", "macro_f1", "log_loss", "top_3_accuracy"]
    accuracy = by_name["accuracy"]
    assert accuracy.candidate.value == 1.0
    assert accuracy.reference.value == pytest.approx((blurred.argmax(1) == right).mean())
    assert 0.2 < accuracy.difference.low < accuracy.difference.high < 0.4


def test_labels_of_numbers_measure_both_on_the_same_requests() -> None:
    rng = np.random.default_rng(3)
    truth = rng.uniform(0, 500, 400)
    near, far = truth + rng.normal(0, 5, 400), truth + rng.normal(10, 20, 400)
    labels = NumberLabels(
        np.where(np.arange(400) < 300, truth, np.nan), immature=60, unlabelled=40, quantile=0.5
    )
    one, other = result(NUMBER, np.zeros(400), far), result(NUMBER, np.zeros(400), near)
    found = what_if(requests(one, other, labels), LIMITS).measured
    assert found is not None
    assert (found.labelled, found.requests) == (300, 300)
    by_name = {m.name: m for m in found.measures}
    assert list(by_name) == ["mae", "rmse", "bias", "quantile_loss"]
    assert by_name["mae"].candidate.value == pytest.approx(np.abs(near - truth)[:300].mean())
    assert by_name["mae"].difference.high < 0
