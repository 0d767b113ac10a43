"""A decision's outcome is told, and the decision taken back, by the client that asked for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.pseudonym import key_of
from mlplatform.decisions.records.record import Record
from mlplatform.model.folders import load_definition
from mlplatform.runtime.telemetry.refusals import Refusals
from support.client_keys import new_key
from support.earlier_state import earlier_decision_id
from support.scoring_world import MODEL, ScoringWorld, payment, serving, wait_for

pytestmark = pytest.mark.slow

SHOP, BANK, OFFICE = "shop", "bank", "back-office"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScoringWorld]:
    with serving(tmp_path_factory.mktemp("ownership")) as world:
        yield world


@pytest.fixture(scope="module")
def clients(world: ScoringWorld) -> Iterator[dict[str, httpx.Client]]:
    """Two applications, and an office that speaks for every client's decisions."""
    own = ("--scope", "score", "--scope", "labels", "--scope", "void")
    with contextlib.ExitStack() as stack:
        made = {
            name: stack.enter_context(_client(world, new_key(world, name, *scopes)))
            for name, scopes in {
                SHOP: own,
                BANK: own,
                OFFICE: (*own, "--scope", "any-client"),
            }.items()
        }
        for client in made.values():
            wait_for(lambda c=client: c.post("/score", json=payment()).status_code == 200)
        yield made


def _client(world: ScoringWorld, secret: str) -> httpx.Client:
    return httpx.Client(
        base_url=f"{world.url}/api/v1/models/{MODEL}",
        headers={"Authorization": f"Bearer {secret}"},
        timeout=10,
    )


def _scored(client: httpx.Client, **headers: str) -> str:
    answer = client.post("/score", json=payment(20.0), headers=headers).json()
    return str(answer["decision_id"])


def _label(decision_id: str) -> dict[str, Any]:
    return {"labels": [{"decision_id": decision_id, "label": 1}]}


def _void(decision_id: str) -> dict[str, Any]:
    return {"decision_id": decision_id, "reason": "sent twice"}


def _recorded(world: ScoringWorld, decision_id: str) -> set[str]:
    kinds: tuple[Any, ...] = ("label", "void")
    return {k for k in kinds for r in world.records(k) if r["decision_id"] == decision_id}


def test_who_asked_labels_and_takes_back(
    world: ScoringWorld, clients: dict[str, httpx.Client]
) -> None:
    decision_id = _scored(clients[SHOP])
    assert clients[SHOP].post("/labels", json=_label(decision_id)).json()["stored"] == 1
    assert clients[SHOP].post("/voids", json=_void(decision_id)).status_code == 200
    assert _recorded(world, decision_id) == {"label", "void"}


@pytest.mark.parametrize(("path", "body"), [("/labels", _label), ("/voids", _void)])
def test_another_clients_decision_is_none_that_there_is(
    world: ScoringWorld, clients: dict[str, httpx.Client], path: str, body: Any
) -> None:
    """The same words but for the id, so that nobody learns which decisions there are."""
    decision_id = _scored(clients[SHOP])
    made_up = decision_id[:-1] + ("0" if decision_id[-1] != "0" else "1")
    foreign = clients[BANK].post(path, json=body(decision_id))
    unknown = clients[BANK].post(path, json=body(made_up))
    assert foreign.status_code == unknown.status_code == 422
    assert foreign.text.replace(decision_id, "ID") == unknown.text.replace(made_up, "ID")
    assert foreign.json()["type"] == "urn:mlplatform:problem:unknown-decision"
    assert not _recorded(world, decision_id)


def test_a_foreign_label_in_a_call_is_named_and_nothing_of_it_is_stored(
    world: ScoringWorld, clients: dict[str, httpx.Client]
) -> None:
    own, foreign = _scored(clients[BANK]), _scored(clients[SHOP])
    labels = [{"decision_id": i, "label": 0} for i in (own, foreign)]
    refused = clients[BANK].post("/labels", json={"labels": labels})
    assert (refused.status_code, refused.json()["field"]) == (422, "labels[1].decision_id")
    assert not _recorded(world, own)


def test_a_key_for_any_client_speaks_for_all(
    world: ScoringWorld, clients: dict[str, httpx.Client]
) -> None:
    decision_id = _scored(clients[SHOP])
    assert clients[OFFICE].post("/labels", json=_label(decision_id)).json()["stored"] == 1
    assert clients[OFFICE].post("/voids", json=_void(decision_id)).status_code == 200
    (void,) = [r for r in world.records("void") if r["decision_id"] == decision_id]
    assert void["payload"]["client"] == OFFICE


