"""Each receiver has each event once, in order, wherever the sender is killed."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlplatform.observing.events.delivery import Delivery, DeliveryPorts
from mlplatform.observing.events.receivers import NAMES, Receiver
from mlplatform.observing.events.sender import (
    DeliveryFailure,
    DeliverySuccess,
    GoneReceiver,
    HttpSender,
    Outcome,
)
from mlplatform.rollouts.drift.incidents import IncidentFinding
from mlplatform.rollouts.drift.postgres import PostgresIncidents
from mlplatform.rollouts.drift.sqlite import SqliteIncidents
from mlplatform.rollouts.events.event import CloudEvent, event_of, event_of_test
from mlplatform.rollouts.events.positions import Attempt, Position
from mlplatform.rollouts.events.postgres import PostgresPositions
from mlplatform.rollouts.events.sqlite import SqlitePositions
from mlplatform.rollouts.events.stream import JournalStream
from mlplatform.rollouts.journal.postgres import PostgresRollouts
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.rollouts.journal.transitions import Opened, RolledBack
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.errors import NotFound, StaleFence, Unavailable
from mlplatform.runtime.storage.addresses import Address
from rollout_world import arm
from servers import certificates
from support import event_receivers
from support.event_receivers import Receivers

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PAGE = "http://127.0.0.1:8090"
DEADLINE_S = 30.0
FORK = multiprocessing.get_context("fork")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path | Address]:
    if request.param == "sqlite":
        yield tmp_path / "rollouts.db"
        return
    postgres = request.getfixturevalue("postgres")
    address = postgres.database()
    yield address
    postgres.drop(address)


def opened(where: Path | Address) -> JournalStream:
    """Another connection to the journals, as another process has."""
    if isinstance(where, Path):
        return JournalStream(SqliteRollouts(where), SqliteIncidents(where), SqlitePositions(where))
    return JournalStream(
        PostgresRollouts(where), PostgresIncidents(where), PostgresPositions(where)
    )


@pytest.fixture
def stream(where: Path | Address) -> JournalStream:
    return opened(where)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receivers]:
    with event_receivers.serving(tmp_path_factory.mktemp("receivers")) as serving:
        yield serving


@pytest.fixture
def desk(server: Receivers, tmp_path: Path, request: pytest.FixtureRequest) -> Receiver:
    """A webhook on a path of this test's own, wanting every type."""
    secret = tmp_path / "desk.secret"
    secret.write_text(SECRET)
    name = f"desk-{abs(hash(request.node.nodeid)) % 10**8}"
    types = frozenset(NAMES)
    return Receiver(name, "webhook", server.url(f"/{name}"), None, (secret,), types)


def happen(stream: JournalStream, rollouts: int = 2) -> None:
    """Rollouts that are opened and taken back one after the other, an anchor, and an incident."""
    journal: Any = stream.rollouts
    incidents: Any = stream.incidents
    for number in range(1, rollouts + 1):
        facts = {
            "rollout_id": f"fraud-v{number}-1",
            "model": "fraud",
            "event_ms": number,
            "wall_ms": number,
            "actor": "pass 1",
            "reason": "because",
        }
        journal.commit(
            Opened(
                **facts,
                challenger=arm(number),
                author="ann",
                alert_low=0.0,
                alert_high=0.1,
                bootstrap=True,
                approval="none",
            ),
            None,
        )
        fence = journal.acquire("fraud", "pass", 60)
        journal.commit(RolledBack(**facts), fence)
    found = incidents.open(IncidentFinding("fraud", "drift", 5, 3, 1, {}), now_ms=7)
    incidents.close(found.id, "steady again", now_ms=8)


def expected(stream: JournalStream) -> list[str]:
    """The id of every event there is, in order."""
    steps = stream.after(Position(0, 0), 1000).steps
    return [event_of(step.fact, PAGE, str).id for step in steps]


def ports(stream: JournalStream, sender: Any = None, **more: Any) -> DeliveryPorts:
    made = DeliveryPorts(
        stream,
        sender or HttpSender(),
        SystemClock(),
        holder=f"{os.getpid()}-{time.monotonic_ns()}",
        page=PAGE,
        redacted=str,
        lease_s=30.0,
        poll_s=0.01,
    )
    return replace(made, **more)


def deliver(ports: DeliveryPorts, receivers: list[Receiver], done: Callable[[], bool]) -> None:
    """Until that is so."""

    async def delivered() -> None:
        stopping = asyncio.Event()
        tasks = [asyncio.create_task(Delivery(one, ports).run(stopping)) for one in receivers]
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not done():
                    assert not any(task.done() for task in tasks)
                    await asyncio.sleep(0.01)
        finally:
            stopping.set()
        await asyncio.gather(*tasks)

    asyncio.run(delivered())


