"""Sign-in with a name and a key, the beginning of a session, and sign-out."""

from __future__ import annotations

import contextlib
import hmac
import math
import time
from collections.abc import Callable
from typing import Final, Literal
from urllib.parse import quote, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from mlplatform.observing.page.people import forms
from mlplatform.observing.page.people.gate import ASKED, ENDED, PEER, SIGN_IN, PageAccess
from mlplatform.observing.page.people.identity import Person
from mlplatform.observing.page.people.provider import Provider
from mlplatform.observing.page.people.reader import ANONYMOUS_READER, READER
from mlplatform.observing.page.people.sessions import LASTS_S, NO_DRAFT, Draft, WrongSignIns
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid, PlatformError
from mlplatform.runtime.telemetry.refusals import UNKNOWN
from mlplatform.runtime.telemetry.sign_ins import SignInEvent
from mlplatform.scoring.admission.clients import check_client
from mlplatform.scoring.admission.secrets import PREFIX, digest, key_id

SIGN_OUT: Final = "/sign-out"

Show = Callable[..., Response]
"""Function that renders a template with a status."""


class SignIn:
    """The forms by which a session begins and ends.

    Args:
        token: the page's token, which allows reading only.
        show: renders a template.
        provider: identity provider at which people can sign in too; None if there is none.
    """

    def __init__(
        self, access: PageAccess, token: str, show: Show, provider: Provider | None = None
    ) -> None:
        self._access = access
        self._token = token
        self.show = show
        self._provider = provider
        self.wrong = WrongSignIns()

    def routes(self) -> list[Route]:
        return [
            Route(SIGN_IN, self.form, methods=["GET"]),
            Route(SIGN_IN, self.sign_in, methods=["POST"]),
            Route(SIGN_OUT, self.sign_out, methods=["POST"]),
            Route(ENDED, self.offer_again, methods=["POST"]),
        ]

    async def form(self, request: Request) -> Response:
        wanted = forms.own_path(request.query_params.get("next", "/"))
        ended = "Your session has ended. Nothing of your last request was done."
        notice = ended if "ended" in request.query_params else ""
        return self._form(wanted, notice, 200, is_out="out" in request.query_params)

    async def offer_again(self, request: Request) -> Response:
        """The sign-in form in place of an act whose session has ended. It holds what was typed,
        and leads back to the act's form; nothing is done."""
        path = request.scope.get(ASKED, "/")
        if path == SIGN_OUT:
            return RedirectResponse(SIGN_IN, 303)
        wanted, text = forms.again(path, {})
        if forms.says_its_origin(request.scope["headers"]):
            with contextlib.suppress(InputInvalid):
                wanted, text = forms.again(path, await forms.read(request))
        problem = "Your session has ended. Nothing of your last request was done."
        return self._form(wanted, problem, 401, typed=text)

    async def sign_in(self, request: Request) -> Response:
        peer = request.scope[PEER]
        if not forms.says_its_origin(request.scope["headers"]):
            return self._refused("/", "", "the form was not sent by this page", 403)
        wait_s = self.wrong.wait_s(peer)
        if wait_s > 0:
            why = f"too many wrong sign-ins came from {peer}"
            problem = f"Too many sign-ins were wrong. Wait {math.ceil(wait_s)} seconds."
            return self._refused("/", "", why, 429, problem)
        try:
            fields = await forms.read(request)
        except InputInvalid as error:
            return self._refused("/", "", str(error), 400)
        name, secret = fields.get("name", ""), fields.get("key", "").strip()
        wanted, typed = forms.own_path(fields.get("next", "/")), fields.get("typed", "")
        typed = typed[: forms.MOST_TYPED]
        try:
            found = await run_in_threadpool(self._authenticate, name, secret.encode())
            problem = "" if found else await run_in_threadpool(self._problem, name, secret.encode())
        except PlatformError as error:
            problem = f"Keys cannot be looked up now: {error}"
            return self._form(wanted, problem, 503, typed=typed)
        if found is None:
            self.wrong.count(peer)
            why = "nobody has this name and key"
            return self._refused(wanted, name, why, 401, problem, typed)
        draft = Draft(urlsplit(wanted).path, typed)
        return self.begin(RedirectResponse(wanted, 303), *found, peer, draft=draft)

    def begin(
        self,
        response: Response,
        name: str,
        key: bytes,
        peer: str,
        person: Person | None = None,
        draft: Draft = NO_DRAFT,
    ) -> Response:
        """The response with the cookie of a new session; the browser's earlier session ends."""
        before = READER.get()
        if before is not None:
            self._access.sessions.end(before.session)
        cookie = self._access.sessions.begin(name, key, peer, person, draft)
        self._keep("in", name, _proof(key, person), peer)
        return self._with_cookie(response, cookie)

    async def sign_out(self, request: Request) -> Response:
        reader = READER.get()
        if reader is None:
            return RedirectResponse(SIGN_IN, 303)
        try:
            fields = await forms.read(request)
        except InputInvalid:
            fields = {}
        is_own = reader.session.is_form_of_its_own(fields.get("token", ""))
        if not is_own or not forms.says_its_origin(request.scope["headers"]):
            why = "the form is not of this session's pages"
            self._access.refuse(reader.name, "sign out", why)
            refusal = {"title": "Nothing was done", "detail": f"Your session goes on: {why}."}
            return self.show("people/refused.html", 403, **refusal, back="/")
        session = reader.session
        self._access.sessions.end(session)
        self._keep("out", reader.name, _proof(session.key, session.person), session.peer)
        to = SIGN_IN if session.person is None else f"{SIGN_IN}?out=1"
        return self._with_cookie(RedirectResponse(to, 303), "")

    def _authenticate(self, name: str, secret: bytes) -> tuple[str, bytes] | None:
        """The name of the person and the digest of the key that proves it; None if nobody is
        proven."""
        if hmac.compare_digest(secret, self._token.encode()):
            return ANONYMOUS_READER, b""
        found = self._access.identities.authenticate(name, secret)
        return None if found is None else (found.name, digest(secret))

    def _problem(self, name: str, secret: bytes) -> str:
        """The sentence for somebody whom no name and key prove to be a person."""
        if self._access.identities.is_application(name, secret):
            return (
                "This key is an application's: it has no scope of a person. A key with scope view,"
                " review, operate, run or approve signs in: `mlplatform keys create --name NAME"
                " --model MODEL --scope view`."
            )
        return "Nobody has this name and this key. `mlplatform keys list` shows the names."

    def _refused(
        self, wanted: str, name: str, why: str, status: int, problem: str = "", typed: str = ""
    ) -> Response:
        as_whom = f" as {name}" if _can_be_a_name(name) else ""
        self._access.refuse(UNKNOWN, f"sign in{as_whom}", why)
        return self._form(wanted, problem or f"You are not signed in: {why}.", status, typed=typed)

    def refused_form(self, wanted: str, problem: str, status: int) -> Response:
        """The sign-in form again, with the reason why nobody is signed in."""
        return self._form(wanted, problem, status)

    def _form(
        self, wanted: str, problem: str, status: int, *, typed: str = "", is_out: bool = False
    ) -> Response:
        provider = self._provider
        return self.show(
            "people/sign_in.html",
            status,
            here="sign-in",
            wanted=wanted,
            problem=problem,
            typed=typed,
            host="" if provider is None else provider.settings.host,
            begin="" if provider is None else f"{provider.begins_at}?next={quote(wanted)}",
            is_out=is_out and provider is not None,
            out_there="" if provider is None else provider.sign_out_url(),
        )

    def _keep(self, what: Literal["in", "out"], name: str, proof: str, peer: str) -> None:
        wall_ms = time.time_ns() // 1_000_000
        self._access.sign_ins.keep(SignInEvent(wall_ms, what, name, proof, peer))

    def _with_cookie(self, response: Response, value: str) -> Response:
        line = forms.set_cookie(
            self._access.cookie, value, secure=self._access.secure, lasts_s=LASTS_S
        )
        response.headers.append("set-cookie", line)
        return response


def _proof(key: bytes, person: Person | None) -> str:
    if person is not None:
        return str(person.identity)
    return f"key {key_id(key)}" if key else ANONYMOUS_READER


def _can_be_a_name(text: str) -> bool:
    """Whether a refusal may hold the text: a key that was typed into the name field must not be
    stored."""
    try:
        return not check_client(text).startswith(PREFIX)
    except ConfigInvalid:
        return False
