"""A folder that declares a search: from its check to a bundle and to what people see of it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.model_folders import copied
from tests.support.team_folder import team_folder
from tests.support.train_libraries import needed
from tests.support.training_rows import payments

from mlplatform.commands.authoring.check_model import problems
from mlplatform.learning.training import handover, retrain
from mlplatform.learning.training.candidate import Candidate, train
from mlplatform.learning.training.folder import load_folder
from mlplatform.operations.compute import fitting
from mlplatform.runtime.canonical import canonical_json
from mlplatform.runtime.code_version import code_version
from mlplatform.runtime.errors import ConfigInvalid, Corrupt

NAME, SEED = "searched", 7
SEARCH = """
  search:
    space:
      max_depth: {type: int, low: 1, high: 4}
      learning_rate: {type: float, low: 0.05, high: 0.5, log: true}
    trials: 11
    budget_s: 1000
    folds: 2
    pruning: none
"""
TRAINING = '''"""Boosted trees whose depth and rate are searched."""

import os

from mlplatform.authoring.sklearn import fitted


def fit(dataset, context):
    from sklearn.ensemble import HistGradientBoostingClassifier

    with open(os.environ["FITS"], "a") as file:
        file.write("fit\\n")
    classifier = HistGradientBoostingClassifier(
        random_state=context.seed, max_iter=10, early_stopping=False, **context.parameters
    )
    model = fitted(classifier, dataset)
    context.report(0, model.scores(context.rows)) if len(context.rows) else None
    return model
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    needed("optuna")
    root = tmp_path_factory.mktemp("models")
    made = copied(root, NAME)
    text = (made / "model.yaml").read_text()
    assert "\ntraining:\n" in text
    (made / "model.yaml").write_text(text.replace("\ntraining:\n", f"\ntraining:{SEARCH}", 1))
    (made / "training.py").write_text(TRAINING)
    with team_folder(root, tmp_path_factory.mktemp("home")), pytest.MonkeyPatch.context() as patch:
        patch.setenv("FITS", str(tmp_path_factory.mktemp("fits") / "fits"))
        yield made


DATA = replace(payments(1, per_day=400), model=NAME)


def made(bundles: Path, studies: Path | None = None) -> Candidate:
    return train(load_folder(NAME), DATA, bundles=bundles, seed=SEED, studies=studies)


@pytest.fixture(scope="module")
def candidate(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    return made(tmp_path_factory.mktemp("bundles"))


def fits() -> int:
    return len(Path(os.environ["FITS"]).read_text().splitlines())


def test_a_folder_with_a_search_is_well(folder: Path) -> None:
    assert list(problems(folder)) == []


def test_a_fit_that_takes_no_context_is_told(folder: Path) -> None:
    (folder / "training.py").write_text(TRAINING.replace(", context)", ")"))
    try:
        (told,) = problems(folder)
    finally:
        (folder / "training.py").write_text(TRAINING)
    assert "training.py: line 8: fit is fit(dataset); wanted: fit(dataset, context):" in told


def test_a_search_without_optuna_names_the_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.startswith("mlplatform.learning.search.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigInvalid, match=r"training.search.* 'optuna'.*`make train-search`"):
        made(tmp_path)


def test_the_chosen_parameters_are_those_of_the_model(candidate: Candidate) -> None:
    assert candidate.search is not None
    assert len(candidate.search.trials) == 11
    for name, value in candidate.search.best.parameters.items():
        assert candidate.parameters[name] == value


def test_a_rerun_makes_no_trial_again_and_the_same_bytes(
    candidate: Candidate, tmp_path: Path
) -> None:
    first = made(tmp_path / "bundles", tmp_path / "studies")
    before = fits()
    again = made(tmp_path / "others", tmp_path / "studies")
    assert fits() - before == 1
    assert first.bundle.digest == again.bundle.digest == candidate.bundle.digest
    for file in first.folder.iterdir():
        assert file.read_bytes() == (again.folder / file.name).read_bytes()


def test_report_and_run_have_all_trials(candidate: Candidate) -> None:
    folder = load_folder(NAME)
    report = retrain.validate(folder, candidate, DATA, champion=None)
    record = retrain.describe(folder, candidate, DATA, report, champion=None)
    table = json.loads(record.artifacts["search/trials.json"])
    assert table["columns"][:3] == ["trial", "state", "average_precision"]
    assert [row[0] for row in table["data"]] == [*range(11)]
    assert record.artifacts["search/importances.png"].startswith(b"\x89PNG")
    assert record.metrics["search/done"] == 11
    assert candidate.search is not None
    chosen = candidate.search.best.parameters["max_depth"]
    assert record.parameters["fit.max_depth"] == chosen
    assert "11 of 11 trials" in record.description


def test_a_job_that_was_killed_leaves_its_trials_to_the_next_one(
    folder: Path, tmp_path: Path
) -> None:
    """The inputs of a fit stay until it has succeeded, and its trials lie beside them."""
    shared, item = tmp_path / "in" / "shared", tmp_path / "in" / "items"
    shared.mkdir(parents=True)
    item.mkdir()
    digest = load_folder(NAME).digest
    asked = handover.order(DATA, None, code=code_version(), folder=digest, seed=SEED)
    handover.write(asked, DATA, None, shared, item)

    def job(output: str) -> dict[str, Any]:
        (tmp_path / output).mkdir()
        done = fitting.fit(shared, item / handover.REQUESTS, tmp_path / output, NAME)
        (tmp_path / output / handover.RESULT).write_bytes(canonical_json(done))
        return dict(done)

    first, before = job("killed"), fits()
    second = job("next")
    assert fits() - before == 1
    assert first == second
    taken = handover.take(tmp_path / "next", asked, tmp_path / "bundles")
    taken.model.close()
    assert taken.search is not None
    assert [trial.number for trial in taken.search.trials] == [*range(11)]
    for trial in second["search"]["trials"]:
        trial["value"] = None
    (tmp_path / "next" / handover.RESULT).write_bytes(canonical_json(second))
    with pytest.raises(Corrupt, match=r"no trial of its search is complete"):
        handover.take(tmp_path / "next", asked, tmp_path / "bundles")