def at_end(stream: JournalStream, *receivers: Receiver) -> Callable[[], bool]:
    def is_at_end() -> bool:
        told = {p.receiver: p.at for p in stream.positions.list()}
        return all(not stream.after(told[one.name], 1).steps for one in receivers)

    return is_at_end


# Positions.


def test_a_new_receiver_begins_behind_what_has_happened_and_keeps_its_position(
    stream: JournalStream,
) -> None:
    happen(stream)
    stream.positions.declare(["a"], stream.head())
    happen(stream, 0)
    stream.positions.declare(["a", "b"], stream.head())
    a, b = stream.positions.list()
    assert (stream.waiting(a.at).facts, stream.waiting(b.at).facts) == (2, 0)
    stream.positions.declare(["b"], stream.head())
    assert [(p.declared, p.at) for p in stream.positions.list()] == [(False, a.at), (True, b.at)]
    assert [lag.progress.receiver for lag in stream.lags()] == ["b"]


def test_one_holder_at_a_time_may_send(where: Path | Address, stream: JournalStream) -> None:
    other = opened(where).positions
    stream.positions.declare(["a"], Position(3, 4))
    claim = stream.positions.take("a", "one", until_ms=100, now_ms=10)
    assert claim is not None
    assert claim.at == Position(3, 4)
    assert other.take("a", "two", until_ms=200, now_ms=99) is None
    stream.positions.record(claim, Position(5, 4), Attempt(), until_ms=150)
    assert other.take("a", "two", until_ms=200, now_ms=149) is None
    later = other.take("a", "two", until_ms=200, now_ms=150)
    assert later is not None
    assert later.at == Position(5, 4)
    with pytest.raises(StaleFence, match="taken over"):
        stream.positions.record(claim, Position(6, 4), Attempt(), until_ms=300)
    assert stream.positions.list()[0].at == Position(5, 4)


def test_attempts_are_counted_and_the_last_failure_is_shown(stream: JournalStream) -> None:
    positions = stream.positions
    positions.declare(["a"], Position(0, 0))
    claim = positions.take("a", "one", until_ms=100, now_ms=10)
    assert claim is not None
    positions.record(claim, Position(0, 0), Attempt("answered 503"), until_ms=100)
    positions.record(claim, Position(0, 0), None, until_ms=100)
    (now,) = positions.list()
    assert (now.delivered, now.failed, now.failure) == (0, 1, "answered 503")
    positions.record(claim, Position(1, 0), Attempt(), until_ms=100)
    (now,) = positions.list()
    assert (now.delivered, now.failed, now.failure, now.at) == (1, 1, "", Position(1, 0))


def test_who_wants_nothing_any_more_is_stopped_until_somebody_moves_it(
    stream: JournalStream,
) -> None:
    positions = stream.positions
    positions.declare(["a"], Position(0, 0))
    claim = positions.take("a", "one", until_ms=100, now_ms=10)
    assert claim is not None
    positions.record(claim, Position(0, 0), Attempt("answered 410", gone=True), until_ms=100)
    assert positions.take("a", "one", until_ms=300, now_ms=200) is None
    assert positions.list()[0].stopped == "answered 410"
    positions.move("a", Position(2, 2))
    with pytest.raises(StaleFence):
        positions.record(claim, Position(1, 0), Attempt(), until_ms=300)
    again = positions.take("a", "one", until_ms=300, now_ms=200)
    assert again is not None
    assert again.at == Position(2, 2)


def test_a_receiver_that_nobody_declared_is_not_found(stream: JournalStream) -> None:
    with pytest.raises(NotFound, match="mlplatform events receivers"):
        stream.positions.move("nobody", None)
    with pytest.raises(NotFound):
        stream.positions.take("nobody", "one", until_ms=1, now_ms=0)


def test_facts_are_read_from_a_moment_on(stream: JournalStream) -> None:
    happen(stream)
    steps = stream.after(stream.before(2), 100).steps
    assert [event_of(step.fact, PAGE, str).time_ms for step in steps] == [2, 2, 7, 8]
    assert stream.after(stream.before(1), 100).steps == stream.after(Position(0, 0), 100).steps
    assert stream.after(stream.before(9), 100).steps == ()


# Delivery.


