"""Rare classes weigh in a fit as model.yaml declares, and a run records by how much."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import numpy as np
import pytest

from mlplatform.authoring import Context, Dataset
from mlplatform.learning.training import candidate
from mlplatform.learning.training.candidate import train
from mlplatform.learning.training.folder import load_folder
from mlplatform.learning.training_sets.class_weights import (
    class_weights,
    recorded_weights,
    weighted,
)
from mlplatform.learning.training_sets.dataset import LabelledRows
from support.training_rows import payments

ROWS = payments(3, per_day=100).rows


def labelled(y: list[int], weight: Any = None) -> LabelledRows:
    rows = ROWS.rows(slice(0, len(y)))
    return dataclasses.replace(rows, y=np.array(y, np.int8), weight=weight)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("none", [1, 1, 1]), ("square_root", [1, 2, 4]), ("balanced", [1, 4, 16])],
)
def test_a_class_weighs_by_how_much_rarer_it_is_than_the_most_frequent(
    policy: Any, expected: list[float]
) -> None:
    rows = labelled([0] * 32 + [1] * 8 + [2] * 2)
    assert list(class_weights(rows, policy).values()) == expected


def test_weights_of_classes_multiply_those_that_rows_have() -> None:
    rows = labelled([0, 0, 0, 0, 1], np.array([1.0, 2.0, 1.0, 1.0, 3.0]))
    found = weighted(rows, "balanced").weight
    assert found is not None
    assert found.tolist() == [1, 2, 1, 1, 12]
    assert weighted(rows, "none") is rows


def test_what_a_fit_gets_and_what_a_run_records_are_the_declared_weights(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, data = load_folder("fraud"), payments(1)
    seen: list[Any] = []
    call_fit = candidate.call_fit

    def fitted(training: Any, dataset: Dataset, context: Context) -> Any:
        seen.append(dataset.weight)
        return call_fit(training, dataset, context)

    monkeypatch.setattr(candidate, "call_fit", fitted)
    y = data.fitting.y
    ratio = float(np.sqrt((y == 0).sum() / (y == 1).sum()))
    for policy, weight in (("square_root", ratio), ("none", None)):
        training = msgspec.structs.replace(folder.definition.training, class_weight=policy)
        definition = msgspec.structs.replace(folder.definition, training=training)
        changed = dataclasses.replace(folder, definition=definition)
        made = train(changed, data, bundles=tmp_path, seed=7)
        recorded = made.parameters.get("class_weight.1")
        if weight is None:
            assert (seen.pop(), recorded) == (None, None)
        else:
            assert np.allclose(seen.pop(), np.where(y == 1, weight, 1.0))
            assert recorded == pytest.approx(weight, rel=1e-5)


def test_the_shipped_fraud_model_declares_what_its_training_did_itself() -> None:
    training = load_folder("fraud").definition.training
    assert training.class_weight == "square_root"
    assert recorded_weights(labelled([0] * 9 + [1]), "square_root") == {
        "class_weight.0": 1.0, "class_weight.1": 3.0,
    }  # fmt: skip
