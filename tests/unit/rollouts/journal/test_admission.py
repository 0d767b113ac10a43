"""What the journal admits of new transitions, and the routes that it admits with them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import msgspec
import pytest

from mlplatform.model.routes import Arm, Routes, no_routes
from mlplatform.rollouts.journal.admission import check_routes
from mlplatform.rollouts.journal.controls import check_may_move
from mlplatform.rollouts.journal.next_routes import following, promoted_routes
from mlplatform.rollouts.journal.state import RolloutState, admit, fold
from mlplatform.rollouts.journal.transitions import (
    Answered,
    ApprovalAsked,
    CanaryStepped,
    Confirmed,
    Opened,
    Promoted,
    ProvenIdentity,
    ShadowStarted,
    Superseded,
    Transition,
)
from mlplatform.runtime.errors import Refused

FACT: dict[str, Any] = {
    "rollout_id": "fraud-v2-1",
    "model": "fraud",
    "event_ms": 1,
    "wall_ms": 1,
    "actor": "a pass",
    "reason": "because",
}
CHAMPION = Arm(1, "a" * 64, "fraud-v1-aaaaaaaa")
MINE = Arm(2, "b" * 64, "fraud-v2-bbbbbbbb")
REBUILT = dataclasses.replace(MINE, bundle="c" * 64)
OTHER = Arm(3, "d" * 64, "fraud-v3-dddddddd")
CANARY = Routes("fraud", 7, CHAMPION, MINE, None, "fraud-v2-1", "canary", 25.0)
STEADY = dataclasses.replace(CANARY, challenger=None, phase="steady", challenger_percent=0.0)
SHADOW = ShadowStarted(**FACT, displaced=None)
STEP = CanaryStepped(**FACT, step=0, percent=25.0)
ASKED = ApprovalAsked(**FACT, evidence={"requests": 3000})
APPROVED = Answered(
    **FACT, answer="approve", approver="bo", bound_to=ASKED.evidence_digest, proven_by="code"
)
PROMOTED = Promoted(**FACT, predecessor=CHAMPION)


def opened(**changes: Any) -> Opened:
    usual: dict[str, Any] = {"bootstrap": False, "approval": "none"} | changes
    return Opened(**FACT, challenger=MINE, author="ana", alert_low=0.0, alert_high=0.1, **usual)


RAMPS: dict[str, tuple[Transition, ...]] = {
    "a canary": (opened(), SHADOW, STEP),
    "an approved canary": (opened(approval="required"), SHADOW, ASKED, APPROVED, STEP),
    "a canary of an emergency": (opened(emergency=True), SHADOW, STEP),
}


@pytest.mark.parametrize("ramp", RAMPS.values(), ids=RAMPS)
@pytest.mark.parametrize(
    "present",
    [
        pytest.param(STEADY, id="no challenger"),
        pytest.param(dataclasses.replace(CANARY, challenger=OTHER), id="another version"),
        pytest.param(dataclasses.replace(CANARY, challenger=REBUILT), id="another bundle"),
    ],
)
def test_only_the_challenger_of_the_routes_is_promoted_from_its_ramp(
    ramp: tuple[Transition, ...], present: Routes
) -> None:
    state = fold((*ramp, PROMOTED))
    with pytest.raises(Refused, match="version 2 is not the challenger in the routes of fraud"):
        check_routes(state, PROMOTED, present, promoted_routes(state, present), ())
    check_routes(state, PROMOTED, CANARY, promoted_routes(state, CANARY), ())


def test_a_canary_step_is_of_the_challenger_of_the_routes() -> None:
    state = fold((opened(), SHADOW, STEP))
    present = dataclasses.replace(CANARY, challenger=REBUILT)
    written = following(present, phase="canary", challenger_percent=25.0)
    with pytest.raises(Refused, match="CanaryStepped of fraud-v2-1 can't be written: version 2"):
        check_routes(state, STEP, present, written, ())


@pytest.mark.parametrize(
    ("first", "present"),
    [
        pytest.param(opened(emergency=True), STEADY, id="an emergency"),
        pytest.param(
            opened(emergency=True),
            dataclasses.replace(CANARY, challenger=OTHER),
            id="an emergency beside a canary",
        ),
        pytest.param(opened(bootstrap=True), no_routes("fraud"), id="a first champion"),
    ],
)
def test_who_skips_the_ramp_is_no_challenger_before(first: Opened, present: Routes) -> None:
    promoted = Promoted(**FACT, predecessor=present.champion)
    state: RolloutState = fold((first, promoted))
    check_routes(state, promoted, present, promoted_routes(state, present), ())


@pytest.mark.parametrize(
    ("before", "fact"),
    [
        pytest.param((opened(approval="required"),), ASKED, id="no shadow"),
        pytest.param(
            (opened(approval="required"), SHADOW, ASKED, APPROVED), PROMOTED, id="no canary"
        ),
    ],
)
def test_what_replaces_a_champion_misses_neither_shadow_nor_canary(
    before: tuple[Transition, ...], fact: Transition
) -> None:
    with pytest.raises(Refused, match="can't follow"):
        admit(fold(before), fact)


@pytest.mark.parametrize("percent", [0.0, 25.0, 100.5, 1000.0, math.inf, math.nan])
def test_a_share_rises_and_is_a_share(percent: float) -> None:
    first = fold((opened(), SHADOW))
    if percent == 25.0:
        first = fold((opened(), SHADOW, STEP))
    step = CanaryStepped(**FACT, step=0 if first.step is None else 1, percent=percent)
    with pytest.raises(Refused, match="wanted: a larger share, at most 100 %"):
        admit(first, step)


CONFIRMED, SUPERSEDED = Confirmed(**FACT), Superseded(**FACT)
MINE_LEADS = dataclasses.replace(STEADY, champion=MINE, previous=CHAMPION)


@pytest.mark.parametrize(
    ("fact", "present", "refusal"),
    [
        (CONFIRMED, dataclasses.replace(STEADY, champion=OTHER), "version 2 is not the champion"),
        (SUPERSEDED, MINE_LEADS, "version 2 is the champion"),
        (
            Promoted(**FACT, predecessor=OTHER),
            CANARY,
            "its predecessor is not the champion of fraud",
        ),
        (Promoted(**FACT, predecessor=None), CANARY, "its predecessor is not the champion"),
    ],
    ids=["confirmed", "superseded", "another predecessor", "no predecessor"],
)
def test_what_is_said_of_a_champion_is_true(
    fact: Transition, present: Routes, refusal: str
) -> None:
    state = fold((opened(), SHADOW, STEP, PROMOTED))
    with pytest.raises(Refused, match=refusal):
        check_routes(state, fact, present, None, ())


def test_a_promotion_is_confirmed_and_replaced_where_that_is_true() -> None:
    state = fold((opened(), SHADOW, STEP, PROMOTED))
    check_routes(state, CONFIRMED, MINE_LEADS, None, ())
    check_routes(state, SUPERSEDED, dataclasses.replace(MINE_LEADS, champion=OTHER), None, ())


def test_a_killed_model_is_not_confirmed_without_routes_either() -> None:
    killed = dataclasses.replace(MINE_LEADS, killed=True)
    with pytest.raises(Refused, match="fraud is switched off"):
        check_may_move(CONFIRMED, killed, None)
    check_may_move(CONFIRMED, MINE_LEADS, None)


EVE = ProvenIdentity(issuer="https://id.bank", subject="7", known_as=("eve", "eve@bank"))
RENAMED = ProvenIdentity(issuer="https://id.bank", subject="7", known_as=("es",))


@pytest.mark.parametrize(
    ("name", "identity"),
    [("eve", None), ("Evelyn Smith", None), ("es", RENAMED)],
    ids=["another name of the account", "the same name", "the same account"],
)
def test_who_asks_for_an_emergency_promotion_does_not_confirm_it(
    name: str, identity: ProvenIdentity | None
) -> None:
    asked = msgspec.structs.replace(opened(emergency=True), actor="Evelyn Smith", identity=EVE)
    state = fold((asked, PROMOTED))
    bound_to = state.asked_digest or ""
    answer = Answered(
        **FACT | {"identity": identity}, answer="approve", approver=name, bound_to=bound_to
    )
    with pytest.raises(Refused, match=f"{name} asked for this emergency promotion"):
        admit(state, answer)
    other = msgspec.structs.replace(answer, approver="bo", identity=None)
    assert admit(state, other).answer == other


@pytest.mark.parametrize(
    ("opener", "identity"),
    [
        (EVE, RENAMED),
        (None, ProvenIdentity(issuer="https://id.bank", subject="ana", known_as=("es",))),
    ],
    ids=["the account that opened it as its author", "the author's name as subject"],
)
def test_an_account_of_the_author_approves_nothing_under_another_name(
    opener: ProvenIdentity | None, identity: ProvenIdentity
) -> None:
    asked = msgspec.structs.replace(opened(), author="ana", actor="ana", identity=opener)
    state = fold((asked, SHADOW, ASKED))
    answer = Answered(
        **FACT | {"identity": identity}, answer="approve", approver="es",
        bound_to=state.asked_digest or "",
    )  # fmt: skip
    with pytest.raises(Refused, match="es made version"):
        admit(state, answer)
    other = ProvenIdentity(issuer="https://id.bank", subject="8", known_as=("bo",))
    allowed = msgspec.structs.replace(answer, approver="bo", identity=other)
    assert admit(state, allowed).answer == allowed


def test_an_emergency_promotion_has_somebody_who_asked_for_it() -> None:
    with pytest.raises(Refused, match="does not name who asked for it"):
        admit(None, msgspec.structs.replace(opened(emergency=True), actor=" "))
