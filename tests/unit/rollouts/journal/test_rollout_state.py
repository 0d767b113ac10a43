"""The fold over a journal refuses what may not be, whoever wrote it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mlplatform.model.routes import Arm
from mlplatform.rollouts.journal.state import RolloutState, admit, fold
from mlplatform.rollouts.journal.transitions import (
    Answered,
    ApprovalAsked,
    CanaryStepped,
    Opened,
    Promoted,
    ProvenIdentity,
    ShadowStarted,
    Transition,
    decode,
    encode,
)
from mlplatform.runtime.errors import Refused

ID = "fraud-v2-1"
FACT: dict[str, Any] = {
    "rollout_id": ID,
    "model": "fraud",
    "event_ms": 1,
    "wall_ms": 1,
    "actor": "a pass",
    "reason": "because",
}
ASKED = ApprovalAsked(**FACT, evidence={"requests": 3000})
SHADOW = ShadowStarted(**FACT, displaced=None)
PROMOTED = Promoted(**FACT, predecessor=None)


def opened(approval: Any = "required", *, bootstrap: bool = False) -> Opened:
    return Opened(
        **FACT,
        challenger=Arm(2, "b" * 64, "fraud-v2-bbbbbbbb"),
        author="ana",
        alert_low=0.0,
        alert_high=0.1,
        bootstrap=bootstrap,
        approval=approval,
    )


def answered(
    approver: str = "bo",
    answer: Any = "approve",
    bound_to: str = "",
    known_as: tuple[str, ...] = (),
) -> Answered:
    proven = ProvenIdentity(issuer="https://login.example", subject="1", known_as=known_as)
    return Answered(
        **FACT,
        answer=answer,
        approver=approver,
        bound_to=bound_to or ASKED.evidence_digest,
        proven_by="code",
        identity=proven if known_as else None,
    )


def canary(step: int, percent: float) -> CanaryStepped:
    return CanaryStepped(**FACT, step=step, percent=percent)


def after(*facts: Transition) -> RolloutState:
    return fold(facts)


@pytest.mark.parametrize("approver", ["ana@bank.example", " ", ""])
def test_a_new_answer_is_held_to_more_than_one_of_an_earlier_release(approver: str) -> None:
    asked = after(opened(), SHADOW, ASKED)
    with pytest.raises(Refused, match=r"made version 2|no name"):
        admit(asked, answered(approver))
    assert admit(asked, answered()).answer is not None
    if approver.strip():  # as earlier releases wrote it
        assert after(opened(), SHADOW, ASKED, answered(approver)).answer is not None


def test_a_version_without_an_author_is_opened_by_nobody() -> None:
    with pytest.raises(Refused, match="has no author"):
        admit(None, msgspec.structs.replace(opened(), author=" "))


def test_a_rollout_that_does_not_say_whether_it_needs_an_approval_is_not_opened() -> None:
    with pytest.raises(Refused, match="does not say whether it needs an approval"):
        admit(None, opened(None))
    assert admit(None, opened("none")).phase == "deploying"


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        pytest.param(
            (opened(), SHADOW, ASKED, answered("ana")), "ana made version 2", id="of one's own"
        ),
        pytest.param(
            (opened(), SHADOW, ASKED, answered("\u0430na")), "made version 2", id="a look-alike"
        ),
        pytest.param(
            (opened(), SHADOW, ASKED, answered(known_as=("B.Jo", "Ana@bank.example"))),
            "bo made version 2",
            id="of one's own, by an account with the author's address",
        ),
        pytest.param(
            (opened(), SHADOW, ASKED, answered("ana@bank.example", known_as=("jo",))),
            "made version 2",
            id="of one's own, by a name with a domain",
        ),
        pytest.param(
            (opened(), SHADOW, ASKED, answered(bound_to="x")),
            "about evidence x",
            id="of other evidence",
        ),
        pytest.param((opened(), SHADOW, answered()), "is shadow", id="an answer to no question"),
        pytest.param(
            (opened(), SHADOW, canary(0, 1)), "was not approved", id="a canary without an approval"
        ),
        pytest.param(
            (opened(), SHADOW, ASKED, answered(answer="reject"), canary(0, 1)),
            "was not approved",
            id="a canary after a rejection",
        ),
        pytest.param(
            (opened("none"), PROMOTED),
            "shadow and canary come first",
            id="a promotion without a canary",
        ),
        pytest.param(
            (opened(bootstrap=True), PROMOTED), "was not approved", id="a first version, unapproved"
        ),
        pytest.param(
            (opened("none"), SHADOW, canary(0, 5), canary(1, 1)),
            "wanted: a larger share",
            id="a canary that falls",
        ),
        pytest.param(
            (opened("none"), SHADOW, canary(0, 5), canary(2, 9)), "skip", id="a step left out"
        ),
    ],
)
def test_what_may_not_be_is_refused(facts: tuple[Transition, ...], said: str) -> None:
    assert after(*facts[:-1]).rollout_id == ID
    with pytest.raises(Refused, match=said):
        after(*facts)


def test_an_answer_that_an_earlier_release_took_stands() -> None:
    """It compared whole names, and a name that an author declares may be an address."""
    by = msgspec.structs.replace(opened(), author="bo@bank.example")
    assert after(by, SHADOW, ASKED, answered("bo"), canary(0, 1)).phase == "canary"


def test_an_approved_rollout_goes_on() -> None:
    state = after(opened(), SHADOW, ASKED, answered(), canary(0, 1), canary(1, 5), PROMOTED)
    assert (state.phase, state.percent) == ("promoted", 5)


@pytest.mark.parametrize("approval", ["none", None])
def test_where_nobody_is_asked_or_nobody_knows_a_canary_follows_shadow(
    approval: str | None,
) -> None:
    """An earlier release did not say in its journal what model.yaml asked for."""
    assert after(opened(approval), SHADOW, canary(0, 1)).phase == "canary"


def test_a_fact_of_an_earlier_release_is_read() -> None:
    row = msgspec.json.decode(encode(opened()))
    del row["approval"], row["validation"]
    assert decode(msgspec.json.encode(row)) == opened(None)
    row = msgspec.json.decode(encode(answered()))
    del row["identity"]
    assert decode(msgspec.json.encode(row)) == answered()


def test_the_identity_that_a_provider_proved_stays_in_the_journal() -> None:
    given = answered(known_as=("B. Jo", "bo@bank.example"))
    assert decode(encode(given)) == given
    state = after(opened(), SHADOW, ASKED, given)
    assert state.answer is not None
    assert state.answer.identity == given.identity
