"""One rule says which label of a decision counts, and every reader of labels follows it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.rollouts.drift.test_matured_outcomes import alive, read

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.last_labels import LABEL_COLUMNS, last_labels
from mlplatform.decisions.records.port import Entry, RecordQuery
from mlplatform.decisions.records.record import Record
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.snapshots import snapshot
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.operations.actions.outcomes import read_outcomes
from mlplatform.operations.whatif.logged_requests import LoggedRequests
from mlplatform.rollouts.cache.pair_cache import shadow_outcomes
from mlplatform.rollouts.verdicts.basis import OutcomeBasis
from mlplatform.rollouts.verdicts.outcomes import Outcomes
from mlplatform.rollouts.verdicts.verdict import Bound, Errors
from mlplatform.runtime.units import DAY_MS

FRAUD = load_definition("fraud")
TERMINALS = next(v for v in load_views(model_folder("fraud")) if v.name == "terminal_stats")
NOW_MS = 6 * DAY_MS
REQUEST = {"customer_id": 1, "terminal_id": 3, "amount": 12.5}
PAYMENT: dict[str, Any] = {
    "decision_id": "d1", "model": "fraud", "event_ms": 1, "recorded_ms": 1, "unit": 1, "score": 0.9,
    "generation": 1, "payload": {"request": REQUEST, "features": {}},
}  # fmt: skip
DECISION = Record(kind="decision", arm="champion", answered_by="champion", version=1,
                  decision="review", **PAYMENT)  # fmt: skip
SHADOW = Record(kind="shadow", arm="challenger", answered_by="challenger", version=2, **PAYMENT)
# writer, label, event time and wall time: few of each, so that nearly every pair ties somewhere
SAID = st.tuples(
    st.sampled_from("ab"), st.sampled_from((0, 1)), st.integers(0, 2), st.integers(0, 2)
)


def label(value: int, event: int, recorded: int) -> Record:
    return Record(kind="label", decision_id="d1", model="fraud", event_ms=DAY_MS + event,
                  recorded_ms=recorded, label=value)  # fmt: skip


def every_reader(log: SqliteDecisionLog, folder: Path) -> dict[str, int]:
    """Reader → the label of the one payment, as it reads it."""
    offline = OfflineTable(folder, FRAUD)
    offline.project(log)
    (training,) = offline.labelled_requests(0, DAY_MS, NOW_MS)["label"].to_pylist()
    ((joined,),) = offline.labels(NOW_MS).project("label").fetchall()
    (risk,) = snapshot(offline, TERMINALS, NOW_MS)["terminal_risk_7d"].to_pylist()
    basis = OutcomeBasis(
        generation=1, version=2, maturity_ms=DAY_MS, now_event_ms=NOW_MS,
        marks={mark.writer: mark.seq for mark in log.watermarks()}, bound=Bound(0.1, None),
        errors=Errors(0.05, 0.05), capacity=1.0, due=True,
    )  # fmt: skip
    rollout = shadow_outcomes(folder, log, "fraud", basis)
    assert isinstance(rollout, Outcomes)
    outcome, _ = LoggedRequests(log, FRAUD, 0, DAY_MS).outcomes(["d1"], _array(1), _array("review"))
    return {
        "training set": training,
        "offline table": joined,
        "risk of a terminal": int(risk),
        "rollout": int(rollout.requests.positive[0]),
        "what-if": int(outcome[0]),
        "exporter": read_outcomes(log, FRAUD, 1 + 4 * DAY_MS).positives,
    }


def _array(value: Any) -> Any:
    import numpy as np

    return np.array([value])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(SAID, min_size=1, max_size=5))
def test_every_reader_takes_the_same_label_however_they_tie(said: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = SqliteDecisionLog(Path(folder) / "log")
        log.append("a", [Entry(DECISION), Entry(SHADOW)])
        for writer, value, event, recorded in said:
            log.append(writer, [Entry(label(value, event, recorded))])
        seqs = {"a": 2, "b": 0}
        ranked = []
        for writer, value, event, recorded in said:
            seqs[writer] += 1
            ranked.append((event, recorded, seqs[writer], value))
        expected = max(ranked)[-1]
        table = log.read(RecordQuery(model="fraud", kinds=("label",), columns=LABEL_COLUMNS))
        assert last_labels(table) == {"d1": expected}
        found = every_reader(log, Path(folder) / "offline")
        assert found == dict.fromkeys(found, expected)
        log.close()


@pytest.mark.parametrize("values", [(1, 0), (0, 1), (1, 0, 1), (0, 1, 0)])
def test_a_correction_at_the_same_event_time_counts(values: tuple[int, ...]) -> None:
    labels = [label(value, 0, number) for number, value in enumerate(values)]
    with tempfile.TemporaryDirectory() as folder:
        log = SqliteDecisionLog(Path(folder) / "log")
        log.append("a", [Entry(DECISION), Entry(SHADOW), *map(Entry, labels)])
        found = every_reader(log, Path(folder) / "offline")
        assert found == dict.fromkeys(found, values[-1])
        log.close()


def test_drift_follows_the_same_rule() -> None:
    from tests.unit.rollouts.drift.test_matured_outcomes import scored

    said = [label(1, 0, 2), label(0, 0, 1), label(0, 0, 0)]
    (day,) = read([scored(0, 1, 0.9), *said, *alive(5)], now_day=4).days
    assert day.metrics["recall"].base == 1.0
