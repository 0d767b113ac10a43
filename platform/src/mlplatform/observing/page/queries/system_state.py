"""The state of the system behind the models: its log, what waits, and the disk of the home."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from mlplatform.decisions.records.port import Watermark
from mlplatform.decisions.spill.backlog import spill_sizes
from mlplatform.observing.page.queries import message_backlogs
from mlplatform.observing.page.queries.log_lag import LogLag, log_lag, unread
from mlplatform.observing.page.queries.message_backlogs import MessageBacklogs
from mlplatform.observing.page.queries.sources import ModelRow, Sources, shipped_objectives
from mlplatform.observing.slo.objectives import seconds
from mlplatform.operations.actions import review, traffic
from mlplatform.operations.supervisor.platform import has_worker, streamed_views
from mlplatform.rollouts.events.stream import MOST_COUNTED, Lag
from mlplatform.runtime.errors import PlatformError, Unavailable
from mlplatform.runtime.storage.disk import DiskSpace, disk_space
from mlplatform.runtime.times import duration_text
from mlplatform.runtime.units import MINUTE_MS

T = TypeVar("T")

NEWEST_MS: Final = MINUTE_MS
"""Range of traffic that is read to learn how far passes have counted."""
NO_PROMETHEUS: Final = "MLPLATFORM_PROMETHEUS_URL names no Prometheus that knows the workers"


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One queue.

    Args:
        what: what waits, in words.
        of: the model or the receiver that it waits for; empty if it concerns all.
        path: where the page shows more; empty if nowhere.
        waits: the number that waits, as text; None if it is not known.
        oldest: how old the oldest is, or another mark of age; empty if it is not known.
        note: what empties the queue, or why the number is not known.
        tone: bad if more waits than an alert allows, otherwise empty.
    """

    what: str
    of: str
    path: str
    waits: str | None
    oldest: str
    note: str
    tone: str

    @property
    def title(self) -> str:
        return f"{self.of}: {self.what}" if self.of else self.what


@dataclass(frozen=True, slots=True)
class HomeDisk:
    """The disk of the home folder, with its warning; the warning is empty while there is space."""

    folder: str
    space: DiskSpace
    warning: str

    @property
    def free_share(self) -> float | None:
        return self.space.free_bytes / self.space.size_bytes if self.space.size_bytes else None


