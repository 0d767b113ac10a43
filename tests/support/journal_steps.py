"""Transitions of rollouts that a test writes itself, with the routes that follow from them."""

from __future__ import annotations

from mlplatform.model.routes import Arm, Routes, no_routes
from mlplatform.rollouts.journal import sql
from mlplatform.rollouts.journal.journal import Fence
from mlplatform.rollouts.journal.next_routes import following, promoted_routes, shadow_routes
from mlplatform.rollouts.journal.sql import SqlRollouts
from mlplatform.rollouts.journal.state import RolloutState, admit, fold
from mlplatform.rollouts.journal.transitions import (
    Answered,
    CanaryStepped,
    Opened,
    Promoted,
    RolledBack,
    ShadowStarted,
    Transition,
)


def give_champion(journal: SqlRollouts, model: str, arm: Arm) -> None:
    """Write routes as if an earlier rollout, which the journal does not have, had promoted it."""
    routes = following(no_routes(model), champion=arm, phase="steady")
    with journal._database.write_transaction() as db:
        sql._write_routes(db, routes)


def commit(journal: SqlRollouts, fact: Transition, fence: Fence | None) -> RolloutState:
    """Write a transition of a rollout that is alone, and its routes."""
    if isinstance(fact, Opened | Answered):
        return journal.commit(fact, None)
    state = admit(fold(journal.read(fact.rollout_id)), fact)
    return journal.commit(fact, fence, _routes(state, fact, journal.routes(fact.model)))


def _routes(state: RolloutState, fact: Transition, present: Routes) -> Routes | None:
    match fact:
        case ShadowStarted():
            return shadow_routes(state, present)
        case CanaryStepped():
            return following(present, phase="canary", challenger_percent=fact.percent)
        case Promoted():
            return promoted_routes(state, present)
        case RolledBack() if present.challenger == state.challenger:
            return following(present, challenger=None, phase="steady", challenger_percent=0.0)
        case _:
            return None
