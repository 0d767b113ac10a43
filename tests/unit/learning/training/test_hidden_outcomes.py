"""A payment that we declined is not genuine because nobody reported it: it is unknown."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.learning.features.test_features_offline import FRAUD, MemoryLog, decision, label

from mlplatform.authoring import Context, Dataset
from mlplatform.learning.features.hidden_outcomes import Interventions, training_labels
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.snapshots import snapshot
from mlplatform.learning.training import handover
from mlplatform.learning.training.calibration import fit_calibration
from mlplatform.learning.training.candidate import fit_rows
from mlplatform.learning.training.evaluate import data_evidence
from mlplatform.learning.training.folder import load_folder
from mlplatform.learning.training_sets.dataset import LabelledRows, dataset, rows_digest
from mlplatform.learning.training_sets.join import training_join
from mlplatform.learning.validation.gates import judge_hidden
from mlplatform.model.policies.training import TrainingPolicy
from mlplatform.runtime.units import DAY_MS
from support.training_rows import payments

VIEWS = load_folder("fraud").views
AT_MS = 20_000 * DAY_MS
AS_OF_MS = AT_MS + 10 * DAY_MS


def policy(hidden_outcomes: str = "pseudo_label", precision: float = 0.8) -> TrainingPolicy:
    return msgspec.structs.replace(
        FRAUD.training, hidden_outcomes=hidden_outcomes, pseudo_label_precision=precision
    )


def decided(number: int, **changes: Any) -> Any:
    record = decision(number, event_ms=AT_MS + number)
    payload = record.payload | changes.pop("payload", {})
    fields = {"answered_by": "champion", "score": 0.9, "decision": "decline", **changes}
    return msgspec.structs.replace(record, payload=payload, **fields)


def trained_on(folder: Path, *records: Any, hidden_outcomes: str = "pseudo_label") -> Any:
    """The training set of these records, as model.yaml's default or another treatment makes it."""
    log, offline = MemoryLog(), OfflineTable(folder, FRAUD)
    log.add(*records)
    offline.project(log)  # type: ignore[arg-type]
    definition = msgspec.structs.replace(FRAUD, training=policy(hidden_outcomes))
    table = offline.labelled_requests(AT_MS, AT_MS + DAY_MS, AS_OF_MS)
    joined = training_join(offline, VIEWS, table)
    return dataset(definition, VIEWS, joined, as_of_ms=AS_OF_MS, labels_until_ms=None)


def confirmed(count: int, frauds: int, first: int = 100) -> list[Any]:
    """Declines whose outcome people found out."""
    both = [
        (decided(n), label(n, int(n - first < frauds), arrives_ms=AT_MS + DAY_MS))
        for n in range(first, first + count)
    ]
    return [record for pair in both for record in pair]


def test_a_declined_payment_without_a_label_is_hidden_and_never_genuine(tmp_path: Path) -> None:
    approved = decided(1, decision="approve", score=0.1)
    built = trained_on(tmp_path, approved, decided(2), decided(3), label(3, 0))
    rows = built.rows
    assert rows.hidden.tolist() == [False, True, False]
    assert (len(rows.training_rows), len(rows.known)) == (2, 2)
    assert rows.training_rows.y.tolist() == [0, 0]
    assert built.hidden.hidden == 1
    evidence = data_evidence(FRAUD, dataclasses.replace(built))
    told = judge_hidden(evidence.hidden)
    assert told.verdict == "passed"
    assert "1 requests that were stopped have no known outcome" in told.reason
    assert "Warning: 1 stopped requests with a known outcome" in told.reason


def test_declines_count_as_fraud_where_known_ones_show_that_they_are(tmp_path: Path) -> None:
    by_rules = decided(3, answered_by="rules", score=None)
    built = trained_on(tmp_path, decided(1), decided(2), by_rules, *confirmed(40, 39))
    assert built.rows.y[:3].tolist() == [1, 1, 0]
    assert built.rows.weight is not None
    assert built.rows.weight[:3].tolist() == [1.0, 1.0, 0.0]  # no threshold declined the third
    found = built.hidden
    assert (found.hidden, found.as_positive, found.known, found.positives) == (3, 2, 40, 39)
    assert found.warning is None
    assert found.precision is not None
    assert 0.8 < found.precision < 0.975


@pytest.mark.parametrize(
    ("known", "why"),
    [
        ([], "no stopped request has a known outcome"),
        (confirmed(40, 30), "or more of those stopped are positive"),
        (confirmed(40, 40), "no stopped request has a known outcome"),
    ],
    ids=["none is known", "too few are fraud", "only frauds are told of, as reports are"],
)
def test_what_is_not_shown_to_be_fraud_is_left_out_with_a_warning(
    tmp_path: Path, known: list[Any], why: str
) -> None:
    built = trained_on(tmp_path, decided(1), decided(2), *known)
    assert built.rows.weight is not None
    assert built.rows.weight[:2].tolist() == [0.0, 0.0]
    assert built.hidden.as_positive == 0
    assert built.hidden.warning is not None
    assert why in built.hidden.warning


