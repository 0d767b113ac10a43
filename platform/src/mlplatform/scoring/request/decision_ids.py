"""Ids of decisions: unique, increasing with time, and verifiable: given out here, and to whom."""

from __future__ import annotations

import hashlib
import hmac
import os
from functools import lru_cache
from typing import Final, Literal

_TIME, _RANDOM, _OWNER, _MAC = 12, 10, 10, 10  # hexadecimal digits
_EARLIER, _LENGTH = _TIME + _RANDOM + _MAC, _TIME + _RANDOM + _OWNER + _MAC
_ID_PURPOSE = b"decision-id"
_CLIENT_PURPOSE = b"decision-asker"
_OWNER_PURPOSE: Final = b"decision-owner"

IdOwnership = Literal["own", "foreign", "unsaid", "unknown"]
"""The ownership of an id; `unsaid` if it was given out before ids named their client."""


def new_decision_id(model: str, client: str, wall_ms: int, key: bytes) -> str:
    """A new id of 42 hexadecimal digits: wall time, random digits, a keyed hash of the client that
    asks, and a keyed hash over all of these and the model. The hashes let a label for a decision be
    checked without a search through years of records."""
    return _sealed(model, _body(wall_ms) + _hashed(client, key, _CLIENT_PURPOSE), key)


def owned_decision_id(model: str, client: str, wall_ms: int, key: bytes) -> str:
    """A new id of a decision that is made later, for which its client may poll. The id alone shows
    that it is this client's, before any decision is stored under it."""
    return _sealed(model, _body(wall_ms) + _hashed(client, key, _OWNER_PURPOSE), key)


def is_known(model: str, decision_id: str, key: bytes) -> bool:
    """Whether the id was given out here, for this model and with this key."""
    if len(decision_id) not in (_EARLIER, _LENGTH) or not decision_id.isascii():
        return False
    body = decision_id[:-_MAC]
    return hmac.compare_digest(_mac(model, body, key), decision_id[-_MAC:])


def is_owned(model: str, client: str, decision_id: str, key: bytes) -> bool:
    """Whether `owned_decision_id` made the id, for this model and this client."""
    if len(decision_id) != _LENGTH or not is_known(model, decision_id, key):
        return False
    return hmac.compare_digest(_hashed(client, key, _OWNER_PURPOSE), _owner(decision_id))


def ownership(model: str, client: str, decision_id: str, key: bytes) -> IdOwnership:
    """The owner of an id of this model. The answer takes as long for a foreign id as for an
    unknown one."""
    known = is_known(model, decision_id, key)
    if len(decision_id) == _EARLIER:
        return "unsaid" if known else "unknown"
    owner = _owner(decision_id).encode()
    own = [
        hmac.compare_digest(_hashed(client, key, purpose).encode(), owner)
        for purpose in (_CLIENT_PURPOSE, _OWNER_PURPOSE)
    ]
    if not known:
        return "unknown"
    return "own" if any(own) else "foreign"


def made_ms(decision_id: str) -> int:
    """The wall time at which a known id was made."""
    return int(decision_id[:_TIME], 16)


def _body(wall_ms: int) -> str:
    return f"{wall_ms:0{_TIME}x}{os.urandom(_RANDOM // 2).hex()}"


def _sealed(model: str, body: str, key: bytes) -> str:
    return body + _mac(model, body, key)


def _mac(model: str, body: str, key: bytes) -> str:
    data = f"{model}/{body}".encode()
    return hashlib.blake2b(data, key=key, person=_ID_PURPOSE, digest_size=_MAC // 2).hexdigest()


def _owner(decision_id: str) -> str:
    return decision_id[-_MAC - _OWNER : -_MAC]


@lru_cache(maxsize=1024)  # per client; hashing is the slowest step here
def _hashed(client: str, key: bytes, purpose: bytes) -> str:
    data = client.encode()
    return hashlib.blake2b(data, key=key, person=purpose, digest_size=_OWNER // 2).hexdigest()
