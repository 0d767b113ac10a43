"""What a worker makes of its messages, over the embedded topics and gateways that misbehave."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlplatform.decisions.topics.local import LocalTopics
from mlplatform.decisions.topics.messages import Message, ReceivedMessage
from mlplatform.runtime.errors import Refused, Unavailable
from mlplatform.runtime.http.listener import listen
from mlplatform.runtime.telemetry.prometheus import MetricRegistry
from mlplatform.scoring.worker import drain
from mlplatform.scoring.worker.drain import DrainLimits, Worker, chunks
from mlplatform.scoring.worker.gateway import GatewayScorer
from mlplatform.scoring.worker.messages import Item, Names, Poison, ScoreReply, item_of
from mlplatform.scoring.worker.metrics import Metrics
from mlplatform.scoring.worker.spans import MAX_LINKS, BatchSpan, FinishedBatch, build
from support.local_backlog import backlog

NAMES = Names("fraud")


class Echo:
    """Answers every item with its key; poison where the body says so."""

    def __init__(self, pause_s: float = 0.0, fail: int = 0) -> None:
        self.pause_s = pause_s
        self.fail = fail
        self.is_kept = False
        self.sizes: list[int] = []
        self.began = threading.Event()

    def score(
        self, items: Sequence[Item], stopping: threading.Event, batch: BatchSpan
    ) -> list[ScoreReply | Poison]:
        batch.is_kept_there = self.is_kept
        self.began.set()
        time.sleep(self.pause_s)
        if self.fail:
            self.fail -= 1
            raise Unavailable("no gateway")
        self.sizes.append(len(items))
        return [
            Poison(i.message, "invalid-field", "no")
            if b"poison" in i.body
            else ScoreReply(i, json.dumps({"key": i.key}).encode())
            for i in items
        ]


@pytest.fixture
def topics(tmp_path: Path) -> Iterator[LocalTopics]:
    opened = LocalTopics(tmp_path / "topics.db", NAMES.specs(), session_ms=1_500)
    yield opened
    opened.close()


class KeptBatches(list[FinishedBatch]):
    def offer(self, item: FinishedBatch) -> None:
        self.append(item)


def worker_of(
    topics: LocalTopics,
    scorer: Any,
    name: str = "worker-0",
    kept: KeptBatches | None = None,
    share: float = 0.0,
    registry: MetricRegistry | None = None,
    **limits: int,
) -> Worker:
    subscription = topics.subscribe([NAMES.requests], NAMES.group, name)
    spans = KeptBatches() if kept is None else kept
    return Worker(
        subscription,
        scorer,
        NAMES,
        Metrics("fraud", registry or MetricRegistry()),
        DrainLimits(**limits),
        spans,
        share,
        lambda: 1_764_000_000_000,
    )


def draining(is_sampled: bool = False) -> BatchSpan:
    return BatchSpan(NAMES.requests, 1, (), time.monotonic(), is_sampled)


def requests(count: int, **extra: Any) -> list[Message]:
    return [
        Message(
            NAMES.requests,
            str(n).encode(),
            json.dumps({"amount": n} | extra).encode(),
            {"idempotency-key": f"r-{n}".encode()},
        )
        for n in range(count)
    ]


def read_all(topics: LocalTopics, topic: str) -> list[ReceivedMessage]:
    reader = topics.subscribe([topic], f"test-{time.monotonic_ns()}", "reader")
    try:
        return reader.consume(10_000, 0.1)
    finally:
        reader.close()


def received(value: bytes, **headers: bytes) -> ReceivedMessage:
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    return ReceivedMessage("fraud.requests", 2, 7, b"k", value, named, 0)


@pytest.mark.parametrize(
    ("value", "headers", "key"),
    [
        (b'{"a":1}', {"idempotency_key": b"h"}, "h"),
        (b'{"a":1,"idempotency_key":"b"}', {}, "b"),
        (b'{"a":1,"idempotency_key":"b"}', {"idempotency_key": b"h"}, "h"),
        (b'{"a":1}', {}, "fraud.requests-2-7"),
    ],
    ids=["header", "body", "the header before the body", "neither: where it lies"],
)
def test_a_requests_key_is_its_senders_or_its_place(
    value: bytes, headers: dict[str, bytes], key: str
) -> None:
    item = item_of(received(value, **headers))
    assert isinstance(item, Item)
    assert key == item.key
    assert {"a": 1, "idempotency_key": key} == json.loads(item.body)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{", "malformed-json"),
        (b"[1]", "malformed-json"),
        (b'{"idempotency_key":5}', "malformed-json"),
        (b'"' + b"x" * 300_000 + b'"', "too-large"),
    ],
)
def test_what_is_no_request_is_poison(value: bytes, reason: str) -> None:
    poison = item_of(received(value))
    assert isinstance(poison, Poison)
    assert reason == poison.reason


def test_every_request_has_one_result_and_poison_goes_to_the_dead_letters_as_it_came(
    topics: LocalTopics, tmp_path: Path
) -> None:
    bad = Message(NAMES.requests, b"bad", b"\xff{", {"trace": b"t"})
    refused = Message(NAMES.requests, b"no", b'{"poison":1}')
    topics.publish([*requests(50), bad, refused])
    worker = worker_of(topics, Echo(), chunk=7)
    while worker.step(threading.Event()):
        pass
    found = [json.loads(m.value)["key"] for m in read_all(topics, NAMES.results)]
    assert sorted(f"r-{n}" for n in range(50)) == sorted(found)
    letters = {m.key: m for m in read_all(topics, NAMES.dead_letters)}
    assert {b"bad", b"no"} == set(letters)
    assert letters[b"bad"].value == b"\xff{"
    assert letters[b"bad"].headers["trace"] == b"t"
    assert letters[b"bad"].headers["dead-letter-reason"] == b"malformed-json"
    assert letters[b"no"].headers["dead-letter-topic"] == b"fraud.requests"
    assert letters[b"no"].headers["dead-letter-offset"].isdigit()
    assert backlog(tmp_path / "topics.db", NAMES.requests, NAMES.group) == 0


@pytest.mark.parametrize("left", [0, 3])
def test_requests_that_the_topic_dropped_are_a_dead_letter_once(
    topics: LocalTopics, tmp_path: Path, left: int
) -> None:
    worker_of(topics, Echo()).step(threading.Event())
    topics.publish([Message(NAMES.requests, b"k", b'{"amount":%d}' % n) for n in range(8)])
    with closing(sqlite3.connect(tmp_path / "topics.db")) as db, db:
        (partition,) = db.execute("SELECT DISTINCT partition FROM messages").fetchone()
        gone = (NAMES.requests, 8 - left)
        db.execute("DELETE FROM messages WHERE topic = ? AND offset < ?", gone)
    registry = MetricRegistry()
    worker = worker_of(topics, Echo(fail=1), registry=registry)
    if left:
        with pytest.raises(Unavailable):
            worker.step(threading.Event())
        worker._subscription.rewind()
    for _ in range(3):
        worker.step(threading.Event())
    assert len(read_all(topics, NAMES.results)) == left
    (letter,) = read_all(topics, NAMES.dead_letters)
    assert {name: value.decode() for name, value in letter.headers.items()} == {
        "dead-letter-reason": "dropped",
        "dead-letter-detail": (
            f"fraud.requests-{partition} dropped offsets 0 to {7 - left} before they were read"
        ),
        "dead-letter-topic": NAMES.requests,
        "dead-letter-partition": str(partition),
        "dead-letter-offset": "0",
        "dead-letter-last-offset": str(7 - left),
    }
    text = registry.text().decode()
    of = '{model="fraud",topic="fraud.requests"}'
    assert f"mlplatform_topic_dropped_messages_total{of} {8 - left}.0" in text
    assert f"mlplatform_topic_dropped_timestamp_seconds{of} 1.764e+09" in text


def test_no_more_than_a_batch_is_in_work(topics: LocalTopics) -> None:
    topics.publish(requests(25))
    echo = Echo()
    worker = worker_of(topics, echo, batch=10, chunk=4)
    assert worker.step(threading.Event()) == 10
    assert sorted(echo.sizes) == [2, 4, 4]


def test_a_batch_that_could_not_be_scored_is_read_again_and_told_to_stop_it_ends(
    topics: LocalTopics,
) -> None:
    topics.publish(requests(30))
    stopping = threading.Event()
    worker = worker_of(topics, Echo(fail=1))
    thread = threading.Thread(target=worker.run, args=(stopping,))
    thread.start()
    until_s = time.monotonic() + 20
    while len(read_all(topics, NAMES.results)) < 30 and time.monotonic() < until_s:
        time.sleep(0.05)
    stopping.set()
    thread.join(10)
    assert not thread.is_alive()
    assert len({m.key for m in read_all(topics, NAMES.results)}) == 30
    assert len(read_all(topics, NAMES.results)) == 30


def test_a_slow_batch_does_not_cost_its_member_the_partitions(topics: LocalTopics) -> None:
    topics.publish(requests(20))
    slow = Echo(pause_s=3.0)
    worker = worker_of(topics, slow)
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(worker.step(threading.Event())))
    thread.start()
    assert slow.began.wait(10)
    other = worker_of(topics, Echo(), "worker-1")
    while thread.is_alive():
        other.step(threading.Event())
    thread.join()
    assert done == [20]
    assert len(read_all(topics, NAMES.results)) == 20


class Gateway:
    """An HTTP server that answers `score:batch` from a list of replies, then scores."""

    def __init__(self, replies: list[tuple[Any, ...]]) -> None:
        outer = self
        self.paths: list[str] = []
        self.replies = replies
        self.asked: list[int] = []
        self.traceparents: list[str | None] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                sent = json.loads(self.rfile.read(length))["requests"]
                outer.asked.append(len(sent))
                outer.traceparents.append(self.headers["traceparent"])
                answers = [{"answer": {"key": i.get("idempotency_key")}} for i in sent]
                outer.paths.append(self.path.rpartition(":")[2])
                status, body, *more = (
                    outer.replies.pop(0) if outer.replies else (200, {"results": answers})
                )
                data = json.dumps(body).encode()
                self.send_response(status)
                for name, value in more:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


def problem(status: int, name: str) -> dict[str, Any]:
    return {"problem": {"type": f"urn:mlplatform:problem:{name}", "status": status, "detail": "d"}}


def items(count: int) -> list[Item]:
    found = [item_of(received(b"{}", idempotency_key=f"k{n}".encode())) for n in range(count)]
    assert all(isinstance(i, Item) for i in found)
    return found  # type: ignore[return-value]


def test_the_gateway_is_asked_again_for_what_a_retry_can_settle_and_for_nothing_else() -> None:
    first = [problem(409, "in-flight"), problem(422, "invalid-field"), {"answer": {"key": "k2"}}]
    gateway = Gateway([(503, {}), (200, {"results": first})])
    waits: list[str] = []
    scorer = GatewayScorer(gateway.url, "fraud", lambda: "key", waits.append)
    outcomes = scorer.score(items(3), threading.Event(), draining())
    assert gateway.asked == [3, 3, 1]
    assert waits == ["status-503", "in-flight"]
    assert sorted(o.item.key for o in outcomes if isinstance(o, ScoreReply)) == ["k0", "k2"]
    assert [o.reason for o in outcomes if isinstance(o, Poison)] == ["invalid-field"]
    gateway.server.shutdown()


def test_a_key_that_the_gateway_does_not_know_stops_the_worker() -> None:
    gateway = Gateway([(401, {})])
    scorer = GatewayScorer(gateway.url, "fraud", lambda: "key", lambda _: None)
    with pytest.raises(Refused, match="401"):
        scorer.score(items(1), threading.Event(), draining())
    gateway.server.shutdown()


class Waits(threading.Event):
    """Notes how long it was waited for, and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout)
        return False


