"""A matured day knows what was known when it matured, and no silence passes for health."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from tests.unit.rollouts.drift.test_drift_windows import ListLog, decision

from mlplatform.decisions.records.record import Record
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.model.policies.monitoring import Segment
from mlplatform.rollouts.drift import matured_outcomes, slices
from mlplatform.rollouts.drift.performance import MaturedDays
from mlplatform.rollouts.drift.windows import ChampionTenure, drift_plan
from mlplatform.runtime.units import DAY_MS, HOUR_MS

MATURITY_DAYS = 3
FRAUD = load_definition("fraud")
VIEWS = load_views(model_folder("fraud"))


def label(decision_id: str, at_ms: int, value: int) -> Record:
    return Record(
        kind="label",
        decision_id=decision_id,
        model="fraud",
        event_ms=at_ms,
        recorded_ms=0,
        label=value,
    )


def scored(day: int, number: int, score: float, **changes: Any) -> Record:
    payload = {"request": {"amount": 10.0 * number}, "features": {}}
    at_ms = day * DAY_MS + number
    return decision(at_ms, score=score, unit=number, payload=payload, **changes)


def alive(days: int) -> list[Record]:
    """Labels of payments of long ago: the feed goes on, whatever it says of these days."""
    return [label(f"old{h}", h * HOUR_MS, 0) for h in range(0, 24 * days, 6)]


def read(
    records: list[Record],
    *,
    now_day: int,
    since_day: int = 0,
    faulty: tuple[tuple[int, int], ...] = (),
    segments: tuple[Segment, ...] = (),
) -> MaturedDays:
    definition = msgspec.structs.replace(
        FRAUD,
        drift=msgspec.structs.replace(FRAUD.drift, segments=segments),
        decision=msgspec.structs.replace(FRAUD.decision, capacity=0.2),
    )
    plan = drift_plan(definition, VIEWS, FRAUD.inputs, {s.input for s in segments})
    tenure = ChampionTenure(1, since_day * DAY_MS)
    log, now_ms = ListLog(records), now_day * DAY_MS
    with tempfile.TemporaryDirectory() as kept:
        return matured_outcomes.read_matured(
            Path(kept), log, definition, plan, tenure, now_ms, faulty
        )  # type: ignore[arg-type]


def ten(day: int, **changes: Any) -> list[Record]:
    """Ten payments; people can look at two: the highest scores are those of 9 and 8."""
    return [scored(day, n, n / 10, **changes) for n in range(10)]


def test_a_request_that_named_its_version_is_no_day_of_the_champions() -> None:
    """Its score is the highest, and its label a fraud's: recall would be half of it."""
    named = scored(0, 10, 1.0, arm="named")
    frauds = [label(f"d{n}", DAY_MS, 1) for n in (9, 10)]
    (day,) = read([*ten(0), named, *frauds, *alive(5)], now_day=4).days
    assert day.requests == 10
    assert day.metrics["recall"].hits.tolist() == [True]


def test_recall_and_precision_are_of_the_highest_scores_that_people_can_look_at() -> None:
    frauds = [label(f"d{n}", DAY_MS, 1) for n in (9, 3)]
    (day,) = read([*ten(0), *frauds, *alive(5)], now_day=4).days
    recall, precision = day.metrics["recall"], day.metrics["precision"]
    assert (sorted(recall.units), int(recall.hits.sum()), recall.base) == ([3, 9], 1, 2.0)
    assert (sorted(precision.units), int(precision.hits.sum()), precision.base) == ([8, 9], 1, 2.0)
    calibration = day.metrics["calibration"]
    assert (int(calibration.hits.sum()), calibration.base) == (2, pytest.approx(4.5))


