"""A champion of classes is watched by the share of right ones among labelled requests."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tests.support.class_model import class_definition
from tests.support.list_log import ListLog

from mlplatform.decisions.records.record import Record
from mlplatform.rollouts.drift import matured_outcomes
from mlplatform.rollouts.drift.health import Health
from mlplatform.rollouts.drift.performance import MaturedDays, performance_verdict
from mlplatform.rollouts.drift.windows import ChampionTenure, drift_plan
from mlplatform.runtime.units import DAY_MS

DEFINITION = class_definition()
A_DAY = 400


def day(number: int, right: float) -> list[Record]:
    """Requests of a day; half of them get a label, of which a share says what was decided."""
    found, random = list[Record](), np.random.default_rng(number)
    for n in range(A_DAY):
        at_ms = number * DAY_MS + n
        shared: dict[str, Any] = {"decision_id": f"d{at_ms}", "model": "fraud", "recorded_ms": 0}
        found.append(
            Record(
                **shared, kind="decision", event_ms=at_ms, arm="champion", answered_by="champion",
                unit=n, version=1, score=0.7, decision="usual",
            )
        )  # fmt: skip
        if n % 2:
            named = "usual" if random.random() < right else "large"
            found.append(
                Record(**shared, kind="label", event_ms=at_ms + 2 * DAY_MS, decision=named)
            )
    return found


def read(shares: Sequence[float], until_day: int = 0) -> MaturedDays:
    records = [record for number, right in enumerate(shares) for record in day(number, right)]
    plan = drift_plan(DEFINITION, (), DEFINITION.inputs, set())
    now_ms = max(until_day, len(shares) + 2) * DAY_MS
    with tempfile.TemporaryDirectory() as kept:
        return matured_outcomes.read_matured(
            Path(kept),
            ListLog(records),
            DEFINITION,
            plan,
            ChampionTenure(1, 0),
            now_ms,  # type: ignore[arg-type]
        )


def test_only_labelled_requests_count() -> None:
    (first, *_) = read([0.8] * 3).days
    assert list(first.metrics) == ["accuracy"]
    accuracy = first.metrics["accuracy"]
    assert (first.requests, accuracy.base) == (400, 200.0)
    assert 140 < accuracy.hits.sum() < 180


def test_a_silent_feed_is_told_and_nothing_is_said_of_negatives() -> None:
    """Of classes a request without a label is unknown."""
    matured = read([0.8] * 3, until_day=9)
    assert matured.gaps == (
        "labels have stopped coming: none came on the last day on which a label of 1970-01-06"
        " could arrive",
    )


def test_a_drop_is_proven_and_none_is_found_where_nothing_changed() -> None:
    steady = performance_verdict(read([0.8] * 20), DEFINITION.drift)
    worse = performance_verdict(read([0.8] * 14 + [0.4] * 6), DEFINITION.drift)
    assert steady.health is Health.HEALTHY
    assert worse.health is Health.UNHEALTHY
    assert worse.since_ms == 14 * DAY_MS
