"""The model of merchants' categories of `teams/`, by PyTorch: from a made-up history to a passed
report."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from tests.support.team_folder import command, team_folder
from tests.support.train_libraries import needed

from mlplatform.learning.registry.pyfunc import BundleModel
from mlplatform.learning.training import retrain
from mlplatform.learning.training.candidate import fit_rows
from mlplatform.learning.training.folder import load_training
from mlplatform.model.bundle import MODEL_FILE
from mlplatform.operations.actions import batch, fitting, training
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.units import DAY_MS

pytestmark = pytest.mark.slow

NAME = "merchant-category"
MODELS = Path(__file__).parents[4] / "teams" / "payments-data"
FLOAT32_ROUNDING = 2e-6


def test_it_is_generated_fitted_by_torch_validated_loaded_and_scores_a_batch(
    tmp_path: Path,
) -> None:
    needed("torch")
    with team_folder(MODELS, tmp_path / "var", NAME):
        command("history", "generate", NAME, "--seed", "3")
        platform = Platform(load(os.environ))
        now_ms = time.time_ns() // 1_000_000 // DAY_MS * DAY_MS
        prepared = training.prepare_training(platform, NAME, now_ms)
        made = fitting.fit(platform, prepared.dataset, prepared.recent, lambda status: None)
        folder = training.load_folder(NAME)
        report = retrain.validate(
            folder, made, prepared.dataset, champion=None, recent=prepared.recent
        )
        assert report.reasons == ()
        assert made.parity.difference <= FLOAT32_ROUNDING
        values = {m.name: m.candidate.value for m in report.measures}
        assert values["accuracy"] > 0.88
        assert values["top_3_accuracy"] > values["accuracy"]
        beside = {m.name: m for m in report.baseline}
        assert beside["accuracy"].candidate == next(
            m.candidate for m in report.measures if m.name == "accuracy"
        )
        assert beside["accuracy"].champion is not None
        assert 0.85 < beside["accuracy"].champion.value < 1
        days, names = prepared.dataset.fitting.training_rows, [i.name for i in made.bundle.inputs]
        again = fit_rows(
            load_training(NAME), days, names, seed=retrain.SEED, classes=folder.definition.classes
        )
        assert (made.folder / MODEL_FILE).read_bytes() == again.onnx()
        frame = pd.DataFrame({"words": TEXTS, "letters": TEXTS}).assign(
            amount=[60.0, 15.0, np.nan, 4.0], hour=[9.0, 23.0, 12.0, np.nan]
        )
        answers = BundleModel(made.folder).predict(frame)
        assert answers["decision"].tolist()[:2] == ["fuel", "taxi"]
        assert answers["score"][3] < answers["score"][0]
        to_ms = prepared.dataset.window.to_ms
        asked = batch.Batch(
            "a-day", NAME, 1, made.bundle.digest, to_ms - DAY_MS, to_ms, deadline_s=120
        )
        written = batch.score(platform, asked, batch.prepare(platform, asked), lambda status: None)
        rows = pq.read_table(next(iter(sorted(written.glob("*.parquet")))))
        assert set(rows.column("decision").to_pylist()) <= set(folder.definition.classes)
        assert rows.column("score").to_numpy().min() > 1 / 20 - 1e-6


TEXTS = ["PETRAX TANKSTELLE 9999", "TAXI NOBODY-KNOWS", "", "4711"]


def test_nothing_is_wrong_with_its_folder() -> None:
    needed("torch")
    assert "nothing is wrong" in command("check-model", str(MODELS / NAME))
