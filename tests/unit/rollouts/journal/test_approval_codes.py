"""A code proves one approver's one answer to one question, for some minutes."""

from __future__ import annotations

import base64
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.rollouts.journal.approval_codes import (
    MOST_CHARACTERS,
    VALID_S,
    Approver,
    Question,
    approver,
    code,
)
from mlplatform.rollouts.journal.transitions import ProvenIdentity
from mlplatform.runtime.errors import Refused

KEY = b"k" * 32
ASKED = Question("fraud-v2-1", "e" * 64, "approve")
NOW_S = 1_000
BO = Approver("bo", "0a1b2c3d")
CODE = code(KEY, BO, ASKED, until_s=NOW_S + VALID_S)
ACCOUNT = ProvenIdentity(
    issuer="https://login.bank.example", subject="7", known_as=("Jo Bj\u00f6rk", "jo@bank.example")
)
JO = Approver.by_provider("jo", ACCOUNT)
CODE_OF_JO = code(KEY, JO, ASKED, until_s=NOW_S + VALID_S)


def test_a_code_names_its_approver() -> None:
    assert approver(KEY, f" {CODE}\n", ASKED, now_s=NOW_S) == BO


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(ASKED, rollout_id="fraud-v3-1"),
        dataclasses.replace(ASKED, evidence="f" * 64),
        dataclasses.replace(ASKED, answer="reject"),
    ],
)
def test_a_code_is_for_one_question_and_answer(other: Question) -> None:
    with pytest.raises(Refused, match="not given for this answer"):
        approver(KEY, CODE, other, now_s=NOW_S)


def test_a_code_of_another_installation_proves_nothing() -> None:
    with pytest.raises(Refused, match="not given"):
        approver(b"x" * 32, CODE, ASKED, now_s=NOW_S)


def test_a_code_can_be_neither_renamed_nor_prolonged() -> None:
    name, key, until, mac = CODE.split(":")
    forgeries = (
        f"ana:{key}:{until}:{mac}",
        f"{name}:ffffffff:{until}:{mac}",
        f"{name}:{key}:{int(until) + 1}:{mac}",
    )
    for forged in forgeries:
        with pytest.raises(Refused, match="not given"):
            approver(KEY, forged, ASKED, now_s=NOW_S)


def test_a_code_ends() -> None:
    assert approver(KEY, CODE, ASKED, now_s=NOW_S + VALID_S - 1) == BO
    with pytest.raises(Refused, match="a code is valid 10 minutes"):
        approver(KEY, CODE, ASKED, now_s=NOW_S + VALID_S)


def test_a_code_carries_the_account_that_a_provider_proved_and_no_other() -> None:
    assert approver(KEY, CODE_OF_JO, ASKED, now_s=NOW_S) == JO
    parts = CODE_OF_JO.split(":")
    account = base64.urlsafe_b64encode(b'{"issuer":"https://login.bank.example","subject":"8"}')
    for forged in (
        ":".join([*parts[:4], account.decode().rstrip("=")]),
        ":".join(["bo", *parts[1:]]),
        ":".join([parts[0], BO.key_id, *parts[2:4]]),
    ):
        with pytest.raises(Refused, match="not given"):
            approver(KEY, forged, ASKED, now_s=NOW_S)
    for no_code in (":".join(parts[:4]), f"{CODE_OF_JO}!", f"{CODE}:{parts[4]}"):
        with pytest.raises(Refused, match="this is not a code"):
            approver(KEY, no_code, ASKED, now_s=NOW_S)


def test_an_account_with_names_too_long_for_a_code_answers_on_the_page() -> None:
    named = dataclasses.replace(
        JO, identity=ProvenIdentity(issuer="i", subject="7", known_as=("x" * MOST_CHARACTERS,))
    )
    with pytest.raises(Refused, match="answer on the page itself"):
        code(KEY, named, ASKED, until_s=NOW_S + VALID_S)


@given(st.text(max_size=300))
def test_nothing_else_is_a_code(text: str) -> None:
    with pytest.raises(Refused):
        approver(KEY, text, ASKED, now_s=NOW_S)
