"""HTTP connections, byte by byte: what is answered, in which order, and what ends one."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Coroutine
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.runtime.http.connection import (
    LINGER_S,
    MAX_DISCARDED_BYTES,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_PIPELINED,
    Answer,
    Connection,
    HttpLimits,
    ServerState,
)
from mlplatform.runtime.http.messages import JSON, Refusal, Reply, Request, line

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
LIMIT_BYTES = 1000


class Transport(asyncio.Transport):
    """Keeps what is written, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_closed = self.is_paused = self.has_ended = False
        self.unread = 0

    def write(self, data: Any) -> None:
        assert not self.is_closed
        assert not self.has_ended
        self.writes.append(bytes(data))

    def write_eof(self) -> None:
        self.has_ended = True

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        assert not self.is_paused
        self.is_paused = True

    def resume_reading(self) -> None:
        assert self.is_paused
        self.is_paused = False

    def get_write_buffer_size(self) -> int:
        return self.unread

    @property
    def written(self) -> bytes:
        return b"".join(self.writes)

    @property
    def is_over(self) -> bool:
        return self.is_closed or self.has_ended


class Echo:
    """Says what was asked: at once, or after as many turns of the loop as the path says."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes]] = []
        self.ends: list[str] = []
        self.lets_in = False

    def answer(self, request: Request) -> Answer:
        if self.lets_in:
            request.admit()
        if request.path == "/broken":
            raise RuntimeError("on purpose")
        if request.path.startswith("/wait") or not request.is_whole:
            return self._later(request)
        return self._said(request, request.arrived_body())

    def refusal(self, refused: Refusal) -> Reply:
        return Reply(refused.name.encode(), (JSON,), refused.status)

    def on_ended(self, reason: str) -> None:
        self.ends.append(reason)

    def _later(self, request: Request) -> Coroutine[Any, Any, Reply]:
        async def answered() -> Reply:
            if request.path.startswith("/unread"):
                return Reply(b"no need", status=401)
            for _ in range(int(request.path[5:] or 0) if request.path.startswith("/wait") else 0):
                await asyncio.sleep(0)
            return self._said(request, await request.body())

        return answered()

    def _said(self, request: Request, body: bytes) -> Reply:
        self.asked.append((request.method, request.path, body))
        seen = {k.decode(): v.decode("latin-1") for k, v in request.headers.items()}
        told = [request.method, request.path, body.decode("latin-1"), seen]
        return Reply(json.dumps(told).encode(), (JSON, line(b"asked-by", request.method.encode())))


class World:
    """One connection, its peer's side and its application."""

    def __init__(self, **limits: Any) -> None:
        self.application = Echo()
        self.shared = ServerState(self.application, HttpLimits(body_bytes=LIMIT_BYTES, **limits))
        self.transport = Transport()
        self.connection = Connection(self.shared)
        self.connection.connection_made(self.transport)

    async def send(self, *parts: bytes) -> bytes:
        """All that is written once nothing goes on any more."""
        for part in parts:
            await self.read_on()
            if self.transport.is_closed:
                break
            self.connection.data_received(part)
        await self.rest()
        return self.transport.written

    async def read_on(self) -> None:
        for _ in range(1000):
            if self.transport.is_closed or not self.transport.is_paused:
                return
            await asyncio.sleep(0)
        raise AssertionError("reading is paused for ever")

    async def rest(self) -> None:
        for _ in range(1000):
            await asyncio.sleep(0)
            if not self.shared.answering:
                return
        raise AssertionError("an answer never came")

    def later(self, seconds: float) -> None:
        self.connection._since_s -= seconds
        self.connection.check_limits(time.monotonic())


def parted(written: bytes) -> list[tuple[int, bytes]]:
    """Status and body of every answer, by their lengths; none follows where HEAD asked."""
    found = []
    while written:
        head, _, rest = written.partition(b"\r\n\r\n")
        said = re.search(rb"content-length: (\d+)", head)
        length = int(said[1]) if said and b"asked-by: HEAD" not in head else 0
        found.append((int(head.split()[1]), rest[:length]))
        written = rest[length:]
    return found


def post(path: str, body: bytes, *headers: bytes) -> bytes:
    lines = b"".join(b"%s\r\n" % header for header in headers)
    head = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n" % (path.encode(), len(body))
    return head + lines + b"\r\n" + body


def chunked(path: str, *parts: bytes, trailer: bytes = b"") -> bytes:
    head = b"POST %s HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" % path.encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return head + chunks + b"0\r\n" + trailer + b"\r\n"


