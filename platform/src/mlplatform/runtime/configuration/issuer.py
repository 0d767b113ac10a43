"""Which OpenID Connect issuer's tokens this installation takes: none unless settings name one."""

from __future__ import annotations

from dataclasses import dataclass

from mlplatform.runtime.configuration.declarations import DEFAULTS

DISCOVERY = "/.well-known/openid-configuration"


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose tokens are taken, and where in them stands what.

    Args:
        url: exactly as it stands in the claim `iss`.
        audience: what must stand in the claim `aud`: the name of this API at the issuer.
        jwks_url: where its public keys are; empty: as its discovery document says.
        client_claim: whose value is the client's name.
        scopes_claim: whose value is its scopes, as one text with spaces or as a list.
    """

    url: str
    audience: str
    jwks_url: str = ""
    client_claim: str = DEFAULTS["OIDC_CLIENT_CLAIM"]
    scopes_claim: str = DEFAULTS["OIDC_SCOPES_CLAIM"]

    @property
    def discovery_url(self) -> str:
        return self.url.rstrip("/") + DISCOVERY
