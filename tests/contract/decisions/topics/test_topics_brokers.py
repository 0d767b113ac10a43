"""What topics on Kafka do when brokers refuse them, and when a broker is killed."""

from __future__ import annotations

import re
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.servers import certificates
from tests.servers.kafka.broker import Broker

from mlplatform.decisions.topics import kafka_access, kafka_group
from mlplatform.decisions.topics.kafka import KafkaTopics
from mlplatform.decisions.topics.messages import Message, Progress, Subscription, TopicSpec
from mlplatform.runtime.errors import ConfigInvalid, StaleFence, Unavailable
from mlplatform.runtime.storage.addresses import Brokers

pytestmark = pytest.mark.kafka

REFUSED_S = 10.0
"""A refusal comes within, on a machine that does much else; a reading that fails takes 30 s."""
WAIT_S = 180.0
KILLS = 5
BATCH = 20
NUMBERS = 1_200
KILL_EVERY = 300


@pytest.fixture
def broker(kafka_instance: Any) -> Iterator[Broker]:
    if kafka_instance.server is None:
        pytest.skip("the brokers that KAFKA_BOOTSTRAP names are not ours to kill or to ask for")
    return kafka_instance.server


@pytest.fixture
def name() -> str:
    return f"topic-{uuid.uuid4().hex[:8]}"


def opened(brokers: Brokers, *topics: str) -> KafkaTopics:
    return KafkaTopics(brokers, [TopicSpec(name, partitions=4) for name in topics])


def refused(brokers: Brokers, why: str) -> str:
    """What is said, within a time that no timeout of Kafka's would keep."""
    began_s = time.monotonic()
    with pytest.raises(ConfigInvalid, match=why) as caught:
        opened(brokers)
    assert time.monotonic() - began_s < REFUSED_S
    return str(caught.value)


def read(subscription: Subscription, count: int) -> list[int]:
    found: list[int] = []
    until_s = time.monotonic() + WAIT_S
    while len(found) < count and time.monotonic() < until_s:
        found += [int(m.value) for m in subscription.consume(100, 0.2)]
    return sorted(found)


def test_brokers_that_ask_for_nobody_are_spoken_to_by_tls(broker: Broker, name: str) -> None:
    topics = opened(broker.brokers("TLS"), name)
    topics.publish([Message(name, b"k", b"7")])
    reader = topics.subscribe([name], f"g-{name}", "m")
    assert read(reader, 1) == [7]
    reader.close()
    topics.close()


