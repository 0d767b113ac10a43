"""The state of a rollout: a fold over the transitions in its journal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, assert_never

from mlplatform.learning.validation.report_entries import ValidationReport
from mlplatform.model.routes import Arm
from mlplatform.rollouts.journal.transitions import (
    Answered,
    ApprovalAsked,
    CanaryStepped,
    Confirmed,
    DeployRefused,
    Opened,
    Paused,
    Promoted,
    ProvenIdentity,
    Resumed,
    RolledBack,
    RolloutPlan,
    ShadowStarted,
    Superseded,
    Transition,
)
from mlplatform.runtime import text
from mlplatform.runtime.errors import Refused
from mlplatform.runtime.units import HOUR_MS

Phase = Literal[
    "deploying",
    "shadow",
    "awaiting_approval",
    "canary",
    "promoted",
    "confirmed",
    "superseded",
    "rolled_back",
]
RAMPING: frozenset[Phase] = frozenset({"deploying", "shadow", "awaiting_approval", "canary"})
EMERGENCY_CONFIRM_H = 24
"""Wall-clock hours in which a second person confirms an emergency promotion."""
FINISHED: frozenset[Phase] = frozenset({"confirmed", "superseded", "rolled_back"})


@dataclass(frozen=True, slots=True)
class Pause:
    """A stretch of time in which a person had paused a rollout.

    Args:
        event_ms: length of the pause in event time, in milliseconds.
        from_ms, until_ms: wall times at which it began and ended.
    """

    event_ms: int
    from_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class RolloutState:
    """The present state of one rollout.

    Args:
        validation: gate report of the version when the rollout was opened.
        needs_approval: only an approval leads on from shadow, or makes a first champion. It is also
            False if an earlier release opened the rollout and did not record the setting.
        step: index into the policy's canary steps in phase "canary"; None in other phases.
        percent: percentage of the newest canary step; 0 before the first.
        since_event_ms, since_wall_ms: event time and wall time at which the phase, or the canary
            step, began.
        displaced: id of the rollout that the routes named before this one's shadow phase began.
        asked_digest: digest of the evidence that an approver was shown with the question; None if
            nobody was asked.
        answer: the approver's answer; None if there is none.
        predecessor: champion that this rollout's promotion replaced.
        shadow_generation: generation of the routes in the shadow phase; None until the phase has
            been judged.
        refused: reason why the last attempt to start the service was refused; None if none was.
        reason: reason of the last transition.
        plan: plan from when the rollout was opened; None if an earlier release opened it.
        paused: open pause: who paused the rollout, and why. None if it is not paused.
        pauses: earlier pauses of this phase.
        emergency: one person had it promoted at once; `asked_digest` and `answer` are then about
            the confirmation.
        opened_by: name of the person who opened it; empty if an earlier release opened it.
        opener: identity of that person that a provider proved; None if none did.
    """

    rollout_id: str
    model: str
    challenger: Arm
    author: str
    alert_low: float
    alert_high: float
    bootstrap: bool
    validation: ValidationReport
    needs_approval: bool
    phase: Phase
    step: int | None
    percent: float
    since_event_ms: int
    since_wall_ms: int
    displaced: str | None
    asked_digest: str | None
    answer: Answered | None
    predecessor: Arm | None
    shadow_generation: int | None
    refused: str | None
    reason: str
    plan: RolloutPlan | None = None
    paused: Paused | None = None
    pauses: tuple[Pause, ...] = ()
    emergency: bool = False
    opened_by: str = ""
    opener: ProvenIdentity | None = None

    @property
    def ramping(self) -> bool:
        return self.phase in RAMPING

    @property
    def awaits_answer(self) -> bool:
        """Whether a person answers in this phase, also if one has answered already."""
        return self.phase == "awaiting_approval" or (self.emergency and self.phase == "promoted")

    @property
    def finished(self) -> bool:
        return self.phase in FINISHED


def fold(transitions: Iterable[Transition]) -> RolloutState:
    """The state after these transitions of one rollout, in order.

    Raises:
        Refused: there are no transitions, or one can't follow those before it.
    """
    state: RolloutState | None = None
    for transition in transitions:
        state = apply(state, transition)
    if state is None:
        raise Refused("the journal of this rollout lacks the transition that opened it")
    return state


def admit(state: RolloutState | None, fact: Transition) -> RolloutState:
    """The state after a new transition. New transitions must also meet rules that earlier releases
    did not have.

    Raises:
        Refused: the transition can't follow that state, a person has no name, the author approves
            under any form of the name, nothing says whether an approval is required, or the version
            would miss its shadow or its canary.
    """
    if isinstance(fact, Opened):
        _check_opening(fact)
    after = apply(state, fact)
    if state is not None and isinstance(fact, Answered):
        check_approver(state, fact.approver, fact.identity)
    if state is not None and not isinstance(fact, Opened):
        _check_ramp(state, fact)
    return after


def _check_opening(fact: Opened) -> None:
    if not fact.author.strip():
        raise Refused(f"version {fact.challenger.version} has no author: say who made it")
    if fact.approval is None:
        raise Refused(f"{fact.rollout_id} does not say whether it needs an approval")
    if fact.emergency and not fact.actor.strip():
        raise Refused(f"the emergency promotion {fact.rollout_id} does not name who asked for it")


def _check_ramp(state: RolloutState, fact: PhaseChange | PhaseRemark) -> None:
    """Check that a version that replaces a champion goes through shadow and canary."""
    if isinstance(fact, ApprovalAsked):
        skips = state.phase == "deploying"
    else:
        skips = isinstance(fact, Promoted) and state.phase == "awaiting_approval"
    if skips and not state.bootstrap:
        raise _unfitting(state, fact)


def apply(state: RolloutState | None, fact: Transition) -> RolloutState:
    """The state after one more transition.

    Raises:
        Refused: the transition can't follow that state.
    """
    if isinstance(fact, Opened):
        if state is not None:
            raise Refused(f"rollout {fact.rollout_id} was opened before")
        return _opened(fact)
    if state is None:
        raise Refused(f"rollout {fact.rollout_id} was never opened")
    _check(state, fact)
    if isinstance(fact, Answered):
        return dataclasses.replace(state, answer=fact, reason=fact.reason)
    if isinstance(fact, DeployRefused):
        # the phase and its deadline stay as they are
        return dataclasses.replace(state, refused=fact.reason, reason=fact.reason)
    if isinstance(fact, Paused):
        return dataclasses.replace(state, paused=fact, reason=fact.reason)
    if isinstance(fact, Resumed):
        pauses = pauses_until(state, fact.event_ms, fact.wall_ms)
        return dataclasses.replace(state, paused=None, pauses=pauses, reason=fact.reason)
    moved = dataclasses.replace(
        state,
        phase=_phase(fact),
        paused=None,
        pauses=(),
        step=None,
        since_event_ms=fact.event_ms,
        since_wall_ms=fact.wall_ms,
        reason=fact.reason,
    )
    match fact:
        case ShadowStarted():
            return dataclasses.replace(moved, displaced=fact.displaced)
        case ApprovalAsked():
            judged, digest = _judged_shadow(state, fact), fact.evidence_digest
            return dataclasses.replace(moved, asked_digest=digest, shadow_generation=judged)
        case CanaryStepped():
            return dataclasses.replace(
                moved,
                step=fact.step,
                percent=fact.percent,
                shadow_generation=_judged_shadow(state, fact),
            )
        case Promoted():
            asked = fact.evidence_digest if state.emergency else state.asked_digest
            return dataclasses.replace(moved, predecessor=fact.predecessor, asked_digest=asked)
        case Confirmed() | Superseded() | RolledBack():
            return moved
        case _:
            assert_never(fact)


def pauses_until(state: RolloutState, event_ms: int, wall_ms: int) -> tuple[Pause, ...]:
    """The pauses of the present phase before a moment; a pause that is still open ends at that
    moment."""
    over = tuple(pause for pause in state.pauses if pause.from_ms < wall_ms)
    began = state.paused
    if began is None or wall_ms <= began.wall_ms:
        return over
    return (*over, Pause(max(0, event_ms - began.event_ms), began.wall_ms, wall_ms))


def _judged_shadow(state: RolloutState, fact: ApprovalAsked | CanaryStepped) -> int | None:
    if state.phase != "shadow":
        return state.shadow_generation
    generation: int | None = fact.evidence.get("generation")
    return generation


def check_approver(
    state: RolloutState, approver: str, identity: ProvenIdentity | None = None
) -> None:
    """Raises unless this person may answer: everybody may but the author of the version, and the
    person who asked for its emergency promotion.

    Args:
        identity: identity of the approver that a provider proved, or None; its account and each of
            its names are checked.

    Raises:
        Refused: the person is the author, or asked for the promotion; the error names the version.
            Names that look the same to a reader count as one person's.
    """
    _check_names(state, approver, identity)
    if identity is None:
        return
    opener = state.opener
    is_authors = appearances(state.opened_by) & appearances(state.author)  # the author opened it
    same = is_authors and opener is not None and identity.account == opener.account
    if same or appearances(identity.subject) & appearances(state.author):
        raise _is_author(state, approver)


def _check_names(state: RolloutState, approver: str, identity: ProvenIdentity | None) -> None:
    names = appearances(approver, *(() if identity is None else identity.known_as))
    _check_somebody_else(state, approver, names, appearances)
    if state.emergency and (opener := state.opener) is not None:
        same = identity is not None and identity.account == opener.account
        if same or names & appearances(*opener.known_as):
            raise _is_opener(approver)


def _check_answered(state: RolloutState, fact: Answered) -> None:
    """Check an answer in the journal. Earlier releases compared the names of a proven identity, and
    only whole names of people with keys. Their answers stand; `admit` holds new answers to the full
    rule, `check_approver`."""
    if fact.identity is not None:
        _check_names(state, fact.approver, fact.identity)
    else:
        _check_somebody_else(state, fact.approver, _appearance(fact.approver), _appearance)


def _check_somebody_else(
    state: RolloutState,
    approver: str,
    names: frozenset[str],
    appearances_of: Callable[[str], frozenset[str]],
) -> None:
    if not approver.strip():
        raise Refused("the approver has no name")
    if not approver.strip().isprintable():
        raise Refused(f"the approver's name has characters that can't be seen: {approver!a}")
    if names & appearances_of(state.author):
        raise _is_author(state, approver)
    if state.emergency and names & appearances_of(state.opened_by):
        raise _is_opener(approver)


def _is_author(state: RolloutState, approver: str) -> Refused:
    return Refused(f"{approver} made version {state.challenger.version}; somebody else must decide")


def _is_opener(approver: str) -> Refused:
    return Refused(f"{approver} asked for this emergency promotion; somebody else must confirm it")


def _appearance(name: str) -> frozenset[str]:
    return frozenset({text.look_alike(name)})


@lru_cache(maxsize=4096)
def appearances(*names: str) -> frozenset[str]:
    """The forms in which a reader sees these names, each also without the part after `@`."""
    parts = {part for name in names for part in (name, name.partition("@")[0]) if part.strip()}
    return frozenset(text.look_alike(part) for part in parts)


def _opened(fact: Opened) -> RolloutState:
    if fact.emergency and fact.bootstrap:
        raise Refused(
            f"{fact.model} has no champion that could come back if nobody confirms an emergency"
            " promotion: open it without --emergency"
        )
    return RolloutState(
        rollout_id=fact.rollout_id,
        model=fact.model,
        challenger=fact.challenger,
        author=fact.author,
        alert_low=fact.alert_low,
        alert_high=fact.alert_high,
        bootstrap=fact.bootstrap,
        validation=fact.validation,
        needs_approval=fact.approval == "required",
        phase="deploying",
        step=None,
        percent=0.0,
        since_event_ms=fact.event_ms,
        since_wall_ms=fact.wall_ms,
        displaced=None,
        asked_digest=None,
        answer=None,
        predecessor=None,
        shadow_generation=None,
        refused=None,
        reason=fact.reason,
        plan=fact.plan,
        emergency=fact.emergency,
        opened_by=fact.actor,
        opener=fact.identity,
    )


PhaseChange = (
    ShadowStarted | ApprovalAsked | CanaryStepped | Promoted | Confirmed | Superseded | RolledBack
)

PhaseRemark = Answered | DeployRefused | Paused | Resumed
"""Facts that begin no phase."""


def _phase(fact: PhaseChange) -> Phase:
    match fact:
        case ShadowStarted():
            return "shadow"
        case ApprovalAsked():
            return "awaiting_approval"
        case CanaryStepped():
            return "canary"
        case Promoted():
            return "promoted"
        case Confirmed():
            return "confirmed"
        case Superseded():
            return "superseded"
        case RolledBack():
            return "rolled_back"
        case _:
            assert_never(fact)


_FROM: dict[type[PhaseChange | PhaseRemark], frozenset[Phase]] = {
    Paused: RAMPING,
    Resumed: RAMPING,
    DeployRefused: frozenset({"deploying"}),
    ShadowStarted: frozenset({"deploying"}),
    ApprovalAsked: frozenset({"deploying", "shadow"}),
    Answered: frozenset({"awaiting_approval", "promoted"}),
    CanaryStepped: frozenset({"shadow", "awaiting_approval", "canary"}),
    Promoted: frozenset({"deploying", "awaiting_approval", "canary"}),
    Confirmed: frozenset({"promoted"}),
    Superseded: frozenset({"promoted"}),
    RolledBack: RAMPING.union({"promoted"}),
}


_IN_WORDS: dict[type[PhaseChange | PhaseRemark], str] = {
    Paused: "a pause",
    Resumed: "a resumption",
    DeployRefused: "a failed start of its service",
    ShadowStarted: "its shadow phase",
    ApprovalAsked: "a request for approval",
    Answered: "an answer",
    CanaryStepped: "a step of the canary",
    Promoted: "a promotion",
    Confirmed: "a confirmation",
    Superseded: "its replacement",
    RolledBack: "a rollback",
}


def _unfitting(state: RolloutState, fact: PhaseChange | PhaseRemark) -> Refused:
    what, wanted = _IN_WORDS[type(fact)], " or ".join(sorted(_FROM[type(fact)]))
    why = f"{what} can't follow; wanted: {wanted} (`mlplatform rollouts list`)"
    return Refused(f"rollout {state.rollout_id} is {state.phase}: {why}")


def _check(state: RolloutState, fact: PhaseChange | PhaseRemark) -> None:
    if state.model != fact.model or state.rollout_id != fact.rollout_id:
        raise Refused(f"a transition of {fact.rollout_id} can't follow {state.rollout_id}")
    if state.phase not in _FROM[type(fact)]:
        raise _unfitting(state, fact)
    _check_paused(state, fact)
    if isinstance(fact, CanaryStepped):
        expected = 0 if state.step is None else state.step + 1
        if fact.step != expected:
            raise Refused(f"rollout {state.rollout_id} would skip from {state.step} to {fact.step}")
        if not state.percent < fact.percent <= 100.0:
            raise Refused(
                f"the canary of rollout {state.rollout_id}: {fact.percent:g} % can't follow"
                f" {state.percent:g} %; wanted: a larger share, at most 100 %"
            )
    if isinstance(fact, Answered):
        _check_in_time(state, fact)
        if state.answer is not None:
            raise Refused(f"rollout {state.rollout_id} was answered by {state.answer.approver}")
        if fact.bound_to != state.asked_digest:
            raise Refused(
                f"the answer is about evidence {fact.bound_to}, the question about"
                f" {state.asked_digest}"
            )
        _check_answered(state, fact)
    at_once = state.emergency and isinstance(fact, Promoted) and state.phase == "deploying"
    skips_ramp = isinstance(fact, Promoted) and state.phase == "deploying" and not state.bootstrap
    if skips_ramp and not at_once:
        raise Refused(f"rollout {state.rollout_id} is {state.phase}: shadow and canary come first")
    asks = state.phase == "awaiting_approval"
    approved_first = isinstance(fact, Promoted | CanaryStepped) and (asks or state.needs_approval)
    if (approved_first and not at_once) or (state.emergency and isinstance(fact, Confirmed)):
        _check_approved(state)


def _check_in_time(state: RolloutState, fact: Answered) -> None:
    """Check that an emergency promotion is confirmed in time, and that no other promotion is
    answered."""
    if not state.awaits_answer:
        raise _unfitting(state, fact)
    if state.phase == "promoted" and not in_time_to_confirm(state, fact.wall_ms):
        raise Refused(
            f"the emergency promotion of {state.rollout_id} was to be confirmed within"
            f" {EMERGENCY_CONFIRM_H} h: the next pass undoes it"
        )


def in_time_to_confirm(state: RolloutState, wall_ms: int) -> bool:
    """Whether an emergency promotion may still be confirmed at this wall time."""
    return wall_ms - state.since_wall_ms < EMERGENCY_CONFIRM_H * HOUR_MS


def _check_paused(state: RolloutState, fact: PhaseChange | PhaseRemark) -> None:
    paused = state.paused
    if isinstance(fact, Resumed) and paused is None:
        raise Refused(f"rollout {state.rollout_id} is not paused: there is nothing to resume")
    forward = ShadowStarted | ApprovalAsked | CanaryStepped | Promoted
    if paused is not None and isinstance(fact, forward | Paused):
        raise Refused(f"rollout {state.rollout_id} is paused by {paused.actor}: {paused.reason}")


def _check_approved(state: RolloutState) -> None:
    if state.answer is None or state.answer.answer != "approve":
        raise Refused(f"rollout {state.rollout_id} was not approved")
