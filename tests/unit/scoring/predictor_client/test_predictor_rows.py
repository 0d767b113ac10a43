"""Rows travel together when there is a queue, and nobody waits past a deadline."""

from __future__ import annotations

import asyncio
import math
import struct
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import httptools
import pytest

from mlplatform.model.oip import PredictionFailed, Reply, Scores, infer_request, scores
from mlplatform.runtime.telemetry.context import (
    Origin,
    TraceContext,
    derived_span_id,
    trace_context,
)
from mlplatform.scoring.predictor_client.predictor import ClientLimits, Predictor

SERVICE = "fraud-v1-aaaaaaaa"


@dataclass
class Peer:
    """A predictor made of wax: doubles the first input of each row, when told to."""

    port: int = 0
    batches: list[int] = field(default_factory=list)
    headers: list[dict[bytes, bytes]] = field(default_factory=list)
    connections: int = 0
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    reply: Callable[[list[float]], bytes] | None = None
    close_after: bool = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                headers = _headers(head)
                self.headers.append(headers)
                body = await reader.readexactly(int(headers[b"content-length"]))
                raw = body[int(headers[b"inference-header-content-length"]) :]
                firsts = [value for (value,) in struct.iter_unpack("<f", raw)][::2]
                self.batches.append(len(firsts))
                await self.may_answer.wait()
                answer = self.reply or plain_reply
                writer.write(answer([2 * value for value in firsts]))
                if self.close_after:
                    break
        except asyncio.IncompleteReadError:
            pass
        writer.close()


class _Head:
    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value


def _headers(head: bytes) -> dict[bytes, bytes]:
    parsed = _Head()
    httptools.HttpRequestParser(parsed).feed_data(head)
    return parsed.headers


def plain_reply(values: list[float]) -> bytes:
    head = (
        b'{"outputs":[{"name":"scores","datatype":"FP32","shape":[%d],'
        b'"parameters":{"binary_data_size":%d}}]}' % (len(values), 4 * len(values))
    )
    body = head + struct.pack(f"<{len(values)}f", *values)
    return (
        b"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n"
        % (len(head), len(body))
    ) + body


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    peer.may_answer.set()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.port = server.sockets[0].getsockname()[1]
    yield peer
    server.close()


def client(peer: Peer, limits: ClientLimits | None = None) -> Predictor:
    return Predictor(
        SERVICE,
        lambda _: f"http://127.0.0.1:{peer.port}",
        lambda: "token",
        limits or ClientLimits(),
    )


