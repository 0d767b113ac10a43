"""A field that is added to a model in use, and removed: no request of before fails or changes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tests.support.credit_history import DAY_US, history
from tests.support.scoring_world import ScoringWorld, wait_for
from tests.support.team_folder import command, team_folder, written

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.training import retrain
from mlplatform.learning.training.candidate import Candidate
from mlplatform.model.folders import load_definition
from mlplatform.model.inputs import InputPlan
from mlplatform.operations.actions import fitting, training
from mlplatform.operations.card.inputs import OPTIONAL, card_inputs
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.configuration.settings import load

pytestmark = pytest.mark.slow

NAME = "grown"
PER_DAY, DAYS = 450, 26
UNKNOWN = 0.4
"""Share of requests without the field after it was added."""
FIELD = "  risk: {type: float64, minimum: 0, maximum: 1, optional: true}\n  income:"
LATER = "\nasync: {enabled: true, batch: 100, chunk: 10, connections: 1}\n\n"
REASON = "risk: {code: RISK, customer: Your device, analyst: The risk of the device}\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("team")
    with team_folder(root, root / ".home" / "var", NAME):
        changes = {
            "deadline_ms: 50\n": "deadline_ms: 2000\n",
            "missing_share: 0.8": "missing_share: 0.1",
            "\nrollout:": f"{LATER}rollout:",
        }
        written(root, NAME, changes, "")
        yield root


def change(root: Path, before: str, after: str) -> None:
    path = root / NAME / "model.yaml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


def taken_in(root: Path, name: str, until_us: int, risk: pa.Array[Any] | None) -> None:
    table = history(until_us, per_day=PER_DAY, days=DAYS)
    if risk is not None:
        ids = pc.add(table.column("request_id"), len(table))
        table = table.set_column(0, "request_id", ids).append_column("risk", risk)
    pq.write_table(table, root / f"{name}.parquet")
    command("history", "import", NAME, str(root / f"{name}.parquet"))


def fitted(until_us: int, *, is_as_good: bool = True) -> Candidate:
    platform = Platform(load(os.environ))
    prepared = training.prepare_training(platform, NAME, until_us // 1000)
    found = fitting.fit(platform, prepared.dataset, prepared.recent, lambda status: None)
    if not is_as_good:
        return found
    report = training.validate(NAME, found, prepared).report
    assert report.reasons == ()
    assert retrain.version_facts(found, report, author="ana").validated
    return found


def body(**changed: object) -> dict[str, Any]:
    asked = {"customer_id": 7, "amount": 4000.0, "income": 3000.0}
    return asked | {"event_time": time.time_ns() // 1_000_000} | changed


def score(
    world: ScoringWorld, asked: dict[str, Any], how: str = "score", **headers: str
) -> httpx.Response:
    url = f"{world.url}/api/v1/models/{NAME}/{how}"
    return httpx.post(url, json=asked, headers=world.headers | headers, timeout=10)


def decided(world: ScoringWorld, location: str) -> dict[str, Any] | None:
    """The answer to an accepted request; None while there is none."""
    found = httpx.get(f"{world.url}{location}", headers=world.headers, timeout=10)
    answer: dict[str, Any] = found.json()
    return answer if found.status_code == 200 else None


def risks(labels: pa.ChunkedArray[Any]) -> pa.Array[Any]:
    """The field of requests, higher where a customer will not pay back; null where unknown."""
    random = np.random.default_rng(3)
    found = random.beta(2, 5, len(labels)) + 0.4 * np.array(labels)
    return pa.array(np.clip(found, 0, 1), mask=random.random(len(labels)) < UNKNOWN)


def test_a_field_is_declared_then_sent_then_learned_from(root: Path) -> None:
    until_us = time.time_ns() // 1000 // DAY_US * DAY_US
    earlier_us = until_us - DAYS * DAY_US
    taken_in(root, "earlier", earlier_us, None)
    first = fitted(earlier_us)
    world = ScoringWorld(root / ".home", has_snapshots=False)
    try:
        world.promote(world.serve(1, first.bundle.digest))
        world.start_gateway()
        change(root, "  income:", FIELD)
        assert "nothing is wrong" in command("check-model", str(root / NAME))
        labels = history(until_us, per_day=PER_DAY, days=DAYS).column("label")
        taken_in(root, "later", until_us, risks(labels))

        asked, key = body(), {"Idempotency-Key": "before"}
        wait_for(lambda: score(world, body()).json().get("answered_by") == "champion")
        before = score(world, asked, **key).json()
        accepted = score(world, asked, "score:async")
        assert accepted.status_code == 202, accepted.text
        # the gateway that began without the field takes it up
        wait_for(lambda: score(world, body(risk=0.5)).status_code == 200)
        retried = score(world, asked, **key)
        assert (retried.status_code, retried.json()["decision_id"]) == (200, before["decision_id"])
        assert score(world, asked | {"risk": 0.5}, **key).status_code == 422
        world.start_worker()
        later = wait_for(lambda: decided(world, accepted.headers["Location"]))
        assert (later["decision_id"], later["score"]) == (
            accepted.json()["decision_id"], before["score"],
        )  # fmt: skip
        alike = [score(world, body(**more)).json() for more in ({}, {"risk": None}, {"risk": 0.5})]
        assert {each["score"] for each in alike} == {before["score"]}
        assert {each["answered_by"] for each in alike} == {"champion"}

        change(root, "inputs:\n", "inputs:\n  - {name: risk, kind: field, of: risk}\n")
        reasons = root / NAME / "reasons.yaml"
        reasons.write_text(REASON + reasons.read_text())
        second = fitted(until_us)
        assert "risk" in second.bundle.input_names
        (of_field,) = [i for i in card_inputs(load_definition(NAME), (), None) if i.name == "risk"]
        assert of_field.missing == OPTIONAL
        world.promote(world.serve(2, second.bundle.digest))
        assert world.stop_gateway() == 0
        world.start_gateway()
        asks_with = {None: body(), 0.02: body(risk=0.02), 0.98: body(risk=0.98)}
        answers = {risk: score(world, asked).json() for risk, asked in asks_with.items()}
        assert answers[0.02]["score"] < answers[None]["score"] < answers[0.98]["score"]
        assert {each["answered_by"] for each in answers.values()} == {"champion"}
        assert "RISK" in {reason["code"] for reason in answers[0.98]["reasons"]}
        every = [before, *alike, *answers.values()]
        _again_as_answered(world, second, every)
        _removed(root, world, until_us, every)
    finally:
        world.close()


def _removed(root: Path, world: ScoringWorld, until_us: int, answers: list[dict[str, Any]]) -> None:
    """The way back: a version without the field, and then model.yaml without it, while the routes
    still name the version that reads it as their predecessor."""
    change(root, "inputs:\n  - {name: risk, kind: field, of: risk}\n", "inputs:\n")
    reasons = root / NAME / "reasons.yaml"
    reasons.write_text(reasons.read_text().replace(REASON, ""))
    third = fitted(until_us, is_as_good=False)
    world.promote(world.serve(3, third.bundle.digest))
    wait_for(lambda: score(world, body()).json()["model_version"] == 3)
    asked, key = body(), {"Idempotency-Key": "declared"}
    declared = score(world, asked, **key).json()
    world.kill_worker()
    accepted = score(world, asked, "score:async")
    assert world.stop_gateway() == 0
    change(root, FIELD, "  income:")
    world.start_gateway()
    wait_for(lambda: score(world, body()).json().get("answered_by") == "champion")
    assert score(world, asked, **key).json()["decision_id"] == declared["decision_id"]
    world.start_worker()
    later = wait_for(lambda: decided(world, accepted.headers["Location"]))
    assert later["score"] == declared["score"]
    for answer in [*answers, declared]:
        assert json.loads(command("log", "explain", answer["decision_id"], "--json"))["equal"]
    second = str(world.home.bundles / answers[-1]["bundle"])
    replayed = json.loads(command("replay", NAME, "--bundle", second, "--json"))
    assert replayed["served"] > 0


def _again_as_answered(
    world: ScoringWorld, second: Candidate, answers: list[dict[str, Any]]
) -> None:
    """What was answered before and after is explained, and read for training as it was served."""
    wait_for(lambda: len(world.records("decision")) >= len(answers))
    for answer in answers:
        assert json.loads(command("log", "explain", answer["decision_id"], "--json"))["equal"]
    definition = load_definition(NAME)
    offline = OfflineTable(world.home.offline(NAME), definition)
    log = SqliteDecisionLog(world.home.decisions)
    try:
        offline.project(log)
    finally:
        log.close()
    table = offline.requests().to_arrow_table()
    ids = [answer["decision_id"] for answer in answers]
    place = {name: at for at, name in enumerate(table.column("request_id").to_pylist())}
    table = table.take([place[name] for name in ids])
    assert table.column("risk").to_pylist() == [None, None, None, 0.5, None, 0.02, 0.98]
    bundle = second.bundle
    plan = InputPlan(definition, (), bundle.inputs, bundle.defaults, bundle.vocabularies)
    records = {record["decision_id"]: record for record in world.records("decision")}
    rows = [
        plan.row(records[name]["payload"]["request"], records[name]["event_ms"], {}) for name in ids
    ]
    np.testing.assert_array_equal(plan.matrix(table), np.array(rows, np.float32))
