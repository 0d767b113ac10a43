"""A ready ONNX file from elsewhere, from its template to an answer; nothing is trained here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pyarrow.parquet as pq
import pytest
from tests.support.foreign_onnx import CHANNELS, fitted, golden_rows, requests, skl2onnx_classifier
from tests.support.scoring_world import ScoringWorld, wait_for
from tests.support.team_folder import command, team_folder

from mlplatform.commands.terminal.explanations import explain_again
from mlplatform.learning.registry.mlflow import MlflowRegistry
from mlplatform.learning.registry.pyfunc import BundleModel
from mlplatform.learning.registry.versions import Rejection, Version
from mlplatform.learning.training import retrain
from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.model.bundle import load_bundle
from mlplatform.operations.actions import training
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import InputInvalid, Unavailable
from mlplatform.runtime.units import DAY_MS
from support.ports import free_port

pytestmark = pytest.mark.slow

NAME, TOKEN = "limits", "the token of this test"
PER_DAY, DAYS = 300, 26


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The team's folder, named to this process and to those that it starts."""
    root = tmp_path_factory.mktemp("team")
    with team_folder(root, root / ".home" / "var", NAME):
        yield root


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowRegistry]:
    """MLflow as the platform starts it; it starts while the model is taken in."""
    home, port = tmp_path_factory.mktemp("mlflow"), free_port()
    environment = {
        **os.environ,
        "MLPLATFORM_HOME": str(home),
        "MLPLATFORM_MLFLOW_PORT": str(port),
    }
    made = load(environment).home
    made.create()
    made.mlflow_token.write_text(TOKEN)
    server = subprocess.Popen(
        [sys.executable, "-m", "mlplatform.process", "mlflow"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield MlflowRegistry(f"http://127.0.0.1:{port}", TOKEN)
    server.terminate()
    server.wait(20)


@pytest.fixture(scope="module")
def version(root: Path, registry: MlflowRegistry) -> Version:
    """Written by the template, completed, checked, judged by history and registered."""
    (root / "given.onnx").write_bytes(skl2onnx_classifier())
    given = ("--template", "onnx", "--file", str(root / "given.onnx"), "--into", str(root))
    assert "CHANGE" in command("new-model", NAME, *given)
    model_yaml = root / NAME / "model.yaml"
    words = f"channel: [{', '.join(CHANNELS)}]"
    model_yaml.write_text(model_yaml.read_text().replace("channel: []", words))
    (root / NAME / "golden.json").write_text(json.dumps(golden_rows()))
    assert "nothing is wrong" in command("check-model", str(root / NAME))
    until_ms = time.time_ns() // 1_000_000 // DAY_MS * DAY_MS
    history = root / "history.parquet"
    pq.write_table(requests(until_ms, days=DAYS, per_day=PER_DAY), history)
    imported = command("history", "import", NAME, str(history))
    assert str(PER_DAY * DAYS) in imported
    assert f"next: mlplatform validate {NAME} " in imported
    platform = Platform(load(os.environ))
    prepared = training.prepare_training(platform, NAME, until_ms)
    bad = root / "bad.onnx"
    bad.write_bytes(skl2onnx_classifier().replace(b"visits", b"visit5"))
    with pytest.raises(InputInvalid, match="visit5"):
        training.bring(platform, NAME, bad, "ana", prepared)
    assert not platform.settings.home.bundles.exists() or not any(
        platform.settings.home.bundles.iterdir()
    )
    candidate = training.bring(platform, NAME, root / NAME / "model.onnx", "ana", prepared)
    report = training.judge_brought(platform, NAME, "ana", candidate, prepared).report
    assert report.reasons == ()
    registered = wait_for(lambda: _registered(candidate, report, registry), within_s=60)
    assert isinstance(registered, Version)
    return registered


def _registered(
    candidate: Candidate, report: GateReport, registry: MlflowRegistry
) -> Version | Rejection | None:
    try:
        return retrain.register(candidate, report, registry, author="ana")
    except Unavailable:
        return None  # MLflow is not up yet


def test_it_is_fetched_promoted_scored_and_explained(
    root: Path, registry: MlflowRegistry, version: Version
) -> None:
    world = ScoringWorld(root / ".home", has_snapshots=False)
    try:
        fetched = registry.fetch(NAME, version.version, root / "fetched")
        assert load_bundle(fetched).digest == version.digest
        arm = world.serve(version.version, version.digest)
        world.promote(arm)
        world.start_gateway()
        asked = {"customer_id": 7, "channel": "phone", "amount": 9000.0, "visits": 0}

        def score(**changed: object) -> httpx.Response:
            body = asked | {"event_time": time.time_ns() // 1_000_000} | changed
            url = f"{world.url}/api/v1/models/{NAME}/score"
            return httpx.post(url, json=body, headers=world.headers, timeout=10)

        def scored(**changed: object) -> dict[str, Any]:
            """By the model itself: on a busy machine the deadline may pass."""
            answer: dict[str, Any] = wait_for(
                lambda: answer if _by_champion(answer := score(**changed).json()) else None
            )
            return answer

        risky, safe = scored(), scored(channel="web", amount=100.0, visits=9)
        assert (risky["decision"], safe["decision"]) == ("refuse", "grant")
        assert "CHANNEL" in {reason["code"] for reason in risky["reasons"]}
        strange = [scored(channel=text)["score"] for text in ("pigeon", "\x1b[2J", "p\u0430")]
        assert len(set(strange)) == 1
        frame = pd.DataFrame([asked, asked | {"channel": "pigeon"}])
        by_mlflow = BundleModel(fetched).predict(frame)
        assert by_mlflow["score"].tolist() == [risky["score"], strange[0]]
        assert by_mlflow["decision"].tolist()[0] == "refuse"
        assert score(channel="x" * 51).status_code == 422
        bundle = load_bundle(world.home.bundles / version.digest)
        expected = fitted().predict_proba(pd.DataFrame([asked])[["channel", "amount", "visits"]])
        assert risky["score"] == pytest.approx(bundle.calibrate(expected[0, 1]), abs=1e-4)
        found = [r for r in world.records("decision") if r["decision_id"] == risky["decision_id"]]
        rows_of_log = [{k: v for k, v in row.items() if v is not None} for row in found]
        (told,) = explain_again(rows_of_log, world.home.bundles)
        assert told.differences == ()
        assert ("channel", "phone") in {(c.input, c.value) for c in told.causes}
    finally:
        world.close()


def _by_champion(answer: dict[str, Any]) -> bool:
    return answer.get("answered_by") == "champion"
