"""A model from a folder outside of the repository, from its template to an answer."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
from tests.support.credit_history import DAY_US, history
from tests.support.scoring_world import ScoringWorld, wait_for
from tests.support.team_folder import command, team_folder
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.learning.training import retrain
from mlplatform.learning.training.candidate import Candidate
from mlplatform.model.bundle import load_bundle
from mlplatform.model.folders import folder_digest
from mlplatform.model.policies.decision_scale import DecisionScale
from mlplatform.operations.actions import fitting, training
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import JobFailed

pytestmark = pytest.mark.slow

NAME = "credit_default"
PER_DAY, DAYS = 700, 30
CHANGED = {
    """    shares: {refer: 0.05, refuse: 0.10}
""": """    currency: EUR
    costs:
      grant: {negative: -100, positive: 200}
      refer: {negative: -60, positive: 60}
      refuse: {negative: 0, positive: 0}
  capacity: 0.3
  limit: {shares: {refuse: 0.45}, alert_share: 0.5, once_per_s: 60, decisions_per_false_stop: 1000}
exploration:
  {share: 0.5, decision: refer, amount: amount, maximum_amount: 1000000, maximum_sum: 1000000000}
""",
    "  alert_share_maximum: 0.30": "  alert_share_maximum: 0.60",
    "deadline_ms: 50\n": "deadline_ms: 2000\n",
}
"""What its team writes in the template's model.yaml: thresholds by cost, a limit, exploration."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The team's folder, named to this process and to those that it starts."""
    root = tmp_path_factory.mktemp("team")
    with team_folder(root, root / ".home" / "var", NAME):
        yield root


@pytest.fixture(scope="module")
def candidate(root: Path) -> Candidate:
    """Written from the template, checked, its history taken in, fitted as a job and validated."""
    assert "CHANGE" in command("new-model", NAME, "--into", str(root))
    path = root / NAME / "model.yaml"
    text = path.read_text()
    for before, after in CHANGED.items():
        assert before in text
        text = text.replace(before, after)
    path.write_text(text)
    assert "nothing is wrong" in command("check-model", str(root / NAME))
    until_us = time.time_ns() // 1000 // DAY_US * DAY_US
    pq.write_table(history(until_us, per_day=PER_DAY, days=DAYS), root / "history.parquet")
    assert str(PER_DAY * DAYS) in command("history", "import", NAME, str(root / "history.parquet"))
    platform = Platform(load(os.environ))
    prepared = training.prepare_training(platform, NAME, until_us // 1000)
    made = fitting.fit(platform, prepared.dataset, prepared.recent, lambda status: None)
    report = training.validate(NAME, made, prepared).report
    assert report.reasons == ()
    assert retrain.version_facts(made, report, author="ana").validated
    return made


def test_it_is_fitted_by_its_own_folder_and_says_so(root: Path, candidate: Candidate) -> None:
    bundle = load_bundle(candidate.folder)
    assert bundle.model == NAME
    assert bundle.folder == folder_digest(root / NAME)


def test_its_bundle_decides_by_its_own_outcomes_where_they_cost_least(
    root: Path, candidate: Candidate
) -> None:
    bundle = load_bundle(candidate.folder)
    assert bundle.scale == DecisionScale(("grant", "refer", "refuse"), ("refer", "refuse"))
    assert 0.05 < bundle.thresholds["refer"] <= bundle.thresholds["refuse"] < 0.9
    assert bundle.small_model is not None
    assert set(bundle.small_model.thresholds) == {"refer", "refuse"}


@pytest.fixture(scope="module")
def world(root: Path, candidate: Candidate) -> Iterator[ScoringWorld]:
    world = ScoringWorld(root / ".home", has_snapshots=False)
    try:
        arm = world.serve(1, candidate.bundle.digest)
        assert arm.service.startswith("credit-default-v1-")
        world.promote(arm)
        world.start_gateway()
        wait_for(lambda: score(world).json().get("answered_by") == "champion")
        yield world
    finally:
        world.close()


def score(world: ScoringWorld, **changed: object) -> httpx.Response:
    asked = {"customer_id": 7, "amount": 100.0, "income": 1000.0}
    body = asked | {"event_time": time.time_ns() // 1_000_000} | changed
    url = f"{world.url}/api/v1/models/{NAME}/score"
    return httpx.post(url, json=body, headers=world.headers, timeout=10)


def test_a_gateway_and_a_predictor_serve_it_as_they_serve_all(world: ScoringWorld) -> None:
    safe, risky = score(world).json(), score(world, amount=9000.0).json()
    assert (safe["decision"], safe["reasons"]) == ("grant", [])
    assert risky["decision"] in ("refer", "refuse"), "some of those to be refused are explored"
    assert risky["reasons"][0]["code"] in {"AMOUNT", "INCOME", "AMOUNT_TO_INCOME"}
    assert score(world, income=-1.0).status_code == 422


def test_its_alerts_are_limited_explored_and_explained(world: ScoringWorld) -> None:
    """Sixteen customers refused in a row prove more than the limit; half of them are explored."""
    for customer in range(100, 140):
        assert score(world, customer_id=customer, amount=9000.0).status_code == 200
    url = f"{world.url}/api/v1/models/{NAME}"
    state = httpx.get(url, headers=world.headers, timeout=10).json()
    assert state["champion"]["stopped"].startswith("decided refuse for 16 of 16 customers")
    records = [r for r in world.records("decision") if r["payload"]["request"]["amount"] == 9000.0]
    by_model = [r for r in records if r["answered_by"] == "champion"]
    explored = [r for r in by_model if r["payload"].get("explored_instead_of") == "refuse"]
    refused = [r for r in by_model if "explored_instead_of" not in r["payload"]]
    others = [r for r in records if r["degraded_reason"] == "volume_limit"]
    assert {r["decision"] for r in explored} == {"refer"}
    assert {r["decision"] for r in refused} == {"refuse"}
    assert {r["answered_by"] for r in others} == {"small_model"}
    for record in (explored[0], refused[0], others[0]):
        found = json.loads(command("log", "explain", record["decision_id"], "--json"))
        (explanation,) = found["explanations"]
        assert found["equal"]
        assert explanation["again"]["decision"] in ("refer", "refuse")
        assert explanation["again"]["reasons"] != []


def test_what_if_it_refused_less(world: ScoringWorld) -> None:
    begins = ("--from", "refer=0.99", "--from", "refuse=1.0")
    found = json.loads(command("replay", NAME, *begins, "--days", "1", "--json"))
    decisions = found["what_if"]["decisions"]
    assert list(decisions) == ["grant", "refer", "refuse"]
    assert decisions["refuse"]["grant"] > 16
    assert found["alike"] == found["served"] > 16
    refused = CliRunner().invoke(commands.app, ["replay", NAME, "--from", "decline=0.5"])
    assert "one of refer, refuse" in str(refused.exception)


def test_a_fit_whose_library_is_not_installed_says_which_and_how_to_get_it(
    root: Path, candidate: Candidate
) -> None:
    """The last test: it changes the folder."""
    file = root / NAME / "training.py"
    file.write_text('import sys\nsys.modules["xgboost"] = None\nimport xgboost\n')
    said = r"import is 'xgboost'; wanted: .*: `make train-xgboost` \(requirements/train-xgboost.txt"
    platform = Platform(load(os.environ))
    prepared = training.prepare_training(platform, NAME, time.time_ns() // 1_000_000)
    with pytest.raises(JobFailed, match=said):
        fitting.fit(platform, prepared.dataset, prepared.recent, lambda status: None)
