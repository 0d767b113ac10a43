"""Proof that the platform gave this approver a code for this answer to this evidence.

A code is bound to the approver, the rollout, the digest of the evidence that was shown, and the
answer; it ends after some minutes. It counts once, as a journal takes one answer to a question.
Where an identity provider proved the approver, the code carries issuer and subject into the answer.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

import msgspec

from mlplatform.rollouts.journal.transitions import Answer, ProvenIdentity
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import Refused

VALID_S: Final = 600
"""Validity of a code: from showing the evidence until the answer, to read it again and to type."""
MAC_BYTES: Final = 15
MOST_CHARACTERS: Final = 2_000
"""Longest code. Issuer, subject and the names of an account are most of it; a key's code has 130
characters."""
PROVIDER: Final = "provider"
"""Stands in the place of a key's id, which is hexadecimal."""
_WHO_AM_I: Final = b"mlplatform.approve"


@dataclass(frozen=True, slots=True)
class Question:
    """The question that an approver answers.

    Args:
        evidence: digest of the evidence that the rollout's journal showed with the question.
    """

    rollout_id: str
    evidence: str
    answer: Answer


@dataclass(frozen=True, slots=True)
class Approver:
    """The approver, with the key or the account that proved who it is.

    Args:
        key_id: id of the key as `keys list` shows it; `PROVIDER` if an identity provider proved the
            person.
        identity: identity that the provider proved; None if a key proved the person.
    """

    name: str
    key_id: str
    identity: ProvenIdentity | None = None

    @classmethod
    def by_provider(cls, name: str, identity: ProvenIdentity) -> Approver:
        """An approver whom an identity provider has proven."""
        return cls(name, PROVIDER, identity)

    @property
    def proof(self) -> str:
        """The proof of the approver, in words."""
        return f"key {self.key_id}" if self.identity is None else str(self.identity)


def code(key: bytes, approver: Approver, question: Question, *, until_s: int) -> str:
    """The code of an approver who has been proven.

    Args:
        key: approval key of this installation.
        until_s: end of the code's life, in epoch seconds.

    Raises:
        Refused: the code would be too long, because of the names of the approver's account.
    """
    mac = _mac(key, approver, question, until_s)
    made = f"{approver.name}:{approver.key_id}:{until_s}:{mac}"
    if approver.identity is not None:
        made += f":{_encoded(approver.identity)}"
    if len(made) > MOST_CHARACTERS:
        raise Refused(
            f"a code of {approver.name} has {len(made)} characters; the limit is {MOST_CHARACTERS}:"
            " answer on the page itself"
        )
    return made


def approver(key: bytes, text: str, question: Question, *, now_s: float) -> Approver:
    """The approver whose code this is.

    Raises:
        Refused: the text is not a code, the code has expired, or it was given for another answer,
            rollout or evidence.
    """
    code = text.strip()
    parts = code.split(":")
    wanted = _PARTS + (parts[1:2] == [PROVIDER])
    if len(code) > MOST_CHARACTERS or not code.isascii() or len(parts) != wanted:
        raise Refused(f"this is not a code; {_HOW.format(question.rollout_id)}")
    name, key_id, until, mac, *account = parts
    if not until.isdigit():
        raise Refused(f"this is not a code; {_HOW.format(question.rollout_id)}")
    found = Approver(name, key_id, _decoded(account[0], question) if account else None)
    if not hmac.compare_digest(mac, _mac(key, found, question, int(until))):
        raise Refused(
            f"the code was not given for this answer of {name!a} to this evidence of"
            f" {question.rollout_id}; {_HOW.format(question.rollout_id)}"
        )
    if now_s >= int(until):
        minutes = VALID_S // 60
        how = _HOW.format(question.rollout_id)
        raise Refused(f"the code of {name} has expired: a code is valid {minutes} minutes; {how}")
    return found


def claimed_identity(text: str) -> str:
    """The identity that a code claims, which proves nothing."""
    return text.strip().partition(":")[0]


_PARTS: Final = 4
_HOW: Final = "the page and `mlplatform rollouts approve {} --code` give one"


def _encoded(identity: ProvenIdentity) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(identity)).decode().rstrip("=")


def _decoded(text: str, question: Question) -> ProvenIdentity:
    try:
        padded = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        return msgspec.json.decode(padded, type=ProvenIdentity)
    except (ValueError, *NOT_JSON) as error:
        raise Refused(f"this is not a code; {_HOW.format(question.rollout_id)}") from error


def _mac(key: bytes, approver: Approver, question: Question, until_s: int) -> str:
    """Source: BLAKE2b keyed mode, RFC 7693; base 32, RFC 4648."""
    mac = hashlib.blake2b(key=key, digest_size=MAC_BYTES, person=_WHO_AM_I[:16])
    fields: tuple[str, ...] = (
        *(approver.name, approver.key_id, str(until_s)),
        *(question.rollout_id, question.evidence, question.answer),
    )
    if approver.identity is not None:
        fields += (_encoded(approver.identity),)
    for field in fields:
        mac.update(len(field.encode()).to_bytes(4, "big") + field.encode())
    return base64.b32encode(mac.digest()).decode()