class SystemState:
    """The reads of the system's view, besides alerts, processes and schedules."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._platform = sources.platform

    def disk(self) -> HomeDisk:
        """The disk of the home folder.

        Raises:
            Unavailable: the folder can't be looked at.
        """
        root = self._platform.settings.home.root
        try:
            found = disk_space(root)
        except OSError as error:
            what = f"the disk of {root} can't be read: {error.strerror}"
            raise Unavailable(f"{what}; `mlplatform doctor` looks at the home") from error
        return HomeDisk(str(root), found, found.warning(root))

    def log(self) -> LogLag | None:
        """The lag of each writer of the log; None before there is a log.

        Raises:
            Unavailable: the log can't be read now.
        """
        folder = self._sources.spills()
        if folder is None:
            return None
        limit_s = seconds(shipped_objectives().limits.watermark_behind)
        marks, event_ms = self._sources.log_heads(), self._sources.event_ms()
        return log_lag(marks, spill_sizes(folder), event_ms, limit_s)

    def queues(self) -> list[QueueRow]:
        """Every queue of the platform, those of requests first. A queue that can't be read now says
        why.

        Raises:
            Unavailable: models or the log can't be read now.
        """
        models, marks = self._sources.models(), self._sources.log_heads()
        return [
            *self._messages([model.definition.name for model in models]),
            *(self._counts(model, marks) for model in models),
            *(self._reviews(model, marks) for model in models if model.is_reviewed),
            *self._corrections([model.definition.name for model in models if model.is_reviewed]),
            *self._events(),
        ]

    def _messages(self, models: Sequence[str]) -> Iterator[QueueRow]:
        settings = self._platform.settings
        if settings.clock != "system":
            return  # recorded traffic has no workers
        url = settings.servers.prometheus if settings.servers.page else ""
        elsewhere = or_why(lambda: message_backlogs.of_prometheus(url)) if url else NO_PROMETHEUS
        served = [model for model in models if has_worker(model)]
        backlogs: Mapping[str, MessageBacklogs | str] = dict.fromkeys(served, elsewhere)
        if not settings.servers.page:
            backlogs = message_backlogs.of_workers(settings.home, served)
        for model, found in backlogs.items():
            takes_async = self._platform.definition(model).takes_async
            most = shipped_objectives().limits.worker_lag
            views = streamed_views(model)
            yield from message_rows(model, views, found, most, takes_async=takes_async)

    def _counts(self, model: ModelRow, marks: Sequence[Watermark]) -> QueueRow:
        name = model.definition.name
        try:
            found = traffic.read(self._platform, name, NEWEST_MS)
        except PlatformError as error:
            return not_known("records not counted yet", name, str(error))
        left = unread(marks, {} if found is None else found.position)
        note = "each pass over the model's rollouts counts what is new"
        path = f"/models/{name}"
        return QueueRow("records not counted yet", name, path, f"{left:,}", "", note, "")

    def _reviews(self, model: ModelRow, marks: Sequence[Watermark]) -> QueueRow:
        name = model.definition.name
        try:
            found = review.review_queue(self._platform, name, 1)
        except PlatformError as error:
            return not_known("decisions to review", name, str(error))
        event_ms = self._sources.event_ms()
        oldest = age_text(event_ms - found.rows[0].event_ms) if found.rows else ""
        left = unread(marks, found.position)
        note = f"of the log, {left:,} records are not read yet" if left else "the log is read"
        path = f"/models/{name}/review"
        return QueueRow("decisions to review", name, path, f"{found.total:,}", oldest, note, "")

    def _corrections(self, models: Sequence[str]) -> Iterator[QueueRow]:
        """The corrections that wait for a second person, of each model that has any."""
        what, note = "corrections to confirm", "an analyst confirms one, or keeps the label"
        for name in models:
            try:
                found, total = review.pending_corrections(self._platform, name, 1)
            except PlatformError:
                continue  # its decisions to review say why the file can't be read
            if total:
                oldest = age_text(self._platform.clock.wall_ms() - found[0].asked_ms)
                path = f"/models/{name}/review#corrections"
                yield QueueRow(what, name, path, f"{total:,}", oldest, note, "")

    def _events(self) -> Iterator[QueueRow]:
        try:
            lags = self._sources.event_lags()
        except PlatformError as error:
            yield not_known("events to deliver", "", str(error))
            return
        if lags:
            yield from event_rows(lags, self._platform.clock.wall_ms())


def message_rows(
    model: str,
    views: Iterable[str],
    found: MessageBacklogs | str,
    most: int,
    *,
    takes_async: bool,
) -> Iterator[QueueRow]:
    """The queues of a model's worker.

    Args:
        views: views whose values come by a topic.
        found: the backlogs, or why they are not known.
        most: number of waiting requests above which an alert follows.
        takes_async: whether requests of the model may be scored later.
    """
    asked = [("", "requests to score later")] if takes_async else []
    for view, what in [*asked, *((view, f"values of {view} to store") for view in views)]:
        if isinstance(found, str):
            yield not_known(what, model, found)
            continue
        waits = found.get((model, view))
        if waits is None:
            yield not_known(what, model, "the worker has not counted them yet")
            continue
        limit = "" if view else f"; an alert fires above {most:,}"
        note = f"worker-{model} takes these {'values' if view else 'requests'}{limit}"
        tone = "bad" if limit and waits > most else ""
        yield QueueRow(what, model, "", f"{waits:,}", "", note, tone)


def event_rows(lags: Iterable[Lag], now_ms: int) -> Iterator[QueueRow]:
    """The queue of each receiver of events.

    Args:
        now_ms: the present wall time.
    """
    for lag in lags:
        waits, since_ms = lag.waiting.facts, lag.waiting.since_ms
        is_more = waits >= MOST_COUNTED
        oldest = "" if since_ms is None else age_text(now_ms - since_ms)
        stopped, failure = lag.progress.stopped, lag.progress.failure
        note = f"stopped: {stopped}" if stopped else failure and f"the last failed: {failure}"
        text = f"{waits:,}{' or more' if is_more else ''}"
        yield QueueRow(
            "events to deliver", lag.progress.receiver, "", text, oldest, note,
            "bad" if stopped else "",
        )  # fmt: skip


def not_known(what: str, of: str, why: str) -> QueueRow:
    """The row of a queue that can't be read now."""
    return QueueRow(what, of, "", None, "", why, "")


def age_text(ms: int) -> str:
    """An age in words; an age below zero counts as none."""
    return duration_text(max(0, ms) / 1000)


def or_why(read: Callable[[], T]) -> T | str:
    """The result of a read, or a sentence on why it failed."""
    try:
        return read()
    except PlatformError as error:
        return str(error)
