"""A pause of the machine before a retrain refuses no rollout, and a failing champion is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.rollouts.passes.history import read_profile
from mlplatform.rollouts.passes.planning import plan_rollout
from mlplatform.rollouts.verdicts.ramp import Plan
from mlplatform.rollouts.verdicts.verdict import Prediction
from mlplatform.runtime.units import HOUR_MS
from rollout_world import fraud

START_MS = 1_800_000_000_000
WEEK_MS = 168 * HOUR_MS
REQUESTS = 70_000
SPEED = 121.0
"""Of a clock that plays a week in 5 000 s of wall time."""
PAUSE_MS = 5_000
PREDICTED = Prediction(alert_ratio=1.0, disagreement=0.3, alert_share=0.013)


def written(folder: Path, world: str, speed: float) -> SqliteDecisionLog:
    """A week of requests; `pause`: the last 5 s of them fail, and are recorded within 5 ms."""
    rng = np.random.default_rng(5)
    at_ms = np.sort(rng.integers(START_MS, START_MS + WEEK_MS, REQUESTS))
    wall_ms = (at_ms - START_MS) / speed
    failed = np.zeros(REQUESTS, dtype=bool)
    if world == "pause":
        end_ms = WEEK_MS / speed
        failed = wall_ms > end_ms - PAUSE_MS
        wall_ms = np.where(failed, end_ms + (wall_ms - end_ms) / 1000, wall_ms)
    elif world == "failing":
        failed = rng.random(REQUESTS) < 0.02
    reviewed = rng.random(REQUESTS) < 0.013
    units = rng.integers(0, 5_000, REQUESTS)
    columns = (at_ms, START_MS + wall_ms.astype(np.int64), failed, reviewed, units)
    log = SqliteDecisionLog(folder)
    log.append("gw", [
        Entry(Record(
            event_ms=event_ms, recorded_ms=recorded_ms, kind="decision", model="fraud",
            decision_id=f"d{number}", unit=unit, arm="champion", version=1, latency_us=4000,
            answered_by="rules" if is_failed else "champion", degraded=is_failed,
            degraded_reason="deadline" if is_failed else None, score=None if is_failed else 0.1,
            decision="review" if is_reviewed else "approve",
        ))
        for number, (event_ms, recorded_ms, is_failed, is_reviewed, unit)
        in enumerate(zip(*(c.tolist() for c in columns), strict=True))
    ])  # fmt: skip
    return log


@pytest.fixture(params=["pause", "failing"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Plan]]:
    with closing(written(tmp_path, request.param, SPEED)) as log:
        found = read_profile(log, fraud(), days=7.0, now_event_ms=START_MS + WEEK_MS)
        assert found is not None
        assert found.speed == pytest.approx(SPEED, rel=0.05)
        yield request.param, plan_rollout(fraud(), found, PREDICTED, {})


def test_a_pause_refuses_nothing_and_steady_failures_are_named(world: tuple[str, Plan]) -> None:
    name, plan = world
    assert plan.refusal == ""
    named = [note for note in plan.notes if note.startswith("the champion fails")]
    if name == "failing":
        (note,) = named
        assert "% of its requests outside of outages" in note
        assert float(note.split()[3]) == pytest.approx(2.0, abs=0.2)
        assert "once it is proven to fail more than 1 %" in note
    else:
        assert named == []


def test_a_live_platform_stays_live_through_a_pause(tmp_path: Path) -> None:
    with closing(written(tmp_path, "pause", 1.0)) as log:
        found = read_profile(log, fraud(), days=7.0, now_event_ms=START_MS + WEEK_MS)
    assert found is not None
    assert found.speed == 1.0


def test_requests_that_named_their_version_are_no_traffic_to_plan_by(tmp_path: Path) -> None:
    """Half of these named it, and were reviewed all."""
    records = [
        Record(
            event_ms=START_MS + 1000 * number, recorded_ms=START_MS + 1000 * number,
            kind="decision", model="fraud", decision_id=f"d{number}", unit=number, version=1,
            arm="named" if number % 2 else "champion", answered_by="champion", score=0.1,
            latency_us=4000, decision="review" if number % 2 else "approve",
        )
        for number in range(2_000)
    ]  # fmt: skip
    with closing(SqliteDecisionLog(tmp_path)) as log:
        log.append("gw", [Entry(record) for record in records])
        found = read_profile(log, fraud(), days=1, now_event_ms=START_MS + 2_000_000)
    assert found is not None
    assert (found.requests, found.alerts) == (1_000, 0.0)
