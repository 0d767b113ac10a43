"""The claims of an issuer's signed token, once its signature and its times are verified.

The algorithm is the key's, not the token's choice; keys named by URL or carried in a token are
never looked at.

Source: RFC 7519 (JWT), RFC 8725 (best current practices; kinds: section 3.11).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import jwt

from mlplatform.scoring.admission.jwks import VerifyKey

LEEWAY_S: Final = 30
"""Seconds by which an issuer's clock and this one may differ. NTP keeps both to well below a
second. Tokens live for minutes, and more leeway would only prolong stolen ones."""


class TokenRefused(Exception):
    """The reason why a token is not accepted: a word of `WHY`, or of the code that reads the
    claims."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def named_key(token: bytes, kinds: Collection[str], most_bytes: int) -> str:
    """The id of the key that has signed a token, as the token says.

    Args:
        kinds: allowed values of `typ`, in lower case.

    Raises:
        TokenRefused: the token is too long, malformed or of another kind, or names no key.
    """
    if len(token) > most_bytes:
        raise TokenRefused("too-long")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise TokenRefused("malformed") from error
    if "typ" in header and not _is_of(kinds, header["typ"]):
        raise TokenRefused("kind")
    kid = header.get("kid")
    if not isinstance(kid, str):
        raise TokenRefused("unknown-key")
    return kid


def claims(
    token: bytes,
    key: VerifyKey,
    *,
    issuer: str,
    audience: str,
    required: Sequence[str],
) -> dict[str, Any]:
    """The claims of a token that this key has signed, of this issuer and for this audience, and
    that holds now.

    Raises:
        TokenRefused: the token is not signed by the key, is for another issuer or audience, or does
            not hold now.
        ValueError, TypeError, OverflowError, RecursionError: a claim is malformed.
    """
    try:
        found: dict[str, Any] = jwt.decode(
            token,
            key.key,
            algorithms=list(key.algorithms),
            audience=audience,
            issuer=issuer,
            leeway=LEEWAY_S,
            options={"require": list(required)},
        )
    except jwt.PyJWTError as error:
        raise TokenRefused(WHY.get(type(error), "invalid")) from error
    return found


def _is_of(kinds: Collection[str], typ: object) -> bool:
    """Whether `typ` is one of these kinds. Case does not matter, and `application/` may be left out
    (RFC 7515 section 4.1.9)."""
    return isinstance(typ, str) and typ.lower().removeprefix("application/") in kinds


WHY: Final[Mapping[type[Exception], str]] = {
    jwt.ExpiredSignatureError: "expired",
    jwt.ImmatureSignatureError: "not-yet",
    jwt.InvalidIssuedAtError: "not-yet",
    jwt.InvalidAudienceError: "audience",
    jwt.InvalidIssuerError: "issuer",
    jwt.InvalidAlgorithmError: "algorithm",
    jwt.InvalidSignatureError: "signature",
    jwt.MissingRequiredClaimError: "claims",
    jwt.DecodeError: "malformed",
}
MEANINGS: Final[Mapping[str, str]] = {
    "algorithm": "it is signed by an algorithm that its key does not allow",
    "audience": "it is for another client",
    "claims": "it lacks a claim",
    "expired": "it has expired",
    "invalid": "a claim of it is invalid",
    "issuer": "it is of another issuer",
    "kind": "it is of another type",
    "malformed": "it can't be read",
    "not-yet": "it is not valid yet: the clocks may differ",
    "signature": "its signature does not match",
    "too-long": "it is too long",
    "unknown-key": "its key is not one of its issuer's",
}
"""Reason of a `TokenRefused` that this module gives, or whoever chooses the key → its meaning."""