def test_a_wrong_password_is_refused_at_once_and_not_said(broker: Broker, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("wrong-and-secret")
    brokers = broker.brokers("USERS", password_file=file)

    said = refused(brokers, "credentials")

    assert "KAFKA is" in said
    assert str(file) in said
    assert "wrong-and-secret" not in f"{said} {brokers!r}"
    nobody = broker.brokers("USERS", user="nobody")
    assert broker.password not in refused(nobody, "credentials")
    file.unlink()
    with pytest.raises(Unavailable, match=str(file)):
        opened(brokers)


def test_a_certificate_that_is_not_trusted_or_of_another_host_is_refused(
    broker: Broker, tmp_path: Path
) -> None:
    another = certificates.make(tmp_path).authority
    for brokers in (
        broker.brokers("USERS", authority=another),
        broker.brokers("USERS", authority=None),
        broker.brokers("TLS", authority=another),
        broker.brokers("STRANGER"),
    ):
        refused(brokers, "certificate")
    refused(broker.brokers("USERS", authority=tmp_path / "none.pem"), r"none\.pem")


@pytest.mark.parametrize(
    ("listener", "changes", "said"),
    [
        ("TLS", {"tls": False, "authority": None}, "without TLS; with TLS: kafka+ssl"),
        ("USERS", {"tls": False, "authority": None, "user": None}, "without TLS"),
        ("USERS", {"user": None, "password_file": None}, "without a user"),
    ],
    ids=["TLS is wanted", "TLS and a user are wanted", "a user is wanted"],
)
def test_who_comes_with_less_than_a_listener_wants_is_not_let_in(
    broker: Broker,
    listener: str,
    changes: dict[str, Any],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kafka_access, "REACH_S", 2.0)

    with pytest.raises(Unavailable, match=re.escape(said)) as caught:
        opened(broker.brokers(listener, **changes))

    assert broker.listener(listener) in str(caught.value)


def test_a_password_that_was_changed_ends_who_has_the_old_one_and_lets_in_the_next(
    broker: Broker, name: str, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("first")
    broker.let_in(name, "first")
    brokers = broker.brokers("USERS", user=name, password_file=file)
    topics = opened(brokers, name)
    reader = topics.subscribe([name], f"g-{name}", "m")
    topics.publish([Message(name, b"k", b"1")])
    assert read(reader, 1) == [1]

    broker.let_in(name, "second")
    broker.kill()
    broker.start()

    with pytest.raises(ConfigInvalid, match="credentials"):
        read(reader, 1)
    file.write_text("second")
    again = opened(brokers, name)
    next_life = again.subscribe([name], f"g-{name}", "m")
    assert read(next_life, 1) == [1]
    for one in (reader, next_life, topics, again):
        one.close()


def test_progress_is_what_was_published_last_however_often_the_broker_is_killed(
    broker: Broker, kafka: Brokers, name: str
) -> None:
    """Just after a restart the broker names an end of the topic that lies too low."""
    topics = opened(kafka, name)
    assert topics.progress(name) is None
    for n in range(KILLS):
        topics.publish([Message(name, b"k", b"%d" % n)], Progress(name, b"%d" % n))
        broker.kill()
        broker.start()
        if n % 2:
            topics.close()
            topics = opened(kafka, name)
        assert topics.progress(name) == b"%d" % n
    # Killed within moments of a commit, a broker may forget to tell a partition of it: what was
    # committed is there, and is read once the publisher's next transaction ends (docs/faults.md).
    topics.publish([Message(name, b"k", b"%d" % KILLS)], Progress(name, b"%d" % KILLS))
    reader = topics.subscribe([name], f"g-{name}", "m")
    assert list(range(KILLS + 1)) == read(reader, KILLS + 1)
    reader.close()
    topics.close()


def test_what_is_published_and_forwarded_while_the_broker_is_killed_is_there_once(
    broker: Broker, kafka: Brokers, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_group, "WATCHED_S", 10.0)  # the kills take most of the test's time
    results = f"{name}-results"
    topics = opened(kafka, name, results)
    publisher, worker = Publisher(topics, name), Forwarder(opened(kafka), name, results)
    publisher.start()
    worker.start()

    for killed_at in range(KILL_EVERY, NUMBERS, KILL_EVERY):
        publisher.limit = killed_at + KILL_EVERY
        wait_until(partial(worker.has_read, killed_at), publisher, worker)
        broker.kill()
        broker.start()
    # A batch that a kill followed may be read only after the next transaction (docs/faults.md).
    last = NUMBERS + BATCH
    publisher.limit = last
    reader = topics.subscribe([results], f"reader-{name}", "reader")
    found = read(reader, last)
    for one in (publisher, worker):
        one.stopping.set()
        one.join(WAIT_S)
        assert one.failed is None

    found += [int(m.value) for m in reader.consume(100, 1.0)]
    reader.close()
    topics.close()
    assert list(range(last)) == sorted(found)
    assert publisher.asked == sorted(publisher.asked)
    assert publisher.interrupted + worker.interrupted > 0


class Client(threading.Thread):
    """Does its steps until told to stop; what is open after an outage is asked or done again."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.stopping = threading.Event()
        self.failed: Exception | None = None
        self.interrupted = 0

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                self.step()
            except Unavailable:
                self.interrupted += 1
            except Exception as error:  # noqa: BLE001 -- the test ends with it
                self.failed = error
                return

    def standing(self) -> str:
        """How far it is, for who waits for it in vain."""
        raise NotImplementedError

    def place(self) -> str:
        """Where it is in the code, for the same reason."""
        frame = sys._current_frames().get(self.ident or 0)
        return "".join(traceback.format_stack(frame)) if frame is not None else "it has ended"

    def step(self) -> None:
        raise NotImplementedError


class Publisher(Client):
    """Publishes numbers with their progress, as the outbox does records."""

    def __init__(self, topics: KafkaTopics, topic: str) -> None:
        super().__init__()
        self._topics = topics
        self._topic = topic
        self._done: int | None = None
        self.asked: list[int] = []
        self.limit = 0

    def standing(self) -> str:
        return f"published {self._done} of {self.limit}, interrupted {self.interrupted} times"

    def step(self) -> None:
        if self._done is None:
            self._done = int(self._topics.progress(self._topic) or 0)
            self.asked.append(self._done)
        if self._done >= self.limit:
            self.stopping.wait(0.1)
            return
        numbers, self._done = range(self._done, self._done + BATCH), None
        messages = [Message(self._topic, b"k%d" % (n % 7), b"%d" % n) for n in numbers]
        self._topics.publish(messages, Progress(self._topic, b"%d" % numbers.stop))
        self._done = numbers.stop


class Forwarder(Client):
    """Publishes each number again as its result, as the worker does scores."""

    def __init__(self, topics: KafkaTopics, topic: str, results: str) -> None:
        super().__init__()
        self._results = results
        self._join = lambda: topics.subscribe([topic], f"g-{topic}", "m")
        self._member: Subscription | None = None
        self._numbers: set[int] = set()

    def has_read(self, count: int) -> bool:
        """Read, and not forwarded: of a commit that an outage interrupts, nobody knows its end."""
        return len(self._numbers) >= count

    def standing(self) -> str:
        missing = sorted(set(range(max(self._numbers, default=0))) - self._numbers)
        where = "no member" if self._member is None else positions(self._member._consumer)
        return (
            f"read {len(self._numbers)}, interrupted {self.interrupted} times; not read "
            f"{missing[:20]}; {where}"
        )

    def step(self) -> None:
        self._member = self._member or self._join()
        try:
            found = self._member.consume(BATCH, 0.2)
            self._numbers.update(int(m.value) for m in found)
            self._member.commit([Message(self._results, m.key, m.value) for m in found])
        except StaleFence:  # the worker ends and is started again
            self.interrupted += 1
            self._member.close()
            self._member = None


def positions(consumer: Any) -> list[tuple[int, int, int, tuple[int, int]]]:
    """Of each partition of a member: its number, position, committed offset, and the offsets
    between which the broker shows messages."""
    mine = consumer.assignment()
    committed = {p.partition: p.offset for p in consumer.committed(mine, 10.0)}
    return [
        (p.partition, p.offset, committed[p.partition], consumer.get_watermark_offsets(p, 10.0))
        for p in consumer.position(mine)
    ]


def wait_until(reached: Callable[[], bool], *clients: Client) -> None:
    until_s = time.monotonic() + WAIT_S
    while not reached():
        if time.monotonic() > until_s:
            pytest.fail("\n".join(f"{c.standing()}\n{c.place()}" for c in clients))
        assert [c.failed for c in clients] == [None for _ in clients]
        time.sleep(0.02)
