"""Messages of a topic as rows of an external view, stored in the way of pushes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

from mlplatform.decisions.topics.messages import (
    DroppedRange,
    Message,
    ReceivedMessage,
    Subscription,
    TopicPartition,
    TopicSpec,
)
from mlplatform.learning.features.pushes.journal import Place, PushedRow
from mlplatform.model.features.views import FeatureView
from mlplatform.runtime.errors import StaleFence, Unavailable
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter
from mlplatform.runtime.units import KIB
from mlplatform.scoring.pushes.pushes import PushEntry, PushTarget, push_of
from mlplatform.scoring.worker.drain import BACK_OFF_S, LAG_S, MAX_FENCED, WAIT_S
from mlplatform.scoring.worker.messages import DEAD_LETTER_KEEP_MS, Poison, letter_of
from mlplatform.scoring.worker.metrics import DroppedCounts
from mlplatform.scoring.worker.stream_lag import StreamLag

BATCH: Final = 1_000
MOST_BYTES: Final = 64 * KIB
"""Most bytes of one row."""

log = logging.getLogger(__name__)
log.addFilter(RateLimitFilter())


def topic_of(view: FeatureView) -> str | None:
    """The topic of a view; None if it has none."""
    return None if view.external is None else view.external.topic


def letters_of(topic: str) -> str:
    """The topic of the dead letters of a topic."""
    return f"{topic}.dead-letters"


def group_of(model: str, view: str) -> str:
    """The group that reads a view's topic, in whichever process."""
    return f"{model}.features.{view}"


def specs_of(topic: str) -> list[TopicSpec]:
    """The topic and that of its dead letters, as they are created if they are missing."""
    letters = TopicSpec(letters_of(topic), partitions=1, retention_ms=DEAD_LETTER_KEEP_MS)
    return [TopicSpec(topic), letters]


