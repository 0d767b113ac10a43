"""Whether the version that was promoted is better than the one it replaced, by matured labels."""

from __future__ import annotations

from typing import Any

from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.journal.state import RolloutState
from mlplatform.rollouts.passes.observe import shadow_outcomes
from mlplatform.rollouts.verdicts.outcomes import recall_at_capacity
from mlplatform.rollouts.verdicts.verdict import Errors

ERRORS = Errors(stop=0.05, missed=0.05)


def comparison(platform: Platform, state: RolloutState) -> dict[str, Any] | None:
    """What both versions found among the frauds of the shadow phase; None where there was none.

    Both scored the same payments, and each is held to as many alerts as people can look at.
    """
    if state.shadow_generation is None or state.predecessor is None:
        return None
    definition, ports = platform.definition(state.model), platform.ports(state.model)
    version = state.challenger.version
    seen = shadow_outcomes(definition, ports, state.shadow_generation, version)
    capacity = definition.decision.alert_share
    found = recall_at_capacity(seen, capacity=capacity, errors=ERRORS)
    return {
        "version": version,
        "before": state.predecessor.version,
        "payments": len(seen),
        "immature": seen.immature,
        "alerts": found.alerts,
        "frauds": found.frauds,
        "found": found.caught,
        "found_before": found.champion_caught,
        "low": round(found.difference.pass_low, 4) if found.frauds else None,
        "high": round(found.difference.pass_high, 4) if found.frauds else None,
    }


def problem_of(found: dict[str, Any] | None) -> str | None:
    """Why the promotion was none for the better; None: it was, or there was nothing to compare."""
    if found is None:
        return None
    if not found["frauds"]:
        return f"no fraud has matured by which version {found['version']} could be judged"
    if found["found"] <= found["found_before"]:
        return f"version {found['version']} is not better than what it replaced: {words(found)}"
    return None


def words(found: dict[str, Any]) -> str:
    """The comparison in a sentence."""
    return (
        f"of {found['frauds']:,} frauds in shadow, by matured labels, the {found['alerts']:,} "
        f"highest scores of version {found['version']} hold {found['found']:,}, those of version "
        f"{found['before']} {found['found_before']:,}"
    )
