"""A topic of features: each value counts once, whatever dies; bad ones are dead letters."""

from __future__ import annotations

import json
import logging
import os
import random
import sqlite3
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from msgspec.structs import replace

from mlplatform.decisions.records.pseudonym import pseudonym
from mlplatform.decisions.topics.kafka import KafkaTopics
from mlplatform.decisions.topics.kafka_access import Access
from mlplatform.decisions.topics.local import LocalTopics
from mlplatform.decisions.topics.local_group import LocalSubscription
from mlplatform.decisions.topics.messages import DroppedRange, Message, Topics
from mlplatform.decisions.topics.wiring import open_topics
from mlplatform.learning.features import feast_repo
from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.learning.features.pushes.sqlite import SqlitePushes
from mlplatform.model.definition import RequestField
from mlplatform.operations import wiring
from mlplatform.operations.supervisor.platform import workers
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.processes.commands import command
from mlplatform.runtime.storage import addresses
from mlplatform.runtime.telemetry.prometheus import MetricRegistry
from mlplatform.scoring.pushes.pushes import PushEntry, PushTarget, push_of
from mlplatform.scoring.pushes.rows import RowsBody
from mlplatform.scoring.worker.feature_stream import FeatureStream, group_of, specs_of
from mlplatform.scoring.worker.metrics import DroppedCounts
from mlplatform.scoring.worker.stream_lag import StreamLag
from support.bad_rows import bad_rows
from support.external_world import BUREAU, NAME, model_with_table
from support.scoring_world import SOURCE, wait_for
from support.team_folder import team_folder

KEY = bytes(32)
FIELD = RequestField(type="int64", minimum=0, pseudonymous=True)
CUSTOMERS, MESSAGES, KILLS = 5, 60, 4
READ_S = 120.0
KAFKA = pytest.param("kafka", marks=pytest.mark.kafka)


class Killed(Exception):
    pass


class DyingProcess:
    """An object whose process dies right before or after one of its calls."""

    def __init__(self, real: Any, steps: Iterator[bool]) -> None:
        self._real, self._steps = real, steps

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            if next(self._steps):
                raise Killed
            result = getattr(self._real, name)(*args, **named)
            if next(self._steps):
                raise Killed
            return result

        return call


def message(topic: str, number: int, **changes: Any) -> Message:
    customer, score = number % CUSTOMERS, float(number)
    row = {
        "customer_id": customer,
        "as_of": int(time.time() * 1000) - 5_000,
        "bureau_score": score,
        "open_loans": number,
        "is_listed": score > 5,
        **changes,
    }
    return Message(topic, str(customer).encode(), json.dumps(row).encode())


def wrong(topic: str) -> list[Message]:
    later = int(time.time() * 1000) + 3_600_000
    return [
        message(topic, 1, as_of=later),
        message(topic, 1, bureau_score="high"),
        message(topic, 1, more=1),
        Message(topic, b"1", b"{"),
        Message(topic, b"1", b"\xff\xfe"),
        Message(topic, b"1", b" " * 70_000),
        Message(topic, b"1", b""),
    ]


REASONS = [
    "event-time", "invalid-field", "unknown-field", *["malformed-json"] * 2, "too-large",
    "malformed-json",
]  # fmt: skip