class FeatureStream:
    """Reads a view's topic. A batch is durable and served before it counts as read, and the places
    of its messages identify it. If it is killed anywhere, no value is lost or counts twice.

    Args:
        entry: an entry with this target only.
        lag: receives how far this reader is.
        dropped: receives how many messages the topic dropped unread.
    """

    def __init__(
        self,
        subscription: Subscription,
        target: PushTarget,
        entry: PushEntry,
        lag: StreamLag,
        dropped: DroppedCounts,
    ) -> None:
        self._subscription, self._target, self._entry = subscription, target, entry
        self._lag, self._counted_s, self._watched_s = lag, 0.0, 0.0
        self._dropped = dropped
        self._client = f"topic:{topic_of(target.view)}"
        self._fenced = 0

    def run(self, stopping: threading.Event) -> None:
        """Runs until `stopping` is set; the batch in work is committed first.

        Raises:
            StaleFence: another process reads under this name.
        """
        try:
            self._entry.catch_up()
            self._watch_gaps()
            while not stopping.is_set():
                try:
                    self.step()
                except Unavailable as error:
                    log.warning("rows of %s are read again: %s", self._client, error)
                    self._subscription.rewind()
                    stopping.wait(BACK_OFF_S)
        finally:
            self._subscription.close()
            self._entry.close()

    def step(self) -> int:
        """Read one batch. Returns the number of its messages.

        Raises:
            Unavailable: a store or the topics do not answer; nothing counts as read.
        """
        self._count_lag()
        found = self._subscription.consume(BATCH, WAIT_S)
        self._lag.on_delivered(found)
        if not found:
            self._watch_ids()
            if self._keep_gaps(self._subscription.dropped_ranges()):
                self._commit([])  # moves past the dropped messages
            self._entry.catch_up()
            return 0
        ids = self._subscription.topic_ids()
        first = {(m.topic, m.partition): _place(m, ids) for m in reversed(found)}
        if self._restart_if_recreated(first):
            return 0
        self._keep_gaps(self._subscription.dropped_ranges(), ids)
        rows: list[PushedRow] = []
        places: list[Place] = []
        letters: list[Message] = []
        now_ms = self._entry.event_ms()
        for message in found:
            row = self._row(message, now_ms)
            if isinstance(row, Poison):
                log.warning("%s is a dead letter: %s", message.place, row.reason)
                letters.append(letter_of(letters_of(message.topic), row))
            else:
                rows.append(row)
                places.append(_place(message, ids))
        self._take(rows, places, now_ms)
        self._commit(letters)
        return len(found)

    def _restart_if_recreated(self, first: Mapping[TopicPartition, Place]) -> bool:
        """Read partitions from the beginning whose topic was made anew since they were read, and
        return whether there were any; the messages found are then to be dropped.

        Offsets are written before the journal's note; if the process is killed in between, this is
        done again.
        """
        model, view = self._target.model, self._target.view.name
        known = self._entry.journal.topics_read(model, view)
        anew = [
            place for place, now in first.items()
            if now.topic_id and known.get(place, "") not in ("", now.topic_id)
        ]  # fmt: skip
        if anew:
            named = ", ".join(f"{topic}-{partition}" for topic, partition in sorted(anew))
            log.warning("%s: the topic was made anew; it is read from its beginning", named)
            self._subscription.restart(anew)
        if any(known.get(place) != now.topic_id for place, now in first.items()):
            self._entry.journal.begin_reading(model, view, list(first.values()))
        return bool(anew)

    def _watch_ids(self) -> None:
        """Restart partitions that were read to their end and belong to a topic that was made anew.
        While the new topic has no more messages than the old one, nothing of it would be
        delivered."""
        if time.monotonic() < self._watched_s:
            return
        self._watched_s = time.monotonic() + LAG_S
        read = [(one.topic, one.partition) for one in self._subscription.lags() if not one.messages]
        if not read:
            return
        ids = self._subscription.topic_ids()
        known = self._entry.journal.topics_read(self._target.model, self._target.view.name)
        self._restart_if_recreated({
            part: Place(*part, 0, 0, ids.get(part[0], "")) for part in read if known.get(part)
        })  # fmt: skip

    def _watch_gaps(self) -> None:
        model, view = self._target.model, self._target.view
        try:
            known = self._entry.journal.gaps(model, view.name)
        except Unavailable as error:
            log.warning("what %s dropped earlier is not known yet: %s", self._client, error)
            known = ()
        last_ms = max((gap.found_ms for gap in known), default=None)
        self._dropped.watch(model, topic_of(view) or "", last_ms)

    def _keep_gaps(
        self, dropped: Sequence[DroppedRange], ids: Mapping[str, str] | None = None
    ) -> bool:
        """Put dropped messages on record before offsets move on. Returns whether there are any."""
        if not dropped:
            return False
        model, view, now_ms = self._target.model, self._target.view.name, self._entry.event_ms()
        of = self._subscription.topic_ids() if ids is None else ids
        for gap in self._entry.journal.add_gaps(model, view, dropped, of, now_ms):
            log.error("values of %s are lost: %s", view, gap.summary)
            self._dropped.add(model, gap.topic, gap.most_messages, now_ms)
        return True

    def _row(self, message: ReceivedMessage, now_ms: int) -> PushedRow | Poison:
        if len(message.value) > MOST_BYTES:
            return Poison(message, "too-large", f"more than {MOST_BYTES} bytes")
        try:
            return self._target.body.row(message.value, now_ms)
        except Problem as problem:
            return Poison(message, problem.name, str(problem))

    def _take(self, rows: Sequence[PushedRow], places: Sequence[Place], now_ms: int) -> None:
        if not rows:
            return
        push = push_of(self._target, self._client, None, tuple(rows))
        self._entry.journal.add_read(push, places, now_ms)
        self._entry.serve_all()  # also rows that a dead process stored

    def _commit(self, letters: Sequence[Message]) -> None:
        try:
            self._subscription.commit(letters)
        except StaleFence:
            self._fenced += 1
            if self._fenced >= MAX_FENCED:
                raise
            return
        self._fenced = 0
        self._lag.on_committed()

    def _count_lag(self) -> None:
        if time.monotonic() >= self._counted_s:
            self._counted_s = time.monotonic() + LAG_S
            self._lag.on_counted(self._subscription.lags())


def _place(message: ReceivedMessage, ids: Mapping[str, str]) -> Place:
    of = ids.get(message.topic, "")
    return Place(message.topic, message.partition, message.offset, message.published_ms, of)
