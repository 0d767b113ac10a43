"""Names of decisions: unique, rising with time, and recognisable as given out here."""

from __future__ import annotations

import hashlib
import hmac
import os

_TIME, _RANDOM, _OWNER, _MAC = 12, 10, 10, 10  # hexadecimal digits
_LENGTHS = (_TIME + _RANDOM + _MAC, _TIME + _RANDOM + _OWNER + _MAC)
_PURPOSE = b"decision-id"
_OWNING = b"decision-owner"


def new_decision_id(model: str, wall_ms: int, key: bytes) -> str:
    """32 hexadecimal digits: wall time, chance, and a keyed hash over both and the model.

    The hash lets a label for a decision be checked without a search through years of records.
    """
    return _sealed(model, _body(wall_ms), key)


def owned_decision_id(model: str, client: str, wall_ms: int, key: bytes) -> str:
    """42 hexadecimal digits: as above, with a keyed hash of the client that may poll for it.

    So whether an id that no decision is stored under yet is this client's needs no look-up.
    """
    return _sealed(model, _body(wall_ms) + _owner(client, key), key)


def is_known(model: str, decision_id: str, key: bytes) -> bool:
    """Whether one of the two above made it, for this model and with this key."""
    if len(decision_id) not in _LENGTHS or not decision_id.isascii():
        return False
    body = decision_id[:-_MAC]
    return hmac.compare_digest(_mac(model, body, key), decision_id[-_MAC:])


def is_owned(model: str, client: str, decision_id: str, key: bytes) -> bool:
    """Whether `owned_decision_id` made it, for this model and this client."""
    if len(decision_id) != _LENGTHS[1] or not is_known(model, decision_id, key):
        return False
    owner = decision_id[-_MAC - _OWNER : -_MAC]
    return hmac.compare_digest(_owner(client, key), owner)


def made_ms(decision_id: str) -> int:
    """The wall time at which a known id was made."""
    return int(decision_id[:_TIME], 16)


def _body(wall_ms: int) -> str:
    return f"{wall_ms:0{_TIME}x}{os.urandom(_RANDOM // 2).hex()}"


def _sealed(model: str, body: str, key: bytes) -> str:
    return body + _mac(model, body, key)


def _mac(model: str, body: str, key: bytes) -> str:
    data = f"{model}/{body}".encode()
    return hashlib.blake2b(data, key=key, person=_PURPOSE, digest_size=_MAC // 2).hexdigest()


def _owner(client: str, key: bytes) -> str:
    data = client.encode()
    return hashlib.blake2b(data, key=key, person=_OWNING, digest_size=_OWNER // 2).hexdigest()
