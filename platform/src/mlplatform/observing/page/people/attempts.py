"""Sign-ins at the identity provider that have begun: each belongs to one browser, counts once, and
soon ends.

Source: RFC 7636 (PKCE, method S256); RFC 9700 section 4.7.1 (state and nonce bound to a browser).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

LASTS_S: Final = 10 * 60.0
MOST: Final = 1024
MOST_OF_ONE: Final = 128
"""Most attempts of one peer, which may be a proxy for many people. A further one ends its oldest,
so that no peer takes others' places."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The values with which the provider's answer is compared.

    Args:
        cookie: cookie of the browser that began the attempt.
        peer: network address of that browser.
        verifier: the secret that shows the provider who began the attempt (PKCE).
        wanted: path of the page to show after the sign-in.
    """

    cookie: str
    peer: str
    nonce: str
    verifier: str
    wanted: str
    until_s: float

    @property
    def challenge(self) -> str:
        """The challenge that the provider gets in place of the verifier."""
        hashed = hashlib.sha256(self.verifier.encode()).digest()
        return base64.urlsafe_b64encode(hashed).rstrip(b"=").decode()


class Attempts:
    """Attempts to sign in at one page, in memory. Safe for threads.

    Args:
        now_s: returns seconds of a clock that never goes back.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self._by_state: dict[str, Attempt] = {}

    def begin(self, peer: str, wanted: str) -> tuple[str, Attempt]:
        """Begin an attempt. Returns the state that the provider sends back, and the attempt."""
        state, now_s = secrets.token_urlsafe(32), self._now_s()
        cookie, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        made = Attempt(cookie, peer, nonce, verifier, wanted, now_s + LASTS_S)
        with self._lock:
            for old in [s for s, a in self._by_state.items() if a.until_s <= now_s]:
                del self._by_state[old]
            own = [s for s, a in self._by_state.items() if a.peer == peer]
            if len(own) >= MOST_OF_ONE:
                del self._by_state[own[0]]
            elif len(self._by_state) >= MOST:
                del self._by_state[next(iter(self._by_state))]
            self._by_state[state] = made
        return state, made

    def take(self, state: str, cookie: str, peer: str) -> Attempt | None:
        """The attempt of a state; None if this browser began none, or it is over."""
        with self._lock:
            found = self._by_state.get(state)
            if found is None or found.peer != peer:
                return None
            if not hmac.compare_digest(found.cookie.encode(), cookie.encode()):
                return None
            del self._by_state[state]
            return found if self._now_s() < found.until_s else None
