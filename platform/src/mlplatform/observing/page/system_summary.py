"""Summary of the view of the system: a sentence for each thing that needs a look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mlplatform.observing.page.queries.firing_alerts import AlertTable
from mlplatform.observing.page.queries.log_lag import LogLag
from mlplatform.observing.page.queries.schedules import ScheduleTable
from mlplatform.observing.page.queries.system_state import HomeDisk, QueueRow
from mlplatform.operations.supervisor.status import PlatformStatus
from mlplatform.runtime.figures import percent

BAD: Final = "bad"
URGENT: Final = "page"
MOST_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Concern:
    """One thing that needs a look; `part` is the id of the part of the view that shows it."""

    part: str
    text: str


def concerns(
    alerts: AlertTable | str | None,
    disk: HomeDisk | str,
    lags: LogLag | str | None,
    queues: Sequence[QueueRow] | str,
    schedules: ScheduleTable | str | None,
    status: PlatformStatus | None,
) -> tuple[Concern, ...]:
    """The things that need a look, in the order of the view. A part that can't be read now is a
    text."""
    found = (
        ("alerts", _of_alerts(alerts)),
        ("disk", _of_disk(disk)),
        ("log", _of_log(lags)),
        ("queues", _of_queues(queues)),
        ("schedules", _of_schedules(schedules)),
        ("processes", _of_processes(status)),
    )
    return tuple(Concern(part, text) for part, texts in found for text in texts)


def _of_alerts(found: AlertTable | str | None) -> Iterator[str]:
    if isinstance(found, str):
        yield "It is not known which alerts fire: Alertmanager cannot be reached."
    elif found is not None:
        if not found.watched:
            yield "Alerts may fire unseen: the alert Watchdog, which always fires, is missing."
        count = len(found.alerts) + found.left_out
        urgent = sum(one.severity == URGENT for one in found.alerts)
        if count:
            if count == 1:
                is_urgent = "is" if urgent else "is not"
                yield f"1 alert fires. It {is_urgent} urgent enough to wake a person."
            else:
                some = f"{urgent or 'none'} of them urgent enough to wake a person"
                yield f"{count:,} alerts fire, {some}."


def _of_disk(found: HomeDisk | str) -> Iterator[str]:
    if isinstance(found, str):
        yield "The disk of the home folder cannot be read."
    elif found.warning:
        share = "little" if found.free_share is None else percent(found.free_share)
        yield f"The disk of the home folder fills up: {share} is free."


def _of_log(found: LogLag | str | None) -> Iterator[str]:
    if isinstance(found, str):
        yield "The decision log cannot be read."
    elif found is not None:
        spilled = [one.name for one in found.writers if one.state == "spilled"]
        late = [one.name for one in found.writers if one.tone == BAD and one.state != "spilled"]
        if spilled:
            yield f"Records wait beside the decision log, written by {_named(spilled)}."
        if late:
            yield f"Writers more than {found.limit_s:g} s behind the event clock: {_named(late)}."


def _of_queues(found: Sequence[QueueRow] | str) -> Iterator[str]:
    if isinstance(found, str):
        yield "The queues cannot be read."
        return
    long = [row.title for row in found if row.tone == BAD]
    unknown = [row.title for row in found if row.waits is None]
    if long:
        yield f"Receivers that stopped, or wait for longer than an alert allows: {_named(long)}."
    if unknown:
        yield f"No data on these queues: {_named(unknown)}."


def _of_schedules(found: ScheduleTable | str | None) -> Iterator[str]:
    if isinstance(found, str):
        yield "It is not known whether the schedules run: Prefect gave no answer."
    elif found is not None:
        if found.late:
            yield f"{found.late}."
        rows = found.active
        failed = [f"{r.flow} {r.model}" for r in rows if r.last and r.last.tone == BAD]
        late = [f"{r.flow} {r.model}" for r in rows if r.next and r.next.tone == BAD]
        if failed:
            yield f"The last run failed: {_named(failed)}."
        if late:
            yield f"The next run is late: {_named(late)}."


def _of_processes(found: PlatformStatus | None) -> Iterator[str]:
    if found is not None:
        ended = [one.name for one in found.unready]
        if ended:
            yield f"Not running, or not ready: {_named(ended)}."


def _named(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    shown, more = ", ".join(names[:MOST_NAMED]), len(names) - MOST_NAMED
    return f"{shown} and {more:,} more" if more > 0 else shown