@pytest.mark.parametrize(
    ("header", "waited_s"),
    [("7", 7.0), ("86400", 30.0), ("0", 0.1), ("soon", 0.1), ("-1", 0.1), ("9" * 400, 30.0)],
    ids=["obeyed", "no longer than a bound", "not sooner than it would", "a word", "-1", "huge"],
)
def test_the_gateway_says_when_to_ask_again(header: str, waited_s: float) -> None:
    gateway = Gateway([(503, {}, ("Retry-After", header))])
    scorer = GatewayScorer(gateway.url, "fraud", lambda: "key", lambda _: None)
    waits = Waits()
    assert len(scorer.score(items(2), waits, draining())) == 2
    assert waits.seconds == [waited_s]
    gateway.server.shutdown()


def test_a_call_that_is_too_large_is_halved_and_an_item_that_is_becomes_poison() -> None:
    gateway = Gateway([(413, {}), (413, {}), (413, {})])
    scorer = GatewayScorer(gateway.url, "fraud", lambda: "key", lambda _: None)
    outcomes = scorer.score(items(4), Waits(), draining())
    assert gateway.asked == [4, 2, 1, 1, 2]
    assert [o.reason for o in outcomes if isinstance(o, Poison)] == ["too-large"]
    assert sorted(o.item.key for o in outcomes if isinstance(o, ScoreReply)) == ["k1", "k2", "k3"]
    gateway.server.shutdown()