async def test_a_whole_request_is_answered_at_once_with_one_write() -> None:
    world = World()
    world.connection.data_received(post("/a", b"12"))
    expected = json.dumps(["POST", "/a", "12", {"host": "x", "content-length": "2"}]).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nasked-by: POST\r\n"
    head += b"content-length: %d\r\n\r\n" % len(expected)
    assert world.transport.writes == [head + expected]
    assert not world.shared.answering
    assert not world.transport.is_over


@pytest.mark.parametrize(
    "request_bytes",
    [
        GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ],
)
async def test_a_caller_that_wants_no_more_is_told_that_it_is_closed(request_bytes: bytes) -> None:
    world = World()
    written = await world.send(request_bytes)
    assert written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert written.count(b"connection: close") == 1
    assert world.transport.is_closed


async def test_a_head_asked_for_alone_comes_alone_with_its_length() -> None:
    written = await World().send(GET.replace(b"GET", b"HEAD"))
    assert parted(written) == [(200, b"")]
    assert int(re.findall(rb"content-length: (\d+)", written)[0]) > 0


@pytest.mark.parametrize("value", [b"x\r\ny: z", b"x\ny: z", b"x\ry"])
def test_a_header_cannot_begin_another_line(value: bytes) -> None:
    with pytest.raises(ValueError, match="line break"):
        line(b"a", value)


async def test_what_fails_unexpectedly_is_a_500_and_no_more() -> None:
    world = World()
    written = await world.send(GET.replace(b"/ ", b"/broken ") + GET)
    assert [status for status, _ in parted(written)] == [500, 200]


CASES = [
    post("/a", b""), post("/wait3", b"x" * 50), post("/wait0", b"y"), GET,
    chunked("/c", b"abc", b"d" * 40), chunked("/wait2", b"z", trailer=b"authorization: no\r\n"),
    b"GET /x%20y?q=1 HTTP/1.1\r\nhost: x\r\nA: b\r\nA: c\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n",
    post("/up", b"body", b"connection: upgrade", b"upgrade: h2c"),
    GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"),
]  # fmt: skip
BAD = [
    b"GET / HTTP/1.1\r\na : b\r\n\r\n",
    b"nonsense\r\n\r\n",
    b"POST /wait1 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\nmore",
]


@settings(max_examples=300, deadline=None)
@given(
    requests=st.lists(st.sampled_from(CASES), min_size=1, max_size=6),
    last=st.sampled_from([b"", *BAD]),
    cuts=st.lists(st.integers(0, 2000), max_size=12),
)
def test_how_bytes_are_cut_changes_no_answer(
    requests: list[bytes], last: bytes, cuts: list[int]
) -> None:
    sent = b"".join(requests) + last

    async def answered(parts: list[bytes]) -> tuple[bytes, list[str], bool]:
        world = World()
        written = await world.send(*parts)
        return written, world.application.ends, world.transport.is_over

    async def alone() -> list[tuple[int, bytes]]:
        written = [await World().send(one) for one in requests]
        return [found for one in written for found in parted(one)]

    whole = asyncio.run(answered([sent]))
    places = sorted({0, len(sent), *(cut % len(sent) for cut in cuts)})
    cut = asyncio.run(answered([sent[a:b] for a, b in pairwise(places)]))
    assert whole == cut
    assert asyncio.run(answered([bytes([byte]) for byte in sent])) == whole
    expected = asyncio.run(alone())
    assert parted(whole[0])[: len(expected)] == expected
    assert whole[2] == bool(last)


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(st.binary(max_size=40) | st.sampled_from([*CASES, *BAD]), max_size=6))
def test_no_bytes_raise_or_get_more_answers_than_requests(parts: list[bytes]) -> None:
    async def sent() -> World:
        world = World()
        await world.send(*parts)
        world.connection.connection_lost(None)
        await world.rest()
        return world

    world = asyncio.run(sent())
    answers = len(re.findall(rb"HTTP/1\.1 \d\d\d ", world.transport.written))
    assert answers <= len(world.application.asked) + len(world.application.ends)
    assert not world.shared.connections


