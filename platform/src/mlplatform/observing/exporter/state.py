"""The platform's state as metrics, read when somebody scrapes."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from pg8000.exceptions import DatabaseError

from mlplatform.decisions.records.port import Watermark
from mlplatform.model.folders import load_definition
from mlplatform.model.routes import Routes
from mlplatform.operations.actions.last_results import ArmCounts, Check, Outcomes, Pass, last
from mlplatform.rollouts.drift.incidents import Incident
from mlplatform.rollouts.events.stream import Lag
from mlplatform.rollouts.journal.state import RolloutState
from mlplatform.rollouts.passes.wait_reasons import running_since_wall_ms
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import PlatformError, Unavailable
from mlplatform.runtime.storage.disk import disk_space
from mlplatform.runtime.telemetry import refusals, signals
from mlplatform.runtime.telemetry.prometheus import (
    Collector,
    Family,
    counter_family,
    gauge_family,
    gauge_value,
)
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter
from mlplatform.runtime.telemetry.refusals import Refusals
from mlplatform.runtime.telemetry.signals import Metric
from mlplatform.runtime.units import DAY_MS

Sample = tuple[tuple[str, ...], float]
Read = tuple[Metric, Sequence[Sample]]

log = logging.getLogger(__name__)
log.addFilter(RateLimitFilter())


class RolloutReader(Protocol):
    """The calls of `rollouts.journal.journal.Rollouts` that are needed here."""

    def routes(self, model: str) -> Routes: ...

    def active(self, model: str | None = None, *, finished: bool = False) -> list[RolloutState]: ...


class IncidentReader(Protocol):
    def list(self, model: str | None = None, *, closed: bool = True) -> list[Incident]: ...


class StateCollector(Collector):
    """Collects the state as metrics. Metrics of a part that can't be read are left out, and
    counted: missing data does not show health.

    Args:
        models: returns the names of the model folders, asked at each collection: a new folder is
            shown from the next one on.
        watermarks: returns the watermarks of the decision log.
        measured: folder in which flows store the results of their last passes.
        home: the home folder, whose disk space and refusals are reported.
        lags: returns the lag of each receiver of events.
    """

    def __init__(
        self,
        models: Callable[[], Sequence[str]],
        rollouts: RolloutReader,
        incidents: IncidentReader,
        watermarks: Callable[[], Sequence[Watermark]],
        clock: Clock,
        measured: Path,
        home: Home,
        lags: Callable[[], Sequence[Lag]] = tuple,
    ) -> None:
        self._models = models
        self._rollouts = rollouts
        self._incidents = incidents
        self._watermarks = watermarks
        self._clock = clock
        self._measured = measured
        self._home = home.root
        self._refusals = Refusals(home.audit)
        self._lags = lags
        self._unread = Tally({of: 0 for of in signals.STATE_UNREAD.labels[0].values})

    def collect(self) -> Iterable[Family]:
        """All metrics of an exporter; a metric whose part can't be read has no samples."""
        samples: dict[Metric, list[Sample]] = {m: [] for m in signals.METRICS["exporter"]}
        del samples[signals.STATE_UNREAD], samples[signals.EVENT_TIME]
        for of, read in self._parts():
            for metric, found in self._rows_of(of, read):
                samples[metric] += found
        event_s = self._event_s()
        for metric, found in samples.items():
            yield (counter_family if metric.kind == "counter" else gauge_family)(metric, found)
        yield gauge_value(signals.EVENT_TIME, event_s)
        unread = [((of,), float(count)) for of, count in self._unread.items()]
        yield counter_family(signals.STATE_UNREAD, unread)

    def _parts(self) -> Iterator[tuple[str, Callable[[], Iterable[Read]]]]:
        for model in self._models():
            yield "routes", partial(self._routes, model)
            yield "incidents", partial(self._incident, model)
            yield "measured", partial(self._passed, model)
            yield "measured", partial(self._checked, model)
        yield "log", self._log
        yield "disk", self._disk
        yield "refusals", self._refusal_counts
        yield "events", self._events

    def _rows_of(self, of: str, read: Callable[[], Iterable[Read]]) -> list[Read]:
        try:
            return list(read())
        except (PlatformError, sqlite3.Error, DatabaseError) as error:
            log.warning("%s could not be read: %r", of, error)
            self._unread[of] += 1
            return []

    def _event_s(self) -> float | None:
        try:
            return self._clock.event_ms() / 1000
        except (PlatformError, sqlite3.Error):
            self._unread["log"] += 1
            return None

    def _routes(self, model: str) -> Iterator[Read]:
        routes = self._rollouts.routes(model)
        yield signals.ROUTES_GENERATION, [((model,), routes.generation)]
        yield signals.MODEL_KILLED, [((model,), float(routes.killed))]
        canary_share = routes.challenger_percent / 100
        test = routes.test
        tested = sum(v.percent for v in test.variants) / 100 if test and test.answering else 0.0
        shares = {
            "champion": 1 - canary_share - tested if routes.champion else 0.0,
            "challenger": canary_share,
            "variant": tested,
        }
        yield signals.ROUTES_SHARE, [((model, arm), share) for arm, share in shares.items()]
        states = self._rollouts.active(model, finished=True)
        newest = states[-1] if states else None
        alone = any(s.emergency and s.awaits_answer and s.answer is None for s in states)
        yield signals.EMERGENCY_UNCONFIRMED, [((model,), float(alone))]
        yield (
            signals.ROLLOUT_PHASE,
            [
                ((model, phase), float(newest is not None and newest.phase == phase))
                for phase in signals.PHASES
            ],
        )
        if newest is not None:
            policy = load_definition(model).rollout
            since_ms = running_since_wall_ms(newest, policy, self._clock.wall_ms())
            yield signals.ROLLOUT_SINCE, [((model,), since_ms / 1000)]

    def _incident(self, model: str) -> Iterator[Read]:
        incidents = {i.found.kind: i for i in self._incidents.list(model, closed=False)}
        _, kinds, states = signals.INCIDENT.labels
        held = {(k, i.state) for k, i in incidents.items()}
        yield (
            signals.INCIDENT,
            [
                ((model, kind, state), float((kind, state) in held))
                for kind in kinds.values
                for state in states.values
            ],
        )
        since = [((model, k), i.changes[0].at_ms / 1000) for k, i in incidents.items()]
        if since:
            yield signals.INCIDENT_SINCE, since

    def _passed(self, model: str) -> Iterator[Read]:
        last_pass = last(self._measured, model, Pass)
        if last_pass is None:
            return
        yield signals.ROLLOUT_PASS, [((model,), last_pass.at_ms / 1000)]
        for arm in signals.ARM.values:
            if (counts := last_pass.arms.get(arm)) is not None:
                yield signals.ROLLOUT_COUNTS, _counts(model, arm, counts)

    def _checked(self, model: str) -> Iterator[Read]:
        last_check = last(self._measured, model, Check)
        if last_check is None:
            return
        yield signals.DRIFT_CHECK, [((model,), last_check.at_ms / 1000)]
        verdicts = signals.DRIFT_VERDICT.labels[1].values
        yield (
            signals.DRIFT_VERDICT,
            [((model, v), float(v == last_check.verdict)) for v in verdicts],
        )
        if last_check.undecided_since_ms is not None:
            yield signals.DRIFT_UNDECIDED, [((model,), last_check.undecided_since_ms / 1000)]
        for name, moved in last_check.inputs.items():
            at = (model, name)
            yield signals.DRIFT_PSI, [(at, moved.psi)]
            yield signals.DRIFT_PSI_LIMIT, [(at, moved.psi_limit)]
            yield signals.DRIFT_DISTANCE, [(at, moved.distance)]
            yield signals.DRIFT_DISTANCE_LIMIT, [(at, moved.distance_limit)]
            yield signals.DRIFT_MISSING, [(at, moved.missing_share)]
        if last_check.outcomes is not None:
            is_binary = load_definition(model).task == "binary"
            yield from _outcomes(model, last_check.outcomes, is_binary=is_binary)

    def _log(self) -> Iterator[Read]:
        living = [mark for mark in self._watermarks() if mark.live]
        yield (
            signals.WATERMARK,
            [((m.writer,), m.event_ms / 1000) for m in living if m.event_ms is not None],
        )
        yield signals.WRITER_RECORDS, [((m.writer,), m.seq) for m in living]

    def _disk(self) -> Iterator[Read]:
        try:
            found = disk_space(self._home)
        except OSError as error:
            raise Unavailable(f"the disk of {self._home}") from error
        yield signals.HOME_FREE, [((), found.free_bytes)]
        yield signals.HOME_SIZE, [((), found.size_bytes)]

    def _refusal_counts(self) -> Iterator[Read]:
        since_ms = self._clock.wall_ms() - DAY_MS
        found = refusals.counts(self._refusals.since(since_ms))
        yield signals.REFUSALS, [((surface,), count) for surface, count in sorted(found.items())]

    def _events(self) -> Iterator[Read]:
        now_ms = self._clock.wall_ms()
        for lag in self._lags():
            of, waits = (lag.progress.receiver,), lag.waiting
            late_ms = 0 if waits.since_ms is None else max(now_ms - waits.since_ms, 0)
            yield signals.EVENTS_WAITING, [(of, waits.facts)]
            yield signals.EVENTS_LATE, [(of, late_ms / 1000)]
            yield signals.EVENTS_DELIVERED, [(of, lag.progress.delivered)]
            yield signals.EVENTS_FAILED, [(of, lag.progress.failed)]


def _counts(model: str, arm: str, counts: ArmCounts) -> list[Sample]:
    of = signals.ROLLOUT_COUNTS.labels[2].values
    return [((model, arm, name), getattr(counts, name)) for name in of]


def _outcomes(model: str, outcomes: Outcomes, *, is_binary: bool) -> Iterator[Read]:
    """Figures of matured labels; those about positives only if labels are 0 and 1."""
    newest = outcomes.newest_label_ms
    values: dict[Metric, Any] = {
        signals.LABELS_MATURED: outcomes.matured,
        signals.LABEL_NEWEST: None if newest is None else newest / 1000,
    }
    if is_binary:
        values |= {
            signals.LABELS_KNOWN: outcomes.positives,
            signals.LABELS_LATE: outcomes.late_share,
            signals.PRECISION: outcomes.precision,
            signals.RECALL: outcomes.recall,
        }
    for metric, value in values.items():
        if value is not None:
            yield metric, [((model,), value)]
