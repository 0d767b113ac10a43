"""Whatever a predictor does, a request is answered within its deadline and says who answered."""

from __future__ import annotations

import asyncio
import contextlib
import math
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from mlplatform.learning.features.online import OnlineRow
from mlplatform.model.bundle import load_bundle, write_bundle
from mlplatform.model.features.views import load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.model.oip import Codec
from mlplatform.model.policies.serving import CachePolicy
from mlplatform.model.policies.small_model import Characteristic, SmallModel
from mlplatform.model.routes import Arm, Phase, Routes
from mlplatform.scoring.arms.fallback import predict_until
from mlplatform.scoring.arms.live import Live, LiveModel
from mlplatform.scoring.arms.routing import Assignment
from mlplatform.scoring.predictor_client.bulkhead import Bulkhead
from mlplatform.scoring.predictor_client.predictor import ClientLimits, Predictor
from mlplatform.scoring.request.prediction import RequestFacts, predict, without_predictor
from support.scoring_world import MODEL, write_amount_bundle
from support.standstill import Standstill

DEFINITION = load_definition(MODEL)
VIEWS = load_views(model_folder(MODEL))
DEADLINE_S = 0.2
GRACE_S = 0.15
Behaviour = Callable[[int, asyncio.StreamWriter], Awaitable[None]]


def reply(values: list[float], form: str = "FP32") -> bytes:
    raw = struct.pack(f"<{len(values)}f", *values)
    head = (
        f'{{"outputs":[{{"name":"scores","datatype":"{form}","shape":[{len(values)}],'
        f'"parameters":{{"binary_data_size":{len(raw)}}}}}]}}'
    ).encode()
    top = (
        f"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: {len(head)}\r\n"
        f"Content-Length: {len(head) + len(raw)}\r\n\r\n"
    ).encode()
    return top + head + raw


