"""A champion of numbers is watched by the mean absolute error of labelled requests."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tests.support.class_model import real_definition
from tests.support.list_log import ListLog

from mlplatform.decisions.records.record import Record
from mlplatform.rollouts.drift import matured_outcomes, performance
from mlplatform.rollouts.drift.health import Health
from mlplatform.rollouts.drift.performance import MaturedDays, performance_verdict
from mlplatform.rollouts.drift.tenure import matured_metric
from mlplatform.rollouts.drift.windows import ChampionTenure, drift_plan
from mlplatform.runtime.units import DAY_MS

DEFINITION = real_definition()
A_DAY = 400


def day(number: int, error: float, seed: int = 0) -> list[Record]:
    """Requests of a day; half of them get a label, which lies so far off on average."""
    found, random = list[Record](), np.random.default_rng([seed, number])
    for n in range(A_DAY):
        at_ms = number * DAY_MS + n
        shared: dict[str, Any] = {"decision_id": f"d{at_ms}", "model": "fraud", "recorded_ms": 0}
        found.append(
            Record(
                **shared, kind="decision", event_ms=at_ms, arm="champion", answered_by="champion",
                unit=n, version=1, score=100.0, decision="usual",
            )
        )  # fmt: skip
        if n % 2:
            off = float(random.exponential(error))
            found.append(
                Record(**shared, kind="label", event_ms=at_ms + 2 * DAY_MS, score=100.0 + off)
            )
    return found


def read(errors: Sequence[float], seed: int = 0) -> MaturedDays:
    records = [r for number, error in enumerate(errors) for r in day(number, error, seed)]
    plan = drift_plan(DEFINITION, (), DEFINITION.inputs, set())
    now_ms = (len(errors) + 2) * DAY_MS
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
    days = read([10.0] * 3).days
    assert list(days[0].metrics) == ["error"]
    error = days[0].metrics["error"]
    assert (days[0].requests, error.base) == (400, 200.0)
    whole = matured_metric("error", [day.metrics["error"] for day in days])
    assert whole.value is not None
    assert whole.low is not None
    assert whole.high is not None
    assert 0 < whole.low < 10 < whole.high < 20
    assert whole.low < whole.value < whole.high


def test_a_rise_is_proven_and_a_fall_is_no_harm() -> None:
    steady = performance_verdict(read([10.0] * 20), DEFINITION.drift)
    worse = performance_verdict(read([10.0] * 14 + [25.0] * 6), DEFINITION.drift)
    better = performance_verdict(read([10.0] * 14 + [3.0] * 6), DEFINITION.drift)
    assert steady.health is Health.HEALTHY
    assert better.health is Health.HEALTHY
    assert worse.health is Health.UNHEALTHY
    assert worse.since_ms == 14 * DAY_MS
    assert "labelled requests is 2" in worse.reasons[0]
    assert "since 1970-01-15" in worse.reasons[0]
    (metric,) = performance.plain(worse)["metrics"].values()
    assert (metric["low"], metric["worse"]) == (None, True)


def test_steady_errors_with_a_long_tail_raise_no_alarm() -> None:
    """At a chance of 1 in 100 a month no more than 1 of 30 months is expected to."""
    found = [performance_verdict(read([10.0] * 16, s), DEFINITION.drift).health for s in range(30)]
    assert found.count(Health.UNHEALTHY) <= 1
