"""Names of decisions: unique, rising with time, and recognisable as given out here."""

from __future__ import annotations

import hashlib
import hmac
import secrets

_TIME, _RANDOM, _MAC = 12, 10, 10  # hexadecimal digits
_LENGTH = _TIME + _RANDOM + _MAC
_PURPOSE = b"decision-id"


def new_decision_id(model: str, wall_ms: int, key: bytes) -> str:
    """32 hexadecimal digits: wall time, chance, and a keyed hash over both and the model.

    The hash lets a label for a decision be checked without a search through years of records.
    """
    body = f"{wall_ms:0{_TIME}x}{secrets.token_hex(_RANDOM // 2)}"
    return body + _mac(model, body, key)


def is_known(model: str, decision_id: str, key: bytes) -> bool:
    """Whether `new_decision_id` made it, for this model and with this key."""
    if len(decision_id) != _LENGTH or not decision_id.isascii():
        return False
    body = decision_id[:-_MAC]
    return hmac.compare_digest(_mac(model, body, key), decision_id[-_MAC:])


def _mac(model: str, body: str, key: bytes) -> str:
    data = f"{model}/{body}".encode()
    return hashlib.blake2b(data, key=key, person=_PURPOSE, digest_size=_MAC // 2).hexdigest()
