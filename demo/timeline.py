"""What happened when: phases of rollouts in the words of the timeline, and who was champion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mlplatform.rollouts.journal.state import RolloutState, apply
from mlplatform.rollouts.journal.transitions import Transition
from mlplatform.rollouts.passes import plan_text

LONGEST_REASON: Final = 240
"""Characters of a reason that a line of the timeline shows."""


@dataclass(frozen=True, slots=True)
class Promotion:
    """A version made champion; `undone_ms` is when its promotion was rolled back."""

    version: int
    at_ms: int
    undone_ms: int | None


@dataclass(frozen=True, slots=True)
class ChampionTenure:
    """One stretch of event time in which a version was champion.

    Args:
        to_ms: None while it lasts.
        successor: who was champion next; None while it lasts.
    """

    version: int
    from_ms: int
    to_ms: int | None
    successor: int | None


def phase_lines(facts: Sequence[Transition]) -> Iterator[tuple[int, str]]:
    """Event time and sentence of a rollout's plan and of each of its phases, from its journal."""
    state: RolloutState | None = None
    for fact in facts:
        before, state = state, apply(state, fact)
        if before is None and state.plan is not None:
            steps = plan_text.whole_ramp(state.plan)
            summary = steps if state.plan.missing else f"planned: {steps}"
            yield fact.event_ms, f"{state.rollout_id}: {summary}"
        if before is None or (before.phase, before.step) != (state.phase, state.step):
            yield fact.event_ms, f"{state.rollout_id}: {_phase(state)}"


def _phase(state: RolloutState) -> str:
    match state.phase:
        case "canary":
            return f"canary of {state.percent:g} % begins; what led there: {_begun(state.reason)}"
        case "promoted":
            return f"promoted, provisionally until its labels have matured ({_begun(state.reason)})"
        case _:
            return f"{state.phase.replace('_', ' ')} ({_begun(state.reason)})"


def _begun(reason: str) -> str:
    """The first sentences of a reason; the report and the journal have all of it."""
    if len(reason) <= LONGEST_REASON:
        return reason
    end = reason.rfind(". ", 0, LONGEST_REASON) + 1 or reason.rfind(" ", 0, LONGEST_REASON)
    return f"{reason[:end]} …"


def tenures(promotions: Sequence[Promotion]) -> list[ChampionTenure]:
    """Every tenure in the order of time: the champion is that of the last promotion in force."""
    changes_ms = sorted(
        {p.at_ms for p in promotions} | {p.undone_ms for p in promotions if p.undone_ms is not None}
    )
    champions: list[tuple[int, int]] = []
    for at_ms in changes_ms:
        version = _champion_at(promotions, at_ms)
        if version is not None and (not champions or champions[-1][1] != version):
            champions.append((at_ms, version))
    found = []
    for place, (start, version) in enumerate(champions):
        end, successor = champions[place + 1] if place + 1 < len(champions) else (None, None)
        found.append(ChampionTenure(version, start, end, successor))
    return found


def _champion_at(promotions: Sequence[Promotion], moment_ms: int) -> int | None:
    standing = [
        p
        for p in promotions
        if p.at_ms <= moment_ms and (p.undone_ms is None or moment_ms < p.undone_ms)
    ]
    return max(standing, key=lambda p: p.at_ms).version if standing else None