def test_those_that_chance_let_through_stand_for_the_others(tmp_path: Path) -> None:
    slice_ = {"propensity": 0.1}
    stopped = [decided(n, payload=slice_) for n in range(1, 4)]
    let_through = [
        decided(n, decision="review", payload=slice_ | {"explored": True}) for n in (5, 6)
    ]
    built = trained_on(tmp_path, *stopped, *let_through, label(5, 1), hidden_outcomes="weight")
    assert built.rows.weight is not None
    assert built.rows.weight.tolist() == [0.0, 0.0, 0.0, 10.0, 10.0]
    assert built.rows.known.y.tolist() == [1, 0]
    assert (built.hidden.hidden, built.hidden.explored, built.hidden.warning) == (3, 2, None)
    left_out = trained_on(tmp_path / "other", *stopped, *let_through, hidden_outcomes="leave_out")
    assert left_out.rows.weight is not None
    assert left_out.rows.weight.tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(("explored", "weight"), [(29, 1.0), (30, 10.0)])
def test_a_few_that_chance_let_through_show_what_declines_are_and_stand_for_none(
    tmp_path: Path, explored: int, weight: float
) -> None:
    slice_ = {"propensity": 0.1}
    let_through = [
        decided(n, decision="review", payload=slice_ | {"explored": True})
        for n in range(100, 100 + explored)
    ]
    frauds = [label(n, 1) for n in range(100, 100 + explored)]
    built = trained_on(tmp_path, decided(1, payload=slice_), *let_through, *frauds)
    assert built.rows.weight is not None
    as_fraud = weight == 1.0
    assert built.rows.weight.tolist() == [float(as_fraud), *[weight] * explored]
    assert built.hidden.as_positive == int(as_fraud)


@given(
    st.lists(
        st.tuples(*[st.booleans()] * 4, st.sampled_from([float("nan"), 0.0, 0.1, 0.5, 1.0])),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from(["leave_out", "pseudo_label", "weight"]),
)
def test_no_treatment_ever_teaches_that_a_hidden_payment_was_genuine(
    drawn: list[Any], hidden_outcomes: str
) -> None:
    columns = [np.array(column) for column in zip(*drawn, strict=True)]
    declined, by_model, labelled, fraud, propensity = columns
    done = Interventions(declined, by_model, labelled, propensity, ~declined & (propensity == 0.5))
    y = (fraud & labelled).astype(np.int8)
    treated = training_labels(y, done, policy(hidden_outcomes, precision=0.0))
    taught = treated.weight > 0
    assert not (done.hidden & taught & (treated.y == 0)).any()
    assert (treated.y[~done.hidden] == y[~done.hidden]).all()
    assert treated.found.hidden == int(done.hidden.sum())
    assert treated.found.as_positive == int((done.hidden & taught).sum())
    assert np.isfinite(treated.weight).all()


def test_a_terminal_is_not_safe_because_its_payments_are_declined(tmp_path: Path) -> None:
    log, offline = MemoryLog(), OfflineTable(tmp_path, FRAUD)
    approved = [decided(n, decision="approve") for n in (4, 5)]
    log.add(*(decided(n) for n in (1, 2, 3)), *approved, label(4, 1))
    offline.project(log)  # type: ignore[arg-type]
    view = next(v for v in VIEWS if v.name == "terminal_stats")
    (row,) = snapshot(offline, view, AT_MS + 7 * DAY_MS).to_pylist()
    assert (row["terminal_count_7d"], row["terminal_risk_7d"]) == (5.0, 0.5)


def test_weights_reach_the_fit_and_the_calibration() -> None:
    built = payments(3, per_day=400)
    rows, names = built.rows, list(built.rows.matrix.names)
    given_: list[Any] = []

    class Training:
        def fit(self, dataset: Dataset, context: Context) -> Any:
            given_.append(dataset.weight)
            return SimpleNamespace(scores=lambda rows: rows[:, 0], onnx=lambda: b"")

    weighted = dataclasses.replace(rows, weight=np.where(rows.y == 1, 10.0, 1.0))
    for case in (rows, dataclasses.replace(rows, weight=np.ones(len(rows))), weighted):
        fit_rows(Training(), case, names, seed=1)
    assert [one is None for one in given_] == [True, True, False]
    raw = np.clip(rows.matrix.x[:, 0].astype(np.float64) / 1e3, 0.01, 0.99)
    raw = np.nan_to_num(raw, nan=0.5)
    repeated = np.repeat(np.arange(len(rows)), np.where(rows.y == 1, 10, 1))
    assert weighted.weight is not None
    expected = fit_calibration(raw[repeated], rows.y[repeated])
    found = fit_calibration(raw, rows.y, weighted.weight)
    assert np.allclose(found.y, expected.y, atol=2e-2)
    assert not np.allclose(found.y, fit_calibration(raw, rows.y).y, atol=2e-2)


def test_a_training_set_without_hidden_outcomes_has_the_digest_that_it_had() -> None:
    rows = payments(3, per_day=50).rows
    hidden = np.zeros(len(rows), bool)
    more = LabelledRows(rows.matrix, rows.y, hidden, np.ones(len(rows)))
    plain = rows_digest(rows.matrix, rows.y)
    assert rows_digest(rows.matrix, rows.y, rows) == plain
    assert rows_digest(rows.matrix, rows.y, more) != plain


def test_hidden_outcomes_and_weights_reach_the_process_that_fits(tmp_path: Path) -> None:
    rows = payments(3, per_day=50).rows
    hidden = np.arange(len(rows)) % 7 == 0
    more = dataclasses.replace(rows, hidden=hidden, weight=np.where(hidden, 0.0, 2.5))
    for case in (rows, more):
        handover._write_rows(case, tmp_path / "rows.parquet")
        found = handover._read_rows(tmp_path / "rows.parquet", {})
        digests = [rows_digest(one.matrix, one.y, one) for one in (case, found)]
        assert digests[0] == digests[1]
        assert len(found.training_rows) == len(case.training_rows)
