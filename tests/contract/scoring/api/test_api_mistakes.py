"""Typical mistakes at the API: the problem names the field, what is wanted and a way out.

A value that was sent is not repeated: it may be about a person, and answers are kept in logs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from mlplatform.commands import score
from mlplatform.commands.terminal import gateway as terminal
from mlplatform.runtime.errors import InputInvalid
from mlplatform_client import CallFailed, Client
from support.scoring_world import MODEL, ScoringWorld, payment, serving

pytestmark = pytest.mark.slow
SCORE = f"/api/v1/models/{MODEL}/score"
LABELS = f"/api/v1/models/{MODEL}/labels"
FIELDS = "wanted: customer_id, terminal_id, amount, event_time"
MISSPELT = {name: value for name, value in payment().items() if name != "amount"} | {"amuont": 5}


def header(name: str, value: str) -> dict[str, Any]:
    return {"headers": {name: value}}


def labelled(**item: Any) -> dict[str, Any]:
    return {"url": LABELS, "json": {"labels": [{"decision_id": "x", "label": 1} | item]}}


MISTAKES: dict[str, tuple[dict[str, Any], int, str | None, str]] = {
    "a wrong key": (header("Authorization", "Bearer no"), 401, "Authorization",
                    "send a valid API key or token as Authorization: Bearer <key>"),
    "text": (header("Content-Type", "text/plain"), 415, "Content-Type",
             "the body must be application/json, not 'text/plain'"),
    "compressed": (header("Content-Encoding", "gzip"), 415, "Content-Encoding", "is 'gzip'"),
    "no JSON": ({"content": b"{"}, 400, None, "the body is not JSON: Input data was truncated"),
    "a list": ({"json": [payment()]}, 422, None, "must be an object with keys, not a list"),
    "a text for a number": ({"json": payment() | {"amount": "many"}}, 422, "amount",
                            "amount must be a number, not a text"),
    "null": ({"json": payment() | {"amount": None}}, 422, "amount", "a number, not null"),
    "too little": ({"json": payment(-5.0)}, 422, "amount", "amount must be a number of 0 or more"),
    "too much": ({"json": payment(2e7)}, 422, "amount", "a number of 1000000 at most"),
    "another field": ({"json": payment(colour=1)}, 422, "colour",
                      f"there is no field colour; {FIELDS}"),
    "a misspelt field": ({"json": MISSPELT}, 422, "amuont", f"{FIELDS}; the nearest is amount"),
    "a missing field": ({"json": {"customer_id": 1, "terminal_id": 1, "event_time": 1}}, 422,
                        "amount", f"the field amount is missing; {FIELDS}"),
    "seconds": ({"json": payment(event_time=int(time.time()))}, 422, "event_time",
                "event_time counts milliseconds since 1970: multiply seconds by 1000"),
    "a date": ({"json": payment(event_time="2026-11-28")}, 422, "event_time",
               "or a time with its offset: 2026-11-28T09:30:00Z"),
    "true for a time": ({"json": payment(event_time=True)}, 422, "event_time",
                        "event_time must be a count of milliseconds since 1970"),
    "a long key": (header("Idempotency-Key", "x" * 256), 422, "Idempotency-Key",
                   "must be 1 to 255 printable ASCII characters"),
    "no time": (header("X-Request-Timeout-Ms", "0"), 422, "X-Request-Timeout-Ms", "5 to 10000"),
    "a priority": (header("X-Priority", "urgent"), 422, "X-Priority",
                   "must be one of critical, standard, background"),
    "a model": ({"url": "/api/v1/models/froud/score"}, 404, None,
                "there is no model 'froud'; /openapi.html shows what there is"),
    "a path": ({"url": f"{SCORE}s"}, 404, None, "scores; /openapi.html shows what there is"),
    "a version": ({"url": "/api/v3/models"}, 404, None, "/openapi.html shows what there is"),
    "a method": ({"method": "GET"}, 405, None, "takes POST, not GET"),
    "2 MB": ({"content": b"x" * 2_000_000}, 413, None, "larger than 1048576 bytes"),
    "a label": (labelled(label=2), 422, "labels[0].label", "label must be 0 or 1"),
    "a text for a label": (labelled(label="yes"), 422, "labels[0].label", "label must be 0 or 1"),
    "an unknown decision": (labelled(), 422, "labels[0].decision_id", "no decision 'x' was given"),
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScoringWorld]:
    with serving(tmp_path_factory.mktemp("mistakes")) as world:
        yield world


def asked(world: ScoringWorld, request: dict[str, Any]) -> httpx.Response:
    sent = {"url": SCORE, "method": "POST"} | request
    if "json" not in sent and "content" not in sent:
        sent["json"] = payment()
    headers = {"Content-Type": "application/json"} | world.headers | sent.pop("headers", {})
    url = world.url + sent.pop("url")
    return httpx.request(sent.pop("method"), url, headers=headers, timeout=10.0, **sent)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_by_field_what_is_wanted_and_a_way_out(
    world: ScoringWorld, name: str
) -> None:
    request, status, field, said = MISTAKES[name]
    answer = asked(world, request)
    problem = answer.json()
    assert (answer.status_code, problem.get("field")) == (status, field)
    assert said in problem["detail"]
    assert "`" not in problem["detail"], "a name of a type is no word for a caller"


def test_the_command_that_scores_shows_the_value_that_was_typed(
    world: ScoringWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person sees what they typed on their terminal; answers of the gateway repeat no value."""

    @contextmanager
    def here(_: object) -> Iterator[Client]:
        try:
            with Client(world.url, world.home.api_key.read_text(), terminal.ASKED) as client:
                yield client
        except CallFailed as failed:
            raise terminal.error_of(failed, world.url) from failed

    monkeypatch.setattr(score, "gateway", here)
    with pytest.raises(InputInvalid) as refused:
        score.score(MODEL, json.dumps(payment(-5.0)))
    told = str(refused.value)
    assert "amount is -5.0 but must be a number of 0 or more (422 invalid-field)" in told
    assert told.count("amount") == 1, "the key is named once, with its value"
    with pytest.raises(
        InputInvalid, match="there is no field colour; wanted: customer_id"
    ) as unknown:
        score.score(MODEL, json.dumps(payment(colour="red")))
    assert 'colour is "red"; ' in str(unknown.value)


def test_a_key_that_was_used_says_that_a_new_request_takes_a_new_one(world: ScoringWorld) -> None:
    key = header("Idempotency-Key", "order-1")
    assert asked(world, key | {"json": payment(5.0)}).status_code == 200
    again = asked(world, key | {"json": payment(6.0)})
    assert again.status_code == 422
    assert "a new one takes a new key" in again.json()["detail"]
