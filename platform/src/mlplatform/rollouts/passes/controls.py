"""What people ask at any time: of a rollout to wait or end, of a model to be no longer asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from mlplatform.rollouts.journal.controls import (
    Control,
    ControlState,
    Killed,
    KillLifted,
    StopsCleared,
    controlled,
)
from mlplatform.rollouts.journal.journal import Controls, Fence, Passes, Rollouts
from mlplatform.rollouts.journal.state import RolloutState, fold
from mlplatform.rollouts.journal.transitions import Paused, Resumed
from mlplatform.rollouts.passes.commands import COMMAND_LEASE_TTL_S, roll_back
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
    return _control(journal, Killed, model, actor=actor, reason=reason, clock=clock)


def lift(journal: Journal, model: str, *, actor: str, reason: str, clock: Clock) -> ControlState:
    """Ask a killed model's versions again, as its routes say.

    Raises:
        Refused: it is not killed.
    """
    return _control(journal, KillLifted, model, actor=actor, reason=reason, clock=clock)


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
    return _control(journal, StopsCleared, model, actor=actor, reason=reason, clock=clock)


def pause(
    journal: Journal, rollout_id: str, *, actor: str, reason: str, clock: Clock
) -> RolloutState:
    """Have a rollout take no step forward until it is resumed; guardrails still take it back.

    Raises:
        NotFound: no rollout has this id.
        Refused: it has ended, was promoted, or is paused already.
    """
    return _of_rollout(journal, Paused, rollout_id, actor=actor, reason=reason, clock=clock)


def resume(
    journal: Journal, rollout_id: str, *, actor: str, reason: str, clock: Clock
) -> RolloutState:
    """Let a paused rollout go on, with the time that its phase had left.

    Raises:
        NotFound: no rollout has this id.
        Refused: it is not paused.
    """
    return _of_rollout(journal, Resumed, rollout_id, actor=actor, reason=reason, clock=clock)


def abort(
    journal: Journal, rollout_id: str, *, actor: str, reason: str, clock: Clock
) -> RolloutState:
    """End a rollout at once: its version answers nobody any more.

    Raises:
        NotFound: no rollout has this id.
        Refused: it is not ramping: it has ended, or was promoted (`roll_back` takes that back).
    """
    state = fold(journal.read(rollout_id))
    if not state.ramping:
        way = "; `rollouts rollback` takes a champion back" if state.phase == "promoted" else ""
        raise Refused(f"rollout {rollout_id} is {state.phase}: there is nothing to abort{way}")
    return roll_back(
        journal,
        journal,
        state.model,
        actor=actor,
        reason=f"aborted by {actor}: {reason}",
        clock=clock,
        only=rollout_id,
    )


def _of_rollout(
    journal: Journal,
    kind: type[Paused | Resumed],
    rollout_id: str,
    *,
    actor: str,
    reason: str,
    clock: Clock,
) -> RolloutState:
    model = fold(journal.read(rollout_id)).model
    fact = kind(
        rollout_id=rollout_id,
        model=model,
        event_ms=clock.event_ms(),
        wall_ms=clock.wall_ms(),
        actor=actor,
        reason=reason,
    )
    with _lease(journal, model, f"{kind.__name__} by {actor}") as fence:
        return journal.commit(fact, fence)


@contextmanager
def _lease(journal: Journal, model: str, holder: str) -> Iterator[Fence]:
    """The model's lease, taken from a pass that is running: it would act on what was before."""
    fence = journal.acquire(model, holder, COMMAND_LEASE_TTL_S, steal=True)
    if fence is None:
        raise Busy(f"the lease of {model} can't be taken")
    try:
        yield fence
    finally:
        journal.release(fence)


def _control(
    journal: Journal, kind: type[Control], model: str, *, actor: str, reason: str, clock: Clock
) -> ControlState:
    event_ms, wall_ms = clock.event_ms(), clock.wall_ms()
    fact = kind(model=model, event_ms=event_ms, wall_ms=wall_ms, actor=actor, reason=reason)
    with _lease(journal, fact.model, f"{type(fact).__name__} by {fact.actor}") as fence:
        return journal.control(fact, fence, controlled(fact, journal.routes(fact.model)))