class World:
    """A view's stores, and a reader of its topic that may die; the topics are embedded."""

    def __init__(self, folder: Path) -> None:
        self.topic = "bank.bureau"
        self.topics = LocalTopics(folder / "topics.db", specs_of(self.topic))
        self.journal = SqlitePushes(folder / "pushes.db", durable=False)
        self.online = FeastSqlite(folder / "online.db", NAME, [BUREAU])
        self.body = RowsBody(NAME, BUREAU, FIELD, KEY)
        self.lag = StreamLag(NAME, "bureau", _now_ms)
        self.registry = MetricRegistry()
        self.dropped = DroppedCounts(self.registry)

    def live(self, steps: Iterator[bool]) -> None:
        """One life of a reader: until it has read all, or dies."""
        target = PushTarget(NAME, BUREAU, self.body, DyingProcess(self.online, steps))
        entry = PushEntry([target], lambda: DyingProcess(self.journal, steps), _now_ms)
        with closing(
            self.topics.subscribe([self.topic], group_of(NAME, "bureau"), "worker-0")
        ) as subscription:
            stream = FeatureStream(
                DyingProcess(subscription, steps), target, entry, self.lag, self.dropped
            )
            entry.catch_up()
            while stream.step():
                pass

    def counted(self) -> float:
        """Messages that the topic dropped, as the metric says. Feast, where a test has imported it,
        has all registries of the process share their counters."""
        self.dropped.watch(NAME, self.topic)
        of = f'mlplatform_topic_dropped_messages_total{{model="{NAME}",topic="{self.topic}"}} '
        lines = self.registry.text().decode().splitlines()
        (value,) = [line.removeprefix(of) for line in lines if line.startswith(of)]
        return float(value)

    def kept(self) -> list[float]:
        """The scores that the journal has, of which each message has its own."""
        pushes = self.journal.waiting(NAME, "bureau", most=1_000)
        assert all(one.served_ms is not None for one in pushes)
        return sorted(row.values[0] or 0.0 for one in pushes for row in one.push.rows)

    def read(self, customer: int) -> float | None:
        keys = {"customer": pseudonym(customer, KEY)}
        return self.online.read(keys, _now_ms()).values["bureau_score"]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.mark.parametrize("dies_at", range(30))
def test_a_reader_that_dies_at_any_step_loses_and_doubles_nothing(
    tmp_path: Path, dies_at: int
) -> None:
    world = World(tmp_path)
    sent = [message(world.topic, n, as_of=_now_ms() - 60_000 + n) for n in range(CUSTOMERS)]
    world.topics.publish([*sent, *wrong(world.topic)])
    try:
        world.live(iter([n == dies_at for n in range(10_000)]))
    except Killed:
        world.live(iter([False] * 10_000))
    world.topics.publish([message(world.topic, 10)])
    world.live(iter([False] * 10_000))
    assert world.kept() == [0.0, 1.0, 2.0, 3.0, 4.0, 10.0]
    assert [world.read(one) for one in range(CUSTOMERS)] == [10.0, 1.0, 2.0, 3.0, 4.0]
    letters = _letters(world.topics, world.topic)
    assert [one.headers["dead-letter-reason"].decode() for one in letters] == REASONS


@pytest.mark.parametrize("more", [0, 150], ids=["the batch", "and pushes before it"])
def test_nothing_counts_as_read_before_the_online_store_has_it(tmp_path: Path, more: int) -> None:
    """The store is away for two readings of a batch, of which the journal has the rows at once."""
    world = World(tmp_path)

    class UnavailableStore:
        """The online store, which refuses the first rows that it is given."""

        refused = 0

        def __getattr__(self, name: str) -> Any:
            if name == "put" and self.refused < 2:
                self.refused += 1
                raise Unavailable("it is away")
            return getattr(world.online, name)

    target = PushTarget(NAME, BUREAU, world.body, UnavailableStore())  # type: ignore[arg-type]
    entry = PushEntry([target], lambda: world.journal, _now_ms)
    for number in range(more):
        earlier = world.body.row(message(world.topic, 3, as_of=number).value, _now_ms())
        world.journal.add([push_of(target, "a", None, (earlier,))], _now_ms())
    world.topics.publish([message(world.topic, 1)])
    with closing(
        world.topics.subscribe([world.topic], group_of(NAME, "bureau"), "worker-0")
    ) as subscription:
        now_ms = 0
        lag = StreamLag(NAME, "bureau", lambda: _now_ms() + now_ms)
        stream = FeatureStream(subscription, target, entry, lag, world.dropped)
        for _ in range(2):
            with pytest.raises(Unavailable):
                stream.step()
            subscription.rewind()
        now_ms += 90_000
        (behind,) = [one for one in lag.behind() if one.messages]
        assert (behind.topic, behind.messages) == (world.topic, 1)
        assert 90 <= behind.seconds < 120
        assert stream.step() == 1
        assert {(one.messages, one.seconds) for one in lag.behind()} == {(0, 0.0)}
    assert world.read(1) == 1.0
    assert len(world.journal.waiting(NAME, "bureau", most=1_000)) == more + 1
    assert world.journal.waiting(NAME, "bureau", most=1, unserved=True) == []


