"""Which OpenID Connect issuer's tokens this installation takes: none unless settings name one."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from mlplatform.runtime.configuration.declarations import DEFAULTS
from mlplatform.runtime.errors import ConfigInvalid

PREFIX = "MLPLATFORM_OIDC_"
MAX_LEEWAY_S = 300
DISCOVERY = "/.well-known/openid-configuration"

_CLAIM = re.compile(r"[A-Za-z0-9_:/.-]{1,128}")


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose tokens are taken, and where in them stands what.

    Args:
        url: exactly as it stands in the claim `iss`.
        audience: what must stand in the claim `aud`: the name of this API at the issuer.
        jwks_url: where its public keys are; empty: as its discovery document says.
        leeway_s: how far the issuer's clock and ours may differ.
        client_claim: whose value is the client's name.
        scopes_claim: whose value is its scopes, as one text with spaces or as a list.
    """

    url: str
    audience: str
    jwks_url: str = ""
    leeway_s: int = int(DEFAULTS["OIDC_LEEWAY_S"])
    client_claim: str = DEFAULTS["OIDC_CLIENT_CLAIM"]
    scopes_claim: str = DEFAULTS["OIDC_SCOPES_CLAIM"]

    @property
    def discovery_url(self) -> str:
        return self.url.rstrip("/") + DISCOVERY

    def environment(self) -> dict[str, str]:
        """The variables that say the same to a child process."""
        return {
            f"{PREFIX}ISSUER": self.url,
            f"{PREFIX}AUDIENCE": self.audience,
            f"{PREFIX}JWKS_URL": self.jwks_url,
            f"{PREFIX}LEEWAY_S": str(self.leeway_s),
            f"{PREFIX}CLIENT_CLAIM": self.client_claim,
            f"{PREFIX}SCOPES_CLAIM": self.scopes_claim,
        }


def issuer(environment: Mapping[str, str]) -> Issuer | None:
    """The issuer that MLPLATFORM_OIDC_* variables describe; None where none is set.

    Raises:
        ConfigInvalid: names the variable, its value and what is wanted.
    """
    given = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
    if not any(given.values()):
        return None
    url, audience = given.get(f"{PREFIX}ISSUER", ""), given.get(f"{PREFIX}AUDIENCE", "")
    if not is_trustworthy(url):
        raise ConfigInvalid(f"{PREFIX}ISSUER", url, "an https URL, or http on this machine")
    if not audience.strip():
        # Without it, a token that the issuer made for any other service would open this one.
        raise ConfigInvalid(f"{PREFIX}AUDIENCE", audience, "the name of this API at the issuer")
    jwks_url = given.get(f"{PREFIX}JWKS_URL", "")
    if jwks_url and not is_trustworthy(jwks_url):
        raise ConfigInvalid(f"{PREFIX}JWKS_URL", jwks_url, "an https URL, or http on this machine")
    return Issuer(
        url=url,
        audience=audience,
        jwks_url=jwks_url,
        leeway_s=_leeway(given.get(f"{PREFIX}LEEWAY_S") or DEFAULTS["OIDC_LEEWAY_S"]),
        client_claim=_claim(given, "CLIENT_CLAIM"),
        scopes_claim=_claim(given, "SCOPES_CLAIM"),
    )


def is_trustworthy(url: str) -> bool:
    """Whether keys from there are its owner's: https, or http that does not leave this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if not host or parts.username is not None or parts.query or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _leeway(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > MAX_LEEWAY_S:
        raise ConfigInvalid(f"{PREFIX}LEEWAY_S", text, f"seconds, 0 to {MAX_LEEWAY_S}")
    return int(text)


def _claim(given: Mapping[str, str], name: str) -> str:
    text = given.get(PREFIX + name) or DEFAULTS[f"OIDC_{name}"]
    if not _CLAIM.fullmatch(text):
        raise ConfigInvalid(PREFIX + name, text, "the name of a claim")
    return text