def test_any_client_alone_opens_nothing(world: ScoringWorld) -> None:
    with _client(world, new_key(world, "watcher", "--scope", "any-client")) as watcher:
        wait_for(lambda: watcher.post("/labels", json=_label("0" * 42)).status_code == 403)
        assert watcher.post("/voids", json=_void("0" * 42)).status_code == 403


def test_a_key_is_the_clients_own_space(clients: dict[str, httpx.Client]) -> None:
    _scored(clients[SHOP], **{"Idempotency-Key": "order-1"})
    label = {"labels": [{"idempotency_key": "order-1", "label": 1}]}
    refused = clients[BANK].post("/labels", json=label)
    assert refused.json()["type"] == "urn:mlplatform:problem:unknown-decision"
    assert clients[SHOP].post("/labels", json=label).json()["stored"] == 1


def test_what_is_decided_later_is_of_who_asked_first(clients: dict[str, httpx.Client]) -> None:
    told = clients[SHOP].post("/score:async", json=payment(20.0)).json()["decision_id"]
    assert clients[BANK].post("/labels", json=_label(told)).status_code == 422
    assert clients[SHOP].post("/labels", json=_label(told)).json()["stored"] == 1


def test_rows_of_inputs_are_of_who_sent_them(
    world: ScoringWorld, clients: dict[str, httpx.Client]
) -> None:
    definition = load_definition(MODEL)
    row = [20.0, *([None] * (len(definition.inputs) - 1))]
    inputs = {"name": "inputs", "shape": [1, len(row)], "datatype": "FP32", "data": row}
    with httpx.Client(base_url=world.url, headers=clients[SHOP].headers) as shop:
        answer = shop.post(f"/v2/models/{MODEL}/infer", json={"inputs": [inputs]})
    assert answer.status_code == 200, answer.text
    (decision_id,) = [r["decision_id"] for r in world.records("inference")]
    assert clients[BANK].post("/voids", json=_void(decision_id)).status_code == 422
    assert clients[SHOP].post("/voids", json=_void(decision_id)).status_code == 200


def test_decisions_of_before_are_labelled_by_who_is_on_their_record(
    world: ScoringWorld, clients: dict[str, httpx.Client]
) -> None:
    now_ms = int(time.time() * 1000)
    ids = [earlier_decision_id(MODEL, now_ms, key_of(world.home)) for _ in range(2)]
    record = Record(
        kind="decision",
        decision_id=ids[0],
        model=MODEL,
        event_ms=now_ms,
        recorded_ms=now_ms,
        payload={"client": SHOP},
    )
    with contextlib.closing(SqliteDecisionLog(world.home.decisions)) as log:
        log.append("earlier", [Entry(record, None)])
        log.close_writer("earlier")
    assert clients[BANK].post("/labels", json=_label(ids[0])).status_code == 422
    assert clients[BANK].post("/voids", json=_void(ids[0])).status_code == 422
    assert clients[SHOP].post("/labels", json=_label(ids[1])).status_code == 422  # on no record
    assert clients[SHOP].post("/labels", json=_label(ids[0])).json()["stored"] == 1
    assert clients[OFFICE].post("/labels", json=_label(ids[1])).json()["stored"] == 1


def test_a_refusal_is_kept_where_a_person_looks(
    world: ScoringWorld, clients: dict[str, httpx.Client]
) -> None:
    decision_id, since_ms = _scored(clients[SHOP]), int(time.time() * 1000)
    clients[BANK].post("/labels", json=_label(decision_id))
    clients[BANK].post("/voids", json=_void("0" * 42))
    kept = list(Refusals(world.home.audit).since(since_ms))
    assert [(r.door, r.who) for r in kept] == [("labels", BANK), ("voids", BANK)]
    assert decision_id in kept[0].asked
    assert ["any-client" in r.why for r in kept] == [True, False]


@pytest.mark.parametrize("reason", ["\x1b[2J", "late\u202efraud", "   ", "\u0430b"], ids=ascii)
def test_a_reason_is_text(clients: dict[str, httpx.Client], reason: str) -> None:
    decision_id = _scored(clients[SHOP])
    refused = clients[SHOP].post("/voids", json={"decision_id": decision_id, "reason": reason})
    assert (refused.status_code, refused.json()["field"]) == (422, "reason")


def test_a_reason_is_kept_in_one_form(
    world: ScoringWorld, clients: dict[str, httpx.Client]
) -> None:
    decision_id = _scored(clients[SHOP])
    clients[SHOP].post("/voids", json={"decision_id": decision_id, "reason": " Jose\u0301 "})
    (void,) = [r for r in world.records("void") if r["decision_id"] == decision_id]
    assert void["payload"]["reason"] == "José"
