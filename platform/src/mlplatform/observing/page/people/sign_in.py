"""Signing in with a name and a key, and signing out."""

from __future__ import annotations

import hmac
import logging
import math
from collections.abc import Callable
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from mlplatform.observing.page.people import forms
from mlplatform.observing.page.people.gate import PEER, SIGN_IN, Console
from mlplatform.observing.page.people.reader import ONLY_LOOKS, READER
from mlplatform.observing.page.people.sessions import LASTS_S, WrongSignIns
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid, PlatformError
from mlplatform.runtime.telemetry.refusals import UNKNOWN
from mlplatform.scoring.admission.clients import check_client
from mlplatform.scoring.admission.secrets import PREFIX, digest

SIGN_OUT: Final = "/sign-out"

log = logging.getLogger(__name__)
Show = Callable[..., Response]
"""Renders a template with a status."""


class SignIn:
    """The forms by which a session begins and ends.

    Args:
        token: the page's own, which lets somebody look.
        show: renders a template.
    """

    def __init__(self, console: Console, token: str, show: Show) -> None:
        self._console = console
        self._token = token
        self._show = show
        self._wrong = WrongSignIns()

    def routes(self) -> list[Route]:
        return [
            Route(SIGN_IN, self.form, methods=["GET"]),
            Route(SIGN_IN, self.sign_in, methods=["POST"]),
            Route(SIGN_OUT, self.sign_out, methods=["POST"]),
        ]

    async def form(self, request: Request) -> Response:
        wanted = forms.own_path(request.query_params.get("next", "/"))
        ended = "Your session has ended. Nothing of your last request was done."
        return self._form(wanted, ended if "ended" in request.query_params else "", 200)

    async def sign_in(self, request: Request) -> Response:
        peer = request.scope[PEER]
        if not forms.says_its_origin(request.scope["headers"]):
            return self._refused("/", "", "the form was not sent by this page", 403)
        wait_s = self._wrong.wait_s(peer)
        if wait_s > 0:
            why = f"too many wrong sign-ins came from {peer}"
            told = f"Too many sign-ins were wrong. Wait {math.ceil(wait_s)} seconds."
            return self._refused("/", "", why, 429, told)
        try:
            fields = await forms.read(request)
        except InputInvalid as error:
            return self._refused("/", "", str(error), 400)
        name, secret = fields.get("name", ""), fields.get("key", "").strip()
        wanted = forms.own_path(fields.get("next", "/"))
        try:
            found = await run_in_threadpool(self._proven, name, secret.encode())
        except PlatformError as error:
            return self._form(wanted, f"Keys cannot be looked up now: {error}", 503)
        if found is None:
            self._wrong.count(peer)
            told = "Nobody has this name and this key. `mlplatform keys list` shows the names."
            return self._refused(wanted, name, "nobody has this name and key", 401, told)
        before = READER.get()
        if before is not None:
            self._console.sessions.end(before.session)
        who, key = found
        log.info("%s has signed in from %s", who, peer)
        cookie = self._console.sessions.begin(who, key, peer)
        return self._with_cookie(RedirectResponse(wanted, 303), cookie)

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
            self._console.refuse(reader.name, "sign out", why)
            told = {"title": "Nothing was done", "detail": f"Your session goes on: {why}."}
            return self._show("people/refused.html", 403, **told, back="/")
        self._console.sessions.end(reader.session)
        log.info("%s has signed out", reader.name)
        return self._with_cookie(RedirectResponse(SIGN_IN, 303), "")

    def _proven(self, name: str, secret: bytes) -> tuple[str, bytes] | None:
        """Who this is and the digest of the key that says so; None: nobody."""
        if hmac.compare_digest(secret, self._token.encode()):
            return ONLY_LOOKS, b""
        found = self._console.identities.proven(name, secret)
        return None if found is None else (found.name, digest(secret))

    def _refused(self, wanted: str, name: str, why: str, status: int, told: str = "") -> Response:
        as_whom = f" as {name}" if _can_be_a_name(name) else ""
        self._console.refuse(UNKNOWN, f"sign in{as_whom}", why)
        return self._form(wanted, told or f"You are not signed in: {why}.", status)

    def _form(self, wanted: str, told: str, status: int) -> Response:
        return self._show("people/sign_in.html", status, here="sign-in", wanted=wanted, told=told)

    def _with_cookie(self, response: Response, value: str) -> Response:
        line = forms.set_cookie(
            self._console.cookie, value, secure=self._console.secure, lasts_s=LASTS_S
        )
        response.headers.append("set-cookie", line)
        return response


def _can_be_a_name(text: str) -> bool:
    """Whether a refusal may hold it: a key typed into the name field must not be stored."""
    try:
        return not check_client(text).startswith(PREFIX)
    except ConfigInvalid:
        return False
