"""The clients that tokens of the OpenID Connect issuer prove; a JWT is verified once and kept until
it ends.

Source: RFC 7519 (JWT), RFC 8725 (best current practices; kinds: section 3.11), RFC 9068 (claims and
kind of access tokens).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from mlplatform.runtime.configuration.issuer import Issuer
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.admission import signed_claims
from mlplatform.scoring.admission.clients import Client, Scope, check_client, parse_scope
from mlplatform.scoring.admission.gate import Credentials
from mlplatform.scoring.admission.jwks import IssuerKeys, VerifyKey
from mlplatform.scoring.admission.signed_claims import TokenRefused, named_key

MAX_TOKEN_BYTES: Final = 8192
MAX_KEPT: Final = 10_000
MAX_SCOPES: Final = 256
CLIENT_PREFIX: Final = "oidc:"
"""Prefix of names of clients with a token. No API key's client has a colon in its name, so nobody
gets another's records, retries or rate by choosing a name at the issuer."""

KINDS: Final = frozenset({"jwt", "at+jwt"})
"""Accepted values of `typ`. An issuer signs other things with the same keys (a logout, a DPoP
proof, a security event), and none of them lets its bearer in."""


class IssuerTokens:
    """`Credentials` of an issuer's tokens. Only verified tokens are kept, so that nobody else can
    fill the memory.

    Args:
        refused: called with the reason why a token is not accepted.
    """

    def __init__(self, issuer: Issuer, keys: IssuerKeys, refused: Callable[[str], None]) -> None:
        self._issuer = issuer
        self._keys = keys
        self._refused = refused
        self._verified: dict[bytes, Client] = {}
        self._verified_with: Mapping[str, VerifyKey] = {}

    def client(self, secret: bytes, digest: bytes) -> Client | None:
        keys = self._keys.current
        if keys is not self._verified_with:
            # Tokens signed with a withdrawn key are not valid any more.
            self._verified.clear()
            self._verified_with = keys
        client = self._verified.get(digest)
        if client is None:
            if secret.count(b".") != 2:
                return None
            client = self._new(secret, keys)
            if client is not None:
                self._keep(digest, client)
        elif client.until_s <= time.time():
            del self._verified[digest]
            self._refused("expired")
            return None
        return client

    def _new(self, token: bytes, keys: Mapping[str, VerifyKey]) -> Client | None:
        try:
            key = self._key(token, keys)
            return self._client(self._claims(token, key))
        except TokenRefused as refused:
            self._refused(refused.why)
        except (ValueError, TypeError, OverflowError, RecursionError):
            self._refused("invalid")
        return None

    def _key(self, token: bytes, keys: Mapping[str, VerifyKey]) -> VerifyKey:
        key = keys.get(named_key(token, KINDS, MAX_TOKEN_BYTES))
        if key is not None:
            return key
        if self._keys.is_fresh:
            raise TokenRefused("unknown-key")
        self._keys.want()
        self._refused("keys-awaited")
        detail = "the issuer's keys are being fetched: try again in a moment"
        raise Problem(503, "issuer-keys-awaited", detail, retry_after_s=1)

    def _claims(self, token: bytes, key: VerifyKey) -> dict[str, Any]:
        return signed_claims.claims(
            token,
            key,
            issuer=self._issuer.url,
            audience=self._issuer.audience,
            required=("exp", "iss", "aud"),
        )

    def _client(self, claims: Mapping[str, Any]) -> Client:
        name = claims.get(self._issuer.client_claim)
        try:
            client = CLIENT_PREFIX + check_client(name if isinstance(name, str) else "")
        except ConfigInvalid as error:
            raise TokenRefused("client-name") from error
        until_s = float(claims["exp"]) + signed_claims.LEEWAY_S
        found = scopes(claims.get(self._issuer.scopes_claim))
        return Client(client, found, "standard", None, until_s)

    def _keep(self, digest: bytes, client: Client) -> None:
        if len(self._verified) >= MAX_KEPT:
            del self._verified[next(iter(self._verified))]  # the oldest, to be verified again
        self._verified[digest] = client


class KeysAndTokens:
    """`Credentials` of both kinds. API keys are tried first, because a look-up is cheap."""

    def __init__(self, keys: Credentials, tokens: Credentials) -> None:
        self._keys = keys
        self._tokens = tokens

    def client(self, secret: bytes, digest: bytes) -> Client | None:
        return self._keys.client(secret, digest) or self._tokens.client(secret, digest)


def scopes(claim: object) -> frozenset[Scope]:
    """The scopes in a claim that are this platform's; others (`openid`) are ignored."""
    texts = claim.split() if isinstance(claim, str) else claim
    if not isinstance(texts, list):
        return frozenset()
    found = set()
    for text in texts[:MAX_SCOPES]:
        if isinstance(text, str) and ":" in text:
            try:
                found.add(parse_scope(text))
            except ConfigInvalid:
                continue
    return frozenset(found)


REFUSALS: Final = (
    *sorted(set(signed_claims.WHY.values())),
    "client-name",
    "invalid",
    "keys-awaited",
    "kind",
    "too-long",
    "unknown-key",
)
"""Why a token is not accepted, for the metrics."""
