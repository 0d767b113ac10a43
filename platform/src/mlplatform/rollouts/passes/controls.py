"""What people ask of all of a model's traffic: switch it off and on, have stopped arms asked."""

from __future__ import annotations

from typing import Protocol

from mlplatform.rollouts.journal.controls import (
    Control,
    ControlState,
    Killed,
    KillLifted,
    StopsCleared,
    controlled,
)
from mlplatform.rollouts.journal.journal import Controls, Passes, Rollouts
from mlplatform.rollouts.passes.commands import COMMAND_LEASE_TTL_S
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.errors import Busy, Refused


class Journal(Rollouts, Controls, Passes, Protocol):
    """All that a control reads and writes."""


def kill(journal: Journal, model: str, *, actor: str, reason: str, clock: Clock) -> ControlState:
    """Ask no version of a model from now on: the fallback of its chain decides.

    Gateways follow within their poll. A pass that is running loses its lease.

    Raises:
        Refused: it is killed already, or has no champion that could be asked.
    """
    if journal.routes(model).champion is None:
        raise Refused(f"{model} has no champion: no version of it is asked anyway")
    event_ms, wall_ms = clock.event_ms(), clock.wall_ms()
    fact = Killed(model=model, event_ms=event_ms, wall_ms=wall_ms, actor=actor, reason=reason)
    return _control(journal, fact)


def lift(journal: Journal, model: str, *, actor: str, reason: str, clock: Clock) -> ControlState:
    """Ask a killed model's versions again, as its routes say.

    Raises:
        Refused: it is not killed.
    """
    event_ms, wall_ms = clock.event_ms(), clock.wall_ms()
    fact = KillLifted(model=model, event_ms=event_ms, wall_ms=wall_ms, actor=actor, reason=reason)
    return _control(journal, fact)


def clear_stops(
    journal: Journal, model: str, *, actor: str, reason: str, clock: Clock
) -> ControlState:
    """Have every gateway ask again the versions that it stopped for the volume of their decisions.

    Raises:
        Refused: no living gateway has stopped one.
    """
    services = journal.routes(model).services
    if not any(services & lease.stopped.keys() for lease in journal.gateways(model)):
        raise Refused(f"no gateway has stopped a version of {model}: there is nothing to clear")
    event_ms, wall_ms = clock.event_ms(), clock.wall_ms()
    fact = StopsCleared(model=model, event_ms=event_ms, wall_ms=wall_ms, actor=actor, reason=reason)
    return _control(journal, fact)


def _control(journal: Journal, fact: Control) -> ControlState:
    holder = f"{type(fact).__name__} by {fact.actor}"
    fence = journal.acquire(fact.model, holder, COMMAND_LEASE_TTL_S, steal=True)
    if fence is None:
        raise Busy(f"the lease of {fact.model} can't be taken")
    try:
        return journal.control(fact, fence, controlled(fact, journal.routes(fact.model)))
    finally:
        journal.release(fence)
