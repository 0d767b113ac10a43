"""The last line of a flow run: it says what was made, and the command that goes on from there."""

from __future__ import annotations


def of_version(model: str, version: int) -> str:
    """Says that a version is registered, and how to open a rollout of it."""
    opens = f"mlplatform rollouts open {model} {version} --actor YOU --reason WHY"
    return f"version {version} is registered; next: `{opens}`"


def of_rollout(rollout_id: str) -> str:
    """Says that a rollout is open, and how to follow it: passes come by themselves."""
    return f"rollout {rollout_id} is open; next: `mlplatform rollouts show {rollout_id}`"


def of_retrained(version: int, rollout_id: str | None) -> str:
    """Says what a retrain made that was to open a rollout.

    Args:
        rollout_id: None if no rollout may be opened yet, and the drift watch tries again.
    """
    if rollout_id is None:
        later = "the next drift check opens its rollout, or says why not"
        return f"version {version} is registered; {later}"
    return f"version {version} is registered; {of_rollout(rollout_id)}"
