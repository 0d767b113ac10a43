"""How a replay is told to people: rows of what has a meaning for what the model decides."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from mlplatform.learning.validation.statistics import Interval
from mlplatform.operations.whatif.decided_pages import Speed
from mlplatform.operations.whatif.replay import Reasons, Replay
from mlplatform.operations.whatif.replay_text import fields, tables
from mlplatform.rollouts.whatif.report import (
    ClassChange,
    LabelCounts,
    LabelMeasures,
    MeasureComparison,
    NumberDifferences,
    PositiveCounts,
    PredictedDisagreement,
    Segment,
    Share,
    TopChanges,
    WhatIf,
)
from mlplatform.rollouts.whatif.shadow import ShadowDisagreement

SPEED = Speed(0.2, 0.5, 100_000.0)
BAND = PredictedDisagreement(1000, 50, 0.05, 0.2, 0.03, 0.07, 0.3)
MEASURES = LabelMeasures(
    400, 300, 500, 100,
    (MeasureComparison("accuracy", Interval(0.8, 0.78, 0.82), Interval(0.85, 0.83, 0.87),
                     Interval(0.05, 0.03, 0.07)),),
)  # fmt: skip


def replay(shadow: tuple[ShadowDisagreement, ...] = (), **parts: Any) -> Replay:
    found = WhatIf(1000, 700, 0, 1, Share(50, 0.05, 0.03, 0.07), parts.pop("segments", ()), **parts)
    reasons = UNSET if found.both_alerts is None else None
    return Replay("m", "version 1", "version 2", 3, 0, 900, 890, found, SPEED, SPEED, shadow,
                  reasons, reasons)  # fmt: skip


CLASSES = replay(
    disagreement=BAND,
    changes=(ClassChange("fuel", "taxi", 30, 0.03), ClassChange("taxi", "other", 20, 0.02)),
    top=TopChanges(3, Share(80, 0.08)),
    measured=MEASURES,
    segments=(
        Segment("merchant", None, None, 100, 40, "shell-01"),
        Segment("merchant", None, None, 100, 0, "esso-02"),
        Segment("hour", 12.0, None, 800, 10),
    ),
)
NUMBERS = replay(
    disagreement=BAND,
    differences=NumberDifferences(
        "EUR", 20.0, 1.25, 6.5, 10, 40, {"least": -31.0, "p50": 0.5, "most": 55.0}, 2
    ),
    measured=msgspec.structs.replace(MEASURES, measures=()),
    segments=(Segment("amount", None, 50.0, 100, 40, mean_difference=4.5),),
)
ORDERED = replay(
    disagreement=BAND,
    decisions={"grant": {"grant": 940, "refuse": 30}, "refuse": {"grant": 20, "refuse": 10}},
    reference_alerts=Share(30, 0.03), candidate_alerts=Share(40, 0.04), both_alerts=10,
    known=LabelCounts(500, 0, 400, 100, 0.1, *[PositiveCounts(0, 0, 0)] * 2, None, None, None),
    segments=(Segment("amount", None, 50.0, 100, 40, None, 3, 4),),
)  # fmt: skip


def test_of_classes_the_largest_changes_are_told_and_no_alerts() -> None:
    told, drawn = fields(CLASSES), tables(CLASSES)
    assert told["of another class"].startswith("50 (5.00 %); 3.00 % to 7.00 %")
    assert told["other top 3"].startswith("80 (8.00 %)")
    assert not [name for name in told if "alert" in name or "positive" in name]
    changes, segments, measures = drawn
    assert changes.columns == ("of class", "by the candidate", "requests", "of all")
    assert changes.rows == [("fuel", "taxi", "30", "3.00 %"), ("taxi", "other", "20", "2.00 %")]
    assert segments.columns == ("most changed", "requests", "of another class")
    assert segments.rows == [
        ("merchant shell-01", "100", "40 (40.00 %)"),
        ("hour over 12", "800", "10 (1.25 %)"),
    ]
    assert measures.columns == ("measure (90 %)", "reference", "candidate", "difference")
    assert measures.rows == [
        ("accuracy", "0.8 (0.78 to 0.82)", "0.85 (0.83 to 0.87)", "+0.05 (+0.03 to +0.07)")
    ]
    assert told["labelled"] == (
        "400 requests, 300 of them measured; 500 others have not matured, 100 have no label"
    )


def test_of_numbers_the_differences_are_told() -> None:
    told, drawn = fields(NUMBERS), tables(NUMBERS)
    assert told["moved by more than 20 EUR"].startswith("50 (5.00 %)")
    assert told["to where"] == (
        "10 numbers are lower, 40 higher; the mean change is +1.25 EUR, "
        "the mean absolute change 6.5 EUR"
    )
    assert told["without a number"] == "2 requests, by one version or both"
    differences, segments = drawn
    assert differences.columns == ("difference, EUR", "least", "p50", "most")
    assert differences.rows == [("candidate less reference", "-31", "+0.5", "+55")]
    assert segments.columns == ("most changed", "requests", "moved", "on average, EUR")
    assert segments.rows == [("amount up to 50", "100", "40 (40.00 %)", "+4.5")]
    assert not [name for name in told if "alert" in name]


def test_of_outcomes_alerts_are_told_as_before() -> None:
    told, drawn = fields(ORDERED), tables(ORDERED)
    assert told["decided otherwise"].startswith("50 (5.00 %)")
    assert told["alerts, reference"] == "30 (3.00 %)"
    assert told["added alerts"] == "not explained: only versions of the registry are"
    matrix, segments = drawn
    assert matrix.columns == ("reference \\ candidate", "grant", "refuse")
    assert matrix.rows == [("grant", "940", "30"), ("refuse", "20", "10")]
    assert segments.columns[-2:] == ("alerts, reference", "alerts, candidate")
    assert segments.rows[0][-2:] == ("3", "4")


def test_reasons_are_told_where_there_are_some() -> None:
    some = msgspec.structs.replace(ORDERED, added=Reasons(3, {"AMOUNT": 2}), dropped=Reasons(0, {}))
    assert fields(some)["added alerts"] == "first reasons of 3: AMOUNT 2"
    assert fields(some)["dropped alerts"] == "none"


@pytest.mark.parametrize(
    ("found", "of"),
    [
        (CLASSES, "50 of 1,000 requests of another class"),
        (NUMBERS, "50 of 1,000 requests whose number moves by more than the tolerance"),
        (ORDERED, "50 of 1,000 requests that either version flags are decided otherwise"),
    ],
    ids=["classes", "numbers", "outcomes"],
)
def test_the_prediction_is_told_as_the_gate_on_disagreement_counts(found: Replay, of: str) -> None:
    told = fields(found)
    assert told["predicted for shadow"] == (
        f"{of} (5.00 %); 3.00 % to 7.00 % are expected on a coming day"
    )
    assert told["shadow allows"] == (
        "up to 30.00 % passes; more than 20.00 % stops the candidate, once it is proven"
    )


def test_a_shadow_that_asks_for_nothing_stops_all_the_same() -> None:
    alone = msgspec.structs.replace(BAND, passes=None)
    what_if = msgspec.structs.replace(CLASSES.what_if, disagreement=alone)
    told = fields(msgspec.structs.replace(CLASSES, what_if=what_if))
    assert told["shadow allows"] == "more than 20.00 % stops the candidate, once it is proven"
    nothing = msgspec.structs.replace(what_if, disagreement=None)
    assert "shadow allows" not in fields(msgspec.structs.replace(CLASSES, what_if=nothing))


@pytest.mark.parametrize(
    ("as_predicted", "words"),
    [(True, "; this replay agrees"), (False, "; this replay does not agree"), (None, "")],
    ids=["as predicted", "not as predicted", "no band"],
)
def test_what_shadow_saw_stands_beside_it(as_predicted: bool | None, words: str) -> None:
    seen = ShadowDisagreement(
        "m-v2-1", 0, "HEALTHY", 2000, 0.06, 0.04, 0.08, 0.055, as_predicted=as_predicted
    )
    told = fields(replay((seen,), disagreement=BAND, changes=()))
    assert told["shadow saw, m-v2-1"] == (
        "HEALTHY: 6.00 % of 2,000 requests (interval 4.00 % to 8.00 %); validation had predicted "
        "5.50 %" + words
    )
