"""`python -m mlplatform.process log-publisher`: the log of a gateway's own volume, as a topic."""

from __future__ import annotations

import argparse
import logging
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from mlplatform.decisions.log.pruning import prune
from mlplatform.decisions.replication.messages import ConfirmedOffset, Names, confirmed
from mlplatform.decisions.replication.process import BACK_OFF_S, require_brokers
from mlplatform.decisions.replication.replicated_records import (
    Item,
    ReplicaOffset,
    ReplicatedRecord,
    ReplicationReader,
    encoded,
    opened,
)
from mlplatform.decisions.topics.messages import Message, Progress, Subscription, Topics
from mlplatform.decisions.topics.wiring import open_topics
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import Busy, InputInvalid, PlatformError, Unavailable
from mlplatform.runtime.units import HOUR_MS

BATCH: Final = 500
POLL_S: Final = 0.2
OFFSET_INTERVAL_S: Final = 1.0
"""Interval in seconds of offsets without a record: as often as a gateway's heartbeat."""
PRUNE_S: Final = 60.0
KEEP_H: Final = 24.0
DRAIN_LIMIT_S: Final = 20.0
"""Seconds for which a stopping publisher tries to publish the rest; it is the pod's last container
to end."""
AGAIN_S: Final = 5.0
MAX_CONFIRMATIONS: Final = 1_000

_encode = msgspec.json.Encoder().encode
_position = msgspec.json.Decoder(dict[str, int]).decode
log = logging.getLogger(__name__)


class Source(Protocol):
    """The log that is published."""

    def offsets(self) -> list[ReplicaOffset]: ...

    def records(self, writer: str, *, after: int, limit: int) -> list[ReplicatedRecord]: ...


class Publisher:
    """Publishes the records that were not published yet, and sends records again on request.

    Messages and progress become visible together, so that a crash anywhere repeats nothing. An
    offset follows the last record that it is about.

    Args:
        name: name of the log; no other publisher may use it.
        answers: subscription to the replicator's confirmations.
    """

    def __init__(
        self,
        source: Source,
        topics: Topics,
        answers: Subscription,
        name: str,
        *,
        names: Names = Names(),  # noqa: B008 -- frozen
        batch: int = BATCH,
    ) -> None:
        self._source = source
        self._topics = topics
        self._answers = answers
        self._topic = names.records
        self._progress = names.of(name)
        self._batch = batch
        self._sent_offsets: dict[str, ReplicaOffset] = {}
        self._sent_s = -OFFSET_INTERVAL_S
        self.safe: dict[str, ConfirmedOffset] = {}
        self._published: dict[str, int] | None = self._replica_offsets()

    def step(self) -> int:
        """Publish the next messages. Returns their number; 0 if there was nothing to publish.

        Raises:
            StaleFence: another process publishes this log.
            Unavailable: the log or the topics do not answer. The next step finds out whether the
                last messages were published.
        """
        if self._published is None:
            self._published = self._replica_offsets()
        self._read_confirmations()
        before, after = self._published, dict(self._published)
        items: list[Item] = []
        offsets = self._source.offsets()
        for offset in offsets:
            records = self._source.records(
                offset.writer, after=before.get(offset.writer, 0), limit=self._batch
            )
            records = [record for record in records if record.seq <= offset.seq]
            items += records
            after[offset.writer] = records[-1].seq if records else before.get(offset.writer, 0)
            if self._is_due(offset, after[offset.writer], has_more=bool(records)):
                items.append(offset)
        if not items:
            return 0
        self._published = None
        messages = [Message(self._topic, i.writer.encode(), encoded(i)) for i in items]
        self._topics.publish(messages, Progress(self._progress, _encode(after)))
        self._published = after
        self._sent_offsets |= {i.writer: i for i in items if isinstance(i, ReplicaOffset)}
        self._sent_s = time.monotonic()
        return len(items)

    def is_all_published(self) -> bool:
        """Whether all records of the log, and the closing of its writers, were published."""
        published = self._published or {}
        return all(
            published.get(s.writer, 0) == s.seq and self._sent_offsets.get(s.writer) == s
            for s in self._source.offsets()
        )

    def close(self) -> None:
        self._answers.close()

    def _is_due(self, offset: ReplicaOffset, reached: int, *, has_more: bool) -> bool:
        last = self._sent_offsets.get(offset.writer)
        if reached != offset.seq or last == offset:
            return False
        is_new = last is None or last.closed != offset.closed
        return has_more or is_new or time.monotonic() - self._sent_s >= OFFSET_INTERVAL_S

    def _read_confirmations(self) -> None:
        """Read the replicator's confirmations about writers of this log; others are ignored."""
        found = self._answers.consume(MAX_CONFIRMATIONS, 0.0)
        if not found:
            return
        own = {offset.writer for offset in self._source.offsets()}
        for message in found:
            try:
                answer = confirmed(message.value, message.place)
            except InputInvalid as error:
                log.error(
                    "a message on the topic of confirmations is not a confirmation: %s", error
                )
                continue
            if answer.writer in own:
                self._take(answer)
        self._answers.commit(())

    def _take(self, answer: ConfirmedOffset) -> None:
        self.safe[answer.writer] = answer
        published = self._published
        if not answer.again or published is None or published.get(answer.writer, 0) <= answer.seq:
            return
        following = self._source.records(answer.writer, after=answer.seq, limit=1)
        if not following or following[0].seq != answer.seq + 1:
            # If the rest were sent, it would be refused and asked for again without end.
            log.error(
                "a receiver asks for record %d of %s, which this log does not have any more",
                answer.seq + 1,
                answer.writer,
            )
            return
        log.warning("records of %s after %d are sent again", answer.writer, answer.seq)
        published[answer.writer] = answer.seq
        self._sent_offsets.pop(answer.writer, None)

    def _replica_offsets(self) -> dict[str, int]:
        value = self._topics.progress(self._progress)
        return {} if value is None else _position(value)


