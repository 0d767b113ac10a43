"""A model that puts offers in order, from its template to an order that a gateway answers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.support.ranked_offers import DAY_US, LIKED, history, liking, true_scores
from tests.support.scoring_world import ScoringWorld, wait_for
from tests.support.team_folder import command, team_folder

from mlplatform.learning.rankings.orders import figures, requests_of
from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.validation.gate_report import GateReport
from mlplatform.operations.actions import fitting, training
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.configuration.settings import load
from mlplatform_client import AsyncClient, Client, InputRefused

pytestmark = pytest.mark.slow

NAME = "next_offer"
PER_DAY, DAYS, ITEMS, TOP = 300, 27, 6, 3
INCOME = 4000.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("team")
    with team_folder(root, root / ".home" / "var", NAME):
        yield root


@pytest.fixture(scope="module")
def made(root: Path) -> tuple[Candidate, GateReport]:
    """Written from the template, checked, its history taken in, fitted as a job and validated."""
    command("new-model", NAME, "--template", "ranking", "--into", str(root))
    path = root / NAME / "model.yaml"
    path.write_text(path.read_text().replace("deadline_ms: 100\n", "deadline_ms: 2000\n"))
    assert "nothing is wrong" in command("check-model", str(root / NAME))
    until_us = time.time_ns() // 1000 // DAY_US * DAY_US
    table = history(until_us, per_day=PER_DAY, days=DAYS, items=ITEMS)
    pq.write_table(table, root / "history.parquet")
    imported = command("history", "import", NAME, str(root / "history.parquet"))
    assert f"{PER_DAY * DAYS * ITEMS}" in imported.replace(",", "")
    platform = Platform(load(os.environ))
    prepared = training.prepare_training(platform, NAME, until_us // 1000)
    candidate = fitting.fit(platform, prepared.dataset, prepared.recent, lambda status: None)
    return candidate, training.validate(NAME, candidate, prepared).report


def test_its_order_is_between_chance_and_the_true_order(
    root: Path, made: tuple[Candidate, GateReport]
) -> None:
    _, report = made
    assert report.reasons == ()
    gate = next(one for one in report.gates if one.name == "order")
    assert gate.verdict == "passed"
    measured = {one.name: one.candidate for one in report.measures}
    table = pq.read_table(root / "history.parquet")
    event_ms = np.asarray(table.column("event_time").cast("int64")) // 1000
    requests = requests_of(event_ms, np.asarray(table.column("customer_id")))
    best = figures(true_scores(table), np.asarray(table.column("label")), requests, top=TOP, seed=1)
    ceiling, chance = best.values["ndcg"].mean(), best.by_chance.mean()
    assert ceiling > chance + 0.2
    assert chance + 0.15 < measured["ndcg"].low
    assert measured["ndcg"].value < ceiling + 0.05
    assert measured["ndcg"].high > ceiling - 0.05, "trees come near the order that made the history"
    assert 0 < measured["mrr"].low < measured["hit_rate"].value <= 1


@pytest.fixture(scope="module")
def world(root: Path, made: tuple[Candidate, GateReport]) -> Iterator[ScoringWorld]:
    world = ScoringWorld(root / ".home", has_snapshots=False)
    try:
        world.promote(world.serve(1, made[0].bundle.digest))
        world.start_gateway()
        wait_for(lambda: rank(world).json().get("answered_by") == "champion")
        yield world
    finally:
        world.close()


def items(count: int = ITEMS) -> list[dict[str, Any]]:
    return [{"offer": name, "price": 20.0} for name in LIKED][:count]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def rank(
    world: ScoringWorld, *, key: str | None = None, asked: Any = None, **changed: object
) -> httpx.Response:
    own = items() if asked is None else asked
    body = {"customer_id": 7, "income": INCOME, "event_time": now_ms(), "items": own} | changed
    headers = world.headers if key is None else {**world.headers, "Idempotency-Key": key}
    url = f"{world.url}/api/v2/models/{NAME}/rank"
    return httpx.post(url, json=body, headers=headers, timeout=20)


def placed(world: ScoringWorld, ranking_id: str) -> list[dict[str, Any]]:
    """The records of a request's items, the first place first."""
    found = [r for r in world.records("decision") if r["payload"].get("ranking")]
    own = [r for r in found if r["payload"]["ranking"]["id"] == ranking_id]
    return sorted(own, key=lambda r: r["payload"]["ranking"]["place"])


