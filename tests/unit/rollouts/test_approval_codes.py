"""A code proves one approver's one answer to one question, for some minutes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.rollouts.journal.approval_codes import VALID_S, Approver, Question, approver, code
from mlplatform.runtime.errors import Refused

KEY = b"k" * 32
ASKED = Question("fraud-v2-1", "e" * 64, "approve")
NOW_S = 1_000
BO = Approver("bo", "0a1b2c3d")
CODE = code(KEY, BO, ASKED, until_s=NOW_S + VALID_S)


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
    with pytest.raises(Refused, match="it is good for 10 minutes"):
        approver(KEY, CODE, ASKED, now_s=NOW_S + VALID_S)


@given(st.text(max_size=300))
def test_nothing_else_is_a_code(text: str) -> None:
    with pytest.raises(Refused):
        approver(KEY, text, ASKED, now_s=NOW_S)
