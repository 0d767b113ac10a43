"""Claims of one process: what goes together, how long a request waits, what is made up later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from mlplatform.decisions.records.port import Entry, StoredAnswer
from mlplatform.decisions.records.record import Record
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.key_claims import pipeline, shared_keys
from mlplatform.scoring.key_claims.packed_answers import packed, unpacked, whole
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
from mlplatform.scoring.key_claims.shared_keys import KeyedRequest, KeyHold, SharedKeys

OWN, OTHER = "0a" * 21, "0b" * 21
BODY = "5a" * 32
ANSWER = StoredAnswer(b"{}", BODY, OTHER)


class ScriptedStore:
    """A store that gives these results, by the kind of step; it may stand still or fail."""

    def __init__(self, claim: ClaimResult = None, complete: ClaimResult = None) -> None:
        self.results: dict[type, ClaimResult] = {KeyClaim: claim, KeyCompletion: complete}
        self.calls: list[list[ClaimStep]] = []
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.is_away = False

    @property
    def steps(self) -> list[ClaimStep]:
        return [step for call in self.calls for step in call]

    async def carry_out(self, steps: Sequence[ClaimStep]) -> list[ClaimResult]:
        await self.goes_on.wait()
        self.calls.append(list(steps))
        if self.is_away:
            raise Unavailable("the server ends")
        return [self.results.get(type(step)) for step in steps]

    async def doubts(self) -> list[str]:
        return []

    async def close(self) -> None:
        self.goes_on.set()


class Process:
    """The keys of one gateway process, with what it counted and recorded."""

    def __init__(self, store: ScriptedStore, policy: Any) -> None:
        self.counted: list[str] = []
        self.recorded: list[Entry] = []
        self.fails = 0
        self.keys = SharedKeys(store, policy, SystemClock(), self.counted.append)

    async def append(self, entry: Entry) -> None:
        if self.fails:
            self.fails -= 1
            raise Unavailable("the log is down")
        self.recorded.append(entry)

    async def hold(
        self, key: str = "k", known: StoredAnswer | None = None, within_s: float = 5.0
    ) -> KeyHold | StoredAnswer:
        asked = KeyedRequest(("client", "fraud", key), BODY, OWN, 1000)
        return await self.keys.hold(asked, known, time.monotonic() + within_s)


def running(
    store: ScriptedStore, story: Callable[[Process], Awaitable[None]], policy: str = "shared"
) -> Process:
    async def run() -> Process:
        process = Process(store, policy)
        process.keys.start(process.append)
        try:
            await story(process)
        finally:
            store.goes_on.set()
            await process.keys.stop()
        return process

    return asyncio.run(run())


def record() -> Record:
    return Record(kind="decision", decision_id=OWN, model="fraud", event_ms=7, recorded_ms=8)


def test_keys_of_one_turn_and_those_that_come_during_a_call_share_round_trips() -> None:
    store = ScriptedStore(ClaimedKey(1))
    store.goes_on.clear()

    async def story(process: Process) -> None:
        first = [asyncio.ensure_future(process.hold(f"a{n}")) for n in range(5)]
        await asyncio.sleep(0.01)
        more = [asyncio.ensure_future(process.hold(f"b{n}")) for n in range(7)]
        await asyncio.sleep(0.01)
        store.goes_on.set()
        for held in await asyncio.gather(*first, *more):
            assert isinstance(held, KeyHold)
            assert not held.is_alone

    running(store, story)
    assert [len(call) for call in store.calls[:2]] == [5, 7]


def test_a_store_that_is_late_is_not_waited_for_and_then_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline, "SILENT_S", 0.05)
    store = ScriptedStore(ClaimedKey(1))
    store.goes_on.clear()

    async def story(process: Process) -> None:
        began_s = time.monotonic()
        held = await process.hold(within_s=0.06)
        assert isinstance(held, KeyHold)
        assert held.is_alone
        assert 0.05 <= time.monotonic() - began_s < 0.5
        began_s = time.monotonic()
        held = await process.hold("other")
        assert isinstance(held, KeyHold)
        assert held.is_alone
        assert time.monotonic() - began_s < 0.05

    process = running(store, story)
    assert process.counted == ["alone", "alone"]


def test_a_store_that_failed_is_asked_again_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "PAUSE_S", 0.02)
    store = ScriptedStore(ClaimedKey(1))
    store.is_away = True

    async def story(process: Process) -> None:
        await process.hold()
        store.is_away = False
        await asyncio.sleep(0.03)
        held = await process.hold()
        assert isinstance(held, KeyHold)
        assert not held.is_alone

    assert running(store, story).counted == ["alone", "claimed"]


def test_strict_keys_are_refused_while_the_store_does_not_answer() -> None:
    store = ScriptedStore(ClaimedKey(1))
    store.is_away = True

    async def story(process: Process) -> None:
        with pytest.raises(Problem) as refused:
            await process.hold(known=StoredAnswer(b"{}", BODY, OWN))
        assert (refused.value.status, refused.value.retry_after_s) == (503, 1)
        store.is_away = False

    process = running(store, story, "strict")
    assert process.counted == ["refused"]


def test_a_known_answer_is_given_while_the_store_does_not_answer() -> None:
    store = ScriptedStore()
    store.is_away = True

    async def story(process: Process) -> None:
        assert await process.hold(known=ANSWER) == ANSWER

    running(store, story)


def test_a_key_of_another_request_in_the_own_log_is_no_matter_of_the_store() -> None:
    store = ScriptedStore(ClaimedKey(1))

    async def story(process: Process) -> None:
        known = StoredAnswer(b"{}", "6b" * 32, OTHER)
        assert await process.hold(known=known) == known

    running(store, story)
    assert store.calls == []


def test_a_key_that_another_gateway_has_is_waited_for_and_then_refused() -> None:
    store = ScriptedStore(HeldKey(900))

    async def story(process: Process) -> None:
        with pytest.raises(Problem) as refused:
            await process.hold(within_s=0.05)
        assert (refused.value.status, refused.value.name) == (409, "in-flight")
        assert refused.value.retry_after_s == 1
        waiting = asyncio.ensure_future(process.hold())
        await asyncio.sleep(0.01)
        store.results[KeyClaim] = SettledKey(ANSWER)
        assert await waiting == ANSWER

    process = running(store, story)
    assert process.counted == ["in_flight", "repeated"]
    assert len(store.steps) > 3  # asked again, ever more slowly


def test_an_answer_that_the_store_has_lost_is_refused() -> None:
    async def story(process: Process) -> None:
        with pytest.raises(Problem) as refused:
            await process.hold()
        assert refused.value.status == 503

    running(ScriptedStore(LostAnswer()), story)


def test_who_takes_over_voids_the_earlier_decisions_beside_its_own() -> None:
    async def story(process: Process) -> None:
        held = await process.hold()
        assert isinstance(held, KeyHold)
        (void,) = held.beside(record())
        assert (void.record.kind, void.record.decision_id) == ("void", OTHER)
        assert void.record.payload["stands"] == OWN
        assert (void.record.event_ms, void.record.recorded_ms) == (7, 8)
        held.let_go()

    store = ScriptedStore(ClaimedKey(2, (OTHER,)))
    process = running(store, story)
    assert process.counted == ["taken_over"]
    assert KeyRelease(store.steps[0].key, OWN, may_be_recorded=True) in store.steps


def test_a_key_that_the_own_log_turned_out_to_have_is_settled_by_it() -> None:
    async def story(process: Process) -> None:
        held = await process.hold()
        assert isinstance(held, KeyHold)
        held.beside(record())
        await held.stand_back(ANSWER, time.monotonic() + 5)
        held.let_go()

    store = ScriptedStore(ClaimedKey(1))
    running(store, story)
    first, last = store.steps
    assert isinstance(last, KeyClaim)
    assert (last.key, last.decision_id, last.known) == (first.key, OWN, ANSWER)


def test_a_claim_that_led_to_no_record_frees_its_key() -> None:
    async def story(process: Process) -> None:
        held = await process.hold()
        assert isinstance(held, KeyHold)
        held.let_go()
        held.let_go()

    store = ScriptedStore(ClaimedKey(1))
    running(store, story)
    released = {step for step in store.steps if isinstance(step, KeyRelease)}
    assert released == {KeyRelease(store.steps[0].key, OWN, may_be_recorded=False)}


def test_an_answer_whose_key_was_settled_by_another_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared_keys, "VOID_RETRY_S", 0.01)

    async def story(process: Process) -> None:
        process.fails = 2  # the log takes the void at the third try
        held = await process.hold()
        assert isinstance(held, KeyHold)
        assert await held.settle(b"mine", None, time.monotonic() + 5) == ANSWER
        while not process.recorded:
            await asyncio.sleep(0.01)
        assert process.recorded[0].record.decision_id == OWN

    process = running(ScriptedStore(ClaimedKey(1), SettledKey(ANSWER)), story)
    assert process.counted == ["claimed", "lost", "voided"]


def test_an_answer_whose_key_was_taken_over_is_not_sent() -> None:
    async def story(process: Process) -> None:
        held = await process.hold()
        assert isinstance(held, KeyHold)
        with pytest.raises(Problem) as refused:
            await held.settle(b"mine", None, time.monotonic() + 5)
        assert refused.value.status == 409

    process = running(ScriptedStore(ClaimedKey(1), HeldKey(10)), story)
    assert process.counted == ["claimed", "lost"]
    assert process.recorded == []  # the gateway that took it over records the void


def test_an_answer_whose_lease_is_over_is_not_sent_before_its_key_is_settled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its process stood still, so another gateway may have answered; the store is slow to say."""
    monkeypatch.setattr(shared_keys, "LEASE_MS", 30)
    store = ScriptedStore(ClaimedKey(1))

    async def story(process: Process) -> None:
        held = await process.hold()
        assert isinstance(held, KeyHold)
        await asyncio.sleep(0.05)
        store.goes_on.clear()
        with pytest.raises(Problem) as refused:
            await held.settle(b"mine", None, time.monotonic())
        assert (refused.value.status, refused.value.retry_after_s) == (503, 1)
        with pytest.raises(Problem):  # nor does a retry get it, while nobody knows
            await process.hold(known=StoredAnswer(b"mine", BODY, OWN), within_s=0.05)

    process = running(store, story)
    assert process.counted == ["claimed", "refused", "refused"]


