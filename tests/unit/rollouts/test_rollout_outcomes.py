"""Slow gates: matured labels alone, the last word of each, and no early verdict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlplatform.rollouts.verdicts.outcomes import Outcomes, OutcomeWindow, outcome_gates, outcomes
from rollout_world import canary_rows, table

MATURE_MS = 10_000
LATE_MS = 100_000


def joined(
    rows: list[dict[str, Any]], labels: list[dict[str, Any]], now_event_ms: int = LATE_MS
) -> Outcomes:
    return outcomes(
        table(rows),
        table([{"kind": "label"} | label for label in labels]),
        generation=1,
        maturity_ms=MATURE_MS,
        now_event_ms=now_event_ms,
    )


ROWS: list[dict[str, Any]] = [
    {"decision_id": "a", "unit": 1, "arm": "challenger", "decision": "approve"},
    {"decision_id": "b", "unit": 1, "arm": "challenger", "decision": "review"},
    {"decision_id": "c", "unit": 2, "arm": "champion", "decision": "decline"},
]


def test_labels_are_joined_to_the_decision_of_each_arm() -> None:
    seen = joined(ROWS, [{"decision_id": "a", "label": 1}, {"decision_id": "c", "label": 1}])
    assert seen.challenger == OutcomeWindow("challenger", (1,), (1,), (1,), (1,))
    assert seen.champion == OutcomeWindow("champion", (1,), (0,), (1,), (0,))


def test_the_last_label_counts_and_later_ones_are_not_known_yet() -> None:
    labels = [
        {"decision_id": "a", "label": 1, "event_ms": 10},
        {"decision_id": "a", "label": 0, "event_ms": 20},
        {"decision_id": "a", "label": 1, "event_ms": LATE_MS + 1},
    ]
    assert joined(ROWS, labels).challenger.frauds == (0,)


def test_a_payment_that_may_still_be_reported_leaves_no_verdict() -> None:
    (gate,) = outcome_gates(joined(ROWS, [], now_event_ms=5000), error_share=0.01)
    assert gate.verdict == "INCONCLUSIVE"
    assert gate.values == {"immature": 3}


def test_no_records_leave_no_verdict() -> None:
    (gate,) = outcome_gates(joined([], []), error_share=0.01)
    assert gate.verdict == "INCONCLUSIVE"


@pytest.mark.parametrize(
    ("labels", "verdict"),
    [
        ([], "INCONCLUSIVE"),
        ([{"decision_id": "a", "label": 1, "event_ms": 2}], "INCONCLUSIVE"),
        ([{"decision_id": "another", "label": 1, "event_ms": 50_000}], "HEALTHY"),
        ([{"decision_id": "a", "label": 1, "event_ms": LATE_MS + 1}], "INCONCLUSIVE"),
    ],
    ids=["never one", "none since the step", "one, of whatever payment", "one, not arrived yet"],
)
def test_labels_that_have_stopped_coming_do_not_mean_genuine(
    labels: list[dict[str, Any]], verdict: str
) -> None:
    gates = outcome_gates(joined(ROWS, labels), error_share=0.01)
    assert {gate.verdict for gate in gates} == {verdict}


def simulated(rng: np.random.Generator, *, missed: float, other: float) -> Outcomes:
    rows = canary_rows(600, 50, generation=1, version=2)
    labels = []
    for row in rows:
        if rng.random() < 0.2:
            share = missed if row["arm"] == "challenger" else other
            row["decision"] = "approve" if rng.random() < share else "review"
            arrival = {"event_ms": MATURE_MS}
            labels.append({"decision_id": row["decision_id"], "label": 1} | arrival)
    return joined(rows, labels)


@pytest.mark.parametrize(
    ("missed", "low", "high"), [(0.3, 0.0, 0.02), (0.9, 0.95, 1.0)], ids=["as good", "far worse"]
)
def test_only_a_version_that_is_worse_is_called_worse(
    missed: float, low: float, high: float
) -> None:
    rng = np.random.default_rng(31)
    worse = 0
    for _ in range(100):
        gates = outcome_gates(simulated(rng, missed=missed, other=0.3), error_share=0.01)
        worse += gates[0].verdict == "UNHEALTHY"
    assert low <= worse / 100 <= high
