"""Admission to the page: people who have signed in, and programs with its token."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from mlplatform.observing.page.people import forms
from mlplatform.observing.page.people.identity import Person, alike
from mlplatform.observing.page.people.provider import AT_PROVIDER, RETURN
from mlplatform.observing.page.people.reader import READER, Reader
from mlplatform.observing.page.people.refreshes import is_refresh
from mlplatform.observing.page.people.sessions import NoSession, Session, Sessions
from mlplatform.rollouts.journal.state import appearances
from mlplatform.runtime.errors import Refused
from mlplatform.runtime.http.cross_site_guard import Application, Receive, Scope, Send
from mlplatform.runtime.http.peers import Peers
from mlplatform.runtime.http.token_gate import TokenGate
from mlplatform.runtime.telemetry.refusals import UNKNOWN, Refusal, Refusals
from mlplatform.runtime.telemetry.sign_ins import SignIns
from mlplatform.scoring.admission.clients import Client
from mlplatform.scoring.admission.keyring import Keyring
from mlplatform.scoring.admission.people import People
from mlplatform.scoring.admission.store import Keys

SURFACE: Final = "page"
SIGN_IN: Final = "/sign-in"
ENDED: Final = "/session-ended"
OPEN: Final = (SIGN_IN, ENDED, AT_PROVIDER, RETURN, "/style.css", "/live.js", "/health")
"""Paths that anybody may read; they hold nothing of this installation except which identity
provider it trusts."""
PEER: Final = "mlplatform.peer"
ASKED: Final = "mlplatform.asked"
"""Key of a request's scope: the path of the form that came after its session had ended."""
SAFE_METHODS: Final = ("GET", "HEAD")

log = logging.getLogger(__name__)


