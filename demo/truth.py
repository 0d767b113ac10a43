"""Whether the version that was promoted is better than the one it replaced, by matured labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlplatform.operations.actions import verdicts
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.cache.pair_cache import shadow_outcomes
from mlplatform.rollouts.journal.state import RolloutState
from mlplatform.rollouts.passes.observe import outcome_basis
from mlplatform.rollouts.verdicts.outcomes import Outcomes, recall_at_capacity
from mlplatform.rollouts.verdicts.verdict import Errors

ERRORS = Errors(stop=0.05, missed=0.05)


def comparison(platform: Platform, state: RolloutState) -> dict[str, Any] | None:
    """What both versions found among the positives of the shadow phase; None where there was none.

    Both scored the same requests, and each is held to as many alerts as people can look at.
    """
    if state.shadow_generation is None or state.predecessor is None:
        return None
    definition, version = platform.definition(state.model), state.challenger.version
    now_ms = platform.clock.event_ms()
    marks = {mark.writer: mark.seq for mark in platform.log.watermarks()}
    basis = outcome_basis(definition, state, now_ms, marks, due=True)
    seen = shadow_outcomes(platform.settings.home.counted, platform.log, state.model, basis)
    assert isinstance(seen, Outcomes), "the demo's model has labels of 0 and 1"
    found = recall_at_capacity(seen, capacity=basis.capacity, errors=ERRORS)
    return {
        "version": version,
        "before": state.predecessor.version,
        "requests": len(seen),
        "immature": seen.immature,
        "alerts": found.alerts,
        "positives": found.positives,
        "found": found.challenger.caught,
        "found_before": found.champion.caught,
        "low": round(found.known.low, 4) if found.positives else None,
        "high": round(found.known.high, 4) if found.positives else None,
    }


def replays(platform: Platform, states: Sequence[RolloutState]) -> dict[str, Any]:
    """Every verdict that the rollouts followed, computed again from the log."""
    found = [
        (state.rollout_id, again)
        for state in states
        for again in verdicts.replay(platform, state.rollout_id)
    ]
    return {
        "verdicts": len(found),
        "differ": [
            f"{rollout_id}, {again.transition}: {'; '.join(again.differences)}"
            for rollout_id, again in found
            if again.differences
        ],
    }


def problem_of(found: dict[str, Any] | None) -> str | None:
    """Why the promotion was none for the better; None: it was, or there was nothing to compare."""
    if found is None:
        return None
    if not found["positives"]:
        return f"no positive label has matured by which version {found['version']} could be judged"
    if found["found"] <= found["found_before"]:
        return f"version {found['version']} is not better than what it replaced: {words(found)}"
    return None


def words(found: dict[str, Any]) -> str:
    """The comparison in a sentence."""
    return (
        f"of {found['positives']:,} positives in shadow, by matured labels, the"
        f" {found['alerts']:,} highest scores of version {found['version']} hold"
        f" {found['found']:,}, those of version {found['before']} {found['found_before']:,}"
    )
