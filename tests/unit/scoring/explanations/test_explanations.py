"""Explanations for clients: whose they are, how many at a time, and what comes in place of one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.telemetry.refusals import Refusal
from mlplatform.scoring.admission.clients import Client, Scope
from mlplatform.scoring.explanations import explanations as module
from mlplatform.scoring.explanations.answer import (
    ExplanationReply,
    ExplanationRequest,
    NoExplanation,
)
from mlplatform.scoring.explanations.explanations import MOST_WAITING, Explanations
from mlplatform.scoring.labels.ownership import Ownership
from mlplatform.scoring.request.decision_ids import made_ms, new_decision_id

MODEL, KEY = "fraud", b"k" * 32
BOUND_S = 30.0


def client(name: str, *operations: str) -> Client:
    scopes = frozenset(Scope(MODEL, operation) for operation in operations)
    return Client(name, scopes, "standard", None)


SHOP, RIVAL = client("shop", "explain"), client("rival", "explain")
OFFICE = client("office", "explain", "any-client")


class HeldExplainer:
    """Answers once it is let go; it has the ids that it was asked about."""

    def __init__(self) -> None:
        self.asked: list[ExplanationRequest] = []
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.failure: Exception | None = None
        self.problem: NoExplanation | None = None
        self.closed = 0

    def explain(self, request: ExplanationRequest) -> ExplanationReply:
        self.asked.append(request)
        assert self.goes_on.wait(BOUND_S)
        if self.failure is not None:
            raise self.failure
        if self.problem is not None:
            return ExplanationReply(problem=self.problem)
        return ExplanationReply(answer=msgspec.Raw(f'"{request.decision_id}"'.encode()))

    def close(self) -> None:
        self.closed += 1
        self.goes_on.set()


class World:
    def __init__(self) -> None:
        self.explainer = HeldExplainer()
        self.refusals: list[Refusal] = []
        self.left = 0
        owned = Ownership(lambda *_: {}, SystemClock(), KEY, self.refusals.append)
        self.explanations = Explanations(self.explainer, owned, "system")

    def id_of(self, owner: Client) -> str:
        return new_decision_id(MODEL, owner.name, SystemClock().wall_ms(), KEY)

    async def explain(self, asking: Client, decision_id: str) -> bytes:
        return await self.explanations.explain(MODEL, asking, decision_id, leave=self._leave)

    async def problem(self, asking: Client, decision_id: str) -> Problem:
        with pytest.raises(Problem) as refused:
            await self.explain(asking, decision_id)
        return refused.value

    def _leave(self) -> None:
        self.left += 1


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.explainer.goes_on.set()
    asyncio.run(made.explanations.stop())


def told(problem: Problem) -> tuple[int, str, int | None]:
    return problem.status, problem.name, problem.retry_after_s


async def test_who_asked_for_a_decision_is_told_why(world: World) -> None:
    decision_id = world.id_of(SHOP)
    assert await world.explain(SHOP, decision_id) == f'"{decision_id}"'.encode()
    assert await world.explain(OFFICE, decision_id) == f'"{decision_id}"'.encode()
    (request, _) = world.explainer.asked
    assert request.model == MODEL
    assert request.from_ms is not None
    assert request.to_ms is not None
    assert request.from_ms < made_ms(decision_id) < request.to_ms, "few files are opened"
    assert world.left == 2, "what waits is in no commit's way"


async def test_another_clients_decision_is_none_that_there_is(world: World) -> None:
    foreign = world.id_of(SHOP)
    made_up = foreign[:-1] + ("0" if foreign[-1] != "0" else "1")
    found = [await world.problem(RIVAL, one) for one in (foreign, made_up)]
    assert [told(one) for one in found] == [(404, "unknown-decision", None)] * 2
    first, second = (
        str(p).replace(i, "ID") for p, i in zip(found, (foreign, made_up), strict=True)
    )
    assert first == second
    assert world.explainer.asked == []
    assert [(r.door, r.who) for r in world.refusals] == [("explanations", "rival")] * 2


@pytest.mark.parametrize(
    "odd",
    [
        *("", "0", "d1", "%", "é" * 42, "\x1b[2J" + "a" * 38, "../../models", "0" * 42),
        *("f" * 9_000, "0" * 32, "\ufffd" * 32, "A" * 42),
    ],
    ids=lambda text: ascii(text)[:20],
)
async def test_what_is_no_id_of_ours_is_an_unknown_decision(world: World, odd: str) -> None:
    for asking in (SHOP, OFFICE):
        problem = await world.problem(asking, odd)
        assert told(problem) == (404, "unknown-decision", None)
        assert str(problem).isprintable()
        assert len(str(problem)) < 300
    assert world.explainer.asked == []


async def test_more_than_can_wait_are_turned_away_and_those_that_wait_are_answered(
    world: World,
) -> None:
    world.explainer.goes_on.clear()
    decision_id = world.id_of(SHOP)
    waiting = [asyncio.create_task(world.explain(SHOP, decision_id)) for _ in range(MOST_WAITING)]
    await asyncio.sleep(0)
    more = [await world.problem(SHOP, decision_id) for _ in range(3)]
    assert [told(one) for one in more] == [(503, "overloaded", 1)] * 3
    assert told(await world.problem(RIVAL, decision_id)) == (404, "unknown-decision", None)
    world.explainer.goes_on.set()
    assert await asyncio.gather(*waiting) == [f'"{decision_id}"'.encode()] * MOST_WAITING
    assert world.left == MOST_WAITING, "what is turned away is counted until it is answered"
    assert await world.explain(SHOP, decision_id)


async def test_what_waits_too_long_is_told_to_come_back_and_is_never_computed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIMIT_S", 0.05)
    world.explainer.goes_on.clear()
    found = await asyncio.gather(*(world.problem(SHOP, world.id_of(SHOP)) for _ in range(4)))
    assert [told(one) for one in found] == [(503, "explanation-late", module.LATE_S)] * 4
    world.explainer.goes_on.set()
    monkeypatch.setattr(module, "LIMIT_S", BOUND_S)
    last = world.id_of(SHOP)
    await world.explain(SHOP, last)
    assert len(world.explainer.asked) == 2
    assert world.explainer.asked[-1].decision_id == last


@pytest.mark.parametrize(
    ("unexplained", "expected"),
    [
        (NoExplanation("payload-erased", "it is gone"), (422, "payload-erased", None)),
        (NoExplanation("record-not-here", "elsewhere", 404), (404, "record-not-here", None)),
        (NoExplanation("decision-pending", "later", 409, 1), (409, "decision-pending", 1)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
async def test_what_cannot_be_explained_is_a_problem(
    world: World, unexplained: NoExplanation, expected: Any
) -> None:
    world.explainer.problem = unexplained
    problem = await world.problem(SHOP, world.id_of(SHOP))
    assert told(problem) == expected
    assert str(problem) == unexplained.detail


async def test_without_the_process_that_explains_a_client_is_told_to_come_back(
    world: World,
) -> None:
    world.explainer.failure = Unavailable("it has ended")
    problem = await world.problem(SHOP, world.id_of(SHOP))
    assert told(problem) == (503, "explanation-unavailable", module.LATE_S)
    world.explainer.failure = None
    assert await world.explain(SHOP, world.id_of(SHOP))


async def test_the_process_ends_once_nobody_asks(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.05)
    await world.explain(SHOP, world.id_of(SHOP))
    assert world.explainer.closed == 0
    async with asyncio.timeout(BOUND_S):
        while not world.explainer.closed:
            await asyncio.sleep(0.01)
    assert await world.explain(SHOP, world.id_of(SHOP))
