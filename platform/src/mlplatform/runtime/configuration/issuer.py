"""The OpenID Connect issuer whose tokens this installation accepts: none unless settings name
one."""

from __future__ import annotations

from dataclasses import dataclass

from mlplatform.runtime.configuration.declarations import DEFAULTS


@dataclass(frozen=True, slots=True)
class Issuer:
    """The issuer whose tokens are taken, and the claims of a token that the gateway reads.

    A field means what its row of `declarations` says (`OIDC_...`).

    Args:
        scopes_claim: name of the claim with the scopes, as one text with spaces or as a list.
    """

    url: str
    audience: str
    jwks_url: str = ""
    client_claim: str = DEFAULTS["OIDC_CLIENT_CLAIM"]
    scopes_claim: str = DEFAULTS["OIDC_SCOPES_CLAIM"]


def discovery_url(url: str) -> str:
    """Where an issuer or identity provider says what it offers.

    Source: OpenID Connect Discovery 1.0, section 4.
    """
    return url.rstrip("/") + "/.well-known/openid-configuration"