class Identities:
    """The people of an installation, kept up to date with their keys.

    Their store is opened when somebody first signs in: a page that is only read needs none.

    Args:
        store: opens the store of keys.
    """

    def __init__(self, store: Callable[[], Keys], now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms
        self._opening = threading.Lock()
        self._keyring: Keyring | None = None

    def authenticate(self, name: str, secret: bytes) -> Client | None:
        """The person of that name whose secret this is; None if there is none.

        Raises:
            Unavailable: the store does not answer.
        """
        return self._people().authenticate(name, secret)

    def is_application(self, name: str, secret: bytes) -> bool:
        """Whether this is a live key of that name without any scope of a person.

        Raises:
            Unavailable: the store does not answer.
        """
        return self._people().is_application(name, secret)

    def check_alone(self, person: Person) -> None:
        """Raises if a client with a key here has a name that looks like that of a provider's
        person, and the file of roles does not say which name the person has.

        Raises:
            Refused: there is such a client; the message says what to write into the file.
            Unavailable: the store does not answer.
        """
        if taken := self._client_alike(self._open_keyring(), person):
            raise Refused(
                f"the name {taken} has a key of this platform, and {person.client.name} of"
                f" {person.identity.issuer} looks like the same person. Give subject"
                f" {person.identity.subject} a name of its own, under people in the file of roles"
            )

    def live(self, session: Session) -> Client | None:
        """The person of a session; None if the key is revoked or has expired, or if a provider's
        person is no longer the only one with that name."""
        keyring, person = self._keyring, session.person
        if keyring is None:
            return None
        found = keyring.client(b"", session.key) if person is None else person.client
        if person is not None and self._client_alike(keyring, person):
            return None
        return found if found is not None and found.until_s > self._now_s() else None

    def _people(self) -> People:
        return People(self._open_keyring().client, self._now_s)

    def _open_keyring(self) -> Keyring:
        with self._opening:
            if self._keyring is None:
                keyring = Keyring(self._store(), self._now_ms, lambda: None)
                keyring.start()
                self._keyring = keyring
            return self._keyring

    @staticmethod
    def _client_alike(keyring: Keyring, person: Person) -> str:
        """The client whose name looks like one of this person's; empty if there is none."""
        if person.is_mapped:
            return ""
        own = appearances(person.client.name, *person.identity.known_as)
        return alike(own, keyring.names())

    def close(self) -> None:
        if self._keyring is not None:
            self._keyring.stop()

    def _now_s(self) -> float:
        return self._now_ms() / 1000


@dataclass(frozen=True, slots=True)
class PageAccess:
    """The parts that sign-in and actions share.

    Args:
        cookie: name of the session cookie; two pages on one machine have different names.
        secure: whether browsers reach the page by https.
    """

    identities: Identities
    sessions: Sessions
    refusals: Refusals
    cookie: str
    sign_ins: SignIns
    secure: bool = False

    def offer(self, reader: Reader, act: str, about: str, seen: str) -> str:
        """Offer a form to a person. Returns the form's number; empty for a refresh, which shows no
        form."""
        if reader.refreshes:
            return ""
        return self.sessions.offer(reader.session, act, about, seen)

    def refuse(self, who: str, asked: str, why: str) -> None:
        """Store a refusal for people to find, with the reader's proof, if the reader has one; of a
        refresh none, which no person asked for."""
        reader = READER.get()
        if reader is not None and reader.refreshes:
            return
        is_proven = reader is not None and reader.identity is not None and reader.name == who
        proof = str(reader.identity) if reader is not None and is_proven else ""
        self.refusals.keep(Refusal(time.time_ns() // 1_000_000, SURFACE, who, asked, why, proof))


class SessionGate:
    """An ASGI application that admits requests with a session, and passes others to a gate by
    token.

    Args:
        by_token: the gate that checks the page's token, and refuses programs without it.
        admit: called with each request that has a session.
    """

    def __init__(
        self,
        application: Application,
        by_token: TokenGate,
        access: PageAccess,
        admit: Callable[[Scope], None],
    ) -> None:
        self._application = application
        self._by_token = by_token
        self._access = access
        self._admit = admit
        self._peers = Peers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._by_token(scope, receive, send)
            return
        # A server may run the next request of a connection in the context of one before it.
        READER.set(None)
        scope[PEER] = peer = self._peers.of(_end(scope, "server"), _end(scope, "client"))
        found = self._session(scope, peer)
        if isinstance(found, Reader):
            READER.set(found)
            self._admit(scope)
            await self._application(scope, receive, send)
            return
        if is_known := self._by_token.admits(scope):
            self._admit(scope)
        if is_known or scope["path"] in OPEN:
            await self._application(scope, receive, send)
            return
        if why := self._refusal_to_record(scope, found, peer):
            who = found.name if isinstance(found, NoSession) and found.name else UNKNOWN
            self._access.refuse(who, f"{scope['method']} {scope['path']}", why)
        if is_refresh(scope):
            await _end_refreshes(send)
        elif _is_a_browsers(scope) and scope["method"] == "POST":
            ended = {**scope, "path": ENDED, "raw_path": ENDED.encode(), ASKED: scope["path"]}
            await self._application(ended, receive, send)
        elif _is_a_browsers(scope):
            await _to_sign_in(scope, send, has_ended=found is not None)
        else:
            await self._by_token(scope, receive, send)

    def _session(self, scope: Scope, peer: str) -> Reader | NoSession | None:
        """The reader who has signed in; None where there is no cookie."""
        cookie = forms.cookie(scope["headers"], self._access.cookie)
        if not cookie:
            return None
        refreshes = is_refresh(scope)
        found = self._access.sessions.find(cookie, peer, is_used=not refreshes)
        if isinstance(found, NoSession):
            return found
        is_person = bool(found.key) or found.person is not None
        client = self._access.identities.live(found) if is_person else None
        if is_person and client is None:
            self._access.sessions.end(found)
            what = "key" if found.person is None else "proof"
            return NoSession(found.name, f"the {what} of its session was revoked or has expired")
        notice = "" if refreshes else _pop_notice(scope, found)
        return Reader(found, client, notice, refreshes)

    @staticmethod
    def _refusal_to_record(scope: Scope, found: NoSession | None, peer: str) -> str:
        """Why a person should be told of this refusal; empty if nobody need be.

        A request that only reads is not recorded, unless another user of this machine uses a
        session.
        """
        if found is None:
            return "" if scope["method"] in SAFE_METHODS else "nobody has signed in"
        is_elsewhere = "began at" in found.why and peer.startswith("uid ")
        return found.why if scope["method"] not in SAFE_METHODS or is_elsewhere else ""


def _pop_notice(scope: Scope, session: Session) -> str:
    """The result of the last action, for the next page."""
    if scope["method"] != "GET" or scope["path"] in OPEN:
        return ""
    notice, session.notice = session.notice, ""
    return notice


def _end(scope: Scope, name: str) -> object:
    found = scope.get(name)
    return tuple(found) if found is not None else None


def _is_a_browsers(scope: Scope) -> bool:
    """Whether a browser asks, whose user can fill in a form."""
    return any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])


async def _end_refreshes(send: Send) -> None:
    """Refuse without a challenge: a browser would ask for a password in the middle of a view."""
    await send(
        {"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]}
    )
    await send({"type": "http.response.body", "body": b""})


async def _to_sign_in(scope: Scope, send: Send, *, has_ended: bool) -> None:
    wanted = "/"
    if scope["method"] in SAFE_METHODS:
        query = scope["query_string"].decode("latin-1")
        wanted = quote(scope["path"]) + (f"?{query}" if query else "")
    where = f"{SIGN_IN}?next={quote(wanted, safe='/')}" + ("&ended=1" if has_ended else "")
    headers = [(b"location", where.encode("ascii")), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
