"""Two gateways with a log each share their idempotency keys, whichever dies and when."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.servers.containers import place_of
from tests.servers.instances import redis_address
from tests.servers.valkey import ValkeyServer

from mlplatform.decisions.spill.recovery import KEY_ANSWERED_ELSEWHERE
from support.homes_world import HomesWorld
from support.mortal_gateway import STAGES
from support.scoring_world import payment, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.redis]
RECOVERY_S = 30.0
CUT_OFF = r"disconnected|reset|closed"


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


def test_a_request_for_later_is_accepted_once_by_all_gateways(world: HomesWorld) -> None:
    first, other = world.gateways
    before = len(world.all_records("accepted"))
    body = payment(50.0)
    sent = [world.send(one, "later", body, "score:async") for one in (first, other, first)]
    assert [one.status_code for one in sent] == [202] * 3
    assert len({one.json()["decision_id"] for one in sent}) == 1
    assert len(world.all_records("accepted")) == before + 1
    assert world.send(other, "later", body).status_code == 422  # one space of keys


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
    world.start(first, stage, "KILL")
    with pytest.raises(Exception, match=CUT_OFF):
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


@pytest.mark.parametrize("stage", ["claimed", "committed"])
def test_a_gateway_that_stood_still_gives_no_second_answer(world: HomesWorld, stage: str) -> None:
    """Its claim is taken over meanwhile: what it recorded is void, what it sends is the answer."""
    first, other = world.gateways
    body, key = payment(62.0), f"frozen-{stage}"
    before = len(world.standing())
    first.kill()
    world.start(first, stage, "STOP")
    assert first.process is not None
    with ThreadPoolExecutor(1) as caller:
        asked = caller.submit(world.send, first, key, body)
        wait_for(lambda: process_state(first.process.pid) == "T")
        answer = world.await_answer(other, key, body, RECOVERY_S)
        first.process.send_signal(signal.SIGCONT)
        late = asked.result()
    assert late.status_code in (200, 409, 503), late.text
    if late.status_code == 200:
        assert late.content == answer
    assert world.await_answer(first, key, body) == answer
    wait_for(lambda: len(world.standing()) == before + 1)


def process_state(pid: int) -> str:
    """`T` while a process is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_record_whose_answer_nobody_saw_is_found_by_a_retry_at_its_own_gateway(
    world: HomesWorld,
) -> None:
    first, other = world.gateways
    body, key = payment(61.0), "own-log"
    before = len(world.all_records("decision"))
    first.kill()
    world.start(first, "committed", "KILL")
    with pytest.raises(Exception, match=CUT_OFF):
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


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    """A server that a test may kill and freeze."""
    running = ValkeyServer(place_of("redis"))
    yield running
    running.close()


@pytest.mark.usefixtures("redis")  # says where there is none
@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_while_the_store_is_away_each_gateway_decides_by_its_own_keys_in_time(
    tmp_path: Path, server: ValkeyServer, fault: str
) -> None:
    world = HomesWorld(tmp_path, redis_address(server.port, server.password_file, None))
    try:
        first, other = world.gateways
        body = payment(63.0)
        known = world.send(first, "before", body).content
        with away(server, fault):
            began_s = time.monotonic()
            answers = [world.send(one, "meanwhile", body) for one in (first, other, first)]
            took_s = time.monotonic() - began_s
            assert [one.status_code for one in answers] == [200] * 3
            assert answers[0].content == answers[2].content
            assert world.send(first, "before", body).content == known
            assert took_s < 3 * 2.0
        marked = [r for r in world.all_records("decision") if r["payload"].get("key_claim")]
        assert {r["payload"]["key_claim"] for r in marked} == {"own"}
        assert {_key(r) for r in marked} == {"meanwhile"}
        assert len(marked) == 2
        wait_for(lambda: [_key(r) for r in world.standing()].count("meanwhile") == 1)
        answer = world.await_answer(first, "meanwhile", body)
        assert world.await_answer(other, "meanwhile", body) == answer
        assert world.counted(first, "alone") > 0
        assert world.counted(first, "lost") + world.counted(other, "lost") == 1
    finally:
        world.close()


@pytest.mark.usefixtures("redis")
def test_a_strict_gateway_refuses_keys_while_the_store_is_away(
    tmp_path: Path, server: ValkeyServer
) -> None:
    address = redis_address(server.port, server.password_file, None)
    world = HomesWorld(tmp_path, address, policy="strict")
    try:
        first, other = world.gateways
        body = payment(64.0)
        known = world.send(first, "before", body).content
        with away(server, "killed"):
            for key in ("before", "meanwhile"):
                refused = world.send(first, key, body)
                assert refused.status_code == 503
                assert refused.json()["type"].endswith(":keys-unavailable")
                assert refused.headers["retry-after"] == "1"
        assert world.await_answer(other, "before", body) == known
        answer = world.await_answer(other, "meanwhile", body)
        assert world.await_answer(first, "meanwhile", body) == answer
        assert len(world.all_records("decision")) == 2
    finally:
        world.close()


@pytest.mark.usefixtures("redis")
def test_keys_settled_just_before_a_server_lost_them_are_there_again(
    tmp_path: Path, server: ValkeyServer
) -> None:
    """As after a fail-over to a replica that had not heard of them."""
    world = HomesWorld(tmp_path, redis_address(server.port, server.password_file, None))
    try:
        first, other = world.gateways
        body = payment(65.0)
        answer = world.send(first, "just-before", body).content
        with away(server, "killed"):
            server.lose_data()
            assert world.send(first, "meanwhile", body).status_code == 200
        wait_for(lambda: world.waiting(first) == 0)
        assert world.await_answer(other, "just-before", body) == answer
        assert [_key(r) for r in world.standing()].count("just-before") == 1
    finally:
        world.close()


@contextlib.contextmanager
def away(server: ValkeyServer, fault: str) -> Iterator[None]:
    """The server is killed, or takes connections and answers nothing."""
    if fault == "killed":
        server.kill()
        yield
        server.start()
    else:
        with server.frozen():
            yield
