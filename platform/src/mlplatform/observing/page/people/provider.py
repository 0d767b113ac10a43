"""The page's calls of the identity provider: discovery, the exchange of a code, its keys.

Source: OpenID Connect Discovery 1.0; OpenID Connect Core 1.0 section 3.1; RFC 6749 section 2.3.1.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

import msgspec

from mlplatform.observing.page.people.attempts import Attempt
from mlplatform.observing.page.people.identity import Person, check_answers, person
from mlplatform.observing.page.people.roles import Roles
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.configuration.identity_provider import IdentityProvider
from mlplatform.runtime.configuration.issuer import Issuer, discovery_url
from mlplatform.runtime.configuration.kinds import is_trustworthy
from mlplatform.runtime.errors import Refused, Unavailable
from mlplatform.runtime.http.json_fetch import fetch, post
from mlplatform.runtime.http.listener import read_token
from mlplatform.runtime.text import shown
from mlplatform.runtime.units import KIB
from mlplatform.scoring.admission import signed_claims
from mlplatform.scoring.admission.clients import ANY, Scope
from mlplatform.scoring.admission.jwks import IssuerKeys
from mlplatform.scoring.admission.signed_claims import MEANINGS, TokenRefused, named_key

ANSWER_S: Final = 5.0
"""Seconds to connect, and again for an answer from its first byte to its last."""
MOST_BYTES: Final = 256 * KIB
MOST_TOKEN_BYTES: Final = 64 * KIB
MIN_REFRESH_S: Final = 1.0
"""Least seconds between two fetches of keys; each fetch needs a code for which the provider gave a
token."""
AT_PROVIDER: Final = "/sign-in/provider"
RETURN: Final = "/sign-in/return"
"""Paths of the page: where a sign-in begins, and where the provider sends browsers back to."""
KINDS: Final = frozenset({"jwt"})
"""Kinds of ID tokens; an access token has another kind (RFC 9068 section 4)."""

log = logging.getLogger(__name__)


class Metadata(msgspec.Struct, frozen=True):
    """The fields of a discovery document that are used."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    end_session_endpoint: str = ""
    code_challenge_methods_supported: tuple[str, ...] = ("S256",)
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False


class _TokenReply(msgspec.Struct, frozen=True):
    id_token: str


class _Error(msgspec.Struct, frozen=True):
    error: str
    error_description: str = ""


@dataclass(frozen=True, slots=True)
class AuthorizationResponse:
    """The parameters with which the provider sends a browser back.

    Args:
        code: the authorization code; empty if the provider refused.
        issuer: the parameter `iss` (RFC 9207); None if there is none.
        error: the provider's error; empty if it gave a code.
    """

    code: str
    issuer: str | None
    error: str


