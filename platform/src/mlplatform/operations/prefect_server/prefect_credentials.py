"""Credentials in requests to Prefect's gate: what a caller presents, before anybody is proven."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Iterable
from typing import Any, Final

from mlplatform.runtime.http.cross_site_guard import Scope

MOST_FIRST_BYTES: Final = 4096
"""Most bytes of a socket's first message, which is read before its sender is proven."""


def credentials_of(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, bytes] | None:
    """Name and secret; None if there are none or several pairs."""
    values = [value for name, value in headers if name == b"authorization"]
    if len(values) != 1:
        return None
    scheme, _, value = values[0].partition(b" ")
    if scheme.lower() == b"bearer":
        return "", value.strip()
    if scheme.lower() != b"basic":
        return None
    try:
        name, _, secret = base64.b64decode(value.strip(), validate=True).partition(b":")
        return name.decode(), secret
    except (binascii.Error, UnicodeDecodeError):
        return "", b""


def matches(secret: bytes, token: str) -> bool:
    """Whether a caller's secret is this token, in constant time; no secret is an empty token."""
    return bool(token) and hmac.compare_digest(secret, token.encode())


def says_who(scope: Scope) -> bool:
    """Whether a socket speaks Prefect's own protocol, in which the first message holds a token."""
    return "prefect" in scope.get("subprotocols", ())


def first_token(message: Any) -> str:
    """The token of a first message; empty if there is none."""
    text = message.get("text") or message.get("bytes") or b""
    if len(text) > MOST_FIRST_BYTES:
        return ""
    try:
        first = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(first, dict) or first.get("type") != "auth":
        return ""
    return str(first.get("token") or "")
