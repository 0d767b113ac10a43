"""Claims on keys on a real server: who decides, who takes over, and what a late owner may do."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest

from mlplatform.decisions.records.port import StoredAnswer
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.storage.addresses import Address
from mlplatform.runtime.storage.redis import client
from mlplatform.runtime.units import DAY_MS
from mlplatform.scoring.key_claims.port import (
    ClaimedKey,
    ClaimResult,
    ClaimStep,
    HeldKey,
    KeyClaim,
    KeyCompletion,
    KeyRelease,
    LostAnswer,
    SettledKey,
)
from mlplatform.scoring.key_claims.redis import PREFIX, SHAPE, RedisClaims

pytestmark = pytest.mark.redis
KEEP_MS = 7 * DAY_MS
BODY = "5a" * 16
LEASE_MS = 200


def new_id() -> str:
    return os.urandom(21).hex()


def answer_of(decision_id: str, score: float | None = 0.04, **others: Any) -> bytes:
    body = {"decision": "approve", "score": score, "decision_id": decision_id, "route": "champion"}
    return msgspec.json.encode(body | others)


class LoopStore:
    """The store on an event loop that runs while it is asked, and a client of the tests' own."""

    def __init__(self, address: Address, answer_s: float = 5.0) -> None:
        self._runner = asyncio.Runner()
        self._store = RedisClaims(address, answer_s=answer_s, lease_ms=LEASE_MS)
        self.server = client(address, answer_s=answer_s)

    def carry_out(self, steps: Sequence[ClaimStep]) -> list[ClaimResult]:
        return self._runner.run(self._store.carry_out(steps))

    def doubts(self) -> list[str]:
        return self._runner.run(self._store.doubts())

    def close(self) -> None:
        self._runner.run(self._store.close())
        self._runner.close()
        self.server.close()


class Key:
    """One key as gateways ask for it."""

    def __init__(self, store: LoopStore) -> None:
        self.store = store
        self.name = os.urandom(16)

    def ask(self, step: ClaimStep) -> ClaimResult:
        (result,) = self.store.carry_out([step])
        return result

    def claim(self, decision_id: str, known: StoredAnswer | None = None) -> ClaimResult:
        return self.ask(KeyClaim(self.name, BODY, decision_id, KEEP_MS, known))

    def complete(self, decision_id: str, token: int, score: float | None = 0.04) -> ClaimResult:
        answer = answer_of(decision_id, score)
        return self.ask(KeyCompletion(self.name, BODY, decision_id, KEEP_MS, token, answer, score))

    def release(self, decision_id: str, *, may_be_recorded: bool) -> None:
        self.ask(KeyRelease(self.name, decision_id, may_be_recorded))


@pytest.fixture
def store(redis: Any) -> Iterator[LoopStore]:
    redis.empty()
    with contextlib.closing(LoopStore(redis.address)) as made:
        yield made


@pytest.fixture
def key(store: LoopStore) -> Key:
    return Key(store)


def settled(decision_id: str, superseded: tuple[str, ...] = ()) -> SettledKey:
    return SettledKey(StoredAnswer(answer_of(decision_id), BODY, decision_id), superseded)


def outlive_the_lease() -> None:
    time.sleep((LEASE_MS + 50) / 1000)


def test_the_first_claim_has_the_key_and_others_wait_for_it(key: Key) -> None:
    first, other = new_id(), new_id()
    assert key.claim(first) == ClaimedKey(1)
    assert key.claim(first) == ClaimedKey(1)  # sent again, as its answer was lost
    held = key.claim(other)
    assert isinstance(held, HeldKey)
    assert 0 < held.left_ms <= LEASE_MS


@pytest.mark.parametrize("score", [0.04, 0.0, -1.5, 3e-05, None])
def test_a_settled_key_gives_every_caller_the_answer_byte_for_byte(
    key: Key, score: float | None
) -> None:
    first = new_id()
    key.claim(first)
    expected = SettledKey(StoredAnswer(answer_of(first, score), BODY, first))
    assert key.complete(first, 1, score) == expected
    assert key.claim(new_id()) == expected
    assert key.complete(first, 1, score) == expected


