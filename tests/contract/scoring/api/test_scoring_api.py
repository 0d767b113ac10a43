"""The scoring API, over real predictors, a real log and real routes."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import itertools
import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from typer.testing import CliRunner

from mlplatform.commands.keys import app as key_commands
from mlplatform.commands.log import app as log_commands
from mlplatform.model.bundle import load_bundle
from mlplatform.operations import wiring
from mlplatform.scoring.arms.routing import bucket
from support.scoring_world import MODEL, ScoringWorld, payment, serving, wait_for

pytestmark = pytest.mark.slow
DEADLINE_S = 0.05
SLACK_S = 0.25  # a loaded machine; the deadline itself is checked on what the record says
KEYS = itertools.count()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScoringWorld]:
    with serving(tmp_path_factory.mktemp("scoring")) as world:
        yield world


@pytest.fixture
def client(world: ScoringWorld) -> Iterator[httpx.Client]:
    with world.client() as client:
        yield client


def new_key() -> str:
    return f"payment-{next(KEYS)}"


def record_of(world: ScoringWorld, decision_id: str, kind: Any = "decision") -> dict[str, Any]:
    (record,) = [r for r in world.records(kind) if r["decision_id"] == decision_id]
    return record


def test_a_score_is_answered_and_recorded(world: ScoringWorld, client: httpx.Client) -> None:
    sent = payment(620.0, customer=4711)
    answer = client.post("/score", json=sent, headers={"Idempotency-Key": "first"}).json()
    assert answer["decision"] == "review"
    assert answer["score"] == pytest.approx(0.62, abs=1e-6)
    assert (answer["route"], answer["answered_by"], answer["degraded"]) == (
        "champion",
        "champion",
        False,
    )
    assert answer["model_version"] == 1
    bundle = load_bundle(world.home.bundles / answer["bundle"])
    assert [r["code"] for r in answer["reasons"]] == [bundle.reasons["amount"].code]

    record = record_of(world, answer["decision_id"])
    payload = record["payload"]
    assert record["score"] == answer["score"]
    assert record["bundle"] == answer["bundle"]
    assert record["event_ms"] == sent["event_time"]
    assert payload["request"]["amount"] == 620.0
    assert payload["request"]["customer_id"] == record["unit"]
    assert "4711" not in str(record)
    assert payload["idempotency_key"] == "first"
    assert payload["client"] == "default"
    assert set(payload["feature_times"]) == {"customer_stats", "terminal_stats"}
    # Nobody has materialized anything: each feature is missing, and its policy is content.
    assert set(payload["missing_features"]) == set(payload["features"])
    assert set(map(tuple, payload["missing_features"].values())) == {("missing", "default")}
    assert not record["degraded"]


@pytest.mark.parametrize("amount", [10.0, 620.0, 955.5])
def test_an_answer_is_explained_from_its_record(
    world: ScoringWorld, client: httpx.Client, amount: float
) -> None:
    answer = client.post("/score", json=payment(amount)).json()
    home = {"MLPLATFORM_HOME": str(world.home.root)}
    result = CliRunner().invoke(
        log_commands, ["explain", answer["decision_id"], "--json"], env=home
    )
    assert result.exit_code == 0
    (explanation,) = json.loads(result.stdout)["explanations"]
    assert explanation["again"]["decision"] == answer["decision"]
    assert explanation["again"]["reasons"] == [r["code"] for r in answer["reasons"]]


def test_an_approval_needs_no_reasons(client: httpx.Client) -> None:
    answer = client.post("/score", json=payment(10.0)).json()
    assert (answer["decision"], answer["reasons"]) == ("approve", [])


@pytest.mark.parametrize(
    ("status", "name", "field", "request_"),
    [
        pytest.param(
            401,
            "unauthenticated",
            "Authorization",
            {"headers": {"Authorization": "Bearer no"}},
            id="wrong key",
        ),
        pytest.param(
            401, "unauthenticated", "Authorization", {"headers": {"Authorization": ""}}, id="no key"
        ),
        pytest.param(
            415,
            "wrong-content-type",
            "Content-Type",
            {"headers": {"Content-Type": "text/plain"}},
            id="text",
        ),
        pytest.param(
            415,
            "wrong-content-coding",
            "Content-Encoding",
            {"headers": {"Content-Encoding": "gzip"}},
            id="said to be compressed",
        ),
        pytest.param(
            417, "malformed-http", None, {"headers": {"Expect": "a reply"}}, id="expectation"
        ),
        pytest.param(400, "malformed-json", None, {"content": b"{"}, id="no JSON"),
        pytest.param(422, "invalid-field", "amount", {"json": payment("many")}, id="wrong type"),
        pytest.param(
            422, "unknown-field", "colour", {"json": payment(colour="red")}, id="unknown field"
        ),
        pytest.param(
            422,
            "repeated-field",
            "amount",
            {"content": json.dumps(payment()).replace("{", '{"amount": 9.5, ').encode()},
            id="a field twice",
        ),
        pytest.param(
            422,
            "missing-field",
            "amount",
            {"json": {"customer_id": 1, "terminal_id": 1, "event_time": 1}},
            id="missing field",
        ),
        pytest.param(413, "too-large", None, {"content": b"x" * 2_000_000}, id="2 MB"),
        pytest.param(422, "event-time", "event_time", {"minutes_off": -10}, id="10 minutes ago"),
        pytest.param(422, "event-time", "event_time", {"minutes_off": 10}, id="in 10 minutes"),
        pytest.param(
            422,
            "invalid-header",
            "Idempotency-Key",
            {"headers": {"Idempotency-Key": "x" * 256}},
            id="long key",
        ),
        pytest.param(
            422,
            "invalid-header",
            "X-Request-Timeout-Ms",
            {"headers": {"X-Request-Timeout-Ms": "0"}},
            id="no time",
        ),
        pytest.param(
            404, "unknown-model", None, {"url": "/api/v1/models/secret/score"}, id="unknown model"
        ),
        pytest.param(
            404, "unknown-path", None, {"url": f"/api/v1/models/{MODEL}/guess"}, id="unknown path"
        ),
        pytest.param(405, "wrong-method", None, {"method": "GET"}, id="wrong method"),
    ],
)
def test_a_wrong_request_gets_a_clear_problem(
    world: ScoringWorld, status: int, name: str, field: str | None, request_: dict[str, Any]
) -> None:
    before = len(world.records("decision"))
    body: dict[str, Any] = {k: v for k, v in request_.items() if k in ("json", "content")}
    off_ms = request_.get("minutes_off", 0) * 60_000
    if not body:
        body = {"json": payment(event_time=int(time.time() * 1000) + off_ms)}
    headers = {"Content-Type": "application/json"} | world.headers | request_.get("headers", {})
    url = world.url + request_.get("url", f"/api/v1/models/{MODEL}/score")
    answer = httpx.request(request_.get("method", "POST"), url, headers=headers, **body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"].endswith(f":{name}")
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert problem.get("field") == field
    assert MODEL not in problem["detail"] or MODEL in url
    assert len(world.records("decision")) == before


def test_a_retry_gets_the_same_answer(world: ScoringWorld, client: httpx.Client) -> None:
    key, sent = new_key(), payment(700.0)
    first = client.post("/score", json=sent, headers={"Idempotency-Key": key})
    again = client.post("/score", json=sent, headers={"Idempotency-Key": key})
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    other = client.post("/score", json=sent | {"amount": 1}, headers={"Idempotency-Key": key})
    assert other.status_code == 422
    assert other.json()["type"].endswith(":idempotency-key-reused")
    assert sum(r["payload"].get("idempotency_key") == key for r in world.records("decision")) == 1


def test_duplicates_at_the_same_time_make_one_record(world: ScoringWorld) -> None:
    keys, sent = [new_key() for _ in range(20)], payment(55.0)
    with world.client() as client, concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda key: client.post("/score", json=sent, headers={"Idempotency-Key": key}),
                keys * 6,
            )
        )
    by_key = collections.defaultdict(set)
    for key, answer in zip(keys * 6, answers, strict=True):
        assert answer.status_code in (200, 409)
        if answer.status_code == 200:
            by_key[key].add(answer.content)
        else:
            assert answer.headers["retry-after"] == "1"
    assert {len(bodies) for bodies in by_key.values()} == {1}
    counts = collections.Counter(
        r["payload"].get("idempotency_key") for r in world.records("decision")
    )
    assert [counts[key] for key in keys] == [1] * len(keys)


def test_a_batch_decides_each_item_by_itself(world: ScoringWorld, client: httpx.Client) -> None:
    key = new_key()
    sent = payment(950.0)
    items = [payment(float(i), customer=i) for i in range(200)]
    items += [payment(-1.0), sent | {"idempotency_key": f"{key}b"}, {"colour": "red"}]
    patient = {"X-Request-Timeout-Ms": "8000"}  # a loaded machine, and a gateway just started
    sent_together = client.post("/score:batch", json={"requests": items}, headers=patient)
    results = sent_together.json()["results"]
    assert len(results) == len(items)
    assert [r["answer"]["score"] for r in results[:200]] == pytest.approx(
        [i / 1000 for i in range(200)], abs=1e-6
    )
    assert results[200]["problem"]["field"] == "amount"
    assert results[201]["answer"]["decision"] == "decline"
    assert results[202]["problem"]["status"] == 422
    ids = {r["answer"]["decision_id"] for r in results if "answer" in r}
    assert ids <= {r["decision_id"] for r in world.records("decision")}
    again = client.post("/score", json=sent, headers={"Idempotency-Key": f"{key}b"})
    assert again.json() == results[201]["answer"]


@pytest.mark.parametrize(
    "body", [{"requests": []}, {"requests": [{}] * 1001}, {"requests": {}}, {}, {"colour": 1}]
)
def test_a_batch_of_no_or_too_many_items_is_refused(client: httpx.Client, body: Any) -> None:
    assert client.post("/score:batch", json=body).status_code == 422


def test_labels_are_stored_once_and_the_latest_counts(
    world: ScoringWorld, client: httpx.Client
) -> None:
    key = new_key()
    answer = client.post("/score", json=payment(30.0), headers={"Idempotency-Key": key}).json()
    now_ms = int(time.time() * 1000)
    first = {"decision_id": answer["decision_id"], "label": 1, "event_time": now_ms}
    by_key = {"idempotency_key": key, "label": 1, "event_time": now_ms}
    corrected = first | {"label": 0, "event_time": now_ms + 5}
    assert client.post("/labels", json={"labels": [first]}).json() == {"stored": 1, "repeated": 0}
    assert client.post("/labels", json={"labels": [by_key, corrected]}).json() == {
        "stored": 1,
        "repeated": 1,
    }
    labels = [r for r in world.records("label") if r["decision_id"] == answer["decision_id"]]
    assert [(r["label"], r["event_ms"]) for r in labels] == [(1, now_ms), (0, now_ms + 5)]
    assert labels[0]["payload"]["client"] == "default"


def test_a_label_without_a_time_is_corrected_back_and_forth(
    world: ScoringWorld, client: httpx.Client
) -> None:
    answer = client.post("/score", json=payment(30.0)).json()

    def say(value: int) -> dict[str, int]:
        label = {"decision_id": answer["decision_id"], "label": value}
        found: dict[str, int] = client.post("/labels", json={"labels": [label]}).json()
        return found

    stored = [say(value)["stored"] for value in (1, 1, 0, 0, 1, 1)]
    assert stored == [1, 0, 1, 0, 1, 0]
    labels = [r for r in world.records("label") if r["decision_id"] == answer["decision_id"]]
    assert [r["label"] for r in labels] == [1, 0, 1]


@pytest.mark.parametrize(
    ("label", "field"),
    [
        ({"decision_id": "0" * 32, "label": 1}, "labels[1].decision_id"),
        ({"idempotency_key": "never-sent", "label": 1}, "labels[1].idempotency_key"),
        ({"label": 1}, "labels[1].decision_id"),
        ({"decision_id": "x", "idempotency_key": "y", "label": 1}, "labels[1].decision_id"),
        ({"decision_id": "x", "label": 2}, "labels[1].label"),
        ({"decision_id": "x", "label": 1, "colour": 1}, "labels[1].colour"),
    ],
)
def test_a_wrong_label_is_named_and_nothing_is_stored(
    world: ScoringWorld, client: httpx.Client, label: dict[str, Any], field: str
) -> None:
    answer = client.post("/score", json=payment(31.0)).json()
    good = {"decision_id": answer["decision_id"], "label": 1}
    refused = client.post("/labels", json={"labels": [good, label]})
    assert refused.status_code == 422
    assert refused.json()["field"] == field
    assert answer["decision_id"] not in {r["decision_id"] for r in world.records("label")}


def test_a_decision_is_taken_back_once_by_api_or_command(
    world: ScoringWorld, client: httpx.Client
) -> None:
    answer = client.post("/score", json=payment(10.0)).json()
    body = {"decision_id": answer["decision_id"], "reason": "sent twice"}
    wanted = {"decision_id": answer["decision_id"], "repeated": False}
    assert client.post("/voids", json=body).json() == wanted
    environment = {
        "MLPLATFORM_HOME": str(world.home.root), "MLPLATFORM_GATEWAY_PORT": str(world.port)
    }  # fmt: skip
    command = ["void", answer["decision_id"], "--reason", "again", "--json"]
    result = CliRunner().invoke(log_commands, command, env=environment)
    assert json.loads(result.stdout) == wanted | {"repeated": True}
    record = record_of(world, answer["decision_id"], "void")
    assert record["payload"] == {"client": "default", "reason": "sent twice"}
    assert record_of(world, answer["decision_id"])["decision"] == answer["decision"]


def test_what_was_never_decided_is_not_taken_back(client: httpx.Client) -> None:
    refused = client.post("/voids", json={"decision_id": "0" * 32, "reason": "r"})
    assert (refused.status_code, refused.json()["field"]) == (422, "decision_id")
    assert client.post("/voids", json={"decision_id": "0" * 32}).json()["field"] == "reason"


def test_what_the_gateway_applies_can_be_asked(world: ScoringWorld) -> None:
    arm = world.rollouts.routes(MODEL).champion
    assert arm is not None
    with httpx.Client(base_url=world.url, headers=world.headers) as client:
        (state,) = client.get("/api/v1/models").json()["models"]
        assert state == client.get(f"/api/v1/models/{MODEL}").json()
        assert (state["champion"]["version"], state["champion"]["service"]) == (1, arm.service)
        assert client.get("/openapi.json").json()["openapi"] == "3.1.0"
        metrics = client.get("/metrics").text
    assert 'mlplatform_gateway_decisions_total{answered_by="champion"' in metrics
    assert (
        f'mlplatform_gateway_breaker_state{{model="fraud",service="{arm.service}"}} 0.0' in metrics
    )
    for path in ("/healthz", "/readyz"):
        assert httpx.get(world.url + path).status_code == 200
    for path in ("/metrics", "/api/v1/models"):
        assert httpx.get(world.url + path).status_code == 401


# One world each: these break something.


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[ScoringWorld]:
    world = ScoringWorld(tmp_path)
    try:
        yield world
    finally:
        world.close()


def test_without_a_champion_nobody_answers(fresh: ScoringWorld) -> None:
    fresh.start_gateway()
    with fresh.client() as client:
        answer = client.post("/score", json=payment())
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert fresh.records("decision") == []


def test_rules_answer_while_the_predictor_is_away_and_it_is_found_again(
    fresh: ScoringWorld,
) -> None:
    arm = fresh.deploy(1)
    fresh.promote(arm)
    fresh.start_gateway()
    with fresh.client() as client:
        assert client.post("/score", json=payment()).json()["answered_by"] == "champion"
        fresh.kill_predictor(arm)
        answer = client.post("/score", json=payment(300.0)).json()
        assert (answer["route"], answer["answered_by"]) == ("champion", "rules")
        assert (answer["degraded"], answer["degraded_reason"]) == (True, "unavailable")
        assert answer["decision"] == "review"
        assert [r["code"] for r in answer["reasons"]] == ["RULE_HIGH_AMOUNT", "RULE_NEW_CUSTOMER"]
        abstained = client.post("/score", json=payment(30.0)).json()
        assert (abstained["answered_by"], abstained["decision"]) == ("default", "review")
        record = record_of(fresh, answer["decision_id"])
        assert (record["degraded"], record["score"], record["arm"]) == (True, None, "champion")
        assert record["payload"]["failures"] == [["champion", "unavailable"]]
        fresh.start_predictor(arm)
        assert client.post("/score", json=payment()).json()["answered_by"] == "champion"


def test_a_slow_challenger_costs_no_deadline_and_is_its_own_failure(fresh: ScoringWorld) -> None:
    champion, challenger = fresh.deploy(1), fresh.deploy(2, offset=0.1)
    fresh.promote(champion)
    fresh.start_gateway()
    fresh.shadow(challenger)
    fresh.canary(100.0)
    with fresh.client() as client, fresh.frozen_predictor(challenger):
        sent = [payment(100.0, customer=i) for i in range(30)]
        before_s = time.perf_counter()
        answers = [client.post("/score", json=body).json() for body in sent]
        took_s = time.perf_counter() - before_s
        assert {a["route"] for a in answers} == {"challenger"}
        # On a busy machine the champion's turn may come late too, and the default answers in time.
        by_champion = [a for a in answers if a["answered_by"] == "champion"]
        assert len(by_champion) >= 0.8 * len(answers)
        reasons = {a["degraded_reason"] for a in answers}
        reasons.discard("stalled")  # the gateway's own turn came late: the machine is busy
        assert reasons == {"deadline", "breaker_open"}
        assert [a["score"] for a in by_champion] == pytest.approx(
            [0.1] * len(by_champion), abs=1e-6
        )
        # After minimum_calls failures the breaker is open, and nobody waits any more.
        assert took_s < 20 * (DEADLINE_S + SLACK_S)
        state = httpx.get(f"{fresh.url}/api/v1/models/{MODEL}", headers=fresh.headers).json()
        assert state["challenger"]["breaker"] == "open"
    records = fresh.records("decision")
    assert {r["version"] for r in records if r["answered_by"] == "champion"} == {1}
    waited = [r["latency_us"] for r in records if r["degraded_reason"] == "deadline"]
    assert sorted(waited)[len(waited) // 2] < DEADLINE_S * 1e6


def test_when_everything_hangs_an_answer_comes_by_the_deadline(fresh: ScoringWorld) -> None:
    arm = fresh.deploy(1)
    fresh.promote(arm)
    fresh.start_gateway()
    with fresh.client() as client, fresh.frozen_predictor(arm):
        for timeout_ms in (50, 200):
            headers = {"X-Request-Timeout-Ms": str(timeout_ms)}
            took_s = []
            for _ in range(5):
                before_s = time.perf_counter()
                answer = client.post("/score", json=payment(700.0), headers=headers).json()
                took_s.append(time.perf_counter() - before_s)
                assert answer["answered_by"] == "rules"
                # stalled: the gateway's own turn came late; breaker_open: the fifth waits no more
                assert answer["degraded_reason"] in ("deadline", "stalled", "breaker_open")
            # A machine that gives turns late is not late five times in a row.
            assert 0.75 * timeout_ms / 1000 < max(took_s)
            assert min(took_s) < timeout_ms / 1000 + SLACK_S


def test_shadow_copies_become_records_and_never_hold_an_answer_up(fresh: ScoringWorld) -> None:
    champion, challenger = fresh.deploy(1), fresh.deploy(2, offset=0.2)
    fresh.promote(champion)
    fresh.start_gateway()
    routes = fresh.shadow(challenger)
    with fresh.client() as client:
        answers = [client.post("/score", json=payment(400.0, customer=i)).json() for i in range(40)]
        wait_for(lambda: len(fresh.records("shadow")) == 40)
        with fresh.frozen_predictor(challenger):
            before_s = time.perf_counter()
            slow = [client.post("/score", json=payment(10.0)).json() for _ in range(20)]
            assert time.perf_counter() - before_s < 20 * (DEADLINE_S + SLACK_S)
            assert not any(answer["degraded"] for answer in slow)
        wait_for(lambda: len(fresh.records("shadow")) == 60)
        fresh.kill_predictor(challenger)
        lost = client.post("/score", json=payment(10.0)).json()
        wait_for(lambda: len(fresh.records("shadow")) == 61)
    shadows = {r["decision_id"]: r for r in fresh.records("shadow")}
    for answer in answers:
        shadow = shadows[answer["decision_id"]]
        assert (answer["decision"], shadow["decision"]) == ("approve", "review")
        assert shadow["score"] == pytest.approx(0.6, abs=1e-6)
        assert (shadow["arm"], shadow["version"], shadow["generation"]) == (
            "challenger",
            2,
            routes.generation,
        )
    failed = shadows[lost["decision_id"]]
    assert (failed["score"], failed["degraded_reason"]) == (None, "unavailable")


def test_while_the_log_is_locked_answers_are_spilled_and_catch_up(fresh: ScoringWorld) -> None:
    """A retry gets the same answer meanwhile and afterwards, also from a gateway started again."""
    fresh.promote(fresh.deploy(1))
    fresh.start_gateway()
    sent = payment()
    given = {}
    with fresh.client() as client:
        with contextlib.closing(sqlite3.connect(fresh.home.decisions / "decisions.db")) as db:
            db.execute("BEGIN IMMEDIATE")
            for key in ("a", "b", "a"):
                headers = {"Idempotency-Key": key}
                answer = wait_for(lambda h=headers: client.post("/score", json=sent, headers=h))
                assert answer.status_code == 200
                assert given.setdefault(key, answer.json()) == answer.json()
            label = {"idempotency_key": "a", "label": 1}
            assert client.post("/labels", json={"labels": [label]}).json()["stored"] == 1
            assert fresh.records("decision") == []
            fresh.kill_gateway()
        fresh.start_gateway()
        wait_for(lambda: len(fresh.records("decision", "label")) == 3)
        metrics = client.get(f"{fresh.url}/metrics").text
        for key, answer in given.items():
            again = client.post("/score", json=sent, headers={"Idempotency-Key": key})
            assert again.json() == answer
    recorded = [r["decision_id"] for r in fresh.records("decision", "label")]
    assert recorded == [given[key]["decision_id"] for key in ("a", "b", "a")]
    assert "mlplatform_log_recovered_total 3.0" in metrics
    assert "mlplatform_log_waiting 0.0" in metrics


def test_a_replay_sets_the_clock_by_its_own_records(fresh: ScoringWorld) -> None:
    fresh.promote(fresh.deploy(1))
    fresh.start_gateway(MLPLATFORM_CLOCK="replay")
    first_ms, hour_ms = 1_600_000_000_000, 3_600_000
    with fresh.client() as client:

        def status(event_ms: int) -> int:
            return client.post("/score", json=payment(event_time=event_ms)).status_code

        assert status(first_ms) == 200
        assert status(first_ms - 2 * hour_ms) == 422
        assert status(first_ms + 47 * hour_ms) == 200
        assert status(first_ms) == 422
        fresh.kill_gateway()
        fresh.start_gateway(MLPLATFORM_CLOCK="replay")
        assert status(first_ms) == 422
        assert status(first_ms + 47 * hour_ms) == 200


def _answered(response: httpx.Response) -> dict[str, Any] | None:
    return response.json() if response.status_code == 200 else None


async def _load(
    world: ScoringWorld,
    keys: Iterator[int],
    stop: asyncio.Event,
    answers: dict[str, dict[str, Any]],
) -> None:
    """Sends payments until told to stop; what is not answered is sent again."""
    url = f"{world.url}/api/v1/models/{MODEL}/score"
    async with aiohttp.ClientSession(headers=world.headers) as session:
        while not stop.is_set():
            number = next(keys)
            body = payment(float(number % 400), customer=number % 97)
            while True:
                try:
                    headers = {"Idempotency-Key": f"load-{number}"}
                    async with session.post(url, json=body, headers=headers) as response:
                        if response.status == 200:
                            answers[f"load-{number}"] = await response.json() | {"sent": body}
                            break
                        assert response.status in (409, 503), await response.text()
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.02)


async def _under_load(
    world: ScoringWorld, story: Any, workers: int = 8
) -> dict[str, dict[str, Any]]:
    stop, keys = asyncio.Event(), itertools.count()
    answers: dict[str, dict[str, Any]] = {}
    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(_load(world, keys, stop, answers))
        await asyncio.to_thread(story)
        await asyncio.sleep(0.3)
        stop.set()
    return answers


def _nothing_lost_or_doubled(world: ScoringWorld, answers: dict[str, dict[str, Any]]) -> None:
    records = world.records("decision")
    counts = collections.Counter(r["payload"]["idempotency_key"] for r in records)
    assert set(counts) == set(answers)
    assert set(counts.values()) == {1}
    by_key = {r["payload"]["idempotency_key"]: r for r in records}
    assert all(by_key[k]["decision_id"] == a["decision_id"] for k, a in answers.items())


async def test_routes_change_under_load_without_a_lost_or_misrouted_request(
    fresh: ScoringWorld,
) -> None:
    champion, challenger = fresh.deploy(1), fresh.deploy(2, offset=0.25)
    fresh.promote(champion)
    fresh.start_gateway()
    percents: dict[int, tuple[float, str]] = {}

    def story() -> None:
        routes = fresh.shadow(challenger)
        percents[routes.generation] = (0.0, routes.rollout_id or "")
        for percent in (10.0, 40.0, 80.0):
            routes = fresh.canary(percent)
            percents[routes.generation] = (percent, routes.rollout_id or "")
            time.sleep(0.3)
        fresh.roll_back()

    answers = await _under_load(fresh, story)
    _nothing_lost_or_doubled(fresh, answers)
    offsets = {1: 0.0, 2: 0.25}
    for record in fresh.records("decision"):
        answer = answers[record["payload"]["idempotency_key"]]
        assert (answer["generation"], answer["route"]) == (record["generation"], record["arm"])
        if record["generation"] in percents:
            percent, rollout_id = percents[record["generation"]]
            assert record["bucket"] == bucket(record["unit"], rollout_id)
            assert (record["arm"] == "challenger") == (record["bucket"] < percent * 100)
        else:
            assert record["arm"] == "champion"
        if not record["degraded"]:
            assert record["answered_by"] == record["arm"]
            expected = answer["sent"]["amount"] / 1000 + offsets[record["version"]]
            assert answer["score"] == pytest.approx(expected, abs=1e-6)
    arms = collections.Counter(r["arm"] for r in fresh.records("decision"))
    assert arms["challenger"] > 20
    assert len({r["generation"] for r in fresh.records("decision")}) >= 5


async def test_a_gateway_killed_under_load_loses_and_doubles_nothing(fresh: ScoringWorld) -> None:
    fresh.promote(fresh.deploy(1))
    fresh.start_gateway()

    def story() -> None:
        for _ in range(3):
            time.sleep(0.5)
            fresh.kill_gateway()
            fresh.start_gateway()

    answers = await _under_load(fresh, story)
    _nothing_lost_or_doubled(fresh, answers)
    assert len(answers) > 100


async def test_a_gateway_told_to_stop_finishes_what_it_began(fresh: ScoringWorld) -> None:
    fresh.promote(fresh.deploy(1))
    fresh.start_gateway()

    def story() -> None:
        time.sleep(0.3)
        assert fresh.stop_gateway() == 0
        fresh.start_gateway()

    answers = await _under_load(fresh, story)
    _nothing_lost_or_doubled(fresh, answers)


def test_versions_answer_one_decision_each_in_its_shape(world: ScoringWorld) -> None:
    """Also a retry that comes through the other version; only the first says it will end."""
    key, body = f"versions-{next(KEYS)}", payment(amount=600.0)
    with httpx.Client(base_url=world.url, headers=world.headers, timeout=10.0) as client:
        replies = [
            client.post(
                f"/api/{version}/models/{MODEL}/score", json=body, headers={"Idempotency-Key": key}
            )
            for version in ("v2", "v1", "v2")
        ]
    second, first, again = (reply.json() for reply in replies)
    assert second == again
    assert second["decision_id"] == first["decision_id"]
    assert second["model"] == {"version": first["model_version"], "bundle": first["bundle"]}
    assert [r["code"] for r in second["reasons"]] == [r["code"] for r in first["reasons"]]
    assert [reply.headers.get("idempotency-replayed") for reply in replies] == [
        None,
        "true",
        "true",
    ]
    assert ["sunset" in reply.headers for reply in replies] == [False, True, False]


def test_a_running_gateway_takes_new_keys_and_drops_revoked_ones(world: ScoringWorld) -> None:
    home = {"MLPLATFORM_HOME": str(world.home.root)}

    def keys(*arguments: str) -> Any:
        wiring.settings.cache_clear()
        result = CliRunner().invoke(key_commands, [*arguments, "--json"], env=home)
        wiring.settings.cache_clear()
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    only = ("--model", MODEL, "--scope", "score", "--rate", "0.01", "--burst", "3")
    made = keys("create", "--name", "shop", *only)
    headers = {"Authorization": f"Bearer {made['secret']}"}
    root = f"{world.url}/api/v1/models/{MODEL}"

    def score() -> httpx.Response:
        return httpx.post(f"{root}/score", json=payment(10.0), headers=headers)

    wait_for(lambda: score().status_code == 200, within_s=5.0)
    for path in (root, f"{world.url}/metrics"):
        refused = httpx.get(path, headers=headers)
        assert (refused.status_code, refused.json()["type"]) == (
            403,
            "urn:mlplatform:problem:forbidden",
        )
    limited = [answer for answer in (score() for _ in range(6)) if answer.status_code == 429]
    assert limited
    assert limited[-1].json()["type"] == "urn:mlplatform:problem:client-rate"
    assert int(limited[-1].headers["retry-after"]) >= 1
    assert made["secret"] not in json.dumps(keys("list"))
    keys("revoke", "shop")
    wait_for(lambda: score().status_code == 401, within_s=5.0)


def test_a_trace_goes_on_in_the_answer_and_in_the_record(world: ScoringWorld) -> None:
    trace, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    sent = {"traceparent": f"00-{trace}-{caller}-01", "tracestate": "vendor=1"}
    with world.client() as client:
        reply = client.post("/score", json=payment(), headers=sent)
    version, trace_id, span, flags = reply.headers["traceparent"].split("-")
    assert (version, trace_id, flags) == ("00", trace, "01")
    assert span != caller
    assert reply.headers["tracestate"] == "vendor=1"
    record = next(
        r for r in world.records("decision") if r["decision_id"] == reply.json()["decision_id"]
    )
    assert record["payload"]["trace_id"] == trace
