"""The routes that the journal admits with a step of the canary and with a promotion."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from mlplatform.model.routes import Arm, Routes, no_routes
from mlplatform.rollouts.journal.admission import check_routes
from mlplatform.rollouts.journal.next_routes import following, promoted_routes
from mlplatform.rollouts.journal.state import RolloutState, fold
from mlplatform.rollouts.journal.transitions import (
    Answered,
    ApprovalAsked,
    CanaryStepped,
    Opened,
    Promoted,
    ShadowStarted,
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
    "an approval": (opened(approval="required"), SHADOW, ASKED, APPROVED),
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
    state: RolloutState = fold((first, PROMOTED))
    check_routes(state, PROMOTED, present, promoted_routes(state, present), ())