@dataclass
class Moments:
    """Counts the moments around sends and records, and kills this process at one of them."""

    die_at: int
    passed: int = 0

    def pass_one(self) -> None:
        self.passed += 1
        if self.passed == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)


class MortalSender:
    def __init__(self, moments: Moments) -> None:
        self._inner, self._moments = HttpSender(), moments

    async def send(self, receiver: Receiver, event: CloudEvent) -> Outcome:
        self._moments.pass_one()
        tried = await self._inner.send(receiver, event)
        self._moments.pass_one()
        return tried


def mortal(where: Path | Address, receivers: list[Receiver], die_at: int) -> None:
    """The life of a sender that is killed at a moment, or has nothing left to send."""
    moments = Moments(die_at)
    stream = opened(where)
    record = stream.positions.record

    def recorded(*given: Any, **named: Any) -> None:
        moments.pass_one()
        record(*given, **named)
        moments.pass_one()

    stream.positions.record = recorded  # type: ignore[method-assign]
    made = ports(stream, MortalSender(moments), lease_s=0.2)
    deliver(made, receivers, at_end(stream, *receivers))


def test_each_receiver_has_each_event_once_wherever_the_sender_is_killed(
    where: Path | Address, stream: JournalStream, server: Receivers, desk: Receiver
) -> None:
    other = replace(desk, name=f"{desk.name}-b", url=f"{desk.url}-b")
    receivers = [desk, other]
    stream.positions.declare([one.name for one in receivers], stream.head())
    happen(stream)
    ids = expected(stream)
    deaths = 0
    for die_at in (1, 2, 3, 4, 5, 6, 7, 8, 0):  # each life goes on where the last one was killed
        life = FORK.Process(target=mortal, args=(where, receivers, die_at))
        life.start()
        life.join(DEADLINE_S)
        assert life.exitcode in (0, -signal.SIGKILL)
        deaths += life.exitcode != 0
    assert deaths >= 4
    for one in receivers:
        got = server.ids(f"/{one.name}")
        assert list(dict.fromkeys(got)) == ids  # none is missing, and first arrivals are in order
        assert sum(Counter(got).values()) - len(ids) <= deaths  # at most the one under way, again
        assert got == sorted(got, key=ids.index)  # a repeat comes before the next event
    assert {p.delivered for p in stream.positions.list()} <= set(range(len(ids) + 1))


def test_a_receiver_that_is_down_delays_nobody_else(
    stream: JournalStream, server: Receivers, desk: Receiver
) -> None:
    down = replace(desk, name=f"{desk.name}-down", url=f"{desk.url}-down")
    server.answer(**{down.name: 503})
    stream.positions.declare([desk.name, down.name], stream.head())
    happen(stream)
    ids = expected(stream)
    deliver(ports(stream), [down, desk], lambda: server.ids(f"/{desk.name}") == ids)
    assert set(server.ids(f"/{down.name}")) == {ids[0]}  # what is behind it waits
    server.answer()
    deliver(ports(stream), [down, desk], at_end(stream, desk, down))
    assert list(dict.fromkeys(server.ids(f"/{down.name}"))) == ids
    assert server.ids(f"/{desk.name}") == ids


def test_a_database_that_is_away_makes_nobody_send_again(
    stream: JournalStream, server: Receivers, desk: Receiver
) -> None:
    stream.positions.declare([desk.name], stream.head())
    happen(stream)
    record, away = stream.positions.record, iter(range(3))

    def recorded(*given: Any, **named: Any) -> None:
        if next(away, None) is not None:
            raise Unavailable("the database")
        record(*given, **named)

    stream.positions.record = recorded  # type: ignore[method-assign]
    deliver(ports(stream), [desk], at_end(stream, desk))
    assert server.ids(f"/{desk.name}") == expected(stream)


def test_events_of_other_types_are_passed_by(
    stream: JournalStream, server: Receivers, desk: Receiver
) -> None:
    some = replace(desk, types=frozenset({"mlplatform.rollout.rolled-back"}))
    stream.positions.declare([some.name], stream.head())
    happen(stream)
    deliver(ports(stream), [some], at_end(stream, some))
    types = [json.loads(one["body"])["type"] for one in server.received(f"/{some.name}")]
    assert types == ["mlplatform.rollout.rolled-back"] * 2
    assert stream.positions.list()[0].at == stream.head()


