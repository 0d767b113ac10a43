"""Who gets in: scopes, priorities, blocks of tokens and the gate over them."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.runtime.errors import ConfigInvalid, Unavailable
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.admission.bucket import (
    Level,
    Take,
    TokenGrant,
    block_size,
    full,
    take_tokens,
)
from mlplatform.scoring.admission.clients import (
    EVERYTHING,
    Client,
    RateLimit,
    Scope,
    check_client,
    parse_scope,
    rate_limit,
)
from mlplatform.scoring.admission.gate import AdmissionGate
from mlplatform.scoring.admission.priorities import (
    PRIORITIES,
    Enter,
    ShedRequest,
    entry,
    in_flight_limits,
    lowered,
)
from mlplatform.scoring.admission.token_blocks import WAIT_S, TokenBlock, TokenBlocks

LIMIT = RateLimit(100.0, 50)


@pytest.mark.parametrize(
    ("scope", "model", "operation", "allowed"),
    [
        ("fraud:score", "fraud", "score", True),
        ("fraud:score", "fraud", "read", False),
        ("fraud:score", "credit", "score", False),
        ("fraud:score", "*", "score", False),
        ("*:score", "credit", "score", True),
        ("fraud:*", "fraud", "labels", True),
        ("fraud:metrics", "*", "metrics", False),
        ("*:metrics", "*", "metrics", True),
        ("*:*", "anything", "explain", True),
    ],
)
def test_a_scope_covers(scope: str, model: str, operation: Any, allowed: bool) -> None:
    client = Client("shop", frozenset({parse_scope(scope)}), "standard", None)
    assert client.may(model, operation) is allowed
    assert client.may(model, operation) is allowed


@pytest.mark.parametrize("text", ["", "fraud", "fraud:", ":score", "fraud:all", "a b:score"])
def test_a_scope_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigInvalid):
        parse_scope(text)


@pytest.mark.parametrize("name", ["", "a/b", "oidc:x", "Shop", "-a", "x" * 65, "a\n"])
def test_a_name_that_could_be_taken_for_another_is_refused(name: str) -> None:
    with pytest.raises(ConfigInvalid):
        check_client(name)


@pytest.mark.parametrize(
    ("rate", "burst"),
    [
        (0.0, None),
        (-1.0, 1),
        (float("nan"), 1),
        (float("inf"), 1),
        (1.0, 0),
        (None, 5),
        (0.001, 999),
    ],
)
def test_a_limit_that_cannot_be_is_refused(rate: float | None, burst: int | None) -> None:
    with pytest.raises(ConfigInvalid):
        rate_limit(rate, burst)


def test_a_burst_is_a_seconds_worth_unless_said() -> None:
    assert rate_limit(2.5, None) == RateLimit(2.5, 3)
    assert rate_limit(None, None) is None


@pytest.mark.parametrize(
    ("in_flight", "let_in"),
    [
        (0, "critical standard background"),
        (49, "critical standard background"),
        (50, "critical standard"),
        (89, "critical standard"),
        (90, "critical"),
        (99, "critical"),
        (100, ""),
    ],
)
def test_of_a_hundred_places(in_flight: int, let_in: str) -> None:
    entered = [
        p for p in PRIORITIES if isinstance(entry(p, in_flight, in_flight_limits(100)), Enter)
    ]
    assert entered == let_in.split()


@given(st.integers(0, 2000), st.integers(1, 1500))
def test_a_higher_class_is_never_shed_before_a_lower_one(in_flight: int, places: int) -> None:
    shed = [
        isinstance(entry(p, in_flight, in_flight_limits(places)), ShedRequest) for p in PRIORITIES
    ]
    assert shed == sorted(shed)


@given(st.sampled_from(PRIORITIES), st.sampled_from(PRIORITIES))
def test_a_request_can_be_lowered_and_never_raised(own: Any, asked: Any) -> None:
    assert PRIORITIES.index(lowered(own, asked)) == max(map(PRIORITIES.index, (own, asked)))


@given(
    st.floats(0.1, 1000),
    st.integers(1, 100),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 50)), max_size=40),
)
def test_a_bucket_never_gives_more_than_its_burst_and_its_rate(
    rate: float, burst: int, steps: list[tuple[int, int]]
) -> None:
    limit, now_ms, total = RateLimit(rate, burst), 0, 0
    level: Level = full(limit, now_ms)
    for passed_ms, tokens in steps:
        now_ms += passed_ms
        level, given_ = take_tokens(level, Take("b", limit, tokens), now_ms)
        total += given_.tokens
        assert (given_.retry_after_s > 0) == (given_.tokens < tokens)
        assert total <= burst + rate * now_ms / 1000 + 1e-6


class Store:
    """A bucket whose clock stands still, and which can fail or hang."""

    def __init__(self) -> None:
        self.levels: dict[str, int] = {}
        self.calls = 0
        self.failing = False

    def take(self, takes: Sequence[Take]) -> list[TokenGrant]:
        self.calls += 1
        if self.failing:
            raise Unavailable("the store")
        found = []
        for take in takes:
            there = self.levels.get(take.bucket, take.limit.burst)
            tokens = min(take.tokens, there)
            self.levels[take.bucket] = there - tokens
            found.append(TokenGrant(take.bucket, tokens, 0.0 if tokens == take.tokens else 30.0))
        return found


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def blocks(store: Store, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TokenBlocks]:
    supply_alone = TokenBlock.supply_alone

    def supplied(block: TokenBlock, share: float, now_s: float) -> None:
        alone.append(1)  # also where a request has waited its longest, which no callback tells
        supply_alone(block, share, now_s)

    monkeypatch.setattr(TokenBlock, "supply_alone", supplied)
    blocks = TokenBlocks(store.take, 2, lambda: alone.append(1))
    blocks.start()
    alone.clear()
    yield blocks
    await blocks.stop()


alone: list[int] = []


async def used(blocks: TokenBlocks, count: int, limit: RateLimit = LIMIT) -> int:
    """Of so many requests at once, how many got a token."""
    block = blocks.block("b", limit)

    async def one() -> bool:
        return blocks.try_take(block) or await blocks.wait_and_take(block) == 0

    return sum(await asyncio.gather(*(one() for _ in range(count))))


async def test_an_answer_that_comes_as_all_waits_end_is_not_passed_over(
    blocks: TokenBlocks, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that got no processor for longer than a request waits: the first request of a
    gateway in a pod was refused by a limit of 50,000 a second."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[TokenGrant]] = loop.create_future()
    monkeypatch.setattr(loop, "run_in_executor", lambda *_: answer)
    block = blocks.block("b", LIMIT)
    request = asyncio.create_task(blocks.wait_and_take(block))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    loop.call_later(WAIT_S + 0.001, answer.set_result, [TokenGrant("b", 5, 0.0)])
    time.sleep(WAIT_S + 0.01)  # the loop itself is held up
    assert await request == 0.0
    assert block.tokens == 4


async def test_a_burst_that_the_limit_allows_gets_in_and_no_more(
    blocks: TokenBlocks, store: Store
) -> None:
    granted = await used(blocks, 200)
    assert granted <= LIMIT.burst
    if not alone:  # a process or store that is late on a busy machine is another test's business
        assert granted == LIMIT.burst
        calls = store.calls
        assert await used(blocks, 100) == 0
        assert store.calls <= calls + 1


async def test_most_requests_never_wait_for_the_store(blocks: TokenBlocks, store: Store) -> None:
    limit = RateLimit(10_000.0, 10_000)
    let_in = 0
    for _ in range(200):
        let_in += await used(blocks, 10, limit)
        await asyncio.sleep(0)
    assert let_in == 2000 or alone
    assert store.calls < 50


async def test_a_process_holds_at_most_a_block_unused(blocks: TokenBlocks, store: Store) -> None:
    await used(blocks, 1)
    for _ in range(20):
        await asyncio.sleep(0.01)
    assert blocks.block("b", LIMIT).tokens <= block_size(LIMIT) == 10
    assert store.levels["b"] >= LIMIT.burst - 1 - block_size(LIMIT) - block_size(LIMIT) * bool(
        alone
    )


async def test_without_the_store_a_process_goes_on_at_its_even_share(
    blocks: TokenBlocks, store: Store
) -> None:
    store.failing = True
    began_s = asyncio.get_running_loop().time()
    total = 0
    for _ in range(20):
        total += await used(blocks, 20)
        await asyncio.sleep(0.02)
    passed_s = asyncio.get_running_loop().time() - began_s
    assert 0 < total <= block_size(LIMIT) + passed_s * LIMIT.rate_per_s / 2 + 1
    assert alone


async def test_what_was_used_without_the_store_is_paid_when_it_is_back(
    blocks: TokenBlocks, store: Store
) -> None:
    store.failing = True
    assert await used(blocks, 10) > 0
    store.failing = False
    await used(blocks, 200)
    await asyncio.sleep(0.05)
    assert blocks.block("b", LIMIT).unpaid == 0 or alone


class KnownCredentials:
    """Credentials in a dict."""

    def __init__(self, **clients: Client) -> None:
        self._clients = clients

    def client(self, secret: bytes, digest: bytes) -> Client | None:
        assert digest == hashlib.sha256(secret).digest()
        return self._clients.get(secret.decode())


def bearer(name: str, **headers: str) -> dict[bytes, bytes]:
    more = {key.replace("_", "-").encode(): value.encode() for key, value in headers.items()}
    return {b"authorization": f"Bearer {name}".encode()} | more


CLIENTS = KnownCredentials(
    all=Client("all", EVERYTHING, "critical", None),
    shop=Client("shop", frozenset({Scope("fraud", "score")}), "standard", None),
    slow=Client("slow", EVERYTHING, "background", RateLimit(1.0, 2)),
    late=Client("late", EVERYTHING, "standard", None, until_s=1.0),
)


def gate_over(
    blocks: TokenBlocks, places: int = 100, **limits: RateLimit
) -> tuple[AdmissionGate, list[Any]]:
    counted: list[Any] = []
    gate = AdmissionGate(
        CLIENTS, blocks, in_flight_limits(places), limits, lambda *what: counted.append(what)
    )
    return gate, counted


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"authorization": b""},
        {b"authorization": b"Bearer"},
        {b"authorization": b"Bearer "},
        {b"authorization": b"Basic all"},
        {b"authorization": b"Bearer nobody"},
        {b"authorization": b"Bearer late"},
        {b"authorization": b"all"},
    ],
)
async def test_nobody_else_gets_in(blocks: TokenBlocks, headers: dict[bytes, bytes]) -> None:
    gate, counted = gate_over(blocks)
    with pytest.raises(Problem) as caught:
        await gate.admit(headers, "fraud", "score")
    assert (caught.value.status, caught.value.name) == (401, "unauthenticated")
    assert (b"www-authenticate", b"Bearer") in caught.value.headers
    assert counted == [("unauthenticated", "")]


async def test_a_key_opens_its_model_and_operation_only(blocks: TokenBlocks) -> None:
    gate, _ = gate_over(blocks)
    admitted = await gate.admit({b"authorization": b"bearer shop"}, "fraud", "score")
    assert admitted.client.name == "shop"
    for model, operation in (("credit", "score"), ("fraud", "labels"), (None, "metrics")):
        with pytest.raises(Problem) as caught:
            await gate.admit(bearer("shop"), model, operation)  # type: ignore[arg-type]
        assert (caught.value.status, caught.value.name) == (403, "forbidden")


async def test_a_client_over_its_rate_is_told_when_to_come_back(blocks: TokenBlocks) -> None:
    gate, counted = gate_over(blocks)
    admitted = 0
    problem: Problem | None = None
    for _ in range(6):
        try:
            gate.leave(await gate.admit(bearer("slow"), "fraud", "score"))
            admitted += 1
        except Problem as caught:
            problem = caught
    assert 2 <= admitted <= 3 + len(alone)
    assert problem is not None
    assert (problem.status, problem.name) == (429, "client-rate")
    assert problem.retry_after_s is not None
    assert problem.retry_after_s >= 1
    assert ("client-rate", "background") in counted
    assert gate.in_flight == 0


async def test_a_models_limit_holds_for_all_clients_together(blocks: TokenBlocks) -> None:
    gate, _ = gate_over(blocks, fraud=RateLimit(1.0, 3))
    outcomes = []
    for name in ("all", "shop") * 4:
        try:
            await gate.admit(bearer(name), "fraud", "score")
            outcomes.append("in")
        except Problem as caught:
            outcomes.append(caught.name)
    assert 3 <= outcomes.count("in") <= 4 + len(alone)
    assert outcomes[-1] == "model-rate"
    await gate.admit(bearer("all"), "credit", "score")


async def test_the_lowest_class_is_shed_first_and_the_header_only_lowers(
    blocks: TokenBlocks,
) -> None:
    gate, _ = gate_over(blocks, places=10)
    held = [await gate.admit(bearer("all"), "fraud", "score") for _ in range(5)]
    with pytest.raises(Problem) as caught:
        await gate.admit(bearer("all", x_priority="background"), "fraud", "score")
    assert (caught.value.status, caught.value.name, caught.value.retry_after_s) == (
        503, "overloaded", 5,
    )  # fmt: skip
    raised = await gate.admit(bearer("shop", x_priority="critical"), "fraud", "score")
    assert raised.priority == "standard"
    with pytest.raises(Problem) as caught:
        await gate.admit(bearer("all", x_priority="urgent"), "fraud", "score")
    assert (caught.value.status, caught.value.details.field) == (422, "X-Priority")
    for admitted in (*held, raised):
        gate.leave(admitted)
        gate.leave(admitted)
    assert gate.in_flight == 0


async def test_metrics_are_read_while_nothing_else_gets_in(blocks: TokenBlocks) -> None:
    gate, _ = gate_over(blocks, places=1)
    await gate.admit(bearer("all"), "fraud", "score")
    with pytest.raises(Problem):
        await gate.admit(bearer("all"), "fraud", "score")
    await gate.admit(bearer("all"), None, "metrics")
    assert gate.in_flight == 1


async def test_a_batch_owes_a_token_an_item(blocks: TokenBlocks) -> None:
    gate, _ = gate_over(blocks, fraud=RateLimit(1.0, 5))
    gate.charge(await gate.admit(bearer("all"), "fraud", "score"), 40)
    outcomes = []
    for _ in range(3):
        try:
            await gate.admit(bearer("all"), "fraud", "score")
        except Problem as problem:
            outcomes.append(problem.name)
    assert outcomes[-1:] == ["model-rate"]
