"""The port of claims on idempotency keys that gateways with logs of their own share.

A key is free, claimed by one decision, or settled by one. A claim holds for `LEASE_MS` by the
store's own clock; then the next request takes it over with a higher token. A settled key has one
answer until it ends. The store decides who is first, and nothing else: the log holds the decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from mlplatform.decisions.records.port import StoredAnswer

LEASE_MS: Final = 5_000
"""Longer than any usual deadline: a request under way keeps its key. A gateway that ends holds its
keys so long from others."""


class KeyClaim(msgspec.Struct, frozen=True):
    """Claim a key for a decision that is to be made.

    Args:
        key: `kept_keys.key_digest` of client, model and key.
        body_digest: digest of the request, whose first `BODY_DIGITS` characters are stored.
        decision_id: 42 hexadecimal digits, which no other claim has.
        known: the answer that this gateway's own log has under the key. It settles the key, unless
            another decision did, has a claim, or was made in its place.
    """

    key: bytes
    body_digest: str
    decision_id: str
    keep_ms: int
    known: StoredAnswer | None = None


class KeyCompletion(msgspec.Struct, frozen=True):
    """Settle a key by a decision that is on record.

    Args:
        token: the claim's token; 0 if the decision was made without a claim.
        score: the decision's score, as the answer has it.
    """

    key: bytes
    body_digest: str
    decision_id: str
    keep_ms: int
    token: int
    answer: bytes
    score: float | None


class KeyRelease(msgspec.Struct, frozen=True):
    """Give up a claim whose request was not answered.

    Args:
        may_be_recorded: whether a record of the decision may exist, now or later. Then the next
            claim is a take-over, which names the decision as an earlier one.
    """

    key: bytes
    decision_id: str
    may_be_recorded: bool


class ClaimedKey(msgspec.Struct, frozen=True):
    """The key is the caller's until its lease ends.

    Args:
        token: 1 for the first claim of a key, and one more with each take-over.
        earlier: decisions whose claims ended without an answer. Their records may exist, or come
            yet: the gateway that decides now voids them.
    """

    token: int
    earlier: tuple[str, ...] = ()


class SettledKey(msgspec.Struct, frozen=True):
    """The key has this answer.

    Args:
        superseded: decisions that had claims on the key when a known answer settled it.
    """

    stored: StoredAnswer
    superseded: tuple[str, ...] = ()


class HeldKey(msgspec.Struct, frozen=True):
    """Another decision has the key, for so many milliseconds more if nobody settles it."""

    left_ms: int


class LostAnswer(msgspec.Struct, frozen=True):
    """The key is settled, and the store has lost the text of its answer."""


ClaimStep = KeyClaim | KeyCompletion | KeyRelease
ClaimResult = ClaimedKey | SettledKey | HeldKey | LostAnswer | None
"""The result of a step; None for a release."""


class ClaimStore(Protocol):
    """Claims that several gateways share; for one event loop, safe for processes."""

    async def carry_out(self, steps: Sequence[ClaimStep]) -> list[ClaimResult]:
        """Carry out steps in one round trip, each of them atomically. Returns their results in
        order. A step may be sent again: it has the same result.

        Raises:
            Unavailable: the store did not answer; any of the steps may have been carried out.
        """
        ...

    async def doubts(self) -> list[str]:
        """Why the store may forget keys before they end, as it says itself.

        Raises:
            Unavailable: the store did not answer.
        """
        ...

    async def close(self) -> None: ...