def soon(seconds: float = 2.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def reason_of(future: asyncio.Future[list[float]]) -> str:
    with pytest.raises(PredictionFailed) as caught:
        await future
    return caught.value.reason


async def test_each_caller_gets_the_scores_of_its_own_rows(peer: Peer) -> None:
    predictor = client(peer)
    asked = [predictor.predict([(float(i), 0.0)] * (1 + i % 3), soon()) for i in range(50)]
    answers = await asyncio.gather(*asked)
    assert answers == [[2.0 * i] * (1 + i % 3) for i in range(50)]
    predictor.close()


async def test_rows_that_arrive_during_a_call_leave_together(peer: Peer) -> None:
    peer.may_answer.clear()
    predictor = client(peer, ClientLimits(calls=1, rows=16))
    first = predictor.predict([(1.0, 0.0)], soon())
    while not peer.batches:
        await asyncio.sleep(0.001)
    rest = [predictor.predict([(1.0, 0.0)], soon()) for _ in range(20)]
    peer.may_answer.set()
    await asyncio.gather(first, *rest)
    assert peer.batches == [1, 16, 4]
    assert peer.connections == 1
    predictor.close()


async def test_a_predictor_that_is_forgotten_while_a_call_connects_answers_it(peer: Peer) -> None:
    """Its connection is not kept: the next call asks where the predictor is now."""
    predictor = client(peer)
    asked = predictor.predict([(1.0, 0.0)], soon())
    while predictor._address is None:
        await asyncio.sleep(0)
    predictor.forget()
    assert await asked == [2.0]
    assert await predictor.predict([(1.0, 0.0)], soon()) == [2.0]
    assert peer.connections == 2
    predictor.close()


async def told(asked: list[asyncio.Future[Scores]]) -> list[bool]:
    ended = await asyncio.gather(*asked, return_exceptions=True)
    return [end.speaks for end in ended if isinstance(end, Scores | PredictionFailed)]


async def test_one_row_of_a_call_tells_how_it_ended(peer: Peer) -> None:
    predictor = client(peer, ClientLimits(calls=1, rows=64))
    answers = await told([predictor.predict([(1.0, 0.0)], soon()) for _ in range(60)])
    peer.reply = lambda values: b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"
    failures = await told([predictor.predict([(1.0, 0.0)], soon()) for _ in range(60)])
    assert (len(answers), sum(answers)) == (60, 1)
    assert (len(failures), sum(failures)) == (60, 1)
    predictor.close()


async def test_rows_that_never_left_tell_of_no_call(peer: Peer) -> None:
    peer.may_answer.clear()
    predictor = client(peer, ClientLimits(calls=1))
    first = predictor.predict([(1.0, 0.0)], soon(2.0))
    while not peer.batches:
        await asyncio.sleep(0.001)
    queued = await told([predictor.predict([(1.0, 0.0)], soon(0.02)) for _ in range(20)])
    peer.may_answer.set()
    assert await told([first]) == [True]
    assert queued == [False] * 20
    predictor.close()


async def test_a_row_waits_no_longer_than_its_deadline(peer: Peer) -> None:
    peer.may_answer.clear()
    predictor = client(peer)
    start_s = time.perf_counter()
    reason = await reason_of(predictor.predict([(1.0, 0.0)], soon(0.02)))
    assert reason in ("deadline", "stalled")  # stalled: the machine that tests is itself busy
    assert time.perf_counter() - start_s < 0.5
    peer.may_answer.set()
    assert await predictor.predict([(2.0, 0.0)], soon()) == [4.0]
    predictor.close()


async def test_an_answer_that_came_while_this_process_was_held_up_counts(peer: Peer) -> None:
    predictor = client(peer)
    await predictor.predict([(1.0, 0.0)], soon())
    peer.may_answer.clear()
    late = predictor.predict([(3.0, 0.0)], soon(0.03))
    while len(peer.batches) < 2:
        await asyncio.sleep(0.001)
    peer.may_answer.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    _hold_up(0.06)
    assert await late == [6.0]
    predictor.close()


async def test_a_stall_of_this_process_is_not_blamed_on_the_predictor(peer: Peer) -> None:
    peer.may_answer.clear()
    predictor = client(peer)
    asked = predictor.predict([(1.0, 0.0)], soon(0.02))
    await asyncio.sleep(0)
    _hold_up(0.06)
    assert await reason_of(asked) == "stalled"
    predictor.close()


async def test_a_full_queue_refuses_at_once(peer: Peer) -> None:
    peer.may_answer.clear()
    predictor = client(peer, ClientLimits(calls=1, rows=1, waiting=2))
    first = predictor.predict([(1.0, 0.0)], soon())
    await asyncio.sleep(0.01)
    waiting = [predictor.predict([(1.0, 0.0)], soon()) for _ in range(2)]
    assert await reason_of(predictor.predict([(1.0, 0.0)], soon())) == "queue_full"
    peer.may_answer.set()
    await asyncio.gather(first, *waiting)
    predictor.close()


async def test_a_connection_that_the_predictor_closed_is_replaced_unseen(peer: Peer) -> None:
    predictor = client(peer)
    peer.close_after = True
    for _ in range(3):
        assert await predictor.predict([(1.0, 0.0)], soon()) == [2.0]
        await asyncio.sleep(0.005)
    assert peer.connections == 3
    predictor.close()


async def test_a_predictor_that_moved_is_asked_for_its_new_address(peer: Peer) -> None:
    addresses = ["http://127.0.0.1:9", f"http://127.0.0.1:{peer.port}"]
    predictor = Predictor(SERVICE, lambda _: addresses.pop(0), lambda: "token")
    assert await predictor.predict([(1.0, 0.0)], soon()) == [2.0]
    assert addresses == []
    predictor.close()


async def test_nobody_there_is_unavailable_at_once() -> None:
    predictor = Predictor(SERVICE, lambda _: None, lambda: "token")
    assert await reason_of(predictor.predict([(1.0, 0.0)], soon())) == "unavailable"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (lambda values: plain_reply(values[1:]), "invalid_output"),
        (lambda values: plain_reply([math.nan] * len(values)), "invalid_output"),
        (lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "invalid_output"),
        (lambda _: b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", "unavailable"),
        (lambda _: b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", "unavailable"),
        (lambda _: b"SSH-2.0-hello\r\n\r\n", "unavailable"),
    ],
    ids=["too few", "not a number", "no outputs", "busy", "wrong token", "not HTTP"],
)
async def test_what_is_no_score_is_named(
    peer: Peer, reply: Callable[[list[float]], bytes], reason: str
) -> None:
    peer.reply = reply
    predictor = client(peer)
    assert await reason_of(predictor.predict([(1.0, 0.0)], soon())) == reason
    predictor.close()


async def test_one_bad_row_spoils_no_others(peer: Peer) -> None:
    peer.may_answer.clear()
    predictor = client(peer, ClientLimits(calls=1))
    first = predictor.predict([(1.0, 0.0)], soon())
    bad = predictor.predict([(math.nan, 0.0)], soon())
    good = predictor.predict([(5.0, 0.0)], soon())
    peer.may_answer.set()
    assert await first == [2.0]
    assert await reason_of(bad) == "invalid_output"
    assert await good == [10.0]
    predictor.close()


def test_what_float32_cannot_hold_is_infinite() -> None:
    request = infer_request(SERVICE, "h:1", "t", [(1e39, -1e39)])
    assert struct.unpack("<2f", request[-8:]) == (math.inf, -math.inf)


def test_scores_may_come_as_json() -> None:
    body = b'{"outputs":[{"name":"scores","datatype":"FP32","shape":[2],"data":[0.5,0.25]}]}'
    assert scores(Reply(200, {}, body), 2) == [0.5, 0.25]


def _hold_up(seconds: float) -> None:
    """What a loop does that gets no processor time: nothing."""
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        pass


DECISION = "0198c2f0a4b7d1e2f3a4b5c6d7e8f901"


async def test_a_call_bears_the_callers_trace_with_the_span_that_asks(peer: Peer) -> None:
    caller = TraceContext("a" * 32, "b" * 16, "c" * 16, True, b"vendor=1")
    await client(peer).predict([(1.0, 0.0)], soon(), Origin(DECISION, caller, "challenger"))
    (headers,) = peer.headers
    told = trace_context(headers)
    assert told is not None
    assert (told.trace_id, told.is_sampled, told.state) == ("a" * 32, True, b"vendor=1")
    assert told.parent_id == derived_span_id(DECISION, 2)


async def test_a_call_without_a_callers_trace_bears_the_decisions(peer: Peer) -> None:
    predictor = client(peer)
    first = predictor.predict([(1.0, 0.0)], soon(), Origin(DECISION, None))
    second = predictor.predict([(1.0, 0.0)], soon(), Origin("f" * 42, None))
    await told([first, second])
    (headers,) = peer.headers  # they share a call
    parent = trace_context(headers)
    assert parent is not None
    assert (parent.trace_id, parent.is_sampled) == (DECISION, False)
    assert b"tracestate" not in headers


async def test_a_call_on_nobodys_behalf_names_no_trace(peer: Peer) -> None:
    await client(peer).predict([(1.0, 0.0)], soon())
    assert b"traceparent" not in peer.headers[0]