def test_the_last_label_counts_that_came_before_the_day_matured() -> None:
    labels = [
        label("d9", DAY_MS, 1),
        label("d9", 2 * DAY_MS, 0),  # a report that was withdrawn
        label("d8", 2 * DAY_MS, 0),
        label("d8", 3 * DAY_MS, 1),
        label("d7", (1 + MATURITY_DAYS) * DAY_MS, 1),  # a moment too late
    ]
    (day,) = read([*ten(0), *labels, *alive(9)], now_day=9).days[:1]
    assert day.metrics["recall"].units.tolist() == [8]


def test_what_was_declined_and_not_labelled_is_nobody_s_hit_or_miss() -> None:
    records = [*ten(0)[:9], scored(0, 9, 0.9, decision="decline")]
    (day,) = read([*records, *alive(5)], now_day=4).days
    assert (day.requests, day.hidden) == (9, 1)
    (day,) = read([*records, label("d9", DAY_MS, 0), *alive(5)], now_day=4).days
    assert (day.requests, day.hidden) == (10, 0)


def test_only_the_champion_s_own_answers_count_and_no_void_ones() -> None:
    others = [
        scored(0, 20, 0.99, version=2, arm="challenger"),
        scored(0, 21, 0.99, degraded=True, degraded_reason="deadline"),
        scored(0, 22, 0.99),
        decision(30, kind="void", decision_id="d22"),
    ]
    (day,) = read([*ten(0), *others, *alive(5)], now_day=4).days
    assert day.requests == 10


@pytest.mark.parametrize(
    ("now_day", "since_day", "expected"),
    [(3, 0, []), (4, 0, [0]), (6, 0, [0, 1, 2]), (6, 1, [1, 2])],
)
def test_days_are_whole_and_mature_and_under_the_champion(
    now_day: int, since_day: int, expected: list[int]
) -> None:
    records = [r for day in range(6) for r in ten(day)]
    found = read([*records, *alive(8)], now_day=now_day, since_day=since_day)
    assert [d.start_ms // DAY_MS for d in found.days] == expected


def test_days_with_a_data_fault_are_left_out() -> None:
    records = [r for day in range(6) for r in ten(day)]
    faulty = ((DAY_MS + 5, 2 * DAY_MS),)
    found = read([*records, *alive(10)], now_day=9, faulty=faulty)
    assert [d.start_ms // DAY_MS for d in found.days] == [0, 2, 3, 4, 5]


def test_a_day_at_whose_end_no_label_came_is_not_known_and_that_is_told() -> None:
    records = [r for day in range(6) for r in ten(day)]
    found = read([*records, *alive(6)], now_day=9)
    assert [d.start_ms // DAY_MS for d in found.days] == [0, 1, 2]
    (gap,) = found.gaps
    assert gap.startswith("labels have stopped coming: none came on the last day")


def test_without_any_decision_nothing_is_known() -> None:
    assert read([decision(1, model="other")], now_day=9).gaps == (
        "no request has matured under this champion",
    )


def test_segments_have_metrics_of_their_own() -> None:
    segments = (Segment(name="large", input="amount", at_least=90.0),)
    frauds = [label(f"d{n}", DAY_MS, 1) for n in (9, 8)]
    (day,) = read([*ten(0), *frauds, *alive(5)], now_day=4, segments=segments).days
    assert day.metrics["recall of large"].units.tolist() == [9]
    assert day.metrics["precision of large"].units.tolist() == [9]


def test_slices_are_the_records_of_the_query(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    records = [decision(int(t)) for t in rng.integers(0, 40, 500)]
    records = [msgspec.structs.replace(r, decision_id=f"n{i}") for i, r in enumerate(records)]
    log = ListLog(records)
    query = slices.RecordQuery(
        model="fraud", kinds=("decision",), from_ms=3, to_ms=37, columns=("event_ms", "decision_id")
    )
    monkeypatch.setattr(slices, "SLICE_ROWS", 30)
    parts = list(slices.slices(log, query))  # type: ignore[arg-type]
    assert len(parts) > 5
    whole = pa.concat_tables(parts)["decision_id"].to_pylist()
    assert sorted(whole) == sorted(log.read(query)["decision_id"].to_pylist())
