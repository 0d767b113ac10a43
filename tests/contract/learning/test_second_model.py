"""A model from a folder outside of the repository, from its template to an answer."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support import scoring_world
from tests.support.scoring_world import ScoringWorld, wait_for
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.learning.training import retrain
from mlplatform.learning.training.candidate import Candidate
from mlplatform.model.bundle import load_bundle
from mlplatform.model.folders import folder_digest
from mlplatform.operations import wiring
from mlplatform.operations.actions import fitting, training
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.configuration.settings import load

pytestmark = pytest.mark.slow

NAME = "credit_default"
DAY_US = 86_400_000_000
PER_DAY, DAYS = 700, 30


def history(until_us: int) -> pa.Table:
    """Requests of whom the poor and those who ask for much default more often."""
    random = np.random.default_rng(5)
    count = PER_DAY * DAYS
    event_us = np.sort(random.integers(until_us - DAYS * DAY_US, until_us, count))
    income, amount = random.lognormal(8, 0.5, count), random.lognormal(8, 0.8, count)
    odds = -2.6 + 1.6 * np.log(amount / income)
    label = (random.random(count) < 1 / (1 + np.exp(-odds))).astype(np.int8)
    return pa.table(
        {
            "request_id": np.arange(count),
            "event_time": pa.array(event_us, pa.timestamp("us")),
            "customer_id": random.integers(0, 2_000, count),
            "amount": np.round(amount, 2),
            "income": np.round(income, 2),
            "label": label,
            "label_time": pa.array(event_us + 3 * DAY_US, pa.timestamp("us")),
        }
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The team's folder, named to this process and to those that it starts."""
    root = tmp_path_factory.mktemp("team")
    patch = pytest.MonkeyPatch()
    patch.setenv("MLPLATFORM_MODELS", str(root))
    patch.setenv("MLPLATFORM_HOME", str(root / ".home" / "var"))
    patch.setenv("MLPLATFORM_JOB_PROCESSES", "0")
    patch.setattr(scoring_world, "MODEL", NAME)
    wiring.settings.cache_clear()
    wiring.platform.cache_clear()
    yield root
    patch.undo()
    wiring.settings.cache_clear()
    wiring.platform.cache_clear()


def command(*words: str) -> str:
    done = CliRunner().invoke(commands.app, words)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def candidate(root: Path) -> Candidate:
    """Written from the template, checked, its history taken in, fitted as a job and validated."""
    assert "CHANGE" in command("new-model", NAME, "--into", str(root))
    assert "nothing is wrong" in command("check-model", str(root / NAME))
    until_us = time.time_ns() // 1000 // DAY_US * DAY_US
    pq.write_table(history(until_us), root / "history.parquet")
    assert str(PER_DAY * DAYS) in command("history", "import", NAME, str(root / "history.parquet"))
    platform = Platform(load(os.environ))
    prepared = training.prepare_training(platform, NAME, until_us // 1000)
    made = fitting.fit(platform, prepared.dataset, prepared.recent, lambda status: None)
    report = training.validate(NAME, made, prepared)
    assert report.reasons == ()
    assert retrain.version_facts(made, report, author="ana").validated
    return made


def test_it_is_fitted_by_its_own_folder_and_says_so(root: Path, candidate: Candidate) -> None:
    bundle = load_bundle(candidate.folder)
    assert bundle.model == NAME
    assert bundle.folder == folder_digest(root / NAME)


def test_a_gateway_and_a_predictor_serve_it_as_they_serve_all(
    root: Path, candidate: Candidate
) -> None:
    world = ScoringWorld(root / ".home", has_snapshots=False)
    try:
        arm = world.serve(1, candidate.bundle.digest)
        assert arm.service.startswith("credit-default-v1-")
        world.promote(arm)
        world.start_gateway()
        asked = {"customer_id": 7, "amount": 9000.0, "income": 1000.0}

        def score(**changed: object) -> httpx.Response:
            body = asked | {"event_time": time.time_ns() // 1_000_000} | changed
            url = f"{world.url}/api/v1/models/{NAME}/score"
            return httpx.post(url, json=body, headers=world.headers, timeout=10)

        wait_for(lambda: score().json().get("answered_by") == "champion")
        risky, safe = score().json(), score(amount=100.0).json()
        assert risky["decision"] == "decline"
        assert safe["decision"] == "approve"
        assert {r["code"] for r in risky["reasons"]} <= {"AMOUNT", "INCOME", "AMOUNT_TO_INCOME"}
        assert score(income=-1.0).status_code == 422
    finally:
        world.close()