@pytest.mark.parametrize(
    "sent",
    [
        b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc",
        b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"content-length: +3\r\n\r\nabc",
        b"content-length: 3, 3\r\n\r\nabc",
        b"transfer-encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"transfer-encoding: xchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"transfer-encoding: chunked, identity\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n3\nabc\n0\n\n",
        b"transfer-encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        b"connection: upgrade\r\nupgrade: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"a: b\r\n folded: c\r\n\r\n",
        b"a: b\x00\r\n\r\n",
        b"a: b\nc: d\r\n\r\n",
        b" a: b\r\n\r\n",
        b"host: y\r\n\r\n",
        b"transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"idempotency-key: a\r\nidempotency-key: b\r\n\r\n",
        b"Authorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n",
        b"Mlplatform-Version: 2\r\nmlplatform-version: 3\r\n\r\n",
    ],
)
async def test_what_two_readers_could_read_differently_is_refused(sent: bytes) -> None:
    world = World()
    written = await world.send(b"POST /wait9 HTTP/1.1\r\nhost: x\r\n" + sent + GET)
    assert [status for status, _ in parted(written)] == [400]
    assert world.application.asked == []
    assert world.transport.has_ended


async def test_of_hosts_there_is_one_and_before_http_1_1_none_is_needed() -> None:
    assert parted(await World().send(b"GET / HTTP/1.1\r\n\r\n"))[0][0] == 400
    assert parted(await World().send(b"GET / HTTP/1.0\r\n\r\n"))[0][0] == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 200) for host in (b"", b"x:8080", b"gateway-0.gateway:80", b"a_b", b"a%20b")),
        *((host, 200) for host in (b"127.0.0.1", b"[::1]", b"[::1]:8080", b"[fe80::1%25eth0]")),
        *((host, 400) for host in (b"a b", b"a,b c", b"a/b", b"u@x", b"x:80a", b"x:1:2", b"\xff")),
        *(
            (host, 400)
            for host in (b"::1", b"[::1", b"[]", b"a?b", b"a#b", b'"x"', b"a%2", b"a\tb")
        ),
    ],
)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_host_that_is_none_is_refused(host: bytes, status: int, version: bytes) -> None:
    """Also behind one that is one, on the same connection."""
    world = World()
    world.connection.data_received(GET)
    written = await world.send(b"GET / HTTP/" + version + b"\r\nhost: " + host + b"\r\n\r\n")
    assert [code for code, _ in parted(written)][-1] == status


@pytest.mark.parametrize("version", [b"HTTP/0.9", b"HTTP/2.0", b"HTTP/3.0", b""])
async def test_other_versions_are_refused(version: bytes) -> None:
    written = await World().send(b"GET / " + version + b"\r\n\r\n")
    assert [status for status, _ in parted(written)] == [400]


async def test_answers_come_in_the_order_of_their_requests_before_a_refusal() -> None:
    world = World()
    slow, quick = GET.replace(b"/ ", b"/wait9 "), GET
    written = await world.send(slow + quick + slow + b"nonsense\r\n\r\n")
    told = parted(written)
    assert [status for status, _ in told] == [200, 200, 200, 400]
    assert [json.loads(body)[1] for _, body in told[:3]] == ["/wait9", "/", "/wait9"]
    assert world.transport.has_ended


async def test_nothing_more_is_read_while_requests_wait() -> None:
    world = World()
    world.connection.data_received(GET.replace(b"/ ", b"/wait9 ") + GET)
    assert world.transport.is_paused
    await world.rest()
    assert not world.transport.is_paused


async def test_who_sends_too_many_at_once_gets_the_first_answers_and_an_end() -> None:
    world = World()
    written = await world.send(GET.replace(b"/ ", b"/wait1 ") + GET * (2 * MAX_PIPELINED))
    assert [status for status, _ in parted(written)] == [200] * (MAX_PIPELINED + 1)
    assert written.count(b"connection: close") == 1
    assert world.transport.has_ended


async def test_a_peer_that_does_not_read_gets_no_further_answers() -> None:
    world = World()
    world.connection.pause_writing()
    await world.send(GET + GET)
    assert world.transport.writes == []
    assert world.transport.is_paused
    world.connection.resume_writing()
    assert len(parted(world.transport.written)) == 2
    assert not world.transport.is_paused


async def test_a_peer_that_never_reads_is_let_go() -> None:
    world = World()
    await world.send(GET)
    world.transport.unread = 10
    world.later(76)
    assert world.transport.is_closed
    assert world.application.ends == ["slow-reader"]


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    world = World()
    world.connection.data_received(GET.replace(b"/ ", b"/wait9 "))
    world.later(76)
    assert not world.transport.is_closed
    await world.rest()
    world.later(74)
    assert not world.transport.is_closed
    world.later(2)
    assert world.transport.is_closed
    assert world.application.ends == []


