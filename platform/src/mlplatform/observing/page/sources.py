"""What the page reads, through the platform's ports, a bounded part at a time."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mlplatform.decisions.log.lookup import all_records
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Span
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.learning.registry.versions import Version
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.folders import load_definition, model_names, readable_names
from mlplatform.model.routes import Routes, no_routes
from mlplatform.observing.page import decisions
from mlplatform.observing.page.decisions import Listed, RecordShown
from mlplatform.observing.page.rollouts import EvidenceShown, evidence
from mlplatform.operations.actions import traffic
from mlplatform.operations.actions.looks import Course, courses
from mlplatform.operations.supervisor.status import PlatformStatus, status
from mlplatform.operations.traffic.projection import TrafficRead
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.drift.incidents import Incident
from mlplatform.rollouts.journal.sql import SqlRollouts
from mlplatform.rollouts.journal.state import RolloutState
from mlplatform.rollouts.journal.transitions import Transition
from mlplatform.runtime.errors import NotFound, Unavailable
from mlplatform.runtime.telemetry.refusals import of_the_last_day
from mlplatform.scoring import backends

T = TypeVar("T")
FIRST_DEPTH, MOST_DEPTH = 1_000, 64_000
"""How many records of each writer are looked through for one part of the newest decisions."""
LISTED = (
    *("writer", "seq", "kind", "decision_id", "model", "event_ms", "recorded_ms", "generation"),
    *("arm", "answered_by", "version", "score", "decision", "degraded", "degraded_reason"),
    "latency_us",
)
"""No column that says whom a decision was about."""


@dataclass(frozen=True, slots=True)
class ModelShown:
    """A model, and where its traffic goes."""

    definition: ModelDefinition
    routes: Routes


class Sources:
    """What the page reads. Safe for threads; each store is opened when it is first asked for."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._opening = threading.Lock()

    def processes(self) -> PlatformStatus | None:
        """Of this machine's supervisor; None where the page runs elsewhere, and pods do."""
        settings = self._platform.settings
        return None if settings.servers.page else status(settings.home)

    def refused(self) -> Mapping[str, int]:
        """How often each door refused somebody in the last day."""
        return of_the_last_day(self._platform.settings.home)

    def models(self) -> list[ModelShown]:
        """Every model of this installation whose model.yaml can be read; the log tells of others.

        Raises:
            Unavailable: the journal does not answer.
        """
        return [self.model(name) for name in readable_names()]

    def model(self, name: str) -> ModelShown:
        """A model and its routes.

        Raises:
            NotFound: there is no such model.
            Unavailable: the journal does not answer.
        """
        if name not in model_names():
            raise NotFound(f"there is no model {name!r}")
        routes = self._of_journal(lambda journal: journal.routes(name), no_routes(name))
        return ModelShown(load_definition(name), routes)

    def traffic(self, model: str, back_ms: int) -> TrafficRead | None:
        """What passes have counted of a model's newest traffic; None before there is any.

        Raises:
            Unavailable: it can't be read now.
        """
        return traffic.read(self._platform, model, back_ms)

    def rollouts(self, model: str | None = None) -> list[RolloutState]:
        """Every rollout, the newest first."""
        return self._of_journal(lambda j: j.active(model, finished=True)[::-1], [])

    def rollout(self, rollout_id: str) -> tuple[Transition, ...]:
        """Everything that happened to a rollout.

        Raises:
            NotFound: there is none of this name.
        """
        facts: tuple[Transition, ...] = self._of_journal(lambda j: j.read(rollout_id), ())
        if not facts:
            raise NotFound(f"no rollout {rollout_id!r}")
        return facts

    def courses(self, opened: Transition) -> list[Course]:
        """The looks at a rollout's steps that are kept, of whose journal this is one transition."""
        folder = self._platform.settings.home.looks
        return courses(folder, opened.model, opened.rollout_id)

    def evidence(self, digest: str) -> EvidenceShown:
        """The evidence with this digest, of the newest transition that carries it.

        Raises:
            NotFound: no transition does.
        """
        for state in self.rollouts():
            for fact in reversed(self.rollout(state.rollout_id)):
                if fact.evidence and fact.evidence_digest == digest:
                    found = evidence(fact)
                    assert found is not None
                    return found
        raise NotFound(f"no transition carries evidence {digest!r}")

    def versions(self, model: str, numbers: Sequence[int]) -> list[Version]:
        """What the registry remembers of these versions; those that it does not know are left out.

        Raises:
            Unavailable: the registry does not answer.
        """
        with self._opening:
            registry = self._platform.registry
        found = []
        for number in numbers:
            with contextlib.suppress(NotFound):
                found.append(registry.get(model, number))
        return found

    def incidents(self) -> list[Incident]:
        """Every incident, the newest first."""
        if not backends.has_rollouts(self._platform.settings):
            return []
        with _translated(), self._opening:
            incidents = self._platform.incidents
        with _translated():
            return incidents.list()[::-1]

    def incident(self, name: str) -> Incident:
        """One incident.

        Raises:
            NotFound: there is none of this name.
        """
        for incident in self.incidents():
            if incident.id == name:
                return incident
        raise NotFound(f"no incident {name!r}")

    def decisions(self, until: Mapping[str, int] | None, limit: int) -> Listed:
        """The newest decisions; fewer than `limit` where few are among the last records.

        Args:
            until: the last record of each writer to look at; None: the very last.
        """
        log = self._log()
        if log is None:
            return Listed((), None)
        ends = {mark.writer: mark.seq for mark in log.watermarks()}
        ends = (
            ends if until is None else {w: min(s, ends[w]) for w, s in until.items() if w in ends}
        )
        depth = FIRST_DEPTH
        while True:
            after = {writer: max(0, seq - depth) for writer, seq in ends.items()}
            found = self._part(log, ends, after, limit)
            enough = len(found.rows) >= limit or not any(after.values())
            if enough or depth >= MOST_DEPTH:
                return found
            depth *= 4

    def decision(self, decision_id: str) -> list[RecordShown]:
        """Every record of a decision.

        Raises:
            NotFound: there is none.
        """
        log = self._log()
        if log is None:
            raise NotFound(f"the decision log has no decision {decision_id}")
        return [decisions.record(found) for found in all_records(log, decision_id)]

    def _part(
        self, log: SqliteDecisionLog, until: Mapping[str, int], after: Mapping[str, int], limit: int
    ) -> Listed:
        # A writer that is not named would be read whole.
        everyone = {mark.writer: mark.seq for mark in log.watermarks()} | dict(after)
        span = Span(kinds=("decision", "inference"), after=everyone, columns=LISTED)
        rows = log.read(span).to_pylist()
        return decisions.listed(rows, until=until, after=after, limit=limit)

    def _of_journal(self, read: Callable[[SqlRollouts], T], nothing: T) -> T:
        """What is read of the journal; before there is one, nothing: looking makes no file."""
        if not backends.has_rollouts(self._platform.settings):
            return nothing
        with _translated(), self._opening:
            journal = self._platform.rollouts
        with _translated():
            return read(journal)

    def _log(self) -> SqliteDecisionLog | None:
        if not (self._platform.settings.home.decisions / DATABASE).is_file():
            return None
        with self._opening:
            return self._platform.log


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise Unavailable(f"the journal of rollouts and incidents: {error}") from error