def test_what_a_gateway_accepted_goes_back_as_it_came_and_by_its_own_way() -> None:
    value = b'{"decision_id":"d", "mac":"m"}'
    own = item_of(received(value, accepted=b"d"))
    assert isinstance(own, Item)
    assert (own.key, own.body, own.is_accepted) == ("d", value, True)
    mixed = [*items(3), own, *items(2), own]
    found = chunks(mixed, 2)
    assert [[i.is_accepted for i in chunk] for chunk in found] == [[True, True]] + [
        [False] * size for size in (2, 2, 1)
    ]
    gateway = Gateway([])
    scorer = GatewayScorer(gateway.url, "fraud", lambda: "key", lambda _: None)
    for chunk in found[:2]:
        scorer.score(chunk, threading.Event(), draining())
    assert gateway.paths == ["accepted", "batch"]
    gateway.server.shutdown()


def test_told_to_stop_it_does_not_wait_for_a_gateway_that_is_gone() -> None:
    stopping = threading.Event()
    stopping.set()
    scorer = GatewayScorer("http://127.0.0.1:1", "fraud", lambda: "key", lambda _: None)
    with pytest.raises(Unavailable):
        scorer.score(items(1), stopping, draining())


def test_the_lag_is_looked_at_while_a_batch_waits_for_its_gateway(
    topics: LocalTopics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "KEEP_ALIVE_S", 0.02)
    monkeypatch.setattr(drain, "LAG_S", 0.0)
    seen: list[int] = []
    monkeypatch.setattr(Metrics, "lag", lambda _, messages: seen.append(messages))
    topics.publish(requests(3))
    scorer = Echo(pause_s=1.0)
    worker = worker_of(topics, scorer)
    thread = threading.Thread(target=worker.step, args=(threading.Event(),))
    thread.start()
    assert scorer.began.wait(10)
    topics.publish(requests(5))
    end_s = time.monotonic() + 10
    while 8 not in seen and time.monotonic() < end_s:
        time.sleep(0.01)
    thread.join(10)
    assert 8 in seen