def test_a_claim_is_taken_over_after_its_lease_with_a_higher_token(key: Key) -> None:
    ids = [new_id() for _ in range(3)]
    for token, decision_id in enumerate(ids, start=1):
        assert key.claim(decision_id) == ClaimedKey(token, tuple(ids[: token - 1]))
        outlive_the_lease()


def test_a_late_owner_settles_nothing_once_its_claim_was_taken_over(key: Key) -> None:
    late, now = new_id(), new_id()
    key.claim(late)
    outlive_the_lease()
    key.claim(now)
    assert isinstance(key.complete(late, 1), HeldKey)
    assert key.complete(now, 2) == settled(now)
    assert key.complete(late, 1) == settled(now)


def test_a_late_owner_settles_its_key_while_nobody_has_taken_it_over(key: Key) -> None:
    late = new_id()
    key.claim(late)
    outlive_the_lease()
    assert key.complete(late, 1) == settled(late)


def test_an_answer_of_the_own_log_settles_a_key_that_nobody_decided_since(key: Key) -> None:
    own = new_id()
    known = StoredAnswer(answer_of(own), BODY, own)
    assert key.claim(new_id(), known) == settled(own)  # never claimed, or lost by the server

    other, claimed = Key(key.store), new_id()
    other.claim(claimed)  # its owner ended before it settled the key
    assert other.claim(new_id(), StoredAnswer(answer_of(claimed), BODY, claimed)) == settled(
        claimed
    )


def test_an_answer_of_the_own_log_that_was_replaced_stays_so(key: Key) -> None:
    own, other, third = new_id(), new_id(), new_id()
    known = StoredAnswer(answer_of(own), BODY, own)
    key.claim(own)
    outlive_the_lease()
    key.claim(other)
    assert isinstance(key.claim(third, known), HeldKey)
    outlive_the_lease()
    assert key.claim(third, known) == ClaimedKey(3, (own, other))


def test_an_answer_that_was_given_without_a_claim_stands_before_a_claim_that_ended(
    key: Key,
) -> None:
    own, ended = new_id(), new_id()
    key.claim(ended)
    outlive_the_lease()
    known = StoredAnswer(answer_of(own), BODY, own)
    assert key.claim(new_id(), known) == settled(own, (ended,))


def test_who_has_the_key_may_settle_it_by_an_answer_of_the_own_log(key: Key) -> None:
    """As where another process of the same home has decided without a claim."""
    ended, claimed, own = new_id(), new_id(), new_id()
    key.claim(ended)
    outlive_the_lease()
    key.claim(claimed)
    known = StoredAnswer(answer_of(own), BODY, own)
    assert key.claim(claimed, known) == settled(own, (ended,))
    assert key.claim(new_id()) == settled(own)


def test_a_released_key_is_free_at_once_and_names_what_may_be_recorded(key: Key) -> None:
    first, second, third = new_id(), new_id(), new_id()
    key.claim(first)
    key.release(first, may_be_recorded=False)
    assert key.claim(second) == ClaimedKey(1)
    key.release(second, may_be_recorded=True)
    assert key.claim(third) == ClaimedKey(2, (second,))
    key.release(third, may_be_recorded=False)
    assert key.claim(first) == ClaimedKey(3, (second, third))


def test_a_release_of_somebody_elses_or_a_settled_key_changes_nothing(key: Key) -> None:
    first = new_id()
    key.claim(first)
    key.release(new_id(), may_be_recorded=False)
    assert key.complete(first, 1) == settled(first)
    key.release(first, may_be_recorded=False)
    assert key.claim(new_id()) == settled(first)


def test_steps_of_many_keys_are_one_round_trip_and_each_stands_alone(store: LoopStore) -> None:
    ids = [new_id() for _ in range(64)]
    names = [os.urandom(16) for _ in ids]
    claims = [KeyClaim(n, BODY, i, KEEP_MS) for n, i in zip(names, ids, strict=True)]
    assert store.carry_out([*claims, claims[0]]) == [ClaimedKey(1)] * 65


