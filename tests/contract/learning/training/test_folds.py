"""Folds in time of a team's model, from its history to its report: what each fit could know."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.support.model_folders import with_sklearn
from tests.support.team_folder import command, team_folder

from mlplatform.learning.training import retrain
from mlplatform.learning.training.candidate import train
from mlplatform.learning.training.evaluate import Runnable, load_runnable
from mlplatform.learning.training.folds import later_rows
from mlplatform.learning.training_sets.join import training_join
from mlplatform.learning.validation.fold_gate import FoldFinding
from mlplatform.learning.validation.statistics import average_precision
from mlplatform.model.folds import folds
from mlplatform.operations.actions import fitting, training
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import GateFailed
from mlplatform.runtime.times import day_text
from mlplatform.runtime.units import DAY_MS

pytestmark = pytest.mark.slow

NAME = "credit-default"
TEAM = Path(__file__).parents[4] / "teams" / "credit" / NAME
CHANGED = {
    "maturity_days: 30 ": "maturity_days: 5 ",
    "window_days: 60 ": "folds: 2\n  window_days: 24 ",
    "holdout_days: 24 ": "holdout_days: 8 ",
    "minimum_rows: 5000": "minimum_rows: 2000",
    "minimum_positives: 500": "minimum_positives: 200",
}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    root = tmp_path_factory.mktemp("folds")
    shutil.copytree(TEAM, root / "teams" / NAME, ignore=shutil.ignore_patterns("__pycache__"))
    with_sklearn(root / "teams" / NAME)
    path = root / "teams" / NAME / "model.yaml"
    text = path.read_text()
    for before, after in CHANGED.items():
        assert before in text
        text = text.replace(before, after)
    path.write_text(text)
    with team_folder(root / "teams", root / "var", NAME):
        command("history", "generate", NAME, "--seed", "3")
        yield Platform(load(os.environ))


@pytest.fixture(scope="module")
def prepared(platform: Platform) -> training.TrainingInputs:
    now_ms = time.time_ns() // 1_000_000 // DAY_MS * DAY_MS
    return training.prepare_training(platform, NAME, now_ms)


@pytest.fixture(scope="module")
def found(platform: Platform, prepared: training.TrainingInputs) -> tuple[FoldFinding, ...]:
    return training.try_folds(platform, NAME, prepared, lambda status: None)


def test_a_fold_is_a_fit_of_what_was_known_then_tested_on_the_days_after(
    platform: Platform,
    prepared: training.TrainingInputs,
    found: tuple[FoldFinding, ...],
    tmp_path: Path,
) -> None:
    folder, offline = training.load_folder(NAME), platform.offline(NAME)
    wanted = folds(folder.definition, prepared.dataset.as_of_ms)
    assert [(f.from_ms, f.to_ms) for f in found] == [(f.as_of_ms, f.to_ms) for f in wanted]
    assert found[-1].to_ms == prepared.dataset.window.to_ms
    fold, told = wanted[0], found[0]
    data = retrain.build_dataset(
        folder, offline, as_of_ms=fold.as_of_ms, champion=None, join=training_join
    )
    assert data.rows.matrix.event_ms.min() >= fold.from_ms
    assert data.rows.matrix.event_ms.max() < fold.as_of_ms - 5 * DAY_MS
    made = train(folder, data, bundles=tmp_path, seed=retrain.SEED)
    rows = later_rows(
        folder, offline, fold, as_of_ms=prepared.dataset.as_of_ms, champion=None, join=training_join
    )
    assert told.rows == len(rows) == len(offline.requests(fold.as_of_ms, fold.to_ms))
    raw = Runnable(made.bundle, made.model).raw(rows)
    expected = average_precision(made.bundle.calibrate_many(raw), rows.y)
    assert told.quality is not None
    assert told.quality.candidate.value == pytest.approx(expected, abs=1e-9)
    assert told.quality.champion is None


def test_its_gate_and_its_steps_are_told_and_its_bundles_are_not_kept(
    platform: Platform, prepared: training.TrainingInputs, found: tuple[FoldFinding, ...]
) -> None:
    bundles = platform.settings.home.bundles
    assert [f for f in bundles.glob("*") if not f.name.startswith(".")] == []
    made = fitting.fit(platform, prepared.dataset, prepared.recent, lambda status: None)
    champion = load_runnable(made.folder)
    judged = training.validate(NAME, made, replace(prepared, champion_version=4), found)
    assert judged.report.champion_version == 4
    gate = next(gate for gate in judged.report.gates if gate.name == "folds")
    assert (gate.verdict, gate.observed) == (
        "passed",
        min(f.quality.candidate.value for f in found if f.quality),
    )
    steps = judged.record.steps
    assert len(steps) == 2
    assert all(s["folds/auc_low"] < s["folds/auc"] < s["folds/auc_high"] for s in steps)
    # The champion was fitted to the days before these alone: all of them can be compared.
    beside = training.TrainingInputs(prepared.dataset, champion, prepared.recent)
    again = training.try_folds(platform, NAME, beside, lambda status: None)
    assert [f.is_unseen for f in again] == [True, True]
    assert all(f.quality and f.quality.difference for f in again)
    assert np.isclose(*[f[0].quality.candidate.value for f in (found, again)])  # type: ignore[union-attr]


def test_folds_that_the_history_is_too_short_for_are_no_pass(
    platform: Platform, prepared: training.TrainingInputs
) -> None:
    earlier_ms = prepared.dataset.as_of_ms - 40 * DAY_MS
    short = training.TrainingInputs(replace(prepared.dataset, as_of_ms=earlier_ms), None, None)
    found = training.try_folds(platform, NAME, short, lambda status: None)
    assert all("lower training.folds" in fold.problem for fold in found)


def test_folds_of_days_without_requests_are_no_pass(
    platform: Platform, prepared: training.TrainingInputs
) -> None:
    later_ms = prepared.dataset.as_of_ms + 60 * DAY_MS
    silent = training.TrainingInputs(replace(prepared.dataset, as_of_ms=later_ms), None, None)
    found = training.try_folds(platform, NAME, silent, lambda status: None)
    assert all("no request has matured" in fold.problem for fold in found)


def test_a_moment_before_which_little_is_known_is_refused_before_a_fit(
    platform: Platform, prepared: training.TrainingInputs
) -> None:
    training.check_holds_enough(platform, NAME, prepared)
    first = platform.offline(NAME).requests().aggregate("epoch_ms(min(event_time))").fetchall()
    mature = platform.definition(NAME).label.maturity_days
    early_ms = (first[0][0] // DAY_MS + mature + 2) * DAY_MS
    early = training.prepare_training(platform, NAME, early_ms)
    begins = f"requests begin {day_text(first[0][0])}"
    told = f"{len(early.dataset.rows)} requests; wanted: 2000 .*; {begins}"
    with pytest.raises(GateFailed, match=rf"{told};.* train as of \S+ or later \(--as-of\)"):
        training.check_holds_enough(platform, NAME, early)
