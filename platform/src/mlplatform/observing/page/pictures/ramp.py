"""A rollout's ramp: the share of the customers over time, the customers exposed, and the steps to
come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from mlplatform.observing.page.pictures import scales
from mlplatform.observing.page.pictures.scales import Tick
from mlplatform.rollouts.journal.state import RAMPING, RolloutState, apply
from mlplatform.rollouts.journal.transitions import Transition
from mlplatform.rollouts.passes.plan_text import length, running_step
from mlplatform.runtime.times import duration_text
from mlplatform.runtime.units import SECOND_MS

WIDTH, HEIGHT = 400.0, 140.0
LEFT, RIGHT, TOP, BOTTOM = 42.0, 392.0, 10.0, 116.0
LINE_APART: Final = 13.0
PLANNED: Final = 0.4
"""Share of the width for the steps to come, if there are any."""
PHASES: Final = {"awaiting_approval": "approval", "deploying": "deploying"}


@dataclass(frozen=True, slots=True)
class RampPhase:
    """One stretch of the ramp.

    Args:
        share: percent of the customers, 0 to 100.
        exposed: number of customers whom the challenger had answered by its end; None if it was not
            counted.
        takes: duration, as text; of the present one so far, and as planned.
    """

    name: str
    share: float
    from_ms: int
    takes: str
    exposed: int | None


@dataclass(frozen=True, slots=True)
class RampStep:
    """A step to come, as the plan has it."""

    name: str
    share: float
    takes: str
    passes: float
    exposed: int


@dataclass(frozen=True, slots=True)
class Ramp:
    """The ramp, drawn in units of the view box, `WIDTH` by `HEIGHT`.

    Args:
        line, area: points of the past.
        to_come: points of the planned part; empty if nothing is planned.
        now: x and y of the present.
        end: how the rollout ended, for the mark; empty if it has not ended.
        phases, planned: the past and the planned part, as tables.
    """

    line: str
    area: str
    to_come: str
    now: tuple[float, float]
    end: str
    ticks: tuple[Tick, ...]
    names: tuple[Tick, ...]
    phases: tuple[RampPhase, ...]
    planned: tuple[RampStep, ...]
    description: str
    from_ms: int
    to_ms: int
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = RIGHT
    top: float = TOP
    bottom: float = BOTTOM


def ramp(facts: Sequence[Transition], until_ms: int | None = None) -> Ramp | None:
    """The ramp from a rollout's journal; None if the journal has no times.

    Args:
        until_ms: event time of the newest analysis; None means that of the journal's last
            transition.
    """
    phases, state = _phases(facts, until_ms)
    if state is None:
        return None
    planned = _planned(state)
    first, last = facts[0].event_ms, max(facts[-1].event_ms, until_ms or 0)
    share = PLANNED if planned else 0.0
    now_x = RIGHT - share * (RIGHT - LEFT) if last > first else LEFT + 0.1 * (RIGHT - LEFT)
    x = scales.Scale(first, max(last, first + 1), LEFT, now_x)
    shares = {*(s.share for s in phases), *(p.share for p in planned)}
    highest = max(*shares, 1.0)
    y = scales.Scale(0.0, highest, BOTTOM, TOP)
    line: list[tuple[float, float]] = []
    for phase, end_ms in zip(phases, [*(s.from_ms for s in phases[1:]), last], strict=True):
        line += [(x(phase.from_ms), y(phase.share)), (x(end_ms), y(phase.share))]
    area = [*line, (line[-1][0], BOTTOM), (line[0][0], BOTTOM)]
    ahead = _ahead(planned, (now_x, line[-1][1]), y)
    ended = state.phase if state.finished or state.phase == "promoted" else ""
    wanted = [Tick(y(v), f"{v:g} %") for v in (highest, 0.0)]
    wanted += [Tick(y(v), f"{v:g} %") for v in sorted(shares)[::-1]]
    return Ramp(
        line=scales.path(line),
        area=scales.path(area),
        to_come=scales.path(ahead),
        now=(round(now_x, 1), line[-1][1]),
        end=ended,
        ticks=scales.spread(wanted, LINE_APART),
        names=_names(planned, now_x),
        phases=tuple(phases),
        planned=planned,
        description=_description(phases, planned, ended),
        from_ms=first,
        to_ms=last,
    )


def _phases(
    facts: Sequence[Transition], until_ms: int | None
) -> tuple[list[RampPhase], RolloutState | None]:
    state: RolloutState | None = None
    begun: list[tuple[str, float, int]] = []
    exposed: list[int | None] = []
    for fact in facts:
        if begun and begun[-1][1] and (reached := _units(fact)) is not None:
            exposed[-1] = reached
        state = apply(state, fact)
        share = _share(state)
        name = _name(state)
        if not begun or (name, share) != begun[-1][:2]:
            begun.append((name, share, fact.event_ms))
            exposed.append(None)
    last = max(facts[-1].event_ms, until_ms or 0) if facts else 0
    ends = [*(ms for _, _, ms in begun[1:]), last]
    found = [
        RampPhase(name, share, ms, duration_text(max(end - ms, 0) / SECOND_MS), units)
        for (name, share, ms), end, units in zip(begun, ends, exposed, strict=True)
    ]
    if state is not None and state.phase in RAMPING:
        takes, step = f"{found[-1].takes} so far", running_step(state)
        if step is not None:
            takes += f", {length(step.hours, step.deadline_h)} planned"
        found[-1] = replace(found[-1], takes=takes)
    return found, state


def _units(fact: Transition) -> int | None:
    arm = (fact.evidence.get("arms") or {}).get("challenger") or {}
    units = scales.finite(arm.get("units"))
    return None if units is None else int(units)


def _share(state: RolloutState) -> float:
    if state.phase in ("promoted", "confirmed", "superseded"):
        return 100.0
    return state.percent if state.phase == "canary" else 0.0


def _name(state: RolloutState) -> str:
    if state.phase == "canary":
        return f"canary {state.percent:g} %"
    return PHASES.get(state.phase, state.phase.replace("_", " "))


def _planned(state: RolloutState) -> tuple[RampStep, ...]:
    """The plan's steps after the present one, and the promotion."""
    if state.plan is None or state.phase not in RAMPING:
        return ()
    reached = state.percent if state.phase == "canary" else 0.0
    shadow_done = state.phase != "deploying"
    steps = [
        s for s in state.plan.steps
        if (s.percent or 0.0) > reached or (s.percent is None and not shadow_done)
    ]  # fmt: skip
    found = [
        RampStep(
            "shadow" if s.percent is None else f"canary {s.percent:g} %",
            s.percent or 0.0,
            length(s.hours, s.deadline_h),
            s.passes,
            s.exposed,
        )
        for s in steps
    ]
    return (*found, RampStep("promoted", 100.0, "", 1.0, 0)) if state.plan.steps else ()


def _ahead(
    planned: Sequence[RampStep], begun: tuple[float, float], y: scales.Scale
) -> list[tuple[float, float]]:
    if not planned:
        return []
    wide = (RIGHT - begun[0]) / len(planned)
    points = [begun]
    for number, step in enumerate(planned):
        points += [
            (round(begun[0] + number * wide, 1), y(step.share)),
            (round(begun[0] + (number + 1) * wide, 1), y(step.share)),
        ]
    return points


def _names(planned: Sequence[RampStep], now_x: float) -> tuple[Tick, ...]:
    if not planned:
        return ()
    wide = (RIGHT - now_x) / len(planned)
    return tuple(
        Tick(round(now_x + (number + 0.5) * wide, 1), f"{step.share:g} %")
        for number, step in enumerate(planned)
    )


def _description(phases: Sequence[RampPhase], planned: Sequence[RampStep], ended: str) -> str:
    was = ", ".join(f"{s.name} at {s.share:g} % of the customers for {s.takes}" for s in phases)
    come = ", ".join(f"{s.name}" for s in planned)
    now = f". It is {ended.replace('_', ' ')}" if ended else ""
    return f"{was}{now}" + (f". To come: {come}" if come else "")
