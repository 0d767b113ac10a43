"""Requests left to be scored later: told once, decided once, shown to their client alone."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlplatform.decisions.topics.local import LocalTopics
from mlplatform.decisions.topics.messages import Message, ReceivedMessage
from mlplatform.scoring.admission.clients import Scope
from mlplatform.scoring.admission.keyring import create_key
from mlplatform.scoring.admission.sqlite import SqliteAdmission
from mlplatform.scoring.worker.messages import ACCEPTED_HEADER, Names
from support.scoring_world import MODEL, ScoringWorld, payment, wait_for

pytestmark = pytest.mark.slow
NAMES = Names(MODEL)
KEYS = itertools.count()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScoringWorld]:
    world = ScoringWorld(tmp_path_factory.mktemp("later"))
    try:
        world.promote(world.deploy(1))
        world.start_gateway()
        world.start_worker()
        yield world
    finally:
        world.close()


@pytest.fixture
def client(world: ScoringWorld) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=world.url, headers=world.headers, timeout=10.0) as client:
        yield client


def leave(client: httpx.Client, body: Any, key: str | None = None, v: str = "v2") -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = client.post(f"/api/{v}/models/{MODEL}/score:async", json=body, headers=headers)
    return answer


def decided(client: httpx.Client, location: str) -> dict[str, Any]:
    """The answer, polled for."""

    def poll() -> dict[str, Any] | None:
        answer = client.get(location)
        assert answer.status_code in (200, 202), answer.text
        if answer.status_code == 202:
            assert answer.json()["status"] == "pending"
            assert answer.headers["Retry-After"] == "1"
            return None
        found: dict[str, Any] = answer.json()
        return found

    answer: dict[str, Any] = wait_for(poll)
    return answer


def key() -> str:
    return f"later-{next(KEYS)}"


def other_client(world: ScoringWorld, name: str) -> dict[str, str]:
    store = SqliteAdmission(world.home.admission_db)
    scopes = frozenset({Scope(MODEL, "score")})
    _, secret = create_key(store, name, scopes, priority="standard", limit=None, now_ms=0)
    store.close()
    headers = {"Authorization": f"Bearer {secret}"}
    url = f"{world.url}/api/v2/decisions/x"
    wait_for(lambda: httpx.get(url, headers=headers).status_code == 404)
    return headers


def test_a_request_left_for_later_is_decided_under_the_id_it_was_told(
    world: ScoringWorld, client: httpx.Client
) -> None:
    sent = payment(620.0, customer=4711)
    left = leave(client, sent)
    assert left.status_code == 202
    told = left.json()
    assert left.headers["Location"] == f"/api/v2/decisions/{told['decision_id']}"

    answer = decided(client, left.headers["Location"])

    assert answer["decision_id"] == told["decision_id"]
    assert (answer["decision"], answer["model"]["version"]) == ("review", 1)
    assert answer["score"] == pytest.approx(0.62, abs=1e-6)
    assert [r["code"] for r in answer["reasons"]]
    first = client.get(f"/api/v1/decisions/{told['decision_id']}")
    assert first.json()["model_version"] == 1
    assert "Deprecation" in first.headers
    (accepted,) = [r for r in world.records("accepted") if r["decision_id"] == told["decision_id"]]
    (record,) = [r for r in world.records("decision") if r["decision_id"] == told["decision_id"]]
    assert "4711" not in json.dumps(accepted["payload"]["request"])
    assert record["payload"]["request"] == accepted["payload"]["request"]
    assert record["payload"]["client"] == accepted["payload"]["client"]
    assert record["event_ms"] == sent["event_time"]
    assert (accepted["arm"], accepted["score"], accepted["unit"]) == (None, None, None)


def test_the_same_customer_and_amount_are_decided_alike_now_and_later(
    world: ScoringWorld, client: httpx.Client
) -> None:
    sent = payment(333.0, customer=99)
    now = client.post(f"/api/v2/models/{MODEL}/score", json=sent).json()
    later = decided(client, leave(client, sent).headers["Location"])
    assert later["score"] == now["score"]
    records = {r["decision_id"]: r for r in world.records("decision")}
    one, other = records[now["decision_id"]], records[later["decision_id"]]
    for name in ("unit", "bucket", "arm", "version", "decision"):
        assert one[name] == other[name], name
    assert one["payload"]["request"] == other["payload"]["request"]


def test_a_key_names_one_request_in_both_versions_and_not_one_of_score(
    world: ScoringWorld, client: httpx.Client
) -> None:
    sent, used = payment(50.0), key()
    first = leave(client, sent, used)
    again = leave(client, sent, used, "v1")
    assert again.json() == first.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert leave(client, sent | {"amount": 51.0}, used).status_code == 422
    asked = {"Idempotency-Key": used}
    now = client.post(f"/api/v2/models/{MODEL}/score", json=sent, headers=asked)
    assert now.status_code == 422
    assert now.json()["type"].endswith("idempotency-key-reused")
    decided(client, first.headers["Location"])
    assert leave(client, sent, used).json() == first.json()
    (_,) = [r for r in world.records("decision") if r["decision_id"] == first.json()["decision_id"]]


def test_a_label_may_name_a_request_left_for_later_by_its_key(
    world: ScoringWorld, client: httpx.Client
) -> None:
    used = key()
    told = leave(client, payment(50.0), used).json()["decision_id"]
    labels = {"labels": [{"label": 1, "idempotency_key": used}]}
    added = client.post(f"/api/v2/models/{MODEL}/labels", json=labels)
    assert added.json() == {"stored": 1, "repeated": 0}
    assert told in {r["decision_id"] for r in world.records("label")}


def test_another_client_finds_nothing_pending_or_decided(
    world: ScoringWorld, client: httpx.Client
) -> None:
    stranger = other_client(world, "stranger")
    left = leave(client, payment(70.0))
    location = left.headers["Location"]
    assert client.get(location, headers=stranger).status_code == 404
    decided(client, location)
    answer = client.get(location, headers=stranger)
    assert answer.status_code == 404
    assert answer.json()["type"].endswith("unknown-decision")
    own = leave(httpx.Client(base_url=world.url, headers=stranger), payment(71.0))
    assert decided(httpx.Client(base_url=world.url, headers=stranger), own.headers["Location"])
    assert client.get(own.headers["Location"]).status_code == 404
    assert httpx.get(f"{world.url}{location}").status_code == 401


@pytest.mark.parametrize("path", ["x", "0" * 42, "0" * 32, "*", "a/b"])
def test_an_id_that_was_never_told_is_not_found(client: httpx.Client, path: str) -> None:
    assert client.get(f"/api/v2/decisions/{path}").status_code == 404


def test_a_decision_of_score_is_not_polled_for(client: httpx.Client) -> None:
    now = client.post(f"/api/v2/models/{MODEL}/score", json=payment()).json()
    assert client.get(f"/api/v2/decisions/{now['decision_id']}").status_code == 404


def test_what_score_refuses_is_not_accepted(world: ScoringWorld, client: httpx.Client) -> None:
    before = len(world.records("accepted"))
    old = payment(event_time=int(time.time() * 1000) - 3_600_000)
    for body, field in ((payment(amount=-1.0), "amount"), (old, "event_time")):
        answer = leave(client, body)
        assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert len(world.records("accepted")) == before


def brought(client: httpx.Client, message: Any) -> dict[str, Any]:
    path = f"/api/v2/models/{MODEL}/score:accepted"
    (found,) = client.post(path, json={"requests": [message]}).json()["results"]
    result: dict[str, Any] = found
    return result


def published(world: ScoringWorld, decision_id: str) -> ReceivedMessage:
    """The message of an accepted request."""
    topics = LocalTopics(world.home.topics_db)
    reader = topics.subscribe([NAMES.requests], f"test-{time.monotonic_ns()}", "r")

    def look() -> ReceivedMessage | None:
        reader.rewind()
        found = reader.consume(10_000, 0.1)
        own = [m for m in found if m.headers.get(ACCEPTED_HEADER) == decision_id.encode()]
        return own[0] if own else None

    try:
        message: ReceivedMessage = wait_for(look)
        return message
    finally:
        reader.commit([])
        reader.close()
        topics.close()


def test_a_message_brought_again_gets_the_first_answer_and_a_forged_one_none(
    world: ScoringWorld, client: httpx.Client
) -> None:
    left = leave(client, payment(80.0))
    answer = decided(client, left.headers["Location"])
    accepted = json.loads(published(world, answer["decision_id"]).value)
    again = brought(client, accepted)
    assert again == {"answer": answer, "replayed": True}
    for change in (
        {"client": "stranger"},
        {"event_ms": accepted["event_ms"] + 1},
        {"request": accepted["request"] | {"amount": 1.0}},
        {"mac": ""},
        {"decision_id": accepted["decision_id"][:-1] + "0x"[accepted["decision_id"][-1] == "0"]},
    ):
        refusal = brought(client, accepted | change)["problem"]
        assert (refusal["status"], refusal["type"].rpartition(":")[2]) == (422, "not-accepted")
    assert len([r for r in world.records("decision") if r["score"] == answer["score"]]) == 1


def test_a_forged_message_of_the_topic_becomes_a_dead_letter(world: ScoringWorld) -> None:
    topics = LocalTopics(world.home.topics_db)
    letters = topics.subscribe([NAMES.dead_letters], f"test-{time.monotonic_ns()}", "r")
    forged = {
        "decision_id": "0" * 42, "client": "x", "event_ms": 0, "request": {}, "trace_id": None,
        "mac": "0" * 32,
    }  # fmt: skip
    headers = {ACCEPTED_HEADER: b"0" * 42}
    topics.publish([Message(NAMES.requests, b"k", json.dumps(forged).encode(), headers)])
    (letter,) = wait_for(lambda: letters.consume(10, 0.1))
    letters.commit([])
    assert letter.headers["dead-letter-reason"] == b"not-accepted"
    letters.close()
    topics.close()


def test_what_was_accepted_outlives_the_gateway_the_worker_and_its_event_time(
    tmp_path: Path,
) -> None:
    world = ScoringWorld(tmp_path)
    try:
        world.promote(world.deploy(1))
        world.start_gateway()
        with httpx.Client(base_url=world.url, headers=world.headers, timeout=10.0) as client:
            used = key()
            told = leave(client, payment(40.0), used).json()["decision_id"]
            world.kill_gateway()
            world.start_gateway()
            assert leave(client, payment(40.0), used).status_code == 422  # another event time
            assert client.get(f"/api/v2/decisions/{told}").status_code == 202
            world.start_worker()
            answer = decided(client, f"/api/v2/decisions/{told}")
            world.kill_worker()
            world.kill_gateway()
            world.start_gateway()
            world.start_worker()
            assert client.get(f"/api/v2/decisions/{told}").json() == answer
        assert len(world.records("decision")) == 1
    finally:
        world.close()
