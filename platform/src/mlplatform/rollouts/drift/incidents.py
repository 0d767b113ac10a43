"""A drift incident: opened once, claimed by one retrain at a time, answered, closed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

DRIFT: Final = "drift"
PERFORMANCE: Final = "performance"
FAULT: Final = "data fault"
KINDS: Final = (FAULT, DRIFT, PERFORMANCE)
"""Inputs, scores or alerts moved; matured labels show a drop; the data is broken. What is broken
comes first: while it is, nothing is retrained."""

State = Literal["open", "claimed", "answered", "closed"]


@dataclass(frozen=True, slots=True)
class IncidentFinding:
    """What opens an incident.

    Args:
        kind: one of `KINDS`.
        opened_ms: event time of the verdict.
        changed_ms: event time from which the new pattern counts.
        champion: the version that the finding is about.
        evidence: plain JSON, no NaN.
    """

    model: str
    kind: str
    opened_ms: int
    changed_ms: int
    champion: int
    evidence: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """One line of an incident's journal; `at_ms` is wall time."""

    number: int
    at_ms: int
    state: State
    claim: int
    holder: str | None
    note: str


@dataclass(frozen=True, slots=True)
class Incident:
    """An incident as it stands, with its journal, oldest change first.

    Args:
        claim: how often it was claimed; the last claim's number.
        until_ms: wall time at which the last claim expires; 0 before the first.
        answer: the version that a retrain registered for it.
        ended_ms: event time at which what was found had ended, where it ended by itself.
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
        """Why it is in this state."""
        return self.changes[-1].note


@dataclass(frozen=True, slots=True)
class IncidentFact:
    """A change at its place among the changes of all incidents.

    Args:
        position: grows with every change, and changes become visible in its order.
        champion: the version that the incident is about.
    """

    position: int
    incident: str
    model: str
    kind: str
    champion: int
    change: Change


@dataclass(frozen=True, slots=True)
class IncidentClaim:
    """The incident is the caller's until `until_ms`, under this claim number."""

    claim: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class HeldClaim:
    """Somebody else's claim has not expired."""

    claim: int
    holder: str
    until_ms: int


@dataclass(frozen=True, slots=True)
class FinishedIncident:
    """There is nothing to claim: the incident is answered or closed."""

    state: State


ClaimOutcome = IncidentClaim | HeldClaim | FinishedIncident


class Incidents(Protocol):
    """Incidents of all models; every change is journaled in the transaction that makes it."""

    def open(self, found: IncidentFinding, *, now_ms: int) -> Incident:
        """The model's incident of that kind: a new one, or the one that is not closed yet."""
        ...

    def claim(self, incident: str, holder: str, *, until_ms: int, now_ms: int) -> ClaimOutcome:
        """Take an incident that is open, or whose claim expired: one of all who try gets it.

        Raises:
            NotFound: there is no such incident.
        """
        ...

    def prolong(self, incident: str, claim: int, *, until_ms: int) -> None:
        """Let a claim hold until later, also one that has expired and was not taken over.

        Raises:
            StaleFence: the claim was taken over, or the incident is answered or closed.
            NotFound: there is no such incident.
        """
        ...

    def answer(
        self, incident: str, claim: int, *, version: int | None, note: str, now_ms: int
    ) -> None:
        """Record what the claimed retrain came to: a version, or None where there is none.

        The same answer twice is one.

        Raises:
            StaleFence: the claim was taken over, or the incident is closed.
            NotFound: there is no such incident.
        """
        ...

    def close(
        self, incident: str, resolution: str, *, now_ms: int, ended_ms: int | None = None
    ) -> None:
        """Close it, whatever its state; closing twice keeps the first resolution.

        Args:
            ended_ms: event time at which what was found had ended; None where it had not.

        Raises:
            NotFound: there is no such incident.
        """
        ...

    def note(self, incident: str, note: str, *, now_ms: int) -> None:
        """Journal why nothing is done; the same note twice is one.

        Raises:
            NotFound: there is no such incident.
        """
        ...

    def list(self, model: str | None = None, *, closed: bool = True) -> list[Incident]:
        """Incidents in the order of their opening; without the closed ones on request."""
        ...


class IncidentFacts(Protocol):
    """The changes of all incidents in the order in which they were made, for code that follows."""

    def facts(self, after: int, most: int) -> list[IncidentFact]:
        """The next changes behind a position, in order."""
        ...

    def last_position(self) -> int:
        """The position of the last change; 0 while there is none. Cheap enough to ask often."""
        ...
