"""Windows hold the right decisions of the right days, and say when the log is not complete."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mlplatform.decisions.records.port import RecordQuery, Watermark
from mlplatform.decisions.records.record import Record, arrow_schema
from mlplatform.model import profile as profiles
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.rollouts.drift import windows
from mlplatform.rollouts.drift.observe import Champion, observe
from mlplatform.rollouts.drift.verdict import Band, DriftFinding, NoDrift
from mlplatform.rollouts.drift.windows import ChampionTenure
from mlplatform.runtime.errors import Corrupt
from mlplatform.runtime.units import DAY_MS

FRAUD = load_definition("fraud")
PLAN = windows.drift_plan(FRAUD, load_views(model_folder("fraud")), FRAUD.inputs)
FEATURES = {"customer_count_1d": 3.0, "customer_mean_1d": 25.0, "terminal_count_1d": 1.0}


class ListLog:
    """The reading half of a decision log, in memory."""

    def __init__(self, records: Sequence[Record], reached_ms: int | None = 99 * DAY_MS) -> None:
        rows = [msgspec.structs.asdict(r) for r in records]
        for seq, row in enumerate(rows):
            row["payload"] = msgspec.json.encode(row["payload"]).decode()
            row.update(writer="w", seq=seq)
        self.table = pa.Table.from_pylist(rows, arrow_schema([*rows[0]]) if rows else None)
        self.marks = [Watermark("w", len(rows), reached_ms, 0, live=True)]

    def read(self, query: RecordQuery) -> pa.Table:
        time, kind = pc.field("event_ms"), pc.field("kind")
        keep = kind.isin(list(query.kinds)) & (pc.field("model") == query.model)
        keep &= time >= (query.from_ms or 0)
        if query.to_ms is not None:
            keep &= time < query.to_ms
        return self.table.filter(keep).select(list(query.columns))

    def watermarks(self) -> list[Watermark]:
        return self.marks


def decision(event_ms: int, **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "kind": "decision",
        "decision_id": f"d{event_ms}",
        "model": "fraud",
        "event_ms": event_ms,
        "recorded_ms": 0,
        "arm": "champion",
        "answered_by": "champion",
        "unit": 2**62 + event_ms,
        "version": 1,
        "score": 0.25,
        "decision": "approve",
        "payload": {"request": {"amount": 10.5, "terminal_id": 7}, "features": FEATURES},
    }
    return Record(**{**fields, **changes})


def read(records: Sequence[Record], *, now_ms: int = DAY_MS, since_ms: int = 0) -> list[Any]:
    tenure = ChampionTenure(1, since_ms)
    return list(windows.read_windows(ListLog(records), PLAN, FRAUD, tenure, now_ms))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("now_ms", "since_ms", "days"),
    [
        (5 * DAY_MS, 0, [2, 3, 4]),
        (5 * DAY_MS + 1, 0, [2, 3, 4]),
        (6 * DAY_MS - 1, 0, [2, 3, 4]),
        (5 * DAY_MS, 3 * DAY_MS, [3, 4]),
        (5 * DAY_MS, 3 * DAY_MS + 1, [4]),
        (5 * DAY_MS, 5 * DAY_MS, []),
    ],
)
def test_windows_are_whole_utc_days_under_the_champion(
    now_ms: int, since_ms: int, days: list[int]
) -> None:
    found = windows.bounds(FRAUD.drift, ChampionTenure(1, since_ms), now_ms)
    assert found == [(d * DAY_MS, (d + 1) * DAY_MS) for d in days]


def test_inputs_are_what_the_model_saw() -> None:
    (window,) = read([decision(5)])[-1:]
    seen = {name: float(values[0]) for name, values in window.inputs.items()}
    assert seen == {"amount": 10.5, **FEATURES}
    assert window.units.tolist() == [2**62 + 5]


def test_decisions_fall_into_their_day() -> None:
    times = [0, DAY_MS - 1, DAY_MS, 2 * DAY_MS + 7, 3 * DAY_MS]
    found = read([decision(t) for t in times], now_ms=3 * DAY_MS + 5)
    assert [len(w.units) for w in found] == [2, 1, 1]


def test_missing_features_are_nan() -> None:
    payload = {"request": {"amount": 1.0}, "features": {"customer_mean_1d": None}}
    (window,) = read([decision(5, payload=payload)])[-1:]
    assert np.isnan(window.inputs["customer_mean_1d"]).all()
    assert np.isnan(window.inputs["terminal_count_1d"]).all()


def test_only_whole_answers_of_the_champion_give_scores() -> None:
    records = [
        decision(1, decision="review"),
        decision(2, version=2, arm="challenger", answered_by="challenger"),
        decision(3, degraded=True, degraded_reason="deadline", version=None, score=None),
        decision(4, degraded=True, degraded_reason="features"),
        decision(5),
    ]
    (window,) = read(records)[-1:]
    assert len(window.units) == 4  # features that were not fresh say nothing of customers
    assert window.alerts.tolist() == [True, False]
    assert window.scored_units.tolist() == [2**62 + 1, 2**62 + 5]


def test_a_request_that_named_its_version_counts_for_nothing() -> None:
    """Its caller chose it: that is no change of what customers do, nor of what the model says."""
    records = [decision(1), decision(2, arm="named", decision="decline"), decision(3)]
    (window,) = read(records)[-1:]
    assert window.units.tolist() == window.scored_units.tolist() == [2**62 + 1, 2**62 + 3]
    assert not window.alerts.any()


def test_a_decision_whose_payload_was_erased_counts_for_nothing() -> None:
    """Missing inputs of many erased decisions are no change of what customers do."""
    log = ListLog([decision(1), decision(2), decision(3)])
    texts = log.table["payload"].to_pylist()
    erased = pa.chunked_array([pa.array([texts[0], None, texts[2]], pa.string())])
    log.table = log.table.set_column(log.table.schema.get_field_index("payload"), "payload", erased)
    tenure = ChampionTenure(1, 0)
    (*_, window) = windows.read_windows(log, PLAN, FRAUD, tenure, DAY_MS)  # type: ignore[arg-type]
    assert window.units.tolist() == [2**62 + 1, 2**62 + 3]
    assert not np.isnan(window.inputs["amount"]).any()


def test_a_decision_without_a_unit_is_a_unit_of_its_own() -> None:
    (window,) = read([decision(1, unit=None), decision(2, unit=None), decision(3)])[-1:]
    assert len(set(window.units.tolist())) == 3


def test_void_decisions_and_other_models_and_shadows_do_not_count() -> None:
    records = [
        decision(1),
        decision(2),
        decision(9, kind="void", decision_id="d2"),
        decision(3, kind="shadow"),
        decision(4, model="other"),
    ]
    (window,) = read(records)[-1:]
    assert window.units.tolist() == [2**62 + 1]


def test_a_day_without_decisions_is_an_empty_window() -> None:
    found = read([decision(5)], now_ms=3 * DAY_MS)
    assert [len(w.units) for w in found] == [1, 0, 0]
    assert set(found[1].inputs) == set(PLAN.names)


@pytest.mark.parametrize(("factor", "expected"), [(1.0, NoDrift), (1.4, DriftFinding)])
def test_from_log_to_verdict(tmp_path: Path, factor: float, expected: type) -> None:
    """Three days of 1 100 decisions; on all of them amounts are as they were, or 1.4 times that."""
    rng = np.random.default_rng(4)

    def amounts(rows: int) -> np.ndarray[Any, Any]:
        return rng.lognormal(3.5, 0.6, rows)

    def day(number: int) -> list[Record]:
        return [
            decision(
                number * DAY_MS + i,
                score=float(score),
                decision="review" if score > 0.07 else "approve",
                payload={"request": {"amount": float(amount)}, "features": FEATURES},
            )
            for i, (amount, score) in enumerate(
                zip(amounts(1100) * factor, rng.beta(1, 60, 1100), strict=True)
            )
        ]

    rows = 20_000
    matrix = np.column_stack([amounts(rows), *(np.full(rows, v) for v in FEATURES.values())])
    scores = rng.beta(1, 60, rows)
    profile = profiles.profile(
        matrix, ["amount", *FEATURES], scores, scores > 0.07, np.arange(rows)
    )
    champion = Champion(ChampionTenure(1, 0), FRAUD.inputs, profile, Band(0.005, 0.03))
    log = ListLog([*day(0), *day(1), *day(2)])
    incidents = SimpleNamespace(list=lambda model: [])
    views = load_views(model_folder("fraud"))
    ports = SimpleNamespace(log=log, counted=tmp_path, views=views, incidents=incidents)
    seen = observe(FRAUD, ports, champion, 3 * DAY_MS)  # type: ignore[arg-type]
    assert isinstance(seen.verdict, expected), seen.verdict.reasons


@pytest.mark.parametrize("reached_ms", [None, DAY_MS - 1])
def test_a_live_writer_behind_makes_a_gap(reached_ms: int | None) -> None:
    log = ListLog([decision(5)], reached_ms)
    found = list(windows.read_windows(log, PLAN, FRAUD, ChampionTenure(1, 0), DAY_MS))  # type: ignore[arg-type]
    assert "of writer w " in found[-1].gaps[0]


@pytest.mark.parametrize(("reached_ms", "live"), [(DAY_MS, True), (None, False)])
def test_a_writer_that_is_ahead_or_gone_makes_none(reached_ms: int | None, live: bool) -> None:
    mark = Watermark("w", 1, reached_ms, 0, live=live)
    assert windows.gaps_before([mark], DAY_MS) == ()


def test_a_payload_that_is_not_json_is_corruption() -> None:
    log = ListLog([decision(5)])
    broken = pa.array(["{"], pa.string())
    log.table = log.table.set_column(log.table.schema.get_field_index("payload"), "payload", broken)
    with pytest.raises(Corrupt):
        list(windows.read_windows(log, PLAN, FRAUD, ChampionTenure(1, 0), DAY_MS))  # type: ignore[arg-type]