def test_metrics_are_shown_to_who_has_the_token() -> None:
    registry = MetricRegistry()
    metrics = Metrics("fraud", registry)
    metrics.lag(7)
    root = f"http://127.0.0.1:{listen(registry, 'secret')}"
    assert httpx.get(f"{root}/metrics").status_code == 401
    shown = httpx.get(f"{root}/metrics", headers={"Authorization": "Bearer secret"})
    assert 'mlplatform_worker_lag_messages{model="fraud"} 7.0' in shown.text
    assert httpx.get(f"{root}/healthz").status_code == 200


TRACE, SPAN = "a" * 32, "b" * 16
TOLD = {"traceparent": f"00-{TRACE}-{SPAN}-01".encode()}


def told_requests(count: int) -> list[Message]:
    """Requests that say where they come from."""
    return [Message(m.topic, m.key, m.value, {**m.headers, **TOLD}) for m in requests(count)]


def test_a_result_bears_the_trace_of_its_request_and_the_batch_is_linked_with_it(
    topics: LocalTopics,
) -> None:
    kept = KeptBatches()
    worker = worker_of(topics, Echo(), kept=kept, share=1.0)
    topics.publish([*told_requests(2), *requests(1)])
    assert worker.step(threading.Event()) == 3
    reader = topics.subscribe([NAMES.results], "reader", "reader-0")
    told = [m.headers.get("traceparent") for m in reader.consume(10, 1.0)]
    assert (told.count(TOLD["traceparent"]), told.count(None)) == (2, 1)
    (drained,) = kept
    root = build(drained).spans[0]
    assert (root.name, root.kind.kind, root.parent_id) == (
        "process fraud.requests", "CONSUMER", None,
    )  # fmt: skip
    assert list(root.links) == [(TRACE, SPAN)] * 2
    reader.close()


