"""Proof that the platform gave this approver a code for this answer to this evidence.

A code is bound to the approver, the rollout, the digest of the evidence that was shown, and the
answer; it ends after some minutes. It counts once, as a journal takes one answer to a question.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from mlplatform.rollouts.journal.transitions import Answer
from mlplatform.runtime.errors import Refused

VALID_S: Final = 600
"""From when the evidence was shown until the answer: to read it again, and to type."""
MAC_BYTES: Final = 15
MOST_CHARACTERS: Final = 200
PROVIDER: Final = "provider"
"""In the place of a key's id, which is hexadecimal."""
_WHO_AM_I: Final = b"mlplatform.approve"


@dataclass(frozen=True, slots=True)
class Question:
    """What is answered.

    Args:
        evidence: digest of the evidence that the rollout's journal asked with.
    """

    rollout_id: str
    evidence: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class Approver:
    """Who answers, and by which key that was proven.

    Args:
        key_id: as `keys list` shows it; `PROVIDER`: an identity provider proved it.
    """

    name: str
    key_id: str


def code(key: bytes, approver: Approver, question: Question, *, until_s: int) -> str:
    """The code of an approver who has been proven.

    Args:
        key: of this installation.
        until_s: when it ends, epoch seconds.
    """
    mac = _mac(key, approver, question, until_s)
    return f"{approver.name}:{approver.key_id}:{until_s}:{mac}"


def approver(key: bytes, text: str, question: Question, *, now_s: float) -> Approver:
    """Whose answer a code is.

    Raises:
        Refused: it is none, has ended, or was given for another answer, rollout or evidence.
    """
    given = text.strip()
    parts = given.split(":")
    if len(given) > MOST_CHARACTERS or not given.isascii() or len(parts) != _PARTS:
        raise Refused(f"this is no code; {_HOW.format(question.rollout_id)}")
    name, key_id, until, mac = parts
    if not until.isdigit():
        raise Refused(f"this is no code; {_HOW.format(question.rollout_id)}")
    found = Approver(name, key_id)
    if not hmac.compare_digest(mac, _mac(key, found, question, int(until))):
        raise Refused(
            f"the code was not given for this answer of {name!a} to this evidence of"
            f" {question.rollout_id}; {_HOW.format(question.rollout_id)}"
        )
    if now_s >= int(until):
        minutes = VALID_S // 60
        how = _HOW.format(question.rollout_id)
        raise Refused(f"the code of {name} ended: it is good for {minutes} minutes; {how}")
    return found


def named(text: str) -> str:
    """Whose a code says that it is, which proves nothing."""
    return text.strip().partition(":")[0]


_PARTS: Final = 4
_HOW: Final = "`mlplatform rollouts approve {} --code` gives one"


def _mac(key: bytes, approver: Approver, question: Question, until_s: int) -> str:
    """Source: BLAKE2b keyed mode, RFC 7693; base 32, RFC 4648."""
    mac = hashlib.blake2b(key=key, digest_size=MAC_BYTES, person=_WHO_AM_I[:16])
    fields = (
        *(approver.name, approver.key_id, str(until_s)),
        *(question.rollout_id, question.evidence, question.answer),
    )
    for field in fields:
        mac.update(len(field.encode()).to_bytes(4, "big") + field.encode())
    return base64.b32encode(mac.digest()).decode()
