"""Reasons to wait whatever the verdict says (a model that is switched off, a pause, a freeze), and
how long a phase has waited."""

from __future__ import annotations

from dataclasses import dataclass

from mlplatform.model.policies.rollout import RolloutPolicy
from mlplatform.model.routes import Routes
from mlplatform.rollouts.journal.state import RolloutState, pauses_until
from mlplatform.rollouts.passes.freeze import frozen_at, frozen_ms
from mlplatform.runtime.times import duration_text
from mlplatform.runtime.units import HOUR_MS, HOUR_S


@dataclass(frozen=True, slots=True)
class Now:
    """The time on both clocks, read once."""

    event_ms: int
    wall_ms: int


def reason_to_wait(state: RolloutState, routes: Routes, policy: RolloutPolicy, wall_ms: int) -> str:
    """Why no step leads forward now; empty if one may. Rollbacks never wait."""
    if routes.killed:
        return f"{routes.model} is switched off: it waits for `rollouts lift`"
    if state.paused is not None:
        return f"paused by {state.paused.actor}: {state.paused.reason}"
    if not state.emergency and (frozen := frozen_at(policy.freeze, wall_ms)):
        return f"frozen until {frozen.until}: {frozen.reason}"
    return ""


def excluded_time(
    state: RolloutState, policy: RolloutPolicy, event_ms: int, wall_ms: int
) -> tuple[int, int]:
    """The time of a phase that its deadline does not count, because nothing could move forward: in
    event time and in wall time. A freeze is taken to be as long on either clock; time that is in a
    pause too counts once."""
    pauses = pauses_until(state, event_ms, wall_ms)
    frozen = frozen_ms(policy.freeze, state.since_wall_ms, wall_ms)
    frozen -= sum(frozen_ms(policy.freeze, p.from_ms, p.until_ms) for p in pauses)
    paused = sum(p.until_ms - p.from_ms for p in pauses)
    return sum(p.event_ms for p in pauses) + frozen, paused + frozen


def running_since_wall_ms(state: RolloutState, policy: RolloutPolicy, wall_ms: int) -> int:
    """The wall time from which a phase's deadline runs: when the phase would have begun without any
    pause or freeze."""
    return state.since_wall_ms + excluded_time(state, policy, 0, wall_ms)[1]


def waited_time(state: RolloutState, policy: RolloutPolicy, now: Now) -> Now:
    """How long a phase has lasted, without the time in which nothing could move forward."""
    event_ms, wall_ms = excluded_time(state, policy, now.event_ms, now.wall_ms)
    return Now(
        now.event_ms - state.since_event_ms - event_ms, now.wall_ms - state.since_wall_ms - wall_ms
    )


def expired(waited: Now, event_h: float, wall_s: float) -> str:
    """The deadline of two that has passed, in words; empty if neither has."""
    if waited.event_ms >= event_h * HOUR_MS:
        return f"{duration_text(event_h * HOUR_S)} of event time"
    if waited.wall_ms >= wall_s * 1000:
        return f"{duration_text(wall_s)} of wall time"
    return ""
