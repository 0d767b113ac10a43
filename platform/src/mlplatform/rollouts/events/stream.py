"""The two journals as one stream, for receivers that follow them from a position."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from mlplatform.rollouts.drift.incidents import IncidentFacts
from mlplatform.rollouts.events.event import Fact
from mlplatform.rollouts.events.positions import Position, Positions, Progress
from mlplatform.rollouts.journal.journal import JournalFact, JournalFacts

MOST_COUNTED: Final = 1000
"""Most waiting facts that are counted of each journal; a receiver with more has raised an alert
already."""
PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class StreamFact:
    """A fact, and where a receiver stands once it is done with it."""

    fact: Fact
    at: Position


@dataclass(frozen=True, slots=True)
class FactBatch:
    """The next facts in order, with the receiver's position after all of them."""

    steps: tuple[StreamFact, ...]
    end: Position


@dataclass(frozen=True, slots=True)
class Backlog:
    """The facts that a receiver has not taken yet.

    Args:
        facts: number of facts, at most twice MOST_COUNTED; it may include facts that the receiver
            does not want.
        since_ms: wall time of the oldest fact; None if nothing waits.
    """

    facts: int
    since_ms: int | None


@dataclass(frozen=True, slots=True)
class Lag:
    """A receiver with its backlog."""

    progress: Progress
    waiting: Backlog


@dataclass(frozen=True, slots=True)
class JournalStream:
    """The journals, and how far their receivers are."""

    rollouts: JournalFacts
    incidents: IncidentFacts
    positions: Positions

    def head(self) -> Position:
        """The position after the last fact."""
        return Position(self.rollouts.last_position(), self.incidents.last_position())

    def after(self, at: Position, most: int) -> FactBatch:
        """The next facts of each journal, at most `most` of each; facts of one rollout stay in
        order."""
        head = self.head()  # before the facts: later ones come above it
        if (head.rollouts, head.incidents) == (at.rollouts, at.incidents):
            return FactBatch((), at)
        steps: list[StreamFact] = []
        facts = self.rollouts.facts(at.rollouts, most)
        for fact in facts:
            at = replace(at, rollouts=fact.position)
            steps.append(StreamFact(fact, at))
        if len(facts) < most:  # no facts are left below the head
            at = replace(at, rollouts=max(at.rollouts, head.rollouts))
        for changed in self.incidents.facts(at.incidents, most):
            at = replace(at, incidents=changed.position)
            steps.append(StreamFact(changed, at))
        return FactBatch(tuple(steps), at)

    def waiting(self, at: Position) -> Backlog:
        """The backlog after a position."""
        found = self.after(at, MOST_COUNTED).steps
        return Backlog(len(found), min((happened_ms(s.fact) for s in found), default=None))

    def lags(self) -> list[Lag]:
        """The lag of each receiver in the receivers' file."""
        known = (one for one in self.positions.list() if one.declared)
        return [Lag(one, self.waiting(one.at)) for one in known]

    def before(self, wall_ms: int) -> Position:
        """The position after everything that happened before a moment, in both journals."""
        at = Position(0, 0)
        while facts := self.rollouts.facts(at.rollouts, PAGE):
            earlier = [fact.position for fact in facts if happened_ms(fact) < wall_ms]
            at = replace(at, rollouts=max(earlier, default=at.rollouts))
            if len(earlier) < len(facts):
                break
        while changed := self.incidents.facts(at.incidents, PAGE):
            earlier = [fact.position for fact in changed if happened_ms(fact) < wall_ms]
            at = replace(at, incidents=max(earlier, default=at.incidents))
            if len(earlier) < len(changed):
                break
        return at


def happened_ms(fact: Fact) -> int:
    """Wall time of a fact."""
    return fact.fact.wall_ms if isinstance(fact, JournalFact) else fact.change.at_ms
