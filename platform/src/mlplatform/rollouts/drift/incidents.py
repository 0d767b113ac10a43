"""A drift incident: it is opened once, claimed by one retrain at a time, answered and closed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

DRIFT: Final = "drift"
PERFORMANCE: Final = "performance"
FAULT: Final = "data fault"
KINDS: Final = (FAULT, DRIFT, PERFORMANCE)
"""The kinds of incidents: broken data; inputs, scores or alerts that moved; matured labels that
show a drop. Broken data comes first, because nothing is retrained while it lasts."""

State = Literal["open", "claimed", "answered", "closed"]


@dataclass(frozen=True, slots=True)
class IncidentFinding:
    """The finding that opens an incident.

    Args:
        kind: one of `KINDS`.
        opened_ms: event time of the verdict.
        changed_ms: event time at which the new pattern began.
        champion: version that the finding is about.
        evidence: plain JSON without NaN.
    """

    model: str
    kind: str
    opened_ms: int
    changed_ms: int
    champion: int
    evidence: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of an incident's journal; `at_ms` is wall time."""

    number: int
    at_ms: int
    state: State
    claim: int
    holder: str | None
    note: str


@dataclass(frozen=True, slots=True)
class Incident:
    """The present state of an incident, with its journal, oldest change first.

    Args:
        claim: number of claims so far, which is also the number of the last claim.
        until_ms: wall time at which the last claim expires; 0 before the first claim.
        answer: version that a retrain registered for the incident; None if there is none.
        ended_ms: event time at which the finding had ended by itself; None if it has not.
    """

    id: str
    found: IncidentFinding
    state: State
    claim: int
    holder: str | None
    until_ms: int
    answer: int | None
    changes: tuple[Change, ...]
    ended_ms: int | None = None

    @property
    def note(self) -> str:
        """Why the incident is in its present state."""
        return self.changes[-1].note


@dataclass(frozen=True, slots=True)
class IncidentFact:
    """A change of an incident, with its position among the changes of all incidents.

    Args:
        position: number that grows with every change; changes become visible in this order.
        champion: version that the incident is about.
    """

    position: int
    incident: str
    model: str
    kind: str
    champion: int
    change: Change


@dataclass(frozen=True, slots=True)
class IncidentClaim:
    """The incident is claimed by the caller until `until_ms`, under this claim number."""

    claim: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class HeldClaim:
    """The incident is claimed by somebody else, and that claim has not expired."""

    claim: int
    holder: str
    until_ms: int


@dataclass(frozen=True, slots=True)
class FinishedIncident:
    """The incident is answered or closed, so that nobody can claim it."""

    state: State


ClaimOutcome = IncidentClaim | HeldClaim | FinishedIncident


class Incidents(Protocol):
    """Incidents of all models; every change is journaled in the transaction that makes it."""

    def open(self, found: IncidentFinding, *, now_ms: int) -> Incident:
        """Open an incident. Returns the model's incident of that kind that is not closed yet, or
        else a new one."""
        ...

    def claim(self, incident: str, holder: str, *, until_ms: int, now_ms: int) -> ClaimOutcome:
        """Claim an incident that is open, or whose claim has expired. One of several callers gets
        it.

        Raises:
            NotFound: there is no such incident.
        """
        ...

    def prolong(self, incident: str, claim: int, *, until_ms: int) -> None:
        """Extend a claim, also an expired one that nobody took over.

        Raises:
            StaleFence: the claim was taken over, or the incident is answered or closed.
            NotFound: there is no such incident.
        """
        ...

    def answer(
        self, incident: str, claim: int, *, version: int | None, note: str, now_ms: int
    ) -> None:
        """Record the result of the claimed retrain: a version, or None if it gave none. Recording
        the same answer again changes nothing.

        Raises:
            StaleFence: the claim was taken over, or the incident is closed.
            NotFound: there is no such incident.
        """
        ...

    def close(
        self, incident: str, resolution: str, *, now_ms: int, ended_ms: int | None = None
    ) -> None:
        """Close an incident in whatever state. Closing it again keeps the first resolution.

        Args:
            ended_ms: event time at which the finding had ended by itself; None if it has not.

        Raises:
            NotFound: there is no such incident.
        """
        ...

    def note(self, incident: str, note: str, *, now_ms: int) -> None:
        """Record in the journal why nothing is done. Recording the same note again changes nothing.

        Raises:
            NotFound: there is no such incident.
        """
        ...

    def list(self, model: str | None = None, *, closed: bool = True) -> list[Incident]:
        """Incidents in the order in which they were opened; with `closed=False` only those that are
        not closed."""
        ...


class IncidentFacts(Protocol):
    """The changes of all incidents in the order in which they were made, for code that follows."""

    def facts(self, after: int, most: int) -> list[IncidentFact]:
        """The next changes after a position, in order."""
        ...

    def last_position(self) -> int:
        """The position of the last change; 0 while there is none. Cheap enough to ask often."""
        ...