@pytest.mark.parametrize(
    "sent", [b"", b"GE", GET[:-2], post("/a", b"1234")[:-1], chunked("/a", b"1234")[:-3]]
)
async def test_what_arrives_too_slowly_is_ended(sent: bytes) -> None:
    world = World()
    if sent:
        world.connection.data_received(sent)
    world.later(9)
    assert not world.transport.is_over
    world.later(2)
    assert [status for status, _ in parted(world.transport.written)] == [408]
    assert world.transport.has_ended
    await world.rest()
    assert world.application.asked == []
    world.later(LINGER_S + 0.1)
    assert world.transport.is_closed


async def test_a_body_is_asked_for_when_it_is_wanted() -> None:
    world = World()
    request = post("/a", b"12345", b"expect: 100-continue")
    world.connection.data_received(request[:-5])
    await asyncio.sleep(0)
    assert world.transport.writes == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    written = await world.send(request[-5:])
    assert [status for status, _ in parted(written)] == [100, 200]


async def test_an_older_client_is_told_nothing_in_between() -> None:
    request = post("/a", b"12345", b"expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0")
    written = await World().send(request[:-5], request[-5:])
    assert [status for status, _ in parted(written)] == [200]


async def test_a_body_that_is_not_wanted_is_not_asked_for() -> None:
    world = World()
    request = post("/unread", b"12345", b"expect: 100-continue")
    written = await world.send(request[:-5])
    assert [status for status, _ in parted(written)] == [401]
    assert b"connection: close" in written
    assert world.transport.has_ended


async def test_an_early_answer_leaves_the_connection_to_the_next_request() -> None:
    world = World()
    request = post("/unread", b"x" * 900)
    written = await world.send(request[:-500], request[-500:] + GET)
    assert [status for status, _ in parted(written)] == [401, 200]
    assert not world.transport.is_over


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    "sent",
    [post("/a", b"x" * (LIMIT_BYTES + 1)), chunked("/a", *[b"x" * 100] * 11)],
    ids=["length", "chunks"],
)
async def test_a_body_that_is_too_large_is_refused(sent: bytes, whole: bool) -> None:
    world = World()
    written = await world.send(*([sent] if whole else [sent[:1100], sent[1100:]]))
    assert [status for status, _ in parted(written)] == [413]
    assert b"connection: close" in written
    assert world.transport.is_over


async def test_a_sender_without_end_is_cut_off() -> None:
    world = World()
    head = b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n"
    await world.send(head)
    assert [status for status, _ in parted(world.transport.written)] == [413]
    for _ in range(MAX_DISCARDED_BYTES // 65536):
        world.connection.data_received(b"x" * 65536)
    assert not world.transport.is_closed
    world.connection.data_received(b"x")
    assert world.transport.is_closed


@pytest.mark.parametrize("part", [1, 100, 4096, 10**6])
@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * (MAX_HEADERS + 1) + b"\r\n",
        b"GET / HTTP/1.1\r\na: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + (b"a: " + b"x" * 1000 + b"\r\n") * 20 + b"\r\n",
        b"GET /" + b"x" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n",
    ],
    ids=["many", "long", "repeated", "path"],
)
async def test_a_head_that_is_too_large_is_refused(head: bytes, part: int) -> None:
    world = World()
    parts = [head[at : at + part] for at in range(0, len(head), part)]
    assert [status for status, _ in parted(await world.send(GET, *parts))] == [200, 431]
    assert world.application.ends == ["head-too-large"]


@pytest.mark.parametrize("part", [1, 1000, 65536])
@pytest.mark.parametrize("where", [b"0\r\nx: ", b"0\r\n", b"1;"], ids=["long", "many", "name"])
async def test_what_comes_in_a_bodys_place_has_an_end(where: bytes, part: int) -> None:
    world, sent = World(), (b"a: b\r\n" if where == b"0\r\n" else b"y" * 6) * 11000
    parts = [sent[at : at + part] for at in range(0, MAX_HEAD_BYTES + 2 * part, part)]
    written = await world.send(chunked("/wait9", b"12").removesuffix(b"0\r\n\r\n") + where, *parts)
    assert [status for status, _ in parted(written)] == [431]
    assert world.application.asked == []
    assert world.transport.has_ended


async def test_a_body_in_the_smallest_chunks_comes_whole() -> None:
    sent = chunked("/a", *[b"x"] * LIMIT_BYTES, trailer=b"a: b\r\n" * 100)
    written = await World().send(*[sent[at : at + 7] for at in range(0, len(sent), 7)])
    assert [status for status, _ in parted(written)] == [200]


