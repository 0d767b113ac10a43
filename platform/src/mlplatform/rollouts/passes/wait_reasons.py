"""What lets a rollout wait whatever its verdict says: a killed model, a pause, a freeze."""

from __future__ import annotations

from mlplatform.model.policies.rollout import RolloutPolicy
from mlplatform.model.routes import Routes
from mlplatform.rollouts.journal.state import RolloutState, pauses_until
from mlplatform.rollouts.passes.freeze import frozen_at, frozen_ms


def reason_to_wait(state: RolloutState, routes: Routes, policy: RolloutPolicy, wall_ms: int) -> str:
    """Why no step leads forward now; empty: it may. Nothing holds a rollback back."""
    if routes.killed:
        return f"{routes.model} is killed: it waits for `rollouts lift`"
    if state.paused is not None:
        return f"paused by {state.paused.actor}: {state.paused.reason}"
    if not state.emergency and (frozen := frozen_at(policy.freeze, wall_ms)):
        return f"frozen until {frozen.until}: {frozen.reason}"
    return ""


def stood_still(
    state: RolloutState, policy: RolloutPolicy, event_ms: int, wall_ms: int
) -> tuple[int, int]:
    """The time of a phase in which nothing could move forward, event time and wall time: what its
    deadline does not count. A freeze is taken to be as long on either clock; what lies in a pause
    too counts once."""
    pauses = pauses_until(state, event_ms, wall_ms)
    frozen = frozen_ms(policy.freeze, state.since_wall_ms, wall_ms)
    frozen -= sum(frozen_ms(policy.freeze, p.from_ms, p.until_ms) for p in pauses)
    paused = sum(p.until_ms - p.from_ms for p in pauses)
    return sum(p.event_ms for p in pauses) + frozen, paused + frozen


def running_since_wall_ms(state: RolloutState, policy: RolloutPolicy, wall_ms: int) -> int:
    """When a phase would have begun if it had never been paused or frozen: what its deadline runs
    from."""
    return state.since_wall_ms + stood_still(state, policy, 0, wall_ms)[1]
