"""Checks by which the journal admits openings, and the routes that a transition may write; the
order of phases is in `rollouts.journal.state`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from mlplatform.model.routes import Arm, Routes
from mlplatform.rollouts.journal.next_routes import following, promoted_routes, shadow_routes
from mlplatform.rollouts.journal.state import RolloutState
from mlplatform.rollouts.journal.transitions import (
    CanaryStepped,
    Confirmed,
    Opened,
    Promoted,
    RolledBack,
    ShadowStarted,
    Superseded,
    Transition,
)
from mlplatform.rollouts.journal.variants import check_free_of_test
from mlplatform.runtime.errors import Busy, Refused


def one_at_a_time(rollout_id: str, model: str) -> Busy:
    """The error of whoever wants another rollout while one is under way."""
    return Busy(
        f"rollout {rollout_id} is under way, and {model} has one at a time: wait for its end, or"
        f" end it with `mlplatform rollouts abort {rollout_id}`"
    )


def check_opening(fact: Opened, earlier: Iterable[RolloutState], present: Routes) -> None:
    """Raises unless a rollout may be opened after the model's others.

    Args:
        earlier: all rollouts of the model, finished ones too.

    Raises:
        Busy: see `check_emergency`.
        Refused: see `check_emergency`; or the version is champion, or the opening is wrong about
            whether the model has a champion; or an A/B/n test runs, which only an emergency
            promotion ends.
    """
    if fact.emergency:
        check_emergency(earlier, fact.challenger)
    else:
        check_free_of_test(fact.model, present)
    check_not_champion(fact.challenger, present)
    if fact.bootstrap != (present.champion is None):
        if present.champion is None:
            planned = f"{fact.rollout_id} was planned against a champion; {fact.model} has none"
        else:
            planned = f"{fact.rollout_id} was planned as the first; {fact.model} has a champion"
        raise Refused(f"{planned} now: plan and open it anew")


def check_not_champion(arm: Arm, present: Routes) -> None:
    """Raises Refused if the version is the champion."""
    if present.champion == arm:
        raise Refused(f"version {arm.version} of {present.model} is its champion already")


def check_emergency(earlier: Iterable[RolloutState], arm: Arm) -> None:
    """Raises unless an emergency promotion of this version may be opened: who could ask again and
    again would need no second person.

    Raises:
        Busy: a rollout of the version is ramping.
        Refused: an emergency promotion waits for its confirmation, or one of this bundle was not
            confirmed.
    """
    for state in earlier:
        if state.emergency and state.phase == "promoted" and state.answer is None:
            raise Refused(
                f"the emergency promotion {state.rollout_id} waits for a second person: have it"
                f" answered first (`mlplatform rollouts approve {state.rollout_id}`)"
            )
        if state.ramping and state.challenger == arm and not state.emergency:
            raise one_at_a_time(state.rollout_id, state.model)
        unconfirmed = state.answer is None or state.answer.answer == "reject"
        same = state.challenger.bundle == arm.bundle  # under any version number
        if state.emergency and same and state.finished and unconfirmed:
            raise Refused(
                f"the emergency promotion {state.rollout_id} of version {arm.version} was not"
                " confirmed: open it without --emergency"
            )


def check_routes(
    state: RolloutState,
    fact: Transition,
    present: Routes,
    written: Routes | None,
    earlier: Iterable[RolloutState],
) -> None:
    """Raises unless a transition writes the routes that follow from it: so no version answers
    customers without the phase that says so.

    Args:
        state: the rollout's state after the transition.
        written: the routes that are to be written; None leaves the present ones.
        earlier: all rollouts of the model; only a rollback needs them.

    Raises:
        Refused: other routes are to be written; or the version takes a step of the canary or is
            promoted from it while the routes have another challenger, or none; or it is confirmed
            while another version is champion, or replaced while it is champion itself; or a
            promotion names another predecessor than the champion.
    """
    _check_champion(state, fact, present)
    if isinstance(fact, RolledBack):
        admitted = _without(state, present, written, earlier)
    else:
        admitted = _admitted(state, fact, present)
    if written not in admitted:
        what = f"{type(fact).__name__} of {fact.rollout_id}"
        raise Refused(f"{what} can't write these routes: other ones follow from it")


def _admitted(state: RolloutState, fact: Transition, present: Routes) -> tuple[Routes | None, ...]:
    match fact:
        case ShadowStarted():
            return (shadow_routes(state, present),)
        case CanaryStepped():
            _check_challenger(state, fact, present)
            return (following(present, phase="canary", challenger_percent=fact.percent),)
        case Promoted():
            is_direct = (state.bootstrap or state.emergency) and state.percent == 0
            if not is_direct:
                _check_challenger(state, fact, present)
            return (promoted_routes(state, present),)
        case Confirmed():
            return None, following(present, previous=None)
        case _:
            return (None,)


def _check_champion(state: RolloutState, fact: Transition, present: Routes) -> None:
    is_champion = present.champion == state.challenger
    match fact:
        case Confirmed() if not is_champion:
            why = f"version {state.challenger.version} is not the champion"
        case Superseded() if is_champion:
            why = f"version {state.challenger.version} is the champion"
        case Promoted() if fact.predecessor != present.champion:
            why = "its predecessor is not the champion"
        case _:
            return
    raise Refused(
        f"{type(fact).__name__} of {fact.rollout_id} can't be written: {why} of {fact.model}"
    )


def _check_challenger(state: RolloutState, fact: Transition, present: Routes) -> None:
    if present.challenger != state.challenger:
        raise Refused(
            f"{type(fact).__name__} of {fact.rollout_id} can't be written: version"
            f" {state.challenger.version} is not the challenger in the routes of {fact.model}"
        )


def _without(
    state: RolloutState, present: Routes, written: Routes | None, earlier: Iterable[RolloutState]
) -> tuple[Routes | None, ...]:
    """The routes in which the rollout's version answers nobody, for each predecessor that may be
    kept warm, as it answers where the champion fails. They may name any rollout."""
    mine = state.challenger
    if written is None:
        return () if mine in (present.champion, present.challenger) else (None,)
    changes: dict[str, Any]
    kept: set[Arm | None] = {None}
    if present.challenger == mine:
        kept.add(present.previous)
        changes = {"challenger": None, "phase": "steady", "challenger_percent": 0.0}
    elif present.champion == mine and present.previous is not None:
        kept.update(one.challenger for one in earlier if one.phase == "confirmed")
        changes = {"champion": present.previous}
    else:
        return ()
    named = following(present, rollout_id=written.rollout_id, **changes)
    return tuple(dataclasses.replace(named, previous=arm) for arm in kept)
