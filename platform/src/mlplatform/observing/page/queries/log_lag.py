"""How far each writer of the decision log has come, and what has not reached the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from mlplatform.decisions.records.port import Watermark

MOST_WRITERS: Final = 50

WriterState = Literal["live", "spilled", "silent", "ended"]
_ORDER: Final[Mapping[WriterState, int]] = {"spilled": 0, "silent": 1, "live": 2, "ended": 3}


@dataclass(frozen=True, slots=True)
class WriterLag:
    """One writer of the log.

    Args:
        state: live; spilled while records of it wait beside the log; silent if it belongs to a log
            elsewhere from which nothing comes; ended if it has closed or stopped.
        event_ms: event time that it has reached; None if it has reached none.
        behind_ms: by how much that is behind the event clock; None where nobody waits for it.
        spilled_bytes: bytes of it that wait beside this log.
        spilled_elsewhere: records of it that wait beside the log from which it is replicated.
        heard_ms: wall time of its last heartbeat.
        tone: bad if it is further behind than the alert allows, or if its records wait.
    """

    name: str
    state: WriterState
    records: int
    event_ms: int | None
    behind_ms: int | None
    spilled_bytes: int
    spilled_elsewhere: int
    heard_ms: int
    tone: str


@dataclass(frozen=True, slots=True)
class LogLag:
    """The writers of a log: those that need a look first, then the others by their last sign.

    Args:
        left_out: number of further writers.
        spilled_bytes: bytes that wait beside this home's log.
        limit_s: seconds behind the event clock from which an alert fires.
    """

    writers: tuple[WriterLag, ...]
    left_out: int
    spilled_bytes: int
    limit_s: float


def log_lag(
    marks: Iterable[Watermark], spilled: Mapping[str, int], event_ms: int, limit_s: float
) -> LogLag:
    """The lag of each writer.

    Args:
        spilled: writer → bytes of its spill beside this log.
        event_ms: the present event time.
        limit_s: seconds behind it from which a live writer is reported by an alert.
    """
    known = {mark.writer: mark for mark in marks}
    for name in spilled:
        known.setdefault(name, Watermark(name, 0, None, 0, live=False))
    every = [_writer(one, spilled.get(one.writer, 0), event_ms, limit_s) for one in known.values()]
    every.sort(key=lambda one: (_ORDER[one.state], -(one.behind_ms or 0), -one.heard_ms, one.name))
    left_out = max(0, len(every) - MOST_WRITERS)
    return LogLag(tuple(every[:MOST_WRITERS]), left_out, sum(spilled.values()), limit_s)


def unread(marks: Iterable[Watermark], position: Mapping[str, int]) -> int:
    """Number of the log's records that a reader at this position has not read, of all models.

    Args:
        position: writer → number of the last record that was read.
    """
    return sum(max(0, mark.seq - position.get(mark.writer, 0)) for mark in marks)


def _writer(mark: Watermark, spilled_bytes: int, event_ms: int, limit_s: float) -> WriterLag:
    state: WriterState = "ended"
    if mark.spilled or spilled_bytes:
        state = "spilled"
    elif mark.unheard:
        state = "silent"
    elif mark.live:
        state = "live"
    behind = None
    if mark.event_ms is not None and state != "ended":
        behind = max(0, event_ms - mark.event_ms)
    is_late = behind is not None and behind > limit_s * 1000
    return WriterLag(
        name=mark.writer,
        state=state,
        records=mark.seq,
        event_ms=mark.event_ms,
        behind_ms=behind,
        spilled_bytes=spilled_bytes,
        spilled_elsewhere=mark.spilled,
        heard_ms=mark.heartbeat_at_ms,
        tone="bad" if state == "spilled" or is_late else "",
    )
