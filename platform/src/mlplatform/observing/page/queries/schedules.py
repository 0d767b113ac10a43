"""The schedules of every flow by Prefect: what ran last, and what runs next."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

import httpx

from mlplatform.operations.prefect_client import names
from mlplatform.operations.prefect_client.prefect import Deployment, FlowRun
from mlplatform.runtime.errors import PlatformError, Unavailable
from mlplatform.runtime.times import second_text
from mlplatform.runtime.units import MINUTE_MS

T = TypeVar("T")

TIMEOUT_S: Final = 10.0
"""Seconds to connect to Prefect, and between two parts of an answer; no view waits for them."""
ASKED_S: Final = 30.0
"""Seconds after which no further question is sent."""
LATE_AFTER_S: Final = 4.0
"""Seconds that an answer takes from which Prefect answers late."""
SILENT_S: Final = 60.0
"""Seconds without any answer to a question from which Prefect counts as silent. A server that
refuses connections is silent at once."""
FIRST_S: Final = 2.0
"""Seconds for which a view waits if nothing is known yet."""
AGAIN_S: Final = 0.15
"""Seconds for which a view waits for a newer answer."""
KEPT_S: Final = 15.0
"""Seconds for which an answer is kept."""
FAILED_S: Final = 5.0
"""Seconds for which the absence of an answer is kept: then Prefect is asked again."""
STALE_S: Final = 600.0
"""Seconds after which an answer is shown no more, if no newer one comes."""
EACH: Final = 4
"""Runs that are asked for of each deployment of a flow, before single deployments are asked."""
MOST_SINGLE: Final = 20
"""Most deployments that are asked for one by one."""
LATE_MS: Final = MINUTE_MS
"""Milliseconds after its time from which a run that has not begun is late."""
MOST_TEXT: Final = 200
_BAD: Final = frozenset({"FAILED", "CRASHED"})
_DAILY: Final = re.compile(r"(\d{1,2}) (\d{1,2}) \* \* \* (\S+)")
_RAISED: Final = "Flow run encountered an exception: "


class OutOfTime(Exception):
    """Prefect has answered, but not all questions in time."""


class Prefect(Protocol):
    """The calls of `prefect_client.prefect.PrefectApi` that are needed here."""

    def deployments(self) -> list[Deployment]: ...

    def newest_runs(self, flows: Sequence[str], most: int) -> list[FlowRun]: ...

    def newest_run_of(self, deployment: str) -> FlowRun | None: ...

    def next_runs(self, flows: Sequence[str], most: int) -> list[FlowRun]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run of a flow.

    Args:
        at_ms: wall time at which it started, or is to start; None if Prefect does not say.
        state: Prefect's name of its state, such as "Completed" or "Late".
        tone: bad if it failed or is late, otherwise empty.
        why: what a run that failed says; otherwise empty.
    """

    id: str
    name: str
    at_ms: int | None
    state: str
    tone: str
    why: str


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """The schedule of one flow for one model.

    Args:
        deployment: id of its deployment in Prefect.
        every: its schedules in words; empty if it runs when somebody or something asks.
        last: the newest run that has begun; None if none has.
        next: the first run that has not begun; None if none is planned.
    """

    flow: str
    model: str
    deployment: str
    every: str
    last: RunSummary | None
    next: RunSummary | None

    @property
    def is_idle(self) -> bool:
        """Whether it has no schedule and no runs: then there is nothing to tell."""
        return not (self.every or self.last or self.next)


@dataclass(frozen=True, slots=True)
class ScheduleTable:
    """The schedules of every flow and model.

    Args:
        asked_ms: wall time of Prefect's answer.
        not_asked: whether some last runs are not known, because Prefect was asked long enough.
        late: the sentence that Prefect answers late; empty if it does not.
    """

    rows: tuple[ScheduleRow, ...]
    asked_ms: int
    not_asked: bool = False
    late: str = ""

    def without(self, hidden: Collection[str]) -> ScheduleTable:
        """The table without the rows of these models."""
        return replace(self, rows=tuple(one for one in self.rows if one.model not in hidden))

    @property
    def active(self) -> tuple[ScheduleRow, ...]:
        """The rows that have a schedule or a run."""
        return tuple(one for one in self.rows if not one.is_idle)

    @property
    def idle(self) -> tuple[ScheduleRow, ...]:
        """The other rows."""
        return tuple(one for one in self.rows if one.is_idle)