async def test_large_requests_do_not_add_up_to_a_large_head() -> None:
    world = World(connections=5)
    large = b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"x" * (MAX_HEAD_BYTES - 100) + b"\r\n\r\n"
    written = await world.send(large * 2 + large[:9000], large[9000:])
    assert [status for status, _ in parted(written)] == [200] * 3


async def test_who_sends_no_more_still_gets_the_answers() -> None:
    world = World()
    world.connection.data_received(GET.replace(b"/ ", b"/wait9 ") + GET)
    assert world.connection.eof_received()
    await world.rest()
    assert [status for status, _ in parted(world.transport.written)] == [200, 200]
    assert world.transport.is_closed


async def test_a_body_whose_sender_leaves_is_not_taken_for_whole() -> None:
    world = World()
    world.connection.data_received(post("/a", b"12345")[:-1])
    assert world.connection.eof_received()
    await world.rest()
    assert [status for status, _ in parted(world.transport.written)] == [408]
    assert world.application.asked == []


async def test_an_answer_that_nobody_waits_for_is_still_made() -> None:
    world = World()
    world.connection.data_received(GET.replace(b"/ ", b"/wait9 "))
    world.connection.connection_lost(None)
    await world.rest()
    assert world.application.asked == [("GET", "/wait9", b"")]
    assert world.transport.writes == []


async def test_a_draining_server_closes_after_the_last_of_its_answers() -> None:
    world = World()
    world.connection.data_received(GET.replace(b"/ ", b"/wait9 ") + GET)
    world.shared.is_draining = True
    world.connection.close_idle()
    assert not world.transport.is_closed
    await world.rest()
    assert [status for status, _ in parted(world.transport.written)] == [200, 200]
    assert world.transport.written.count(b"connection: close") == 1
    assert world.transport.has_ended


@pytest.mark.parametrize("drains", [True, False])
async def test_after_a_last_answer_what_was_not_read_is_read_until_the_peer_has_ended(
    drains: bool,
) -> None:
    world = World()
    last = GET if drains else GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    world.connection.data_received(GET.replace(b"/ ", b"/wait9 ") + last)
    world.shared.is_draining = drains
    assert world.transport.is_paused
    await world.rest()
    assert world.transport.has_ended
    assert not world.transport.is_paused
    assert world.connection.owes_answer
    world.connection.data_received(GET)
    assert world.application.asked == [("GET", "/wait9", b""), ("GET", "/", b"")]
    assert not world.transport.is_closed
    assert not world.connection.eof_received()  # which closes


async def test_of_who_goes_on_after_the_last_answer_only_so_much_is_read_and_so_long() -> None:
    greedy, slow = World(), World()
    for world in (greedy, slow):
        world.shared.is_draining = True
        world.connection.data_received(GET)
        assert world.transport.has_ended
    for _ in range(MAX_DISCARDED_BYTES // 65536):
        greedy.connection.data_received(b"x" * 65536)
    assert not greedy.transport.is_closed
    greedy.connection.data_received(b"x")
    assert greedy.transport.is_closed
    slow.connection.data_received(b"x")
    slow.later(LINGER_S - 0.1)
    assert not slow.transport.is_closed
    slow.later(0.2)
    assert slow.transport.is_closed
    assert not slow.connection.owes_answer


@pytest.mark.parametrize(("sent", "closes"), [(b"", True), (GET, True), (GET[:-2], False)])
async def test_of_a_draining_server_only_what_is_idle_is_closed(sent: bytes, closes: bool) -> None:
    world = World()
    if sent:
        world.connection.data_received(sent)
    world.connection.close_idle()
    assert world.transport.is_closed == closes


async def test_the_oldest_stranger_is_told_to_go_for_a_new_one() -> None:
    world = World(connections=1)
    transport = Transport()
    Connection(world.shared).connection_made(transport)
    assert parted(world.transport.written) == [(503, b"too-many-connections")]
    assert world.transport.is_closed
    assert not transport.is_closed


async def test_who_was_let_in_keeps_its_place() -> None:
    world = World(connections=2, strangers=1)
    world.application.lets_in = True
    world.connection.data_received(GET)
    first, second = Transport(), Transport()
    Connection(world.shared).connection_made(first)
    Connection(world.shared).connection_made(second)
    assert not world.transport.is_closed
    assert first.is_closed
    assert not second.is_closed


async def test_a_stranger_that_does_not_read_is_ended_without_a_word() -> None:
    world = World(connections=1)
    world.transport.unread = 1
    Connection(world.shared).connection_made(Transport())
    assert world.transport.is_closed
    assert world.transport.writes == []
