"""A folder's simpler model is fitted to what its model learns from, and measured on the same
rows."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.support.model_folders import copied
from tests.support.plain_fit import plain_dataset
from tests.support.team_folder import command, team_folder
from tests.support.training_rows import payments

from mlplatform.authoring import Context, Dataset
from mlplatform.learning.search.context import last_fit
from mlplatform.learning.search.scores import checked_scores
from mlplatform.learning.training import handover, retrain
from mlplatform.learning.training.folder import call_baseline, load_folder
from mlplatform.learning.validation.measures import RANKING
from mlplatform.learning.validation.report import to_dict
from mlplatform.model.folders import load_definition
from mlplatform.runtime.errors import ConfigUnusable, Corrupt, InputInvalid

DATASET = plain_dataset(np.zeros((4, 2), np.float32), np.zeros(4, np.int8))
CONTEXT = last_fit({}, 2, seed=1)
BESIDE = """

import numpy as np


class Amount:
    def scores(self, x):
        return np.nan_to_num(x[:, 0]) / (1 + np.nan_to_num(x[:, 0]))


def baseline(dataset, context):
    dataset.x[:], dataset.y[:] = 0, 0  # its rows are copies
    return Amount()
"""


def module(baseline: Any) -> Any:
    return SimpleNamespace(fit=None, baseline=baseline)


def test_a_version_is_measured_beside_it_from_the_job_to_mlflow(tmp_path: Path) -> None:
    folder = copied(tmp_path / "models", "fraud")
    with (folder / "training.py").open("a") as file:
        file.write(BESIDE)
    with team_folder(tmp_path / "models", tmp_path / "home"):
        assert "nothing is wrong" in command("check-model", str(folder))
        read, data = load_folder("fraud"), payments(1, per_day=400)
        made = retrain.fit(read, data, bundles=tmp_path / "bundles")
        report = retrain.validate(read, made, data, champion=None)
        record = retrain.describe(read, made, data, report, champion=None)
    assert [m.name for m in made.baseline] == list(RANKING)
    measured = {m.name: m.candidate for m in report.measures}
    assert {m.name: m.candidate for m in made.baseline} == {n: measured[n] for n in RANKING}
    assert report.baseline == made.baseline
    assert to_dict(report)["baseline"][0]["champion"]["value"] > 0
    assert record.metrics["baseline/auc"] != record.metrics["measures/auc"]
    order = handover.order(data, None, code="1", folder=read.digest, seed=retrain.SEED)
    result = handover.result(order, made)
    again = msgspec.json.decode(json.dumps(result), type=handover.Result)
    assert again.baseline == made.baseline
    result["baseline"][0]["name"] = "nonsense"
    written = tmp_path / "written"
    written.mkdir()
    (written / handover.RESULT).write_text(json.dumps(result))
    with pytest.raises(
        Corrupt, match="a measure has the name 'nonsense'; wanted: one of average_precision,"
    ):
        handover.take(written, order, tmp_path / "others")


def test_it_learns_with_the_weights_that_the_model_learns_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`training.class_weight` is for both: otherwise the comparison would be of the weights too."""
    seen: list[tuple[Any, Any]] = []

    def learn(dataset: Dataset, context: Context) -> Any:
        seen.append((dataset.y, dataset.weight))
        return SimpleNamespace(scores=lambda x: np.zeros(len(x)))

    monkeypatch.setattr(retrain, "load_training", lambda name: module(learn))
    retrain.fit(load_folder("fraud"), payments(1, per_day=400), bundles=tmp_path)
    [(labels, weights)] = seen
    rare = np.sqrt((labels == 0).sum() / (labels == 1).sum())
    assert weights == pytest.approx(np.where(labels == 1, rare, 1.0))


def test_a_folder_without_one_has_no_such_measures(tmp_path: Path) -> None:
    made = retrain.fit(load_folder("fraud"), payments(1, per_day=400), bundles=tmp_path)
    assert made.baseline == ()


def test_one_that_takes_or_gives_something_else_is_told() -> None:
    def of_two(x: Any, y: Any) -> Any:
        raise AssertionError("it is not called")

    with pytest.raises(ConfigUnusable) as error:
        call_baseline(module(of_two), DATASET, CONTEXT)
    assert "training.py: baseline: it is baseline(x: 'Any', y: 'Any')" in str(error.value)
    assert "wanted: baseline(dataset, context): x, y," in str(error.value)
    with pytest.raises(ConfigUnusable, match="it gives NoneType, which has no scores"):
        call_baseline(module(lambda dataset, context: None), DATASET, CONTEXT)


@pytest.mark.parametrize("scores", [np.zeros((4, 2)), np.full(4, 2.0), np.full(4, np.nan)])
def test_scores_that_are_none_of_two_outcomes_are_told(scores: Any) -> None:
    told = r"training\.py: baseline: .*wanted: 4 numbers of 0 to 1"
    with pytest.raises(InputInvalid, match=told):
        checked_scores("training.py: baseline", scores, 4, load_definition("fraud"))
