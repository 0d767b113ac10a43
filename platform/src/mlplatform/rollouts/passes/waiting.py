"""What lets a rollout wait whatever its verdict says: a killed model, a pause, a freeze."""

from __future__ import annotations

from mlplatform.model.definition import RolloutPolicy
from mlplatform.model.routes import Routes
from mlplatform.rollouts.journal.state import RolloutState
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


def running_since_wall_ms(state: RolloutState, policy: RolloutPolicy, wall_ms: int) -> int:
    """When a phase would have begun if it had never been paused or frozen: what its deadline runs
    from."""
    paused_ms = 0 if state.paused is None else max(0, wall_ms - state.paused.wall_ms)
    frozen = frozen_ms(policy.freeze, state.since_wall_ms, wall_ms - paused_ms)
    return state.since_wall_ms + paused_ms + frozen
