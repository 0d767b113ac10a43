"""`python -m mlplatform.process log-replicator`: logs from elsewhere, appended to the home's."""

from __future__ import annotations

import argparse
import logging
import threading
import time
from collections.abc import Sequence
from typing import Final

from mlplatform.decisions.replication.continuation import Divergence, Gap
from mlplatform.decisions.replication.messages import ConfirmedOffset, Names, confirmation
from mlplatform.decisions.replication.process import BACK_OFF_S, require_brokers
from mlplatform.decisions.replication.replica_log import ReplicaLog, ReplicaPosition
from mlplatform.decisions.replication.replicated_records import Item, decoded
from mlplatform.decisions.topics.messages import Message, ReceivedMessage, Subscription
from mlplatform.decisions.topics.wiring import open_topics
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import Busy, InputInvalid, PlatformError, StaleFence, Unavailable

BATCH: Final = 250
"""Messages of one transaction; a gateway that writes to this log waits a few ms for it."""
WAIT_S: Final = 0.5
AGAIN_S: Final = 5.0
"""Seconds until records are asked for again, if they have not come by then."""
MAX_FENCED: Final = 3
MEMBER: Final = "gatherer"
"""Name of the group's member. It is of an earlier release and stays, because brokers hold offsets
under it."""

log = logging.getLogger(__name__)


class Replicator:
    """Appends records, then publishes each writer's progress, and commits the messages as read.

    If it is killed in between, it replicates the same records again, which changes nothing.
    """

    def __init__(
        self,
        into: ReplicaLog,
        subscription: Subscription,
        *,
        names: Names = Names(),  # noqa: B008 -- frozen
        batch: int = BATCH,
    ) -> None:
        self._names = names
        self._into = into
        self._subscription = subscription
        self._batch = batch
        self._confirmed: dict[str, int] = {}
        self._asked_s: dict[str, tuple[int, float]] = {}

    def step(self) -> int:
        """Replicate one batch. Returns the number of records added to the log.

        Raises:
            StaleFence: another replicator has taken over; it gets the messages.
            Unavailable, Busy: the log or the topics did not answer; the messages are delivered
                again.
        """
        found = self._subscription.consume(self._batch, WAIT_S)
        if not found:
            return 0
        try:
            positions = self._into.replicate(_items(found))
        except PlatformError:
            self._subscription.rewind()
            raise
        confirmations = [
            message for one in positions if (message := self._confirmation(one)) is not None
        ]
        self._subscription.commit(confirmations)
        return sum(one.taken for one in positions)

    def close(self) -> None:
        self._subscription.close()

    def _confirmation(self, one: ReplicaPosition) -> Message | None:
        is_asked = isinstance(one.finding, Gap) and self._may_ask(one)
        if isinstance(one.finding, Divergence):
            log.error("replication of %s stopped: %s", one.writer, one.finding)
        if self._confirmed.get(one.writer) == one.seq and not is_asked:
            return None
        self._confirmed[one.writer] = one.seq
        return confirmation(self._names, ConfirmedOffset(one.writer, one.seq, one.chain, is_asked))

    def _may_ask(self, one: ReplicaPosition) -> bool:
        seq, asked_s = self._asked_s.get(one.writer, (-1, 0.0))
        if seq == one.seq and time.monotonic() - asked_s < AGAIN_S:
            return False
        self._asked_s[one.writer] = (one.seq, time.monotonic())
        log.warning("gap in the records of %s (%s): requested again", one.writer, one.finding)
        return True


def _items(found: Sequence[ReceivedMessage]) -> list[Item]:
    items: list[Item] = []
    for message in found:
        try:
            items.append(decoded(message.value, message.place))
        except InputInvalid as error:
            # If the message was a record, the next record of its writer shows the gap.
            log.error("a message on the topic of the log is not a record: %s", error)
    return items


def follow(replicator: Replicator, stopping: threading.Event) -> None:
    """Replicate until `stopping` is set.

    Raises:
        StaleFence: another process replicates.
    """
    fenced = 0
    while not stopping.is_set():
        try:
            replicator.step()
            fenced = 0
        except StaleFence:
            fenced += 1
            if fenced >= MAX_FENCED:
                raise
        except (Unavailable, Busy) as error:
            log.warning("nothing was replicated: %s", error)
            stopping.wait(BACK_OFF_S)


def replicate(settings: Settings, stopping: threading.Event) -> None:
    """Replicate into the log of a home folder until `stopping` is set.

    Raises:
        StaleFence: another process replicates.
        Corrupt: the home's log is damaged.
    """
    into = ReplicaLog(settings.home.decisions, durable=settings.durability == "disk")
    names = Names()
    topics = open_topics(settings, names.specs())
    replicator = Replicator(into, topics.subscribe([names.records], names.replicators, MEMBER))
    try:
        follow(replicator, stopping)
    finally:
        replicator.close()
        topics.close()
        into.close()


def parser() -> argparse.ArgumentParser:
    """The command line, which has no options: settings say everything."""
    return argparse.ArgumentParser(description=__doc__)


def run(options: argparse.Namespace, settings: Settings, stopping: threading.Event) -> None:
    """Runs until `stopping` is set."""
    require_brokers(settings)
    settings.home.create()
    replicate(settings, stopping)