def test_a_topic_that_was_made_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    world = World(tmp_path)
    for score in (1, 2):
        world.topics.publish([message(world.topic, score)])
        world.live(iter([False] * 10_000))
        world.topics.close()
        for file in tmp_path.glob("topics.db*"):
            file.unlink()
        world.topics = LocalTopics(tmp_path / "topics.db", specs_of(world.topic))
    assert world.kept() == [1.0, 2.0]


def test_each_bad_message_is_a_dead_letter_as_it_came_and_those_beside_it_are_taken(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    before, after = message(world.topic, 1), message(world.topic, 2)
    bad = bad_rows(json.loads(before.value), _now_ms() + 3_600_000)
    sent = [Message(world.topic, b"1", value) for value in bad.values()]
    world.topics.publish([before, *sent, after])
    world.live(iter([False] * 10_000))
    assert world.kept() == [1.0, 2.0]
    letters = _letters(world.topics, world.topic, len(bad))
    assert [one.value for one in letters] == list(bad.values())
    for name, letter in zip(bad, letters, strict=True):
        assert letter.headers["dead-letter-reason"], name
        assert letter.headers["dead-letter-detail"], name
    assert [world.read(one) for one in (1, 2)] == [1.0, 2.0]


@pytest.mark.parametrize("dies_at", range(0, 30, 2))
def test_a_topic_with_another_id_is_read_again_once_wherever_the_reader_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    """The group's offsets and the times of messages are as they were."""
    world, ids = World(tmp_path), {"bank.bureau": "a"}
    monkeypatch.setattr(LocalSubscription, "topic_ids", lambda _: ids)
    world.topics.publish([message(world.topic, 1), message(world.topic, 2)])
    world.live(iter([False] * 10_000))
    ids["bank.bureau"] = "b"
    world.topics.publish([message(world.topic, 1), Message(world.topic, b"2", b"{")])
    try:
        world.live(iter([n == dies_at for n in range(10_000)]))
    except Killed:
        world.live(iter([False] * 10_000))
    world.live(iter([False] * 10_000))
    assert world.kept() in ([1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 1.0, 2.0, 2.0])
    assert len(_letters(world.topics, world.topic)) == 1
    assert set(world.journal.topics_read(NAME, "bureau").values()) == {"b"}


def test_a_topic_with_another_id_is_read_again_though_nothing_new_is_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has as many messages as before, so the group's offset is its end."""
    world, ids = World(tmp_path), {"bank.bureau": "a"}
    monkeypatch.setattr(LocalSubscription, "topic_ids", lambda _: ids)
    world.topics.publish([message(world.topic, 1), message(world.topic, 2)])
    world.live(iter([False] * 10_000))
    assert world.kept() == [1.0, 2.0]
    ids["bank.bureau"] = "b"
    for _ in range(2):
        world.live(iter([False] * 10_000))
    assert world.kept() == [1.0, 1.0, 2.0, 2.0]
    assert set(world.journal.topics_read(NAME, "bureau").values()) == {"b"}


@pytest.mark.parametrize("dies_at", [None, *range(1, 22, 2)])
@pytest.mark.parametrize("more", [True, False], ids=["messages follow", "none is left"])
def test_what_a_topic_dropped_is_on_record_once_wherever_the_reader_dies(
    tmp_path: Path, dies_at: int | None, more: bool
) -> None:
    world = World(tmp_path)
    world.topics.publish([message(world.topic, n) for n in range(CUSTOMERS)])
    world.live(iter([False] * 10_000))
    world.topics.publish([message(world.topic, n) for n in (*range(10, 15), 10, 11)])
    with closing(sqlite3.connect(tmp_path / "topics.db")) as db, db:
        of = ("bank.bureau",)
        before, ends = (
            dict(db.execute(f"SELECT partition, next_offset FROM {table} WHERE topic = ?", of))
            for table in ("offsets", "partitions")
        )
        db.execute("DELETE FROM messages WHERE topic = ?", of)
        db.execute("UPDATE partitions SET first_offset = next_offset WHERE topic = ?", of)
    if more:
        world.topics.publish([message(world.topic, n) for n in range(20, 25)])
    counted = world.counted()
    try:
        world.live(iter([n == dies_at for n in range(10_000)]))
    except Killed:
        world.live(iter([False] * 10_000))
    world.live(iter([False] * 10_000))
    gaps = {one.partition: one for one in world.journal.gaps(NAME, "bureau")}
    assert {n: (one.first_offset, one.last_offset) for n, one in gaps.items()} == {
        n: (before[n], end - 1) for n, end in ends.items() if end > before[n]
    }
    assert len(world.journal.gaps(NAME, "bureau")) == len(gaps)
    assert sum(one.most_messages for one in gaps.values()) == 7
    assert all(abs(one.found_ms - _now_ms()) < 120_000 for one in gaps.values())
    assert all(one.since_ms and one.since_ms <= one.found_ms for one in gaps.values())
    if dies_at is None:
        assert world.counted() - counted == 7
    assert [one for one in world.kept() if one >= 10] == (
        [20.0, 21.0, 22.0, 23.0, 24.0] if more else []
    )


def test_the_series_of_losses_begin_with_what_is_on_record(tmp_path: Path) -> None:
    """An alert on a counter would not see what a worker finds right after its start."""
    world = World(tmp_path)
    gone = DroppedRange(world.topic, 0, 3, 4)
    assert BUREAU.external is not None
    view = replace(BUREAU, external=replace(BUREAU.external, topic=world.topic))
    found = []
    for at_ms in (None, 1_764_000_000_000):
        if at_ms is not None:
            world.journal.add_gaps(NAME, "bureau", [gone], {}, at_ms)
        registry, stopping = MetricRegistry(), threading.Event()
        stopping.set()
        online = FeastSqlite(tmp_path / "online.db", NAME, [BUREAU])
        target = PushTarget(NAME, view, world.body, online)
        journal = SqlitePushes(tmp_path / "pushes.db", durable=False)
        entry = PushEntry([target], lambda: journal, _now_ms)  # noqa: B023 -- used in this turn
        read = world.topics.subscribe([world.topic], "g", "w")
        FeatureStream(read, target, entry, world.lag, DroppedCounts(registry)).run(stopping)
        of = f'{{model="{NAME}",topic="{world.topic}"}} '
        line = f"mlplatform_topic_dropped_timestamp_seconds{of}"
        (value,) = [
            text.removeprefix(line)
            for text in registry.text().decode().splitlines()
            if text.startswith(line)
        ]
        found.append(float(value))
    assert found == [0.0, 1_764_000_000.0]


class BankTopic:
    """A topic of the bank's own, dated by its producers, that may be deleted and made anew."""

    def __init__(self, brokers: Any, name: str) -> None:
        self._access = Access(brokers)
        self._admin, self.name = self._access.client(AdminClient), name
        self.make()

    def make(self) -> None:
        config = {"message.timestamp.type": "CreateTime"}
        topic = NewTopic(self.name, 2, 1, config=config)
        wait_for(lambda: self.name not in self._admin.list_topics(timeout=5).topics, 60)
        for made in self._admin.create_topics([topic]).values():
            made.result()
        wait_for(lambda: self.name in self._admin.list_topics(timeout=5).topics, 60)

    def remove(self) -> None:
        for gone in self._admin.delete_topics([self.name], operation_timeout=30).values():
            gone.result()

    def delete(self, partition: int, before: int) -> None:
        """Delete the records of a partition before an offset."""
        place = TopicPartition(self.name, partition, before)
        for gone in self._admin.delete_records([place]).values():
            assert gone.result().low_watermark == before

    def publish(self, scores: range, at_ms: int) -> None:
        producer = self._access.client(Producer)
        for score in scores:
            one = message(self.name, score, as_of=_now_ms() - 600_000 + 1_000 * score)
            producer.produce(
                self.name, one.value, one.key, partition=score % 2, timestamp=at_ms + score
            )
        producer.flush(30)


@pytest.mark.kafka
def test_records_that_were_deleted_from_a_topic_of_the_bank_are_on_record(
    tmp_path: Path, kafka: Any
) -> None:
    world, at_ms = World(tmp_path), _now_ms()
    bank = BankTopic(kafka, f"bank-{uuid.uuid4().hex[:8]}")
    world.topic = bank.name
    topics = KafkaTopics(kafka, specs_of(bank.name))
    target = PushTarget(NAME, BUREAU, world.body, world.online)

    def read_until(count: int, gaps: int) -> None:
        entry = PushEntry([target], lambda: world.journal, _now_ms)
        with closing(topics.subscribe([bank.name], f"g-{bank.name}", "worker-0")) as read:
            stream = FeatureStream(read, target, entry, world.lag, world.dropped)
            until_s = time.monotonic() + READ_S
            while time.monotonic() < until_s and (
                len(world.kept()) < count or len(world.journal.gaps(NAME, "bureau")) < gaps
            ):
                stream.step()

    bank.publish(range(20), at_ms)
    read_until(20, 0)
    assert world.journal.gaps(NAME, "bureau") == []
    bank.publish(range(20, 40), at_ms)
    bank.delete(0, 15)
    bank.delete(1, 20)  # and nothing is left there
    for _ in range(2):
        read_until(25, 2)
        found = world.journal.gaps(NAME, "bureau")
        told = [(one.partition, one.first_offset, one.last_offset, one.since_ms) for one in found]
        assert sorted(told) == [(0, 10, 14, at_ms + 18), (1, 10, 19, at_ms + 19)]
        assert {one.topic_id for one in found} == {
            *world.journal.topics_read(NAME, "bureau").values()
        }
    assert world.kept() == [*map(float, range(20)), *(float(n) for n in range(30, 40, 2))]
    bank.publish(range(40, 42), at_ms)
    read_until(27, 2)
    assert len(world.journal.gaps(NAME, "bureau")) == 2
    topics.close()


@pytest.mark.kafka
@pytest.mark.parametrize("lives", [1, 2], ids=["while it reads", "between two lives"])
def test_a_topic_of_the_bank_that_was_made_anew_with_older_times_is_read_from_its_beginning(
    tmp_path: Path, kafka: Any, lives: int
) -> None:
    """More messages than before, and with earlier times: neither offset nor time shows it."""
    world = World(tmp_path)
    bank = BankTopic(kafka, f"bank-{uuid.uuid4().hex[:8]}")
    world.topic = bank.name
    topics = KafkaTopics(kafka, specs_of(bank.name))
    target = PushTarget(NAME, BUREAU, world.body, world.online)

    @contextmanager
    def reader() -> Iterator[FeatureStream]:
        entry = PushEntry([target], lambda: world.journal, _now_ms)
        with closing(topics.subscribe([bank.name], f"g-{bank.name}", "worker-0")) as read:
            yield FeatureStream(read, target, entry, world.lag, world.dropped)

    def read_until(stream: FeatureStream, count: int) -> None:
        """As `FeatureStream.run` does."""
        until_s = time.monotonic() + READ_S
        while len(world.kept()) < count and time.monotonic() < until_s:
            try:
                stream.step()
            except Unavailable as error:
                logging.warning("read again: %s", error)
                stream._subscription.rewind()

    with ExitStack() as first:
        stream = first.enter_context(reader())
        bank.publish(range(20), _now_ms())
        read_until(stream, 20)
        if lives == 2:
            first.close()
        bank.remove()
        bank.make()
        bank.publish(range(100, 150), _now_ms() - 3_600_000)
        if lives == 2:
            stream = first.enter_context(reader())
        read_until(stream, 70)
        assert world.kept() == [float(n) for n in (*range(20), *range(100, 150))]
    with reader() as stream:
        for _ in range(6):
            stream.step()
    assert len(world.kept()) == 70
    topics.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["embedded", KAFKA])
