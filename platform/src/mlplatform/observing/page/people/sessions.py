"""Sessions of people who have signed in to the page: in memory, bounded, and ended with the
process.

Browsers send a cookie of 127.0.0.1 to every port of 127.0.0.1, another user's server among them. So
a session counts only for the peer that began it: on loopback the user whose socket it is, as the
kernel reports (`runtime.http.peers`). A cookie that was sent to somebody else opens nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from mlplatform.observing.page.people.identity import Person
from mlplatform.runtime.units import HOUR_S

LASTS_S: Final = 12.0 * HOUR_S
IDLE_S: Final = 30 * 60.0
"""Seconds without a request after which a session ends; a page that is only left open asks
nothing."""
MOST: Final = 256
MOST_OF_ONE: Final = 8
"""Most sessions of one person; a further one ends the oldest of them."""
OFFER_S: Final = 15 * 60.0
MOST_OFFERS: Final = 16
WRONG: Final = 10
WRONG_WITHIN_S: Final = 60.0
MOST_PEERS: Final = 1024


@dataclass(frozen=True, slots=True)
class Offer:
    """The act that a form was shown for; it is taken once.

    Args:
        act: an act of `people.acts`, or `review`.
        about: id of the rollout or decision, or name of the model.
        seen: which state the form showed (`acts.state_id_of_rollout`).
    """

    act: str
    about: str
    seen: str
    until_s: float


@dataclass(frozen=True, slots=True)
class Draft:
    """A text that a person had typed when their earlier session ended.

    Args:
        path: the form that it belongs to.
    """

    path: str
    text: str


NO_DRAFT: Final = Draft("", "")


@dataclass(slots=True, eq=False)
class Session:
    """A person who has signed in.

    Args:
        name: the person's name.
        key: digest of the person's key; empty if the session began with the page's token, which
            allows no acts, or at an identity provider.
        person: the person whom an identity provider proved; None without one.
        peer: network address of the browser; requests from other addresses are refused.
        form_token: the token that every form of this session holds.
        notice: text that the next page shows once.
        draft: what the next form of its path holds, once.
        answered: model and id of the decision that the person answered for last; empty without.
    """

    name: str
    key: bytes
    peer: str
    began_s: float
    used_s: float
    form_token: str
    offers: dict[str, Offer] = field(default_factory=dict)
    notice: str = ""
    person: Person | None = None
    draft: Draft = NO_DRAFT
    answered: tuple[str, str] = ("", "")

    def take_draft(self, path: str) -> str:
        """The text that the form of this path is to hold; empty if there is none."""
        if self.draft.path != path:
            return ""
        text, self.draft = self.draft.text, NO_DRAFT
        return text

    def is_form_of_its_own(self, token: str) -> bool:
        """Whether a form holds this session's token; in constant time."""
        return hmac.compare_digest(token.encode(), self.form_token.encode())


@dataclass(frozen=True, slots=True)
class NoSession:
    """A cookie that opens no session.

    Args:
        name: name of the person whose session it was; empty if it is not known.
    """

    name: str
    why: str