def says(content: Callable[[int], bytes], after_s: float = 0.0) -> Behaviour:
    async def behave(count: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(after_s)
        writer.write(content(count))

    return behave


async def hangs(count: int, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def resets(count: int, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def stops_half_way(count: int, writer: asyncio.StreamWriter) -> None:
    writer.write(reply([0.3] * count)[:-2])
    await writer.drain()
    writer.close()


WELL = says(lambda count: reply([0.3] * count))
ERROR = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"

FAULTS = [
    pytest.param(hangs, "deadline", id="it is frozen"),
    pytest.param(says(lambda n: reply([0.3] * n), 1.0), "deadline", id="it is 100 times slower"),
    pytest.param(says(lambda n: reply([math.nan] * n)), "invalid_output", id="it answers NaN"),
    pytest.param(says(lambda n: reply([math.inf] * n)), "invalid_output", id="it answers infinity"),
    pytest.param(says(lambda n: reply([])), "invalid_output", id="it answers no score"),
    pytest.param(says(lambda n: reply([0.3] * (n + 1))), "invalid_output", id="one score too many"),
    pytest.param(
        says(lambda n: reply([0.3] * n, "BYTES")), "invalid_output", id="scores of another type"
    ),
    pytest.param(
        says(lambda n: b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnope"),
        "invalid_output",
        id="it answers no tensor",
    ),
    pytest.param(says(lambda n: b"\x00\x01\x02 not HTTP\r\n\r\n"), "unavailable", id="no HTTP"),
    pytest.param(says(lambda n: ERROR), "unavailable", id="it is overloaded"),
    pytest.param(resets, "unavailable", id="it breaks every connection"),
    pytest.param(stops_half_way, "unavailable", id="it ends in the middle of an answer"),
]


class Peer:
    """A predictor that behaves as it is told, call by call; the last behaviour stays."""

    def __init__(self, *script: Behaviour) -> None:
        self.script = list(script)
        self.calls = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> Peer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                sizes = [
                    _header(head, n)
                    for n in (b"inference-header-content-length", b"content-length")
                ]
                body = await reader.readexactly(sizes[1])
                width = len(DEFINITION.inputs)
                count = (len(body) - sizes[0]) // 4 // width
                self.calls += 1
                behave = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                await behave(count, writer)
        writer.close()


def _header(head: bytes, name: bytes) -> int:
    line = next(part for part in head.split(b"\r\n") if part.startswith(name + b":"))
    return int(line.split(b":")[1])


class World:
    """Champion and predecessor, each with a predictor that does what a test says."""

    def __init__(self, bundles: Path) -> None:
        self.bundles = bundles
        self.digest = _bundle(bundles)
        self.peers: dict[str, Peer] = {}
        self.live: Live | None = None

    async def open(
        self, champion: Peer, previous: Peer, *, phase: Phase = "steady", cache: bool = False
    ) -> Live:
        arms = [Arm(2, self.digest, "fraud-v2"), Arm(1, self.digest, "fraud-v1")]
        for arm, peer in zip(arms, (champion, previous), strict=True):
            self.peers[arm.service] = await peer.start()
        definition = DEFINITION
        if cache:
            definition = msgspec.structs.replace(
                definition, cache=CachePolicy(entries=10, keep_s=60)
            )
        model = LiveModel(definition, VIEWS, self.bundles, self._client)
        routes = Routes(MODEL, 1, arms[0], None, arms[1], None, phase, 0.0)
        self.live = model.prepared(routes)
        return self.live

    def _client(self, service: str, limits: ClientLimits, codec: Codec) -> Predictor:
        def endpoint(name: str) -> str:
            return f"http://127.0.0.1:{self.peers[name].port}"

        return Predictor(service, endpoint, lambda: "token", limits, codec)

    async def ask(self, features: OnlineRow | None = None) -> tuple[str, list[tuple[str, str]]]:
        """Who answered, and the failures; within the deadline."""
        live = self.live
        assert live is not None
        assert live.routes.champion is not None
        row = features or OnlineRow(dict.fromkeys(_feature_names(), 1.0), {})
        facts = RequestFacts(
            {"customer_id": 1, "terminal_id": 2, "amount": 300.0}, 1_700_000_000_000, row
        )
        with Standstill() as standstill:
            began_s = time.monotonic()
            until_s = predict_until(live.chain, began_s, began_s + DEADLINE_S)
            order = live.order(Assignment("champion", 0, live.routes.champion, None))
            prediction, failures = await predict(live, order, facts, until_s)
            by = prediction.step if prediction else without_predictor(live, facts).answered_by
            took_s = time.monotonic() - began_s
        assert took_s < DEADLINE_S + GRACE_S + standstill.lasted_s
        return by, [(f.step, f.reason) for f in failures]

    async def close(self) -> None:
        if self.live is not None:
            for target in self.live.targets.values():
                target.close()
        await asyncio.gather(*(peer.stop() for peer in self.peers.values()))


def _feature_names() -> list[str]:
    return [name for view in VIEWS for name in view.feature_names]


def _bundle(bundles: Path) -> str:
    """The bundle that scores by amount, with a small model of two inputs."""
    draft = bundles / "draft"
    write_amount_bundle(draft)
    plain = load_bundle(draft)
    small = SmallModel(
        schema="scorecard/1",
        minimum_present=2,
        base=-2.0,
        characteristics=(
            Characteristic("amount", (200.0,), (0.0, 3.0), 0.0),
            Characteristic("terminal_risk_7d", (0.5,), (0.0, 3.0), 0.0),
        ),
        calibration=plain.calibration,
        thresholds=plain.thresholds,
    )
    bundle = msgspec.structs.replace(plain, small_model=small)
    return write_bundle(bundle, (draft / "model.onnx").read_bytes(), bundles / bundle.digest)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    await world.close()


@pytest.mark.parametrize(("fault", "reason"), FAULTS)
async def test_the_predecessor_answers_for_a_faulty_champion(
    world: World, fault: Behaviour, reason: str
) -> None:
    await world.open(Peer(fault), Peer(WELL))
    by, failures = await world.ask()
    assert by == "previous"
    assert failures in ([("champion", reason)], [("champion", "stalled")])


@pytest.mark.parametrize(("fault", "reason"), FAULTS)
async def test_the_small_model_answers_when_every_predictor_is_faulty(
    world: World, fault: Behaviour, reason: str
) -> None:
    await world.open(Peer(fault), Peer(fault))
    by, failures = await world.ask()
    assert by == "small_model"
    assert {step for step, _ in failures} == {"champion", "previous"}
    assert {why for _, why in failures} <= {reason, "stalled"}


async def test_the_rules_answer_where_the_small_model_knows_too_little(world: World) -> None:
    await world.open(Peer(resets), Peer(resets))
    by, _ = await world.ask(OnlineRow({}, {}))
    assert by == "rules"


async def test_a_connection_that_breaks_once_costs_no_answer(world: World) -> None:
    champion = Peer(resets, WELL)
    await world.open(champion, Peer(WELL))
    assert await world.ask() == ("champion", [])
    assert champion.calls == 2


async def test_repeats_end_with_their_budget(world: World) -> None:
    champion = Peer(resets)
    live = await world.open(champion, Peer(WELL))
    target = live.targets["fraud-v2"]
    calls = DEFINITION.breaker.minimum_calls
    for _ in range(calls):
        assert (await world.ask())[0] == "previous"
    chain = DEFINITION.chain
    assert champion.calls <= calls * (1 + chain.retry_share) + chain.retry_burst
    assert target.breaker.state == "open"


async def test_an_open_breaker_spares_predictor_and_request(world: World) -> None:
    champion = Peer(says(lambda n: ERROR))
    await world.open(champion, Peer(WELL))
    for _ in range(DEFINITION.breaker.minimum_calls):
        await world.ask()
    asked = champion.calls
    assert await world.ask() == ("previous", [("champion", "breaker_open")])
    assert champion.calls == asked


async def test_a_model_at_its_wall_answers_without_predictors(world: World) -> None:
    live = await world.open(Peer(hangs), Peer(hangs))
    world.live = Live(live.routes, live.targets, live.chain, Bulkhead(3), live.safe)
    answers = await asyncio.gather(*(world.ask() for _ in range(5)))
    refused = [failures for _, failures in answers if failures == [("champion", "bulkhead")]]
    assert len(refused) == 2
    assert {by for by, _ in answers} == {"small_model"}
    assert world.live.bulkhead.inside == 0


@pytest.mark.parametrize(
    ("phase", "calls"),
    [
        pytest.param("steady", 1, id="an equal row is not asked for again"),
        pytest.param("canary", 3, id="arms under judgement are always asked"),
    ],
)
async def test_kept_scores_answer_outside_judgement(world: World, phase: Phase, calls: int) -> None:
    champion = Peer(WELL)
    await world.open(champion, Peer(WELL), phase=phase, cache=True)
    assert [await world.ask() for _ in range(3)] == [("champion", [])] * 3
    assert champion.calls == calls