def test_a_worker_that_is_killed_again_and_again_takes_every_message_once(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    topic, draw = f"bureau-{uuid.uuid4().hex[:8]}", random.Random(3)
    model_with_table(tmp_path / "models", topic)
    with (
        team_folder(tmp_path / "models", tmp_path / "var"),
        pytest.MonkeyPatch.context() as patch,
    ):
        if kind == "kafka":
            found = addresses.variables("MLPLATFORM_KAFKA", request.getfixturevalue("kafka"))
            for name, value in found.items():
                patch.setenv(name, value)
            wiring.settings.cache_clear()
        (bureau,) = [view for view in feast_repo.views(NAME) if view.name == "bureau"]
        assert bureau.external is not None
        assert bureau.external.topic == topic
        assert [one.name for one in workers(wiring.settings())] == [f"worker-{NAME}"]
        platform = wiring.platform()
        with closing(open_topics(platform.settings, specs_of(topic))) as topics:
            _publish_under_kills(topics, topic, tmp_path, draw)
            _wait_until_taken(platform)
            letters = _letters(topics, topic)
        assert sorted(one.headers["dead-letter-reason"].decode() for one in letters) == sorted(
            REASONS
        )
        offline = platform.with_pushes(NAME)
        scores = [
            score
            for path in offline.external("bureau").every()
            for score in pq.read_table(path).column("bureau_score").to_pylist()
        ]
        assert sorted(scores) == [float(n) for n in range(MESSAGES)]
        (client,) = {c for note in offline.external("bureau").notes() for c in note.pushed}
        assert client == f"topic:{topic}"


def _publish_under_kills(topics: Topics, topic: str, folder: Path, draw: random.Random) -> None:
    workers = [_worker(folder)]
    try:
        for number in range(MESSAGES):
            event_ms = _now_ms() - 600_000 + 1_000 * number
            topics.publish([message(topic, number, as_of=event_ms)])
            time.sleep(draw.random() * 0.1)
            if number % (MESSAGES // KILLS) == MESSAGES // KILLS - 1 and number < MESSAGES - 1:
                wait_for(lambda: _marked(folder), READ_S)
                workers[-1].kill()
                workers[-1].wait()
                workers.append(_worker(folder))
        topics.publish(wrong(topic))
        platform = wiring.platform()
        wait_for(lambda: _scores(platform) == MESSAGES, READ_S)
        wait_for(lambda: len(_letters(topics, topic)) >= len(REASONS), READ_S)
        wait_for(lambda: _lags(folder, topic) == {0.0}, READ_S)
        workers[-1].terminate()
        assert workers[-1].wait(60) == 0
    finally:
        for one in workers:
            one.kill()
            one.wait()


def _lags(folder: Path, topic: str) -> set[float]:
    """Messages and seconds behind of every partition, as the worker's metrics say."""
    port = json.loads((folder / "address.json").read_bytes())["port"]
    headers = {"Authorization": "Bearer t"}
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", headers=headers, timeout=10).text
    of = f'topic="{topic}"'
    return {
        float(line.split()[-1])
        for line in text.splitlines()
        if line.startswith("mlplatform_feature_stream_") and of in line
    }


def _marked(folder: Path) -> bool:
    """Whether a worker has begun to take rows."""
    return (folder / "var" / "pushes.db").exists()


def _scores(platform: wiring.Platform) -> int:
    waiting = platform.pushes.waiting(NAME, "bureau", most=1_000)
    return sum(len(one.push.rows) for one in waiting)


def _wait_until_taken(platform: wiring.Platform) -> None:
    assert all(
        one.served_ms is not None for one in platform.pushes.waiting(NAME, "bureau", most=1_000)
    )


def _worker(folder: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "PYTHONPATH": str(SOURCE), "MLPLATFORM_GATEWAY_URL": "http://127.0.0.1:9"
    }  # fmt: skip
    with (folder / "worker.log").open("ab") as log:
        token = folder / "token"
        token.write_text("t")
        address = f"--address-file={folder / 'address.json'}"
        words = command("worker", f"--model={NAME}", address, f"--token-file={token}")
        return subprocess.Popen(words, env=environment, stdout=log, stderr=log)


def _letters(topics: Topics, topic: str, count: int = len(REASONS)) -> list[Any]:
    """All dead letters, by a reader of their own."""
    group = f"test-{uuid.uuid4().hex[:8]}"
    with closing(topics.subscribe([f"{topic}.dead-letters"], group, "test")) as reader:
        found: list[Any] = []
        empty, until_s = 0, time.monotonic() + 15
        while empty < 3 and time.monotonic() < until_s:
            page = reader.consume(100, 0.2 if isinstance(topics, LocalTopics) else 3.0)
            found += page
            empty = 0 if page else empty + 1
            if len(found) >= count:
                break
        return found