def test_410_stops_a_receiver_and_a_replay_sends_the_same_ids_again(
    stream: JournalStream, server: Receivers, desk: Receiver
) -> None:
    server.answer(**{desk.name: 410})
    stream.positions.declare([desk.name], stream.head())
    happen(stream)
    deliver(ports(stream), [desk], lambda: stream.positions.list()[0].stopped != "")
    server.answer()
    stream.positions.move(desk.name, None)
    deliver(ports(stream), [desk], at_end(stream, desk))
    ids = expected(stream)
    assert server.ids(f"/{desk.name}") == [ids[0], *ids]
    stream.positions.move(desk.name, stream.before(7))
    deliver(ports(stream), [desk], at_end(stream, desk))
    assert server.ids(f"/{desk.name}") == [ids[0], *ids, *ids[-2:]]


def test_a_running_sender_sees_a_replay(
    stream: JournalStream, server: Receivers, desk: Receiver
) -> None:
    stream.positions.declare([desk.name], stream.head())
    happen(stream)
    ids = expected(stream)
    moved = threading.Event()

    def done() -> bool:
        got = server.ids(f"/{desk.name}")
        if got == ids and not moved.is_set():
            stream.positions.move(desk.name, Position(0, 0))
            moved.set()
        return got == [*ids, *ids]

    deliver(ports(stream), [desk], done)


# One attempt.


def sent(receiver: Receiver, send_s: float = 5.0) -> Outcome:
    event = event_of_test(receiver.name, PAGE, 1_790_000_000_000)
    return asyncio.run(HttpSender(send_s).send(receiver, event))


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        pytest.param(204, DeliverySuccess(), id="any 2xx is taken"),
        pytest.param(410, GoneReceiver(), id="410 wants nothing any more"),
        pytest.param(400, DeliveryFailure("answered 400"), id="what it refuses is a failure"),
        pytest.param(
            [429, {"retry-after": "7"}], DeliveryFailure("answered 429", 7.0), id="it may ask"
        ),
        pytest.param(
            [307, {"location": "http://127.0.0.1:1/"}],
            DeliveryFailure("answered 307: redirects are not followed"),
            id="a redirect to this machine",
        ),
        pytest.param("huge", DeliverySuccess(), id="a body is not read"),
        pytest.param(
            "drip", DeliveryFailure("no answer within 0.5 s"), id="a head a byte at a time"
        ),
        pytest.param("silent", DeliveryFailure("no answer within 0.5 s"), id="no answer"),
    ],
)
def test_an_answer_is_bounded_in_size_and_time(
    how: Any, wanted: Outcome, server: Receivers, desk: Receiver
) -> None:
    server.answer(**{desk.name: how})
    begun_s = time.monotonic()
    assert sent(desk, 0.5 if how in ("drip", "silent") else 5.0) == wanted
    assert time.monotonic() - begun_s < 3.0
    assert len(server.ids(f"/{desk.name}")) == 1


def test_a_name_that_leads_to_this_machine_is_refused(
    server: Receivers, desk: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [(2, 1, 6, "", ("127.0.0.1", server.port))]

    async def looked_up(*given: Any, **named: Any) -> Any:
        return found

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", looked_up)
    elsewhere = replace(desk, url=f"https://hooks.example:{server.port}/{desk.name}")
    tried = sent(elsewhere)
    assert isinstance(tried, DeliveryFailure)
    assert "this machine, and the url does not say so" in tried.why
    assert server.ids(f"/{desk.name}") == []


def test_no_proxy_of_the_environment_sees_an_event(
    server: Receivers, desk: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert sent(desk) == DeliverySuccess()
    assert len(server.ids(f"/{desk.name}")) == 1


def test_nobody_listens(desk: Receiver) -> None:
    tried = sent(replace(desk, url="http://127.0.0.1:1/hook"))
    assert isinstance(tried, DeliveryFailure)
    assert tried.why.startswith("ConnectError")


def test_a_certificate_is_verified(desk: Receiver, tmp_path: Path) -> None:
    made = certificates.make(tmp_path)
    with tls_server(made.server_context(), tmp_path) as port:
        url = f"https://localhost:{port}/hook"
        unknown = sent(replace(desk, url=url))
        assert isinstance(unknown, DeliveryFailure)
        assert "CERTIFICATE_VERIFY_FAILED" in unknown.why
        assert sent(replace(desk, url=url, authority=made.authority)) == DeliverySuccess()
    (got,) = Receivers(tmp_path, port).received("/hook")
    assert got["headers"]["host"] == f"localhost:{port}"  # and not the address that was looked up


@contextmanager
def tls_server(context: ssl.SSLContext, folder: Path) -> Iterator[int]:
    """A receiver behind TLS, which keeps what came in the folder; its port."""

    class Handler(event_receivers.Handler):
        pass

    Handler.folder = folder
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