class Sessions:
    """The sessions of one page. Safe for threads.

    Args:
        now_s: returns epoch seconds, so that a session also ends while the machine sleeps.
    """

    def __init__(self, now_s: Callable[[], float] = time.time) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self._by_digest: dict[bytes, Session] = {}

    def begin(
        self,
        name: str,
        key: bytes,
        peer: str,
        person: Person | None = None,
        draft: Draft = NO_DRAFT,
    ) -> str:
        """Begin a session. Returns its cookie: 256 random bits, of which the page stores a
        digest."""
        cookie, now_s = secrets.token_urlsafe(32), self._now_s()
        with self._lock:
            for digest, found in list(self._by_digest.items()):
                if _end_reason(found, now_s):
                    del self._by_digest[digest]
            token = secrets.token_urlsafe(32)
            made = Session(name, key, peer, now_s, now_s, token, person=person, draft=draft)
            if draft.text:
                made.notice = "Nothing was done yet: what you had typed is in the form again."
            own = [d for d, s in self._by_digest.items() if _owner_key(s) == _owner_key(made)]
            if len(own) >= MOST_OF_ONE:
                del self._by_digest[own[0]]
            elif len(self._by_digest) >= MOST:
                idle = min(self._by_digest, key=lambda d: self._by_digest[d].used_s)
                del self._by_digest[idle]
            self._by_digest[_digest(cookie)] = made
        return cookie

    def find(self, cookie: str, peer: str, *, is_used: bool = True) -> Session | NoSession:
        """The session of a cookie; its time of last use becomes now, unless no person uses it."""
        with self._lock:
            found = self._by_digest.get(_digest(cookie))
            if found is None:
                return NoSession("", "no session has this cookie")
            now_s = self._now_s()
            if why := _end_reason(found, now_s):
                del self._by_digest[_digest(cookie)]
                return NoSession(found.name, why)
            if found.peer != peer:
                # The peer's socket may be closed by now, and then nobody reads the answer.
                return NoSession(
                    found.name, f"the session of this cookie began at {found.peer}, not at {peer}"
                )
            if is_used:
                found.used_s = now_s
            return found

    def end(self, session: Session) -> None:
        """End a session."""
        with self._lock:
            for digest, found in list(self._by_digest.items()):
                if found is session:
                    del self._by_digest[digest]

    def offer(self, session: Session, act: str, about: str, seen: str) -> str:
        """Offer a form for this act. Returns the form's number."""
        number = secrets.token_urlsafe(16)
        with self._lock:
            while len(session.offers) >= MOST_OFFERS:
                del session.offers[next(iter(session.offers))]
            until_s = self._now_s() + OFFER_S
            session.offers[number] = Offer(act, about, seen, until_s)
        return number

    def take(self, session: Session, number: str) -> Offer | None:
        """Take the offer of a form; None if it was taken before, has ended, or was never made."""
        with self._lock:
            found = session.offers.pop(number, None)
            return found if found is not None and self._now_s() < found.until_s else None


class WrongSignIns:
    """Limits the wrong sign-ins of each peer: `WRONG` in `WRONG_WITHIN_S` seconds.

    Other peers can still sign in. Keys are 256 random bits, so this protects the list of refusals
    from a flood rather than a key from being guessed.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self._wrong: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WRONG))

    def wait_s(self, peer: str) -> float:
        """Seconds that this peer has to wait; 0 if it need not."""
        with self._lock:
            times_s = self._wrong.get(peer)
            if times_s is None or len(times_s) < WRONG:
                return 0.0
            return max(0.0, times_s[0] + WRONG_WITHIN_S - self._now_s())

    def count(self, peer: str) -> None:
        with self._lock:
            while len(self._wrong) >= MOST_PEERS and peer not in self._wrong:
                del self._wrong[next(iter(self._wrong))]
            self._wrong[peer].append(self._now_s())


def _digest(cookie: str) -> bytes:
    # Found by digest: the time of a look-up shows something only about the digest.
    return hashlib.sha256(cookie.encode()).digest()


def _owner_key(session: Session) -> tuple[str, bytes, str]:
    subject = "" if session.person is None else session.person.identity.subject
    return session.name, session.key, subject


def _end_reason(session: Session, now_s: float) -> str:
    """Why a session is over; empty while it goes on."""
    if now_s - session.began_s >= LASTS_S:
        return f"its session ended: it lasts {LASTS_S / HOUR_S:.0f} hours"
    if now_s - session.used_s >= IDLE_S:
        return f"its session ended: {IDLE_S / 60:.0f} minutes without a request"
    if session.person is not None and now_s >= session.person.client.until_s:
        return "its session ended: the identity provider's token has expired"
    return ""
