"""Rollouts that wait for a person's answer: who may give it, until when, and by which command."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from mlplatform.model.policies.rollout import RolloutPolicy
from mlplatform.observing.page.people.acts import answer_refusal
from mlplatform.rollouts.journal.state import EMERGENCY_CONFIRM_H, RolloutState
from mlplatform.rollouts.passes.summary import rejection
from mlplatform.rollouts.passes.wait_reasons import running_since_wall_ms
from mlplatform.runtime.units import HOUR_MS
from mlplatform.scoring.admission.clients import Key, directory

MOST_NAMES: Final = 8


@dataclass(frozen=True, slots=True)
class WaitingRollout:
    """A rollout that waits for an answer.

    Args:
        promoter: the person who promoted the version in an emergency, and may not answer; empty if
            that is the author, or nobody did.
        until_ms: wall time after which nobody can answer any more.
        who: names of people who may answer, in order, up to a limit.
        others: number of further people who may answer.
        groups: groups of the identity provider whose people may answer too.
        command: the command that answers without this page.
    """

    rollout_id: str
    model: str
    version: int
    author: str
    emergency: bool
    until_ms: int
    who: tuple[str, ...]
    others: int
    command: str
    groups: tuple[str, ...] = ()
    promoter: str = ""

    @property
    def rejected(self) -> str:
        """The consequence of a rejection, and of no answer in time."""
        return rejection(emergency=self.emergency)


def waiting_rollout(
    state: RolloutState,
    policy: RolloutPolicy,
    keys: Iterable[Key],
    now_ms: int,
    groups: tuple[str, ...] = (),
) -> WaitingRollout | None:
    """The answer that a rollout waits for; None if it needs none from a person.

    Args:
        groups: groups of the identity provider that may approve rollouts of the model.
    """
    if not state.awaits_answer or state.answer is not None:
        return None
    names = may_answer(state, keys, now_ms)
    return WaitingRollout(
        rollout_id=state.rollout_id,
        model=state.model,
        version=state.challenger.version,
        author=state.author,
        emergency=state.emergency,
        until_ms=until_ms(state, policy, now_ms),
        who=tuple(names[:MOST_NAMES]),
        others=max(0, len(names) - MOST_NAMES),
        command=(
            f"mlplatform rollouts approve {state.rollout_id} --decision approve --approver NAME"
            ' --key-file FILE --reason "WHY"'
        ),
        groups=groups,
        promoter=state.opened_by if state.emergency and state.opened_by != state.author else "",
    )


def may_answer(state: RolloutState, keys: Iterable[Key], now_ms: int) -> Sequence[str]:
    """Names of the people whose keys may answer now, in order."""
    able = {c.name for c in directory(keys, now_ms).values() if c.may(state.model, "approve")}
    return sorted(name for name in able if not answer_refusal(state, name))


def until_ms(state: RolloutState, policy: RolloutPolicy, now_ms: int) -> int:
    """Wall time until which an answer counts; a pause and a freeze extend it."""
    if state.emergency:
        return state.since_wall_ms + EMERGENCY_CONFIRM_H * HOUR_MS
    since_ms = running_since_wall_ms(state, policy, now_ms)
    return since_ms + round(policy.approval_deadline_h * HOUR_MS)
