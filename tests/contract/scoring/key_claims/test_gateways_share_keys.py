"""Two gateways with a log each share their idempotency keys, whichever dies and when."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlplatform.decisions.spill.recovery import KEY_ANSWERED_ELSEWHERE
from support.homes_world import HomesWorld
from support.mortal_gateway import STAGES
from support.scoring_world import payment, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.redis]
RECOVERY_S = 30.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, redis: Any) -> Iterator[HomesWorld]:
    made = HomesWorld(tmp_path_factory.mktemp("homes"), redis.address)
    yield made
    made.close()


def test_a_retry_gets_the_same_answer_from_either_gateway_and_is_recorded_once(
    world: HomesWorld,
) -> None:
    first, other = world.gateways
    before = len(world.all_records("decision"))
    body = payment()
    answers = {world.send(one, "same", body).content for one in (first, other, other, first)}
    assert len(answers) == 1
    assert len(world.all_records("decision")) == before + 1
    assert world.send(other, "same", body).headers["idempotency-replayed"] == "true"


def test_a_key_with_another_request_is_refused_by_the_gateway_that_did_not_answer_it(
    world: HomesWorld,
) -> None:
    first, other = world.gateways
    assert world.send(first, "mine", payment()).status_code == 200
    refused = world.send(other, "mine", payment(41.0))
    assert refused.status_code == 422
    assert refused.json()["type"].endswith(":idempotency-key-reused")


def test_one_key_sent_to_both_gateways_at_once_has_one_answer(world: HomesWorld) -> None:
    before = len(world.standing())
    with ThreadPoolExecutor(2) as both:
        for number in range(50):
            body, key = payment(float(number)), f"twin-{number}"
            sent = [both.submit(world.await_answer, one, key, body) for one in world.gateways]
            assert len({one.result() for one in sent}) == 1
    assert len(world.standing()) == before + 50
    assert world.all_records("void") == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_gateway_that_dies_leaves_one_answer(world: HomesWorld, stage: str) -> None:
    """The retry goes to the other gateway at once, and to the dead one's successor later."""
    first, other = world.gateways
    body, key = payment(60.0), f"dies-{stage}"
    before = len(world.standing())
    first.kill()
    world.start(first, stage)
    with pytest.raises(Exception, match="disconnected|reset|closed"):
        world.send(first, key, body)
    assert first.process is not None
    assert first.process.wait(10) == -9
    answer = world.await_answer(other, key, body, RECOVERY_S)
    world.start(first)
    assert {world.send(one, key, body).content for one in world.gateways} == {answer}
    wait_for(lambda: len(world.standing()) == before + 1)
    wrote = {r["decision_id"] for r in world.all_records("decision") if _key(r) == key}
    assert len(wrote) == (2 if stage == "committed" else 1)
    if stage == "committed":  # and the other gateway has said that it does not count
        (void,) = [r for r in world.all_records("void") if r["decision_id"] in wrote]
        assert void["payload"]["reason"] == KEY_ANSWERED_ELSEWHERE
        assert void["writer"] == other.name


def test_a_record_whose_answer_nobody_saw_is_found_by_a_retry_at_its_own_gateway(
    world: HomesWorld,
) -> None:
    first, other = world.gateways
    body, key = payment(61.0), "own-log"
    before = len(world.all_records("decision"))
    first.kill()
    world.start(first, "committed")
    with pytest.raises(Exception, match="disconnected|reset|closed"):
        world.send(first, key, body)
    world.start(first)
    answer = world.await_answer(first, key, body, RECOVERY_S)
    assert world.send(other, key, body).content == answer
    assert len(world.all_records("decision")) == before + 1


def test_a_request_that_could_not_be_decided_leaves_its_key_free(world: HomesWorld) -> None:
    first, other = world.gateways
    late = payment() | {"event_time": 0}
    assert world.send(first, "late", late).status_code == 422
    assert world.send(other, "late", payment()).status_code == 200


def _key(record: dict[str, Any]) -> str | None:
    key: str | None = record["payload"].get("idempotency_key")
    return key
