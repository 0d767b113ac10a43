"""An incident waits for matured labels, then is answered once, or calls a person."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.decisions.records.last_labels import LabelCounts
from mlplatform.model.folders import load_definition
from mlplatform.model.policies.decision_scale import Task
from mlplatform.rollouts.drift.incidents import Change, Incident, IncidentFinding
from mlplatform.rollouts.drift.retrain import (
    MAX_CLAIMS,
    MaturedRequests,
    Page,
    Retrain,
    RetrainDecision,
    Wait,
    matured_since,
    retrain_when,
)
from mlplatform.runtime.units import DAY_MS

POLICY = load_definition("fraud").drift
NEEDED = POLICY.matured_positives
FOUND = IncidentFinding(
    "fraud", "drift", opened_ms=12 * DAY_MS, changed_ms=10 * DAY_MS, champion=1, evidence={}
)


def incident(state: str = "open", **changes: Any) -> Incident:
    note = changes.pop("note", "because")
    fields: dict[str, Any] = {
        "id": "fraud-drift-1",
        "found": FOUND,
        "state": state,
        "claim": 0,
        "holder": None,
        "until_ms": 0,
        "answer": None,
        "changes": (Change(1, 0, "open", 0, None, note),),
    }
    return Incident(**{**fields, **changes})


def decision(
    subject: Incident, positives: int, day: float = 14, wall_ms: int = 0, **more: Any
) -> RetrainDecision:
    return retrain_when(
        subject,
        MaturedRequests(rows=1000, positives=positives),
        now_ms=int(day * DAY_MS),
        wall_ms=wall_ms,
        policy=POLICY,
        lag_days=7,
        **more,
    )


def test_before_the_new_pattern_can_be_learned_it_waits_for_that_day() -> None:
    found = decision(incident(), 0, day=12)
    assert isinstance(found, Wait)
    assert found.until_ms == 17 * DAY_MS
    assert found.reason.startswith("1,000 requests of the new pattern have matured, 0 of")


def test_with_too_few_positives_it_waits_without_a_date() -> None:
    found = decision(incident(), NEEDED - 1, day=17)
    assert isinstance(found, Wait)
    assert found.until_ms is None


def test_with_enough_positives_it_retrains_as_of_now() -> None:
    found = decision(incident(), NEEDED)
    assert isinstance(found, Retrain)
    assert found.as_of_ms == 14 * DAY_MS


def test_too_long_a_wait_calls_a_person() -> None:
    day = 12 + POLICY.page_after_days
    assert isinstance(decision(incident(), NEEDED - 1, day=day - 0.1), Wait)
    assert isinstance(decision(incident(), NEEDED - 1, day=day), Page)
    assert isinstance(decision(incident(), NEEDED, day=day), Retrain)


def test_an_answered_incident_waits_for_its_rollout() -> None:
    found = decision(incident("answered", answer=7), NEEDED)
    assert found == Wait("version 7 was trained for it; its rollout shows whether it helps")


def test_an_answer_that_was_rolled_back_calls_a_person() -> None:
    found = decision(incident("answered", answer=7), NEEDED, answer_lives=False)
    assert isinstance(found, Page)


def test_a_retrain_without_a_version_calls_a_person() -> None:
    found = decision(incident("answered", note="a gate failed"), NEEDED)
    assert found == Page("the retrain made no version: a gate failed")


def test_retrains_that_keep_dying_call_a_person() -> None:
    subject = incident("claimed", claim=MAX_CLAIMS, until_ms=100)
    assert isinstance(decision(subject, NEEDED, wall_ms=99), Retrain)
    assert isinstance(decision(subject, NEEDED, wall_ms=100), Page)


def test_a_closed_incident_asks_for_nothing() -> None:
    assert isinstance(decision(incident("closed"), NEEDED), Wait)


class Offline:
    """Labelled requests as rows of (event day, label known from day, label)."""

    def __init__(self, *rows: tuple[float, float, Any]) -> None:
        self.rows = rows

    def label_counts(self, from_ms: int, to_ms: int, as_of_ms: int) -> LabelCounts:
        labels = [
            label if known_day * DAY_MS <= as_of_ms else None
            for day, known_day, label in self.rows
            if from_ms <= day * DAY_MS < to_ms
        ]
        known = [label for label in labels if label is not None]
        return LabelCounts(len(labels), len(known), known.count(1))


@pytest.mark.parametrize(
    ("fitted_until_day", "expected"),
    [
        (9, MaturedRequests(0, 0)),
        (10, MaturedRequests(0, 0)),
        (11, MaturedRequests(2, 1)),
        (12, MaturedRequests(3, 2)),
    ],
)
def test_only_payments_that_a_retrain_would_fit_on_count(
    fitted_until_day: int, expected: MaturedRequests
) -> None:
    offline = Offline((9, 10, 1), (10.2, 11, 1), (10.4, 99, None), (11.5, 12, 1), (12.5, 13, 1))
    until, now = fitted_until_day * DAY_MS, (fitted_until_day + 7) * DAY_MS
    found = matured_since(offline, 10 * DAY_MS, fitted_until_ms=until, now_ms=now, task="binary")
    assert found == expected


@pytest.mark.parametrize(
    ("task", "labels"),
    [("classes", ("taxi", "fuel")), ("real", (250.5, -3.0))],
)
def test_of_classes_and_numbers_every_label_counts_once(
    task: Task, labels: tuple[Any, Any]
) -> None:
    one, other = labels
    offline = Offline((10.2, 11, one), (10.4, 99, None), (11.5, 12, other))
    for until, expected in ((10, (0, 0)), (12, (3, 2))):
        found = matured_since(
            offline, 10 * DAY_MS, fitted_until_ms=until * DAY_MS, now_ms=20 * DAY_MS, task=task
        )
        assert found == MaturedRequests(*expected, "labelled")


@given(st.integers(0, 200), st.integers(0, 200), st.floats(12, 60))
def test_more_labels_never_turn_a_retrain_back(fewer: int, more: int, day: float) -> None:
    fewer, more = sorted((fewer, more))
    if isinstance(decision(incident(), fewer, day=day), Retrain):
        assert isinstance(decision(incident(), more, day=day), Retrain)
