"""The slow gate: both arms held to the same matured labels, at as many alerts, never early."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlplatform.rollouts.verdicts.outcomes import (
    Outcomes,
    outcome_gate,
    outcomes,
    recall_at_capacity,
)
from mlplatform.rollouts.verdicts.verdict import Bound, Errors, Gate
from rollout_world import table

MATURE_MS = 10_000
LATE_MS = 100_000
ERRORS = Errors(stop=0.001, missed=0.05)
BOUND = Bound(limit=0.05, tolerance=0.2)


def pair(name: str, unit: int, champion: float, challenger: float, **fields: Any) -> list[Any]:
    shared = {"decision_id": name, "unit": unit}
    copy = {"kind": "shadow", "arm": "challenger", "version": 2, "score": challenger}
    return [shared | {"score": champion} | fields, shared | copy]


def joined(
    rows: list[dict[str, Any]], labels: list[dict[str, Any]], now_event_ms: int = LATE_MS
) -> Outcomes:
    return outcomes(
        table(rows),
        table([{"kind": "label"} | label for label in labels]),
        generation=1,
        version=2,
        maturity_ms=MATURE_MS,
        now_event_ms=now_event_ms,
    )


def judged(seen: Outcomes) -> Gate:
    return outcome_gate(seen, BOUND, ERRORS, capacity=0.5)


ROWS = [*pair("a", 1, 0.9, 0.1), *pair("b", 1, 0.2, 0.8), *pair("c", 2, 0.3, 0.4)]
REPORT = {"decision_id": "another", "label": 1, "event_ms": 50_000}


def test_both_versions_are_held_to_the_label_of_the_same_payment() -> None:
    seen = joined(ROWS, [{"decision_id": "a", "label": 1}, REPORT])
    assert seen.fraud.tolist() == [True, False, False]
    found = recall_at_capacity(seen, capacity=0.34, errors=ERRORS)
    assert (found.frauds, found.alerts, found.caught, found.champion_caught) == (1, 1, 0, 1)


def test_a_payment_without_a_copy_or_with_a_degraded_answer_is_no_pair() -> None:
    rows = [
        {"decision_id": "lone", "unit": 1},
        *pair("d", 2, 0.5, 0.5, degraded=True, degraded_reason="features"),
        *pair("e", 3, 0.5, 0.5),
    ]
    assert joined(rows, []).unit.tolist() == [3]


def test_the_last_label_counts_and_later_ones_are_not_known_yet() -> None:
    labels = [
        {"decision_id": "a", "label": 1, "event_ms": 10},
        {"decision_id": "a", "label": 0, "event_ms": 20},
        {"decision_id": "a", "label": 1, "event_ms": LATE_MS + 1},
    ]
    assert not joined(ROWS, labels).fraud.any()


def test_a_payment_that_may_still_be_reported_leaves_no_verdict() -> None:
    gate = judged(joined(ROWS, [], now_event_ms=5000))
    assert (gate.verdict, gate.values) == ("INCONCLUSIVE", {"immature": 3})


def test_a_declined_payment_without_a_label_is_not_called_genuine() -> None:
    rows = [*ROWS, *pair("f", 3, 0.9, 0.9, decision="decline")]
    seen = joined(rows, [REPORT])
    assert (len(seen), seen.hidden) == (3, 1)
    assert "of 1 declined payments nothing is known" in judged(seen).reason


def test_no_records_leave_no_verdict() -> None:
    assert judged(joined([], [])).verdict == "INCONCLUSIVE"


def test_no_fraud_leaves_no_verdict() -> None:
    gate = judged(joined(ROWS, [REPORT]))
    assert gate.verdict == "INCONCLUSIVE"
    assert gate.reason == "no fraud among 3 payments (20 points allowed)"


@pytest.mark.parametrize(
    "labels",
    [[], [{"decision_id": "a", "label": 1, "event_ms": 2}], [REPORT | {"event_ms": LATE_MS + 1}]],
    ids=["never one", "none since the step", "one, not arrived yet"],
)
def test_labels_that_have_stopped_coming_do_not_mean_genuine(labels: list[dict[str, Any]]) -> None:
    gate = judged(joined(ROWS, labels))
    assert gate.verdict == "INCONCLUSIVE"
    assert "labels have stopped coming" in gate.reason


def simulated(rng: np.random.Generator, *, lost: float, payments: int = 40_000) -> Outcomes:
    """A shadow phase with 0.8 % fraud, of which the champion ranks 60 % among its highest.

    Args:
        lost: the share of the champion's catches that the challenger ranks low.
    """
    fraud = rng.random(payments) < 0.008
    champion = rng.random(payments) * 0.5
    champion[fraud & (rng.random(payments) < 0.6)] += 0.5
    challenger = np.where(rng.random(payments) < lost, rng.random(payments) * 0.5, champion)
    return Outcomes(
        unit=rng.integers(0, 5000, payments),
        challenger=challenger,
        champion=champion,
        fraud=fraud,
        immature=0,
        hidden=0,
        silent=False,
    )


@pytest.mark.parametrize(
    ("lost", "verdict", "least", "most"),
    [
        (0.02, "UNHEALTHY", 0.0, 0.02),
        (0.35, "UNHEALTHY", 0.8, 1.0),
        (0.02, "HEALTHY", 0.95, 1.0),
        (1 / 3, "HEALTHY", 0.0, 0.05),
    ],
    ids=["as good is hardly stopped", "a third lost is stopped", "as good is shown",
         "a loss at the tolerance is not called health"],
)  # fmt: skip
def test_what_is_said_of_a_loss_of_frauds(
    lost: float, verdict: str, least: float, most: float
) -> None:
    rng = np.random.default_rng(31)
    gates = [
        outcome_gate(simulated(rng, lost=lost), BOUND, ERRORS, capacity=0.013) for _ in range(100)
    ]
    assert least <= sum(gate.verdict == verdict for gate in gates) / 100 <= most


def test_a_better_version_that_raises_more_alerts_is_not_called_worse() -> None:
    """What the arms' own decisions would hide from one of them changes nothing here."""
    rng = np.random.default_rng(32)
    seen = simulated(rng, lost=0.0)
    better = seen.challenger.copy()
    better[seen.fraud & (rng.random(len(seen)) < 0.3)] += 1.0
    gate = outcome_gate(
        Outcomes(seen.unit, better, seen.champion, seen.fraud, 0, 0, silent=False),
        BOUND, ERRORS, capacity=0.013,
    )  # fmt: skip
    assert gate.verdict == "HEALTHY"
