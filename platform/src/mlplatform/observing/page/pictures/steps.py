"""The steps of a rollout, each with all of its looks: those in the journal and those in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlplatform.observing.page.pictures.gates import TONES, GatePicture, gate_pictures
from mlplatform.operations.actions.looks import Course, Look, look
from mlplatform.rollouts.journal.state import RolloutState, apply
from mlplatform.rollouts.journal.transitions import Transition
from mlplatform.rollouts.passes.summary import MARKS


@dataclass(frozen=True, slots=True)
class StepShown:
    """One step that was judged by its traffic.

    Args:
        name: in words. key: unique on the page.
        mark, tone: of the verdict that ended the step; of the newest one while it lasts.
    """

    name: str
    key: str
    mark: str
    tone: str
    records: int
    gates: tuple[GatePicture, ...]


@dataclass(slots=True)
class _Step:
    name: str
    begun_ms: int | None
    looks: list[Look]
    ended_by: Look | None = None


def steps(facts: Sequence[Transition], courses: Sequence[Course]) -> tuple[StepShown, ...]:
    """The steps of a rollout's journal, the newest first.

    Args:
        courses: looks that led to no transition, as far as they are kept.
    """
    found: dict[int, _Step] = {}
    state: RolloutState | None = None
    for fact in facts:
        seen, before = look(fact.evidence, fact.event_ms), state
        state = apply(before, fact)
        if before is not None and seen is not None:
            name = _name(before.phase, before.percent if before.phase == "canary" else None)
            generation = int(fact.evidence.get("generation") or 0)
            step = found.setdefault(generation, _Step(name, before.since_event_ms, []))
            step.looks.append(seen)
            if (state.phase, state.percent) != (before.phase, before.percent):
                step.ended_by = seen
    for course in courses:
        name = _name(course.phase, course.percent)
        begun_ms = None if state is None or course.phase != state.phase else state.since_event_ms
        step = found.setdefault(course.generation, _Step(name, begun_ms, []))
        # The journal's look comes last: it has the reasons.
        step.looks = sorted([*course.looks, *step.looks], key=lambda at: at.event_ms)
    newest_first = sorted((g for g in found if found[g].looks), reverse=True)
    return tuple(_shown(generation, found[generation]) for generation in newest_first)


def _shown(generation: int, step: _Step) -> StepShown:
    told, key = step.ended_by or step.looks[-1], f"g{generation}"
    return StepShown(
        name=step.name,
        key=key,
        mark=MARKS.get(told.verdict, told.verdict),
        tone=TONES.get(told.verdict, ""),
        records=told.records,
        gates=tuple(gate_pictures(key, step.looks, step.begun_ms)),
    )


def _name(phase: str, percent: float | None) -> str:
    if percent is not None:
        return f"canary, {percent:g} % of the customers"
    return "as champion" if phase == "promoted" else "shadow, copies of every request"