def test_an_answer_within_its_lease_is_sent_though_the_store_is_slow() -> None:
    store = ScriptedStore(ClaimedKey(1))

    async def story(process: Process) -> None:
        held = await process.hold()
        assert isinstance(held, KeyHold)
        store.goes_on.clear()
        assert await held.settle(b"mine", None, time.monotonic()) is None
        known = StoredAnswer(b"mine", BODY, OWN)
        assert await process.hold(known=known, within_s=0.05) == known

    assert running(store, story).counted == ["claimed", "unsettled", "alone"]


def test_a_replaced_answer_of_the_own_log_is_not_repeated_without_the_store() -> None:
    store = ScriptedStore(SettledKey(ANSWER))
    replaced = StoredAnswer(b"mine", BODY, OWN)

    async def story(process: Process) -> None:
        assert await process.hold(known=replaced) == ANSWER
        store.is_away = True
        with pytest.raises(Problem) as refused:
            await process.hold(known=replaced)
        assert refused.value.status == 503
        store.is_away = False

    running(store, story)


def test_a_decision_without_a_claim_is_settled_later_or_void_if_another_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline, "PAUSE_S", 0.01)
    monkeypatch.setattr(pipeline, "LATER_S", 0.02)
    store = ScriptedStore(complete=SettledKey(ANSWER))
    store.is_away = True

    async def story(process: Process) -> None:
        held = await process.hold()
        assert isinstance(held, KeyHold)
        assert await held.settle(b"mine", None, time.monotonic() + 5) is None
        assert process.keys.pipeline.waiting_later == 1
        await asyncio.sleep(0.05)
        store.is_away = False
        while process.keys.pipeline.waiting_later or not process.recorded:
            await asyncio.sleep(0.01)

    process = running(store, story)
    (void,) = process.recorded
    assert void.record.decision_id == OWN
    assert void.record.payload["stands"] == OTHER
    assert process.counted == ["alone", "lost", "voided"]


def test_of_too_many_keys_that_wait_the_oldest_are_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline, "MOST_LATER", 3)
    store = ScriptedStore()
    store.is_away = True

    async def story(process: Process) -> None:
        for number in range(5):
            held = await process.hold(f"k{number}")
            assert isinstance(held, KeyHold)
            await held.settle(b"mine", None, time.monotonic())
        assert process.keys.pipeline.waiting_later == 3

    assert running(store, story).counted.count("dropped") == 2


@pytest.mark.parametrize("score", [0.25, 3e-05, 1e-07, 0.0, -2.5, None])
def test_packed_answers_are_the_same_bytes_again(score: float | None) -> None:
    answer = f'{{"score":{"null" if score is None else score},"decision_id":"{OWN}"}}'.encode()
    one = packed(answer, OWN, score)
    assert unpacked(one.data, one.shape, OWN) == answer
    assert OWN.encode() not in one.shape
    assert len(one.data) <= 17
    assert unpacked(whole(answer).data, b"", OWN) == answer
