"""Controls that people may use at any time: pause, resume or end a rollout, and switch a model off
or on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from mlplatform.rollouts.journal.controls import (
    Control,
    ControlState,
    Killed,
    KillLifted,
    StopsCleared,
    controlled_routes,
)
from mlplatform.rollouts.journal.journal import Controls, Fence, Passes, Rollouts
from mlplatform.rollouts.journal.state import RolloutState, fold
from mlplatform.rollouts.journal.transitions import Paused, ProvenIdentity, Resumed
from mlplatform.rollouts.passes.commands import COMMAND_LEASE_TTL_S, roll_back
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.errors import Busy, Refused


class ControlsJournal(Rollouts, Controls, Passes, Protocol):
    """The parts of the journal that a control reads and writes."""


def kill(
    journal: ControlsJournal,
    model: str,
    *,
    actor: str,
    reason: str,
    clock: Clock,
    identity: ProvenIdentity | None = None,
) -> ControlState:
    """Switch a model off: no version is asked from now on, and the fallback of its chain decides.

    Gateways follow within their polling interval. A running pass loses its lease.

    Args:
        identity: identity of the actor that an identity provider proved; None if there is none. The
            other functions here have the same parameter.

    Raises:
        Refused: the model is switched off already, or it has no champion.
    """
    if journal.routes(model).champion is None:
        raise Refused(f"{model} has no champion, so no version of it answers requests")
    fact = control_fact(Killed, model, clock, actor=actor, reason=reason, identity=identity)
    return write_control(journal, fact)


def lift(
    journal: ControlsJournal,
    model: str,
    *,
    actor: str,
    reason: str,
    clock: Clock,
    identity: ProvenIdentity | None = None,
) -> ControlState:
    """Switch a model on again: its versions are asked as its routes say.

    Raises:
        Refused: the model is not switched off.
    """
    fact = control_fact(KillLifted, model, clock, actor=actor, reason=reason, identity=identity)
    return write_control(journal, fact)


def clear_stops(
    journal: ControlsJournal,
    model: str,
    *,
    actor: str,
    reason: str,
    clock: Clock,
    identity: ProvenIdentity | None = None,
) -> ControlState:
    """Have every gateway ask again the versions that it stopped for the volume of their decisions.

    Raises:
        Refused: no living gateway has stopped a version of the model.
    """
    services = journal.routes(model).services
    if not any(services & lease.stopped.keys() for lease in journal.gateways(model)):
        raise Refused(f"no gateway has stopped a version of {model}: there is nothing to clear")
    fact = control_fact(StopsCleared, model, clock, actor=actor, reason=reason, identity=identity)
    return write_control(journal, fact)


def pause(
    journal: ControlsJournal,
    rollout_id: str,
    *,
    actor: str,
    reason: str,
    clock: Clock,
    identity: ProvenIdentity | None = None,
) -> RolloutState:
    """Pause a rollout: it takes no step forward until it is resumed. Guardrails still roll it back.

    Raises:
        NotFound: no rollout has this id.
        Refused: the rollout has ended, was promoted, or is paused already.
    """
    return _of_rollout(
        *(journal, Paused, rollout_id, clock), actor=actor, reason=reason, identity=identity
    )


def resume(
    journal: ControlsJournal,
    rollout_id: str,
    *,
    actor: str,
    reason: str,
    clock: Clock,
    identity: ProvenIdentity | None = None,
) -> RolloutState:
    """Resume a paused rollout, with the time that its phase had left.

    Raises:
        NotFound: no rollout has this id.
        Refused: the rollout is not paused.
    """
    return _of_rollout(
        *(journal, Resumed, rollout_id, clock), actor=actor, reason=reason, identity=identity
    )


def abort(
    journal: ControlsJournal,
    rollout_id: str,
    *,
    actor: str,
    reason: str,
    clock: Clock,
    identity: ProvenIdentity | None = None,
) -> RolloutState:
    """End a rollout at once: its version answers no requests any more.

    Raises:
        NotFound: no rollout has this id.
        Refused: the rollout is not ramping: it has ended, or was promoted (`roll_back` undoes a
            promotion).
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
        identity=identity,
    )


def _of_rollout(
    journal: ControlsJournal,
    kind: type[Paused | Resumed],
    rollout_id: str,
    clock: Clock,
    *,
    actor: str,
    reason: str,
    identity: ProvenIdentity | None,
) -> RolloutState:
    model = fold(journal.read(rollout_id)).model
    fact = kind(
        rollout_id=rollout_id,
        model=model,
        event_ms=clock.event_ms(),
        wall_ms=clock.wall_ms(),
        actor=actor,
        reason=reason,
        identity=identity,
    )
    with _lease(journal, model, f"{kind.__name__} by {actor}") as fence:
        return journal.commit(fact, fence)


@contextmanager
def _lease(journal: ControlsJournal, model: str, holder: str) -> Iterator[Fence]:
    """The model's lease, taken over from a running pass, which would act on the state before the
    control."""
    fence = journal.acquire(model, holder, COMMAND_LEASE_TTL_S, steal=True)
    if fence is None:
        raise Busy(f"the lease of {model} can't be taken")
    try:
        yield fence
    finally:
        journal.release(fence)


def control_fact(
    kind: Callable[..., Control],
    model: str,
    clock: Clock,
    *,
    actor: str,
    reason: str,
    identity: ProvenIdentity | None,
    **of_kind: object,
) -> Control:
    """A control of this kind by a person, now.

    Args:
        of_kind: the fields that only this kind has.
    """
    return kind(
        model=model,
        event_ms=clock.event_ms(),
        wall_ms=clock.wall_ms(),
        actor=actor,
        reason=reason,
        identity=identity,
        **of_kind,
    )


def write_control(journal: ControlsJournal, fact: Control) -> ControlState:
    """Write a control with the routes that follow from it, under the model's lease, which a running
    pass loses.

    Raises:
        Refused: the fact can't follow those before it.
    """
    with _lease(journal, fact.model, f"{type(fact).__name__} by {fact.actor}") as fence:
        return journal.control(fact, fence, controlled_routes(fact, journal.routes(fact.model)))