def test_one_of_many_gateways_at_once_has_the_key(redis: Any) -> None:
    for _ in range(20):
        found = asyncio.run(claims_at_once(redis.address, os.urandom(16)))
        assert sum(isinstance(one, ClaimedKey) for one in found) == 1
        assert sum(isinstance(one, HeldKey) for one in found) == 7


async def claims_at_once(address: Address, name: bytes) -> list[ClaimResult]:
    stores = [RedisClaims(address, answer_s=5.0) for _ in range(8)]
    steps = [[KeyClaim(name, BODY, new_id(), KEEP_MS)] for _ in stores]
    calls = (store.carry_out(step) for store, step in zip(stores, steps, strict=True))
    found = [result for (result,) in await asyncio.gather(*calls)]
    await asyncio.gather(*(store.close() for store in stores))
    return found


def test_a_key_is_small_and_ends_by_itself_and_shows_no_key_of_a_client(
    store: LoopStore, redis: Any
) -> None:
    keys = [Key(store) for _ in range(100)]
    for key in keys:
        decision_id = new_id()
        key.claim(decision_id)
        key.complete(decision_id, 1)
    server = store.server
    size = [server.memory_usage(PREFIX + key.name, samples=0) for key in keys]
    assert max(size) <= 160
    assert {KEEP_MS - 10_000 < server.pttl(PREFIX + key.name) <= KEEP_MS for key in keys} == {True}
    shapes = list(server.scan_iter(match=SHAPE + b"*"))
    assert len(shapes) == 1
    assert server.pttl(shapes[0]) > KEEP_MS


def test_more_shapes_than_a_process_keeps_are_stored_whole(
    store: LoopStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlplatform.scoring.key_claims.redis.MOST_SHAPES", 2)
    for number in itertools.islice(itertools.count(), 5):
        key, decision_id = Key(store), new_id()
        answer = answer_of(decision_id, 0.5, top=number)
        step = KeyCompletion(key.name, BODY, decision_id, KEEP_MS, 0, answer, 0.5)
        assert key.ask(step) == SettledKey(StoredAnswer(answer, BODY, decision_id))
        assert key.claim(new_id()) == SettledKey(StoredAnswer(answer, BODY, decision_id))
    assert len(list(store.server.scan_iter(match=SHAPE + b"*"))) == 2


def test_an_answer_whose_text_the_server_lost_is_not_invented(store: LoopStore) -> None:
    lost, other, first = Key(store), Key(store), new_id()
    lost.complete(first, 0)
    server = store.server
    server.delete(*server.scan_iter(match=SHAPE + b"*"))
    claims = [KeyClaim(one.name, BODY, new_id(), KEEP_MS) for one in (lost, other)]
    assert store.carry_out(claims) == [LostAnswer(), ClaimedKey(1)]
    assert lost.claim(new_id(), StoredAnswer(answer_of(first), BODY, first)) == settled(first)


def test_a_server_that_may_forget_keys_is_doubted(store: LoopStore) -> None:
    assert store.doubts() == []
    server = store.server
    server.config_set("maxmemory-policy", "allkeys-lru")
    server.config_set("appendonly", "no")
    try:
        policy, file = store.doubts()
    finally:
        server.config_set("maxmemory-policy", "noeviction")
        server.config_set("appendonly", "yes")
    assert "allkeys-lru" in policy
    assert "appendonly" in file


def test_a_server_that_is_away_is_unavailable(redis: Any) -> None:
    if redis.server is None:
        pytest.skip("a server that was given is not killed")
    with contextlib.closing(LoopStore(redis.address, answer_s=0.5)) as store:
        key, first = Key(store), new_id()
        assert key.claim(first) == ClaimedKey(1)
        redis.server.kill()
        try:
            with pytest.raises(Unavailable):
                key.claim(first)
        finally:
            redis.server.start()
        assert key.claim(first) == ClaimedKey(1)  # of its file
