"""Reasons to wait whatever the verdict says: a model that is switched off, a pause, a freeze."""

from __future__ import annotations

from mlplatform.model.policies.rollout import RolloutPolicy
from mlplatform.model.routes import Routes
from mlplatform.rollouts.journal.state import RolloutState, pauses_until
from mlplatform.rollouts.passes.freeze import frozen_at, frozen_ms


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