def test_a_gateway_answers_with_the_first_items_and_records_all(world: ScoringWorld) -> None:
    answer = rank(world).json()
    assert answer["ordered_by"] == "score"
    assert answer["degraded"] is None
    assert answer["of"] == ITEMS
    assert [one["place"] for one in answer["items"]] == [1, 2, 3]
    scores = [one["score"] for one in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > scores[-1]
    first = items()[answer["items"][0]["item"]]["offer"]
    likes = {one["offer"]: liking(one["offer"], one["price"], INCOME) for one in items()}
    assert likes[first] >= sorted(likes.values())[-2], "the first is one of the two best liked"
    records = placed(world, answer["ranking_id"])
    places = [r["payload"]["ranking"] for r in records]
    assert [p["place"] for p in places] == list(range(1, ITEMS + 1))
    assert [p.get("withheld", False) for p in places] == [False] * TOP + [True] * (ITEMS - TOP)
    assert [r["decision_id"] for r in records[:TOP]] == [i["decision_id"] for i in answer["items"]]
    assert len({(r["unit"], r["event_ms"], r["bundle"]) for r in records}) == 1
    by_place = [r["score"] for r in records]
    assert by_place == sorted(by_place, reverse=True)
    sent = [p["item"] for p in places]
    assert [r["payload"]["request"]["offer"] for r in records] == [
        items()[n]["offer"] for n in sent
    ]


def test_each_item_and_their_order_come_out_again(world: ScoringWorld) -> None:
    answer = rank(world).json()
    for record in placed(world, answer["ranking_id"])[::5]:
        found = json.loads(command("log", "explain", record["decision_id"], "--json"))
        assert found["equal"]
        assert found["ranking"]["items"][0] == answer["ranking_id"]
        assert len(found["ranking"]["items"]) == ITEMS
        (explained,) = found["explanations"]
        assert explained["again"]["score"] == record["score"]
        assert explained["again"]["raw"] == record["payload"]["raw"]
        assert f"of {ITEMS} items by score" in explained["note"]
    shown = command("log", "explain", answer["ranking_id"])
    assert "place 1 of 6" in " ".join(shown.split())


def test_the_same_key_gets_the_same_order(world: ScoringWorld) -> None:
    at_ms = now_ms()
    first = rank(world, key="same", event_time=at_ms)
    again = rank(world, key="same", event_time=at_ms)
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    assert len(placed(world, first.json()["ranking_id"])) == ITEMS
    fewer = rank(world, key="same", event_time=at_ms, asked=items(3))
    assert fewer.status_code == 422
    assert fewer.json()["type"].endswith("idempotency-key-reused")


def test_equal_items_keep_the_order_of_the_request(world: ScoringWorld) -> None:
    answer = rank(world, asked=[items(1)[0]] * 4).json()
    assert [one["item"] for one in answer["items"]] == [0, 1, 2]
    turned = rank(world, asked=items()[::-1]).json()["items"]
    straight = rank(world).json()["items"]
    assert [ITEMS - 1 - one["item"] for one in turned] == [one["item"] for one in straight]
    assert [one["score"] for one in turned] == [one["score"] for one in straight]


@pytest.mark.parametrize(
    ("changed", "name", "field"),
    [
        ({"items": []}, "invalid-field", "items"),
        ({"items": [{"offer": "card"}]}, "missing-field", "items[0].price"),
        ({"items": [{"offer": "card", "price": -1}]}, "invalid-field", "items[0].price"),
        (
            {"items": [{"offer": "card", "price": 1, "income": 2}]},
            "unknown-field",
            "items[0].income",
        ),
        ({"price": 3.0}, "unknown-field", "price"),
        ({"items": [{"offer": "card", "price": 1}] * 51}, "invalid-field", "items"),
    ],
)
def test_a_wrong_request_says_which_item_and_field(
    world: ScoringWorld, changed: dict[str, Any], name: str, field: str | None
) -> None:
    refused = rank(world, **changed)
    assert refused.status_code == 422
    problem = refused.json()
    assert problem["type"].endswith(name)
    if field is not None:
        assert problem["field"] == field


def test_a_label_of_the_first_place_goes_by_its_key_too(world: ScoringWorld) -> None:
    answer = rank(world, key="labelled").json()
    labels = [
        {"idempotency_key": "labelled", "label": 1},
        {"decision_id": answer["items"][1]["decision_id"], "label": 0},
    ]
    url = f"{world.url}/api/v2/models/{NAME}/labels"
    added = httpx.post(url, json={"labels": labels}, headers=world.headers, timeout=10)
    assert added.json() == {"stored": 2, "repeated": 0}
    known = {r["decision_id"]: r["label"] for r in world.records("label")}
    assert known[answer["ranking_id"]] == 1


async def test_the_client_library_ranks(world: ScoringWorld) -> None:
    token = world.headers["Authorization"].removeprefix("Bearer ")
    shared = {"customer_id": 9, "income": INCOME, "event_time": now_ms()}
    with Client(world.url, token) as client:
        found = client.rank(NAME, shared, items(), key="by-client")
        assert [one.place for one in found.items] == [1, 2, 3]
        assert (found.of, found.ordered_by, found.replayed) == (ITEMS, "score", False)
        assert client.rank(NAME, shared, items(), key="by-client").replayed
        with pytest.raises(InputRefused, match="items"):
            client.rank(NAME, shared, [])
        with pytest.raises(InputRefused, match="price"):
            client.rank(NAME, shared, [{"offer": "card"}])
    async with AsyncClient(world.url, token) as other:
        same = await other.rank(NAME, shared, items())
        assert [one.item for one in same.items] == [one.item for one in found.items]


def test_a_model_that_ranks_still_scores_one_item(world: ScoringWorld) -> None:
    body = {"customer_id": 7, "income": INCOME, "event_time": now_ms()} | items()[0]
    url = f"{world.url}/api/v2/models/{NAME}/score"
    assert httpx.post(url, json=body, headers=world.headers, timeout=10).status_code == 200


def test_a_challenger_in_shadow_scores_every_item(
    world: ScoringWorld, made: tuple[Candidate, GateReport]
) -> None:
    world.shadow(world.serve(2, made[0].bundle.digest))
    answer = rank(world).json()
    own = {r["decision_id"]: r["score"] for r in placed(world, answer["ranking_id"])}
    assert len(own) == ITEMS

    def copies() -> dict[str, float]:
        shadows = world.records("shadow")
        return {r["decision_id"]: r["score"] for r in shadows if r["decision_id"] in own}

    wait_for(lambda: len(copies()) == ITEMS)
    assert copies() == own, "the same bundle gives each item the same score"


def test_without_a_predictor_the_small_model_orders_all(world: ScoringWorld) -> None:
    """The last test: it kills the predictor."""
    answer = rank(world).json()
    (arm,) = {r["bundle"] for r in placed(world, answer["ranking_id"])}
    assert arm == answer["model"]["bundle"]
    for running in [*world.predictors.values()]:
        world.kill_predictor(running.arm)
    degraded = rank(world).json()
    assert degraded["degraded"]["reason"] != ""
    records = placed(world, degraded["ranking_id"])
    assert {r["answered_by"] for r in records} == {"small_model"}
    assert degraded["ordered_by"] == "score"
    scores = [r["score"] for r in records]
    assert scores == sorted(scores, reverse=True)
    found = json.loads(command("log", "explain", degraded["ranking_id"], "--json"))
    assert found["equal"]
