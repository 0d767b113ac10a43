"""The last line of a flow run: it says what was made, and the command that goes on from there."""

from __future__ import annotations

from mlplatform.learning.registry.versions import Version
from mlplatform.runtime.times import day_text, utc_minute_text


def of_version(model: str, version: int, nothing_new: str = "") -> str:
    """Says that a version is registered, and how to open a rollout of it.

    Args:
        nothing_new: as in `of_retrained`.
    """
    opens = f"mlplatform rollouts open {model} {version} --actor YOU --reason WHY"
    sentence = nothing_new or f"version {version} is registered"
    return f"{sentence}; next: `{opens}`"


def of_rollout(rollout_id: str) -> str:
    """Says that a rollout is open, and how to follow it: passes come by themselves."""
    return f"rollout {rollout_id} is open; next: `mlplatform rollouts show {rollout_id}`"


def of_retrained(version: int, rollout_id: str | None, nothing_new: str = "") -> str:
    """Says what a retrain made that was to open a rollout.

    Args:
        rollout_id: None if no rollout may be opened yet, and the drift watch tries again.
        nothing_new: what to say of a version that was there before; empty for a new one.
    """
    sentence = nothing_new or f"version {version} is registered"
    if rollout_id is None:
        return f"{sentence}; the next drift check opens its rollout, or says why not"
    return f"{sentence}; {of_rollout(rollout_id)}"


def of_known_version(known: Version, *, last_day_ms: int, champion: int | None) -> str:
    """Says that a retrain gave a version that was there before, what would give another one, and
    what may be done with this one.

    Args:
        last_day_ms: a time of the last day that the training set holds.
        champion: the champion's version; None if there is none.
    """
    since = utc_minute_text(known.created_at_ms)
    sentence = (
        f"nothing is new: this made version {known.version} again, which {known.facts.author}"
        f" registered on {since}. Requests, labels, model folder and seed are the same. Another"
        f" version needs matured requests of a day after {day_text(last_day_ms)} (a later --as-of),"
        " labels that arrive late, or a change in the model's folder"
    )
    if known.version == champion:
        return f"{sentence}. Version {known.version} is the champion: there is nothing to roll out"
    return sentence
