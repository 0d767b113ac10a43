"""Drift of merchant-category by the hour of the day: whole days of its own generator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlplatform.model.definition import ModelDefinition
from mlplatform.model.folder_code import load_module
from mlplatform.model.folders import load_definition
from mlplatform.model.profile import profile
from mlplatform.rollouts.drift.health import Health
from mlplatform.rollouts.drift.verdict import Window, WindowVerdict, window_verdict
from mlplatform.runtime.units import DAY_MS, HOUR_MS

NAME = "merchant-category"
TEAM = Path(__file__).parents[4] / "teams" / "payments-data"
PER_DAY, DAYS = 2_000, 5
INPUTS = ("amount", "hour")


@pytest.fixture(scope="module")
def folder() -> Iterator[tuple[ModelDefinition, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLPLATFORM_MODELS", str(TEAM))
        yield load_definition(NAME), load_module(NAME, "generator")


def days(generator: Any, seed: int, later_h: float = 0.0) -> Iterator[Window]:
    population = generator.Population(payments_per_day=PER_DAY)
    table = generator.generate(seed=seed, start_ms=0, days=DAYS, population=population)
    event_ms = table["event_time"].cast("int64").to_numpy() // 1000
    hour = ((event_ms + later_h * HOUR_MS) % DAY_MS) // HOUR_MS
    amount, unit = table["amount"].to_numpy(), table["customer_id"].to_numpy()
    scores = np.random.default_rng(seed).uniform(0.5, 1.0, len(event_ms))
    for day in range(DAYS):
        here = event_ms // DAY_MS == day
        yield Window(
            start_ms=day * DAY_MS, end_ms=(day + 1) * DAY_MS, units=unit[here],
            inputs={"amount": amount[here], "hour": hour[here].astype(float)},
            scores=scores[here], alerts=np.zeros(here.sum(), bool), scored_units=unit[here],
        )  # fmt: skip


def verdicts(folder: tuple[ModelDefinition, Any], later_h: float) -> list[WindowVerdict]:
    """Of whole days."""
    definition, generator = folder
    known = list(days(generator, seed=1))
    joined = np.column_stack([np.concatenate([w.inputs[n] for w in known]) for n in INPUTS]).astype(
        np.float32
    )
    units = np.concatenate([w.units for w in known])
    scores = np.concatenate([w.scores for w in known])
    then = profile(joined, INPUTS, scores, np.zeros(len(units), bool), units)
    assert definition.drift.inputs == INPUTS
    return [window_verdict(then, w, definition.drift, None) for w in days(generator, 2, later_h)]


def test_days_like_those_before_do_not_drift(folder: tuple[ModelDefinition, Any]) -> None:
    assert {v.health for v in verdicts(folder, 0.0)} == {Health.HEALTHY}
    assert {v.health for v in verdicts(folder, 1.0)} == {Health.HEALTHY}, "summer time"


def test_payments_that_come_three_hours_later_drift_by_the_hour(
    folder: tuple[ModelDefinition, Any],
) -> None:
    """What amount and score say does not move then."""
    found = verdicts(folder, 3.0)
    assert {v.health for v in found} == {Health.UNHEALTHY}
    assert {r.partition(" moved")[0] for v in found for r in v.reasons} == {"hour"}