class Schedules:
    """The answers of one Prefect server, asked on a thread of its own. Safe for threads.

    A view never waits longer than `FIRST_S`: it gets the newest answer that is known by then.

    Args:
        open_prefect: makes a client, which is closed after its questions.
        wall_ms: returns the wall time.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        open_prefect: Callable[[], Prefect],
        wall_ms: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_prefect = open_prefect
        self._wall_ms = wall_ms
        self._clock = clock
        self._lock = threading.Lock()
        self._heard: LastAnswer | None = None
        self._asking: Future[ScheduleTable] | None = None
        self._known: ScheduleTable | None = None
        self._failed: PlatformError | None = None
        self._known_s = self._failed_s = self._asked_s = self._begun_s = -KEPT_S

    def read(self) -> ScheduleTable:
        """The newest answer that is known in time.

        Raises:
            Unavailable: there is none that is new enough.
            PlatformError: Prefect's server or its gate refused to answer.
        """
        with self._lock:
            self._begin()
            asking, is_known = self._asking, self._is_fresh()
        if asking is not None:
            wait([asking], AGAIN_S if is_known else FIRST_S)
        with self._lock:
            self._take()
            if self._known is not None and self._is_fresh():
                late = self._lateness()
                return replace(self._known, late=late) if late else self._known
            if self._failed is not None:
                raise self._failed
        raise Unavailable(
            f"Prefect has not answered in {FIRST_S:g} s, and is still asked: this page shows its"
            " answer once it is there"
        )

    def silence(self) -> str:
        """Why Prefect counts as silent; empty if it does not. Waits for nothing, so a view that
        shows no schedules may ask."""
        with self._lock:
            self._begin()
            why = self._why_silent()
            if not why or self._heard is None:
                return why
            return f"{why}; its last answer came at {second_text(self._heard.wall_ms)} UTC"

    def _lateness(self) -> str:
        """The sentence that newer answers are late or missing, with the time of the last one; empty
        if Prefect answers in time."""
        if self._heard is None:
            return ""
        last = f"its last answer came at {second_text(self._heard.wall_ms)} UTC"
        if self._why_silent():
            return f"Prefect does not answer: {last}"
        waits = self._asking is not None and self._clock() - self._asked_s >= LATE_AFTER_S
        is_late = waits or isinstance(self._failed, Unavailable)
        return f"Prefect answers late: {last}" if is_late else ""

    def _why_silent(self) -> str:
        """Why there is no answer; empty while there is one, or while Prefect has time for it."""
        heard_s = self._begun_s if self._heard is None else self._heard.at_s
        quiet_s = self._clock() - max(heard_s, self._begun_s)
        if self._asking is not None and quiet_s >= SILENT_S:
            return f"no answer to this page for {quiet_s:.0f} s"
        failed = self._failed
        if isinstance(failed, Unavailable) and (_is_away(failed) or quiet_s >= SILENT_S):
            return f"no answer to this page: {failed}"
        return ""

    def _begin(self) -> None:
        """Ask again if the last result is old enough."""
        self._take()
        now_s = self._clock()
        is_due = now_s - self._known_s >= KEPT_S and now_s - self._failed_s >= FAILED_S
        if self._asking is None and is_due:
            if now_s - self._failed_s >= SILENT_S:  # nobody has asked since: it says nothing now
                self._failed = None
            if self._failed is None:
                self._begun_s = now_s
            self._asking, self._asked_s = _beside(self._ask), now_s

    def prepare(self) -> None:
        """Make a client once, and close it: what it imports and loads is then there."""
        self._open_prefect().close()

    def _is_fresh(self) -> bool:
        return self._known is not None and self._clock() - self._known_s < STALE_S

    def _take(self) -> None:
        """Keep the result of questions that have ended."""
        if self._asking is None or not self._asking.done():
            return
        asked, self._asking = self._asking, None
        try:
            self._known, self._known_s, self._failed = asked.result(), self._clock(), None
        except PlatformError as error:
            self._failed, self._failed_s = error, self._clock()

    def _hear(self) -> None:
        self._heard = LastAnswer(self._clock(), self._wall_ms())

    def _ask(self) -> ScheduleTable:
        until_s = self._clock() + ASKED_S
        with closing(self._open_prefect()) as prefect:
            try:
                listener = _PrefectListener(prefect, self._hear)
                return ask(listener, self._wall_ms(), lambda: self._clock() > until_s)
            except (KeyError, TypeError, ValueError) as error:
                raise Unavailable(f"Prefect's answer can't be read: {error!r}") from error


def _beside(ask: Callable[[], T]) -> Future[T]:
    """The result of a function on a thread of its own, for which no process waits at its end."""
    asked: Future[T] = Future()

    def settle() -> None:
        try:
            asked.set_result(ask())
        except BaseException as error:  # noqa: BLE001 -- it is raised where the result is read
            asked.set_exception(error)

    threading.Thread(target=settle, name="schedules", daemon=True).start()
    return asked


@dataclass(frozen=True, slots=True)
class LastAnswer:
    """The last answer of Prefect to any question."""

    at_s: float
    wall_ms: int


class _PrefectListener:
    """Prefect, of which each answer is noted when it comes: a table takes several."""

    def __init__(self, prefect: Prefect, hear: Callable[[], None]) -> None:
        self._prefect = prefect
        self._hear = hear

    def deployments(self) -> list[Deployment]:
        return self._noted(self._prefect.deployments())

    def newest_runs(self, flows: Sequence[str], most: int) -> list[FlowRun]:
        return self._noted(self._prefect.newest_runs(flows, most))

    def newest_run_of(self, deployment: str) -> FlowRun | None:
        return self._noted(self._prefect.newest_run_of(deployment))

    def next_runs(self, flows: Sequence[str], most: int) -> list[FlowRun]:
        return self._noted(self._prefect.next_runs(flows, most))

    def close(self) -> None:
        self._prefect.close()

    def _noted(self, answer: T) -> T:
        self._hear()
        return answer


def _is_away(error: Unavailable) -> bool:
    """Whether nobody takes connections, or what answers is broken: not that an answer is late."""
    return not isinstance(error.__cause__, httpx.TimeoutException | OutOfTime)


def ask(prefect: Prefect, now_ms: int, is_over: Callable[[], bool]) -> ScheduleTable:
    """The schedules of every deployment of the platform, by about two questions a flow.

    Args:
        is_over: whether the time for questions is over.

    Raises:
        Unavailable: Prefect does not answer, or the time is over before the table is whole.
        PlatformError: Prefect's server or its gate refuses to answer.
    """
    known = {one.id: one for one in prefect.deployments() if names.parts(one.name) is not None}
    by_flow: dict[str, list[Deployment]] = {}
    for one in known.values():
        flow, _ = names.parts(one.name) or ("", "")
        by_flow.setdefault(flow, []).append(one)
    last: dict[str, FlowRun] = {}
    coming: dict[str, FlowRun] = {}
    singles: list[Deployment] = []
    for flow, own in by_flow.items():
        if is_over():
            why = f"Prefect takes longer than {ASKED_S:g} s to name the flows' runs"
            raise Unavailable(why) from OutOfTime()
        most = EACH * len(own)
        begun = prefect.newest_runs([flow], most)
        _first_of_each(begun, last)
        if len(begun) >= most:  # runs of one model may hide those of another
            singles += [one for one in own if one.id not in last]
        _first_of_each(prefect.next_runs([flow], most), coming)
    left = singles[MOST_SINGLE:]
    for number, one in enumerate(singles[:MOST_SINGLE]):
        if is_over():
            left = singles[number:]
            break
        if (run := prefect.newest_run_of(one.id)) is not None:
            last[one.id] = run
    return schedule_table(known.values(), last, coming, now_ms, not_asked=bool(left))


def schedule_table(
    deployments: Iterable[Deployment],
    last: Mapping[str, FlowRun],
    coming: Mapping[str, FlowRun],
    now_ms: int,
    *,
    not_asked: bool = False,
) -> ScheduleTable:
    """The table of these deployments, in the order of the flows in `names.RUNS`, then by model.

    Args:
        last, coming: deployment's id → its newest run that has begun, its first that has not.
    """
    rows = []
    for one in deployments:
        found = names.parts(one.name)
        if found is not None:
            flow, model = found
            every = ", ".join(map(_words, one.schedules))
            runs = (_summary(flow, of.get(one.id), now_ms) for of in (last, coming))
            rows.append(ScheduleRow(flow, model, one.id, every, *runs))
    order = list(names.RUNS)
    rows.sort(key=lambda row: (not row.every, order.index(row.flow), row.model))
    return ScheduleTable(tuple(rows), now_ms, not_asked)


def _first_of_each(runs: Iterable[FlowRun], found: dict[str, FlowRun]) -> None:
    for run in runs:
        found.setdefault(run.deployment, run)


def _summary(flow: str, run: FlowRun | None, now_ms: int) -> RunSummary | None:
    if run is None:
        return None
    is_to_come = run.state in ("SCHEDULED", "PENDING")
    is_late = is_to_come and run.start_ms is not None and now_ms - run.start_ms > LATE_MS
    failed = run.state in _BAD
    state = "Late" if is_late else run.state_name or run.state.capitalize()
    why = run.message.removeprefix(_RAISED) if failed else ""
    # Prefect gives a planned run a random name until it starts.
    name, tone = (
        names.run_name(flow, run.parameters) or run.name,
        "bad" if failed or is_late else "",
    )
    return RunSummary(run.id, name, run.start_ms, state, tone, why[:MOST_TEXT])


def _words(schedule: str) -> str:
    """A schedule in words, if it is a daily one; otherwise Prefect's text."""
    found = _DAILY.fullmatch(schedule)
    return f"daily at {int(found[2]):02}:{int(found[1]):02} {found[3]}" if found else schedule