class Provider:
    """One provider. Methods ask it over the network, on threads; nothing of its answers is stored
    on disk.

    Args:
        page: the page's address as browsers use it. With another host name, browsers would not send
            the cookie of the sign-in.
    """

    def __init__(self, settings: IdentityProvider, roles: Roles, page: str) -> None:
        self.settings = settings
        self.begins_at = page + AT_PROVIDER
        self._roles = roles
        self._returns_to = page + RETURN
        self._found: Metadata | None = None
        self._keys: Mapping[str, IssuerKeys] = {}

    def authorization_url(self, state: str, attempt: Attempt) -> str:
        """The URL to which a browser goes to sign in.

        It asks for the discovery document first, so that nobody is sent to a provider that does not
        answer.
        """
        found = self._discover()
        asked = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": self._returns_to,
            "scope": self.settings.scope,
            "state": state,
            "nonce": attempt.nonce,
            "code_challenge": attempt.challenge,
            "code_challenge_method": "S256",
        }
        return f"{found.authorization_endpoint}?{urlencode(asked)}"

    def sign_out_url(self) -> str:
        """The URL at which a person ends the session at the provider; empty if the provider names
        none.

        Source: OpenID Connect RP-Initiated Logout 1.0, without the ID token: the provider asks.
        """
        found = self._found
        if found is None or not is_trustworthy(found.end_session_endpoint):
            return ""
        return f"{found.end_session_endpoint}?{urlencode({'client_id': self.settings.client_id})}"

    def person(self, answer: AuthorizationResponse, attempt: Attempt) -> Person:
        """The person who has signed in at the provider.

        Raises:
            Refused: who signs in has no role here, or the token is not accepted; the message says
                why.
            Unavailable: the provider does not answer.
            ConfigInvalid: the client's secret can't be read.
        """
        found = self._found or self._discover()
        wants_issuer = found.authorization_response_iss_parameter_supported
        if (answer.issuer or wants_issuer) and answer.issuer != self.settings.url:
            raise Refused(f"the answer is not of {self.settings.url}: its iss is another one")
        if answer.error:
            raise Refused(f"{self.settings.host} refused: {_plain(answer.error)}")
        if not answer.code:
            raise Refused(f"{self.settings.host} gave no code")
        claims = self._claims(self._redeemed(found, answer.code, attempt), found)
        check_answers(claims, self.settings.client_id, attempt.nonce)
        return person(claims, self.settings, self._roles)

    def groups_that_approve(self, model: str) -> tuple[str, ...]:
        """Groups of the provider whose people may approve rollouts of a model, in order."""
        wanted = {Scope(model, "approve"), Scope(ANY, "approve")}
        return tuple(sorted(name for name, s in self._roles.groups.items() if s & wanted))

    def _discover(self) -> Metadata:
        url = discovery_url(self.settings.url)
        try:
            document = fetch(url, timeout_s=ANSWER_S, most_bytes=MOST_BYTES)
            found = msgspec.json.decode(document, type=Metadata)
        except NOT_JSON as error:
            raise Unavailable(f"there is no discovery document at {url}") from error
        if found.issuer != self.settings.url:
            raise Unavailable(f"the discovery document at {url} is of {_plain(found.issuer)}")
        for endpoint in (found.authorization_endpoint, found.token_endpoint, found.jwks_uri):
            if not is_trustworthy(endpoint):
                named = _plain(endpoint)
                raise Unavailable(f"{url} names {named}, which is not an https URL without a query")
        if "S256" not in found.code_challenge_methods_supported:
            raise Unavailable(
                f"{url} does not offer PKCE with S256, which every sign-in here needs"
            )
        self._found = found
        return found

    def _redeemed(self, found: Metadata, code: str, attempt: Attempt) -> bytes:
        """The ID token in exchange for a code."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._returns_to,
            "code_verifier": attempt.verifier,
        }
        more, headers = self._proof_of_client(found)
        url = found.token_endpoint
        limits: dict[str, Any] = {"timeout_s": ANSWER_S, "most_bytes": MOST_BYTES}
        status, body = post(url, form | more, headers, **limits)
        try:
            if status == 200:
                return msgspec.json.decode(body, type=_TokenReply).id_token.encode()
            refusal = msgspec.json.decode(body, type=_Error)
        except NOT_JSON as error:
            raise Unavailable(f"{url} answers {status} without a token") from error
        why = f"{refusal.error} {refusal.error_description}".strip()
        raise Refused(f"{self.settings.host} gives no token for this code: {_plain(why)}")

    def _proof_of_client(self, found: Metadata) -> tuple[dict[str, str], dict[str, str]]:
        """Fields and headers that prove which client asks."""
        file, name = self.settings.client_secret_file, self.settings.client_id
        if file is None:
            return {"client_id": name}, {}
        secret = read_token(file)
        methods = found.token_endpoint_auth_methods_supported
        if "client_secret_basic" not in methods and "client_secret_post" in methods:
            return {"client_id": name, "client_secret": secret}, {}
        pair = f"{quote_plus(name)}:{quote_plus(secret)}".encode()
        return {}, {"authorization": f"Basic {base64.b64encode(pair).decode()}"}

    def _claims(self, token: bytes, found: Metadata) -> Mapping[str, Any]:
        try:
            kid = named_key(token, KINDS, MOST_TOKEN_BYTES)
            keys = self._keys_of(found)
            if kid not in keys.current and not keys.is_fresh:
                keys.refresh()
            key = keys.current.get(kid)
            if key is None:
                raise TokenRefused("unknown-key")
            return signed_claims.claims(
                token,
                key,
                issuer=self.settings.url,
                audience=self.settings.client_id,
                required=("exp", "iat", "iss", "aud", "sub", "nonce"),
            )
        except TokenRefused as refused:
            why = MEANINGS[refused.why]
            raise Refused(f"the token of {self.settings.host} is not accepted: {why}") from None
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            why = MEANINGS["malformed"]
            raise Refused(f"the token of {self.settings.host} is not accepted: {why}") from error

    def _keys_of(self, found: Metadata) -> IssuerKeys:
        if found.jwks_uri not in self._keys:
            issuer = Issuer(self.settings.url, self.settings.client_id, found.jwks_uri)
            keys = IssuerKeys(issuer, lambda _: None, min_refresh_s=MIN_REFRESH_S)
            self._keys = {found.jwks_uri: keys}
        return self._keys[found.jwks_uri]


def _plain(text: str) -> str:
    """A text of the provider in a form that a page and a log can show."""
    return shown(text[:200])
