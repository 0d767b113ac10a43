"""A model that reads a text, from model.yaml to a gateway's answer and its explanation."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.credit_history import DAY_US, history
from tests.support.scoring_world import ScoringWorld, wait_for
from tests.support.team_folder import command, team_folder, written

from mlplatform.learning.training import retrain
from mlplatform.learning.training.candidate import Candidate
from mlplatform.operations.actions import fitting, training
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.configuration.settings import load

pytestmark = pytest.mark.slow

NAME = "letters"
PER_DAY, DAYS, LENGTH = 450, 26, 4
CHANGED = {
    "  income:": "  note: {type: string, max_length: 200}\n  income:",
    "inputs:\n": "inputs:\n  - {name: note, kind: text, of: note, "
    f"tokens: {{of: words, length: {LENGTH}}}}}\n",
    "deadline_ms: 50\n": "deadline_ms: 2000\n",
}
REASON = "note: {code: NOTE, customer: What the note says, analyst: Words of the note}\n"
GOOD = np.array(["Rent, June", "SALARY", "", "gift for Zoë"])


def texts(table: pa.Table) -> pa.Table:
    """The history with a note, which tells those that will not be paid back more often."""
    random = np.random.default_rng(9)
    chance = np.where(np.array(table.column("label")) == 1, 0.5, 0.05)
    bad = random.random(len(table)) < chance
    return table.append_column(
        "note", pa.array(np.where(bad, "Casino NIGHT", random.choice(GOOD, len(table))))
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("team")
    with team_folder(root, root / ".home" / "var", NAME):
        yield root


@pytest.fixture(scope="module")
def candidate(root: Path) -> Candidate:
    """The template with a text: checked, its history taken in, fitted as a job and validated."""
    written(root, NAME, CHANGED, REASON)
    until_us = time.time_ns() // 1000 // DAY_US * DAY_US
    table = texts(history(until_us, per_day=PER_DAY, days=DAYS))
    pq.write_table(table, root / "history.parquet")
    command("history", "import", NAME, str(root / "history.parquet"))
    platform = Platform(load(os.environ))
    prepared = training.prepare_training(platform, NAME, until_us // 1000)
    made = fitting.fit(platform, prepared.dataset, prepared.recent, lambda status: None)
    report = training.validate(NAME, made, prepared).report
    assert report.reasons == ()
    assert retrain.version_facts(made, report, author="ana").validated
    return made


@pytest.fixture(scope="module")
def world(root: Path, candidate: Candidate) -> Iterator[ScoringWorld]:
    world = ScoringWorld(root / ".home", has_snapshots=False)
    try:
        world.promote(world.serve(1, candidate.bundle.digest))
        world.start_gateway()
        wait_for(lambda: score(world, "rent").json().get("answered_by") == "champion")
        yield world
    finally:
        world.close()


def score(world: ScoringWorld, note: str, **changed: object) -> httpx.Response:
    asked = {"customer_id": 7, "amount": 4000.0, "income": 3000.0, "note": note}
    body = asked | {"event_time": time.time_ns() // 1_000_000} | changed
    url = f"{world.url}/api/v1/models/{NAME}/score"
    return httpx.post(url, json=body, headers=world.headers, timeout=10)


def test_a_gateway_reads_a_text_in_any_of_its_spellings(world: ScoringWorld) -> None:
    casino, rent = score(world, "Casino NIGHT").json(), score(world, "Rent, June").json()
    assert casino["score"] > rent["score"]
    for same in ("casino night", "\uff23asino\u200b *night*", "  CASINO\nnight "):
        assert score(world, same).json()["score"] == casino["score"], same
    assert score(world, "x" * 201).status_code == 422
    assert score(world, "\u0301" * 200).status_code == 200


def test_the_decision_is_explained_by_the_token_again(world: ScoringWorld) -> None:
    answer = score(world, "Casino NIGHT", amount=9000.0).json()
    assert answer["decision"] in ("refer", "refuse")
    assert "NOTE" in {reason["code"] for reason in answer["reasons"]}
    wait_for(
        lambda: any(r["decision_id"] == answer["decision_id"] for r in world.records("decision"))
    )
    found = json.loads(command("log", "explain", answer["decision_id"], "--json"))
    (explanation,) = found["explanations"]
    assert found["equal"]
    values = {c["input"]: c["value"] for c in explanation["causes"]}
    assert {"casino", "night"} & {v for n, v in values.items() if n.startswith("note.w1.")}
