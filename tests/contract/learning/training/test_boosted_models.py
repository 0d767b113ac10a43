"""Models of XGBoost, LightGBM, CatBoost and PyTorch, each from its template to a predictor."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from tests.support import class_history, scoring_world
from tests.support.credit_history import DAY_US, history
from tests.support.scoring_world import ScoringWorld
from tests.support.team_folder import command, team_folder
from tests.support.train_libraries import needed

from mlplatform.learning.search.fit_results import Fitted
from mlplatform.learning.training import retrain
from mlplatform.learning.training.candidate import Candidate, fit_rows, parity_rows
from mlplatform.learning.training.folder import load_training
from mlplatform.model.bundle import MODEL_FILE, load_bundle
from mlplatform.operations.actions import fitting, training
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.configuration.settings import load

pytestmark = pytest.mark.slow

PER_DAY, DAYS = 450, 26
METHODS = {
    **dict.fromkeys(("xgboost", "lightgbm", "catboost"), "tree_shap"),
    "torch": "reference_values",
}
"""Library → how its scores are explained."""
FLOAT32_ROUNDING = 2e-6
OF_CLASSES = {
    "xgboost": "XGBClassifier(n_estimators=30, max_depth=3, random_state=context.seed)",
    "lightgbm": "LGBMClassifier(n_estimators=20, num_leaves=5, seed=context.seed, verbosity=-1)",
    "catboost": "CatBoostClassifier(iterations=30, random_seed=context.seed, verbose=False)",
}
"""Library → the classifier that a team writes into the template of classes."""


@dataclass(frozen=True)
class ValidatedCandidate:
    """A validated candidate; `fitted` is what the library makes of the same rows once more."""

    library: str
    candidate: Candidate
    fitted: Fitted
    rows: NDArray[np.float32]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The team's folder, named to this process and to those that it starts."""
    root = tmp_path_factory.mktemp("team")
    with team_folder(root, root / ".home" / "var"):
        yield root


@pytest.fixture(scope="module", params=sorted(METHODS))
def made(request: pytest.FixtureRequest, root: Path) -> ValidatedCandidate:
    """The template as it is written: checked, given a history, fitted as a job, validated."""
    needed(request.param)
    name = f"credit-{request.param}"
    command("new-model", name, "--template", request.param, "--into", str(root))
    assert "nothing is wrong" in command("check-model", str(root / name))
    until_us = time.time_ns() // 1000 // DAY_US * DAY_US
    pq.write_table(history(until_us, per_day=PER_DAY, days=DAYS), root / "history.parquet")
    command("history", "import", name, str(root / "history.parquet"))
    platform = Platform(load(os.environ))
    prepared = training.prepare_training(platform, name, until_us // 1000)
    candidate = fitting.fit(platform, prepared.dataset, prepared.recent, lambda status: None)
    report = training.validate(name, candidate, prepared).report
    assert report.reasons == ()
    assert retrain.version_facts(candidate, report, author="ana").validated
    days = prepared.dataset.fitting.training_rows
    names = [i.name for i in candidate.bundle.inputs]
    fitted = fit_rows(load_training(name), days, names, seed=retrain.SEED)
    rows = parity_rows(prepared.dataset.holdout.matrix.columns(names), seed=1)
    return ValidatedCandidate(request.param, candidate, fitted, rows)


def test_its_candidate_is_the_libraries_model_byte_by_byte_and_explained(
    made: ValidatedCandidate,
) -> None:
    """Fitted in a job and once more here: the same rows and seed give the same file."""
    assert (made.candidate.folder / MODEL_FILE).read_bytes() == made.fitted.onnx()
    assert made.candidate.parity.difference <= FLOAT32_ROUNDING
    assert load_bundle(made.candidate.folder).attribution.method == METHODS[made.library]


def test_a_predictor_scores_as_the_library_does(
    root: Path, made: ValidatedCandidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, rows = made.candidate.bundle, made.rows[:500]
    monkeypatch.setattr(scoring_world, "MODEL", bundle.model)
    world = ScoringWorld(root / ".home", has_snapshots=False)
    try:
        arm = world.serve(1, bundle.digest)
        url = f"http://127.0.0.1:{world.predictor_port(arm)}/v2/models/{arm.service}/infer"
        values = [None if np.isnan(v) else float(v) for v in rows.ravel()]
        tensor = {"name": "inputs", "datatype": "FP32", "shape": list(rows.shape), "data": values}
        token = world.home.predictor_token.read_text()
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx.post(url, json={"inputs": [tensor]}, headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text
        scores = np.array(answer.json()["outputs"][0]["data"])
    finally:
        world.close()
    assert np.abs(scores - made.fitted.scores(rows)).max() <= FLOAT32_ROUNDING


@pytest.mark.parametrize("library", OF_CLASSES)
def test_a_model_of_three_classes_passes_its_gates(root: Path, library: str) -> None:
    needed(library)
    name, made = f"size-by-{library}", OF_CLASSES[library]
    command("new-model", name, "--template", "classes", "--into", str(root))
    path = root / name / "training.py"
    text = path.read_text().replace("authoring.sklearn import", f"authoring.{library} import")
    begun = text.index("    from sklearn")
    text = (
        text[:begun]
        + f"    from {library} import {made.partition('(')[0]}\n\n    classifier = {made}\n"
    )
    path.write_text(text + "    return fitted(classifier, dataset)\n")
    assert "nothing is wrong" in command("check-model", str(root / name))
    until_us = time.time_ns() // 1000 // DAY_US * DAY_US
    pq.write_table(class_history.history(until_us), root / "classes.parquet")
    command("history", "import", name, str(root / "classes.parquet"))
    platform = Platform(load(os.environ))
    prepared = training.prepare_training(platform, name, until_us // 1000)
    candidate = fitting.fit(platform, prepared.dataset, prepared.recent, lambda status: None)
    report = training.validate(name, candidate, prepared).report
    assert report.reasons == ()
    assert candidate.parity.difference <= FLOAT32_ROUNDING
    assert load_bundle(candidate.folder).attribution.method == "reference_values"
