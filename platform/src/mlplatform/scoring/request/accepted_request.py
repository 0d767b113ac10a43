"""A request that was accepted to be scored later, in the form in which it travels between gateways.

It leaves the gateway through the decision log and a topic, and a worker brings it back. Its keyed
hash proves that it is unchanged: a user who can write to the topic cannot forge one.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated, Any

import msgspec
from msgspec import Meta

_PURPOSE = b"accepted-request"
_encode = msgspec.json.Encoder().encode

Text = Annotated[str, Meta(max_length=256)]


class AcceptedRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request that a gateway accepted, byte for byte as the topic of requests holds it.

    `request` holds the fields as they are stored, pseudonyms in place of what is pseudonymous.
    """

    decision_id: Text
    client: Text
    event_ms: int
    request: dict[str, Any]
    trace_id: Text | None
    mac: Text = ""


def sealed(model: str, accepted: AcceptedRequest, key: bytes) -> AcceptedRequest:
    """The request with its keyed hash."""
    return msgspec.structs.replace(accepted, mac=_mac(model, accepted, key))


def is_genuine(model: str, accepted: AcceptedRequest, key: bytes) -> bool:
    """Whether a gateway of this installation accepted exactly this, for this model."""
    return hmac.compare_digest(_mac(model, accepted, key).encode(), accepted.mac.encode())


def _mac(model: str, accepted: AcceptedRequest, key: bytes) -> str:
    data = _encode((model, msgspec.structs.replace(accepted, mac="")))
    return hashlib.blake2b(data, key=key, person=_PURPOSE, digest_size=16).hexdigest()


def answer_owner(client: str) -> str:
    """The owner of answers to accepted requests, by decision id. Names of clients hold no slash, so
    these keys never meet an Idempotency-Key."""
    return f"{client}/decisions"