def follow(publisher: Publisher, stopping: threading.Event, prune_now: Callable[[], None]) -> None:
    """Follow the log until `stopping` is set; then publish the rest of it for a limited time.

    Args:
        prune_now: removes records from the log that another log has; it is called every `PRUNE_S`
            seconds.
    """
    prune_s = time.monotonic() + PRUNE_S
    until_s: float | None = None
    while until_s is None or (time.monotonic() < until_s and not publisher.is_all_published()):
        if until_s is None and stopping.is_set():
            until_s = time.monotonic() + DRAIN_LIMIT_S
        try:
            if not publisher.step():
                _pause(stopping, POLL_S)
            if time.monotonic() >= prune_s:
                prune_s = time.monotonic() + PRUNE_S
                prune_now()
        except (Unavailable, Busy) as error:
            log.warning("nothing was published: %s", error)
            _pause(stopping, BACK_OFF_S)


def _pause(stopping: threading.Event, wait_s: float) -> None:
    if stopping.is_set():
        time.sleep(wait_s)
    else:
        stopping.wait(wait_s)


def publish(name: str, settings: Settings, stopping: threading.Event, *, keep_h: float) -> None:
    """Publish the log of a home folder until `stopping` is set, whatever fails.

    The function ends for no other reason, because its end would remove the gateway's pod from its
    Service.
    """
    while not stopping.is_set():
        try:
            _publish(name, settings, stopping, keep_h)
        except PlatformError as error:
            log.error("publishing of the log starts again: %s", error)
            stopping.wait(AGAIN_S)


def _publish(name: str, settings: Settings, stopping: threading.Event, keep_h: float) -> None:
    """Publish the log until `stopping` is set, or until an error ends it.

    Args:
        keep_h: hours for which the log keeps records that another log has.

    Raises:
        StaleFence: another process publishes the log.
        Unavailable: the log or the topics could not be opened.
    """
    with opened(settings.home.decisions) as reader:
        _publish_log(reader, name, settings, stopping, keep_h)


def _publish_log(
    reader: ReplicationReader,
    name: str,
    settings: Settings,
    stopping: threading.Event,
    keep_h: float,
) -> None:
    clock, folder = SystemClock(), settings.home.decisions
    names = Names()
    topics = open_topics(settings, names.specs())
    answers = topics.subscribe([names.confirmed], names.of(name), name)
    publisher = Publisher(reader, topics, answers, name)

    def prune_now() -> None:
        now_ms = clock.wall_ms()
        before_ms = now_ms - int(keep_h * HOUR_MS)
        for one in publisher.safe.values():
            dropped = prune(
                folder, one.writer, seq=one.seq, chain=one.chain, before_ms=before_ms, now_ms=now_ms
            )
            if dropped:
                log.info("dropped %d records of %s that are safe elsewhere", dropped, one.writer)

    try:
        follow(publisher, stopping, prune_now)
    finally:
        publisher.close()
        topics.close()


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--name", required=True, help="The name of the gateway, which no other log has."
    )
    parser.add_argument(
        "--keep-h",
        type=float,
        default=KEEP_H,
        help="Hours for which records stay here after another log has them.",
    )
    return parser


def run(options: argparse.Namespace, settings: Settings, stopping: threading.Event) -> None:
    """Runs until `stopping` is set, then publishes the rest of the log for a limited time."""
    require_brokers(settings)
    settings.home.create()  # it may start before the gateway
    publish(options.name, settings, stopping, keep_h=options.keep_h)