@pytest.mark.parametrize(
    ("is_kept", "share", "extra", "sampled_for"),
    [
        (False, 0.0, {}, None),
        (True, 0.0, {}, "gateway"),
        (False, 1.0, {}, "share"),
        (False, 0.0, {"poison": 1}, "error"),
    ],
)
def test_a_batch_is_kept_where_something_speaks_for_it(
    topics: LocalTopics, is_kept: bool, share: float, extra: dict[str, int], sampled_for: str | None
) -> None:
    kept, echo = KeptBatches(), Echo()
    echo.is_kept = is_kept
    worker = worker_of(topics, echo, kept=kept, share=share)
    topics.publish(requests(1, **extra))
    worker.step(threading.Event())
    assert [each.sampled_for for each in kept] == ([] if sampled_for is None else [sampled_for])


def test_a_batch_that_is_given_up_is_kept(topics: LocalTopics) -> None:
    kept = KeptBatches()
    worker = worker_of(topics, Echo(fail=1), kept=kept)
    topics.publish(requests(1))
    with pytest.raises(Unavailable):
        worker.step(threading.Event())
    assert [each.sampled_for for each in kept] == ["error"]


def test_links_are_bounded(topics: LocalTopics) -> None:
    kept = KeptBatches()
    worker = worker_of(topics, Echo(), kept=kept, share=1.0)
    topics.publish(told_requests(MAX_LINKS + 10))
    while not kept or sum(each.batch.messages for each in kept) < MAX_LINKS + 10:
        worker.step(threading.Event())
    assert all(len(each.batch.links) <= MAX_LINKS for each in kept)


def test_the_gateway_is_told_the_span_that_calls_it_and_says_whether_it_kept_its_part() -> None:
    trace_of_gateway = f"00-{TRACE}-{SPAN}-01"
    gateway = Gateway(
        [(200, {"results": [{"answer": {"key": "k"}}]}, ("traceparent", trace_of_gateway))]
    )
    scorer = GatewayScorer(gateway.url, "fraud", lambda: "key", lambda _: None)
    batch = draining()
    scorer.score(items(1), threading.Event(), batch)
    assert batch.sampled_for == "gateway"
    (call,) = batch.calls
    assert gateway.traceparents == [f"00-{batch.trace_id}-{call.span_id}-00"]
    assert call.parent_id == batch.span_id
    gateway.server.shutdown()
