"""The public keys of an issuer, fetched in a thread and read anywhere.

Source: RFC 7517 (JWK Set), RFC 7518 section 6 (key types), OpenID Connect Discovery 1.0 section 4.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.configuration.issuer import Issuer, discovery_url
from mlplatform.runtime.configuration.kinds import is_trustworthy
from mlplatform.runtime.errors import PlatformError, Unavailable
from mlplatform.runtime.http.json_fetch import fetch
from mlplatform.runtime.units import KIB

REFRESH_S: Final = 300.0
MIN_REFRESH_S: Final = 10.0
"""Least seconds between two fetches, however many are asked for: any caller can name an unknown
key."""

FETCH_S: Final = 5.0
"""Longest time in seconds to connect to an address, and longest time of its answer from first to
last byte."""

STOP_S: Final = 1.0
MAX_JWKS_BYTES: Final = 256 * KIB
MAX_KEYS: Final = 64
MIN_RSA_BITS: Final = 2048

_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A public key, with the signatures that it may verify: those of its kind."""

    key: Any
    algorithms: tuple[str, ...]


Fetch = Callable[[str], bytes]


class IssuerKeys:
    """Public keys of an issuer, by id. Fetched keys stay while the issuer does not answer.

    Args:
        fetched: called after every fetch, with whether it succeeded.
    """

    def __init__(
        self,
        issuer: Issuer,
        fetched: Callable[[bool], None],
        *,
        fetch: Fetch | None = None,
        min_refresh_s: float = MIN_REFRESH_S,
    ) -> None:
        self._issuer = issuer
        self._fetched = fetched
        self._fetch = fetch or fetch_json
        self._min_refresh_s = min_refresh_s
        self._document = b""
        self._fetched_s: float | None = None
        self._wanted = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.current: Mapping[str, VerifyKey] = {}
        """The keys by their id; replaced as a whole when the issuer's keys change."""

    @property
    def is_fresh(self) -> bool:
        """Whether the keys were fetched a moment ago, so that a key that is missing now was missing
        then too."""
        fetched_s = self._fetched_s
        return fetched_s is not None and time.monotonic() - fetched_s < self._min_refresh_s

    def want(self) -> None:
        """Ask for a fetch as soon as another is allowed."""
        self._wanted.set()

    def refresh(self) -> None:
        """Fetch the keys now.

        Raises:
            Unavailable: the issuer does not answer, or its answer is something else.
        """
        document = self._fetch(self._issuer.jwks_url or self._discover())
        if document != self._document:
            # One reference is replaced: the event loop sees the old mapping or the new one.
            self.current = verify_keys(document)
            self._document = document
            log.info("%s has %d keys that can be used", self._issuer.url, len(self.current))
        self._fetched_s = time.monotonic()

    def start(self) -> None:
        self._thread = threading.Thread(target=self._follow, name="issuer-keys", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(STOP_S)  # a running fetch ends with the process

    def _follow(self) -> None:
        while not self._stopping.is_set():
            self._wanted.clear()
            succeeded = False
            try:
                self.refresh()
                succeeded = True
            except PlatformError as error:
                log.warning("keys of %s were not fetched: %s", self._issuer.url, error)
            except Exception:
                log.exception("keys of %s were not fetched", self._issuer.url)
            self._fetched(succeeded)
            self._stopping.wait(self._min_refresh_s)
            if succeeded:
                self._wanted.wait(REFRESH_S - self._min_refresh_s)

    def _discover(self) -> str:
        url = discovery_url(self._issuer.url)
        try:
            found = msgspec.json.decode(self._fetch(url), type=dict[str, Any])
        except NOT_JSON as error:
            raise Unavailable(f"there is no discovery document at {url}") from error
        jwks_url = found.get("jwks_uri")
        if found.get("issuer") != self._issuer.url or not isinstance(jwks_url, str):
            raise Unavailable(f"the discovery document at {url} is not this issuer's")
        if not is_trustworthy(jwks_url):
            raise Unavailable(f"{jwks_url[:200]} is not an https URL")
        return jwks_url


def verify_keys(document: bytes) -> dict[str, VerifyKey]:
    """The keys of a JWK Set that can verify tokens, by id; others are left out.

    Raises:
        Unavailable: the document is not a JWK Set, or it has too many keys.
    """
    try:
        keys = msgspec.json.decode(document, type=dict[str, Any])["keys"]
        listed = list(keys) if isinstance(keys, list) else None
    except (*NOT_JSON, KeyError) as error:
        raise Unavailable("the issuer's answer is not a JWK Set") from error
    if listed is None or len(listed) > MAX_KEYS:
        raise Unavailable(f"the issuer's answer is not a JWK Set of at most {MAX_KEYS} keys")
    found = {}
    for jwk in listed:
        if isinstance(jwk, dict) and isinstance(jwk.get("kid"), str):
            key = _verify_key(jwk)
            if key is not None:
                found[jwk["kid"]] = key
    return found


def _verify_key(jwk: dict[str, Any]) -> VerifyKey | None:
    if jwk.get("use", "sig") != "sig" or jwk.get("kty") not in ("RSA", "EC", "OKP"):
        return None  # in particular no "oct": a shared secret in a public document proves nothing
    public = {name: value for name, value in jwk.items() if name not in _PRIVATE}
    try:
        key = jwt.PyJWK(public).key
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        log.warning("key %r of the issuer is passed over: %s", jwk["kid"], error)
        return None
    algorithms = _algorithms(key)
    named = jwk.get("alg")
    if named is not None:
        algorithms = tuple(name for name in algorithms if name == named)
    return VerifyKey(key, algorithms) if algorithms else None


_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})
"""Members of private keys. An issuer that shows one has lost its key, and none is needed to
verify."""


def _algorithms(key: Any) -> tuple[str, ...]:
    if isinstance(key, RSAPublicKey):
        return _RSA if key.key_size >= MIN_RSA_BITS else ()
    if isinstance(key, EllipticCurvePublicKey):
        name = _CURVES.get(key.curve.name)
        return (name,) if name else ()
    return ("EdDSA",) if isinstance(key, Ed25519PublicKey) else ()


def fetch_json(url: str) -> bytes:
    """The body at a URL, of bounded size, in bounded time, without following redirects.

    Raises:
        Unavailable: no such body arrives.
    """
    return fetch(url, timeout_s=FETCH_S, most_bytes=MAX_JWKS_BYTES)
