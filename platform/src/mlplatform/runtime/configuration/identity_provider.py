"""The identity provider at which people sign in to the page: none unless settings name one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mlplatform.runtime.configuration.declarations import DEFAULTS


@dataclass(frozen=True, slots=True)
class IdentityProvider:
    """An OpenID Connect provider at which people sign in, and the claims that the page reads.

    A field means what its row of `declarations` says (`SIGN_IN_...`).

    Args:
        client_secret_file: file that is read at each sign-in; None for a public client, which only
            PKCE protects.
    """

    url: str
    client_id: str
    roles: Path
    client_secret_file: Path | None = None
    scope: str = DEFAULTS["SIGN_IN_SCOPE"]
    groups_claim: str = DEFAULTS["SIGN_IN_GROUPS_CLAIM"]
    name_claim: str = DEFAULTS["SIGN_IN_NAME_CLAIM"]

    @property
    def host(self) -> str:
        """The provider's host, by which people know it."""
        return urlsplit(self.url).netloc
