"""Sign-in at the identity provider: a browser is sent there, and comes back with a code."""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import Final

import anyio
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from mlplatform.observing.page.people import forms
from mlplatform.observing.page.people.attempts import LASTS_S, Attempt, Attempts
from mlplatform.observing.page.people.gate import PEER, PageAccess
from mlplatform.observing.page.people.identity import Person
from mlplatform.observing.page.people.provider import (
    AT_PROVIDER,
    RETURN,
    AuthorizationResponse,
    Provider,
)
from mlplatform.observing.page.people.sign_in import SignIn
from mlplatform.runtime.errors import InputInvalid, PlatformError, Refused
from mlplatform.runtime.telemetry.refusals import UNKNOWN

MOST_CHARACTERS: Final = 4096
"""Most characters of a parameter that a browser brings back."""
AT_A_TIME: Final = 4
"""Most requests to the provider at a time; further ones wait without a thread, so that the page
goes on."""
BEGIN_AGAIN: Final = (
    "this sign-in was not begun in this browser, was finished before, or took longer than"
    f" {LASTS_S / 60:.0f} minutes: begin again"
)

log = logging.getLogger(__name__)


class ProviderSignIn:
    """Sign-in at an identity provider, both the redirect to it and the return from it.

    Args:
        sign_in: shows the form again if the sign-in fails, and begins sessions.
    """

    def __init__(self, access: PageAccess, provider: Provider, sign_in: SignIn) -> None:
        self._access = access
        self._provider = provider
        self._sign_in = sign_in
        self._attempts = Attempts()
        self._cookie = f"{access.cookie}-sign-in"
        self._limiter = anyio.CapacityLimiter(AT_A_TIME)

    def routes(self) -> list[Route]:
        return [
            Route(AT_PROVIDER, self.begin, methods=["GET"]),
            Route(RETURN, self.finish, methods=["GET"]),
        ]

    async def begin(self, request: Request) -> Response:
        wanted = forms.own_path(request.query_params.get("next", "/"))
        state, attempt = self._attempts.begin(request.scope[PEER], wanted)
        try:
            url = await anyio.to_thread.run_sync(
                partial(self._provider.authorization_url, state, attempt), limiter=self._limiter
            )
        except PlatformError as error:
            return self._unavailable(wanted, error)
        return self._with_cookie(RedirectResponse(url, 303), attempt.cookie)

    async def finish(self, request: Request) -> Response:
        peer = request.scope[PEER]
        wait_s = self._sign_in.wrong.wait_s(peer)
        if wait_s > 0:
            problem = f"Too many sign-ins were wrong. Wait {math.ceil(wait_s)} seconds."
            return self._refused("/", f"too many wrong sign-ins came from {peer}", problem, 429)
        try:
            state, answer = _authorization_response(request)
        except InputInvalid as error:
            return self._refused("/", str(error), status=400)
        cookie = forms.cookie(request.scope["headers"], self._cookie)
        attempt = self._attempts.take(state, cookie, peer)
        if attempt is None:
            # Any site can lead a browser here. So this does not end a sign-in that the browser has
            # begun, and does not count as a wrong one. Otherwise such a site could keep this peer
            # from signing in.
            return self._refused("/", BEGIN_AGAIN)
        try:
            person = await anyio.to_thread.run_sync(
                partial(self._authenticate, answer, attempt), limiter=self._limiter
            )
        except Refused as refused:
            self._sign_in.wrong.count(peer)
            return self._with_cookie(self._refused(attempt.wanted, str(refused)), "")
        except PlatformError as error:
            return self._unavailable(attempt.wanted, error)
        # After a redirect from another site, a browser sends no cookie of `SameSite=Strict`; after
        # a link of this page it does. So the answer is a page with such a link.
        shown = self._sign_in.show(
            "people/signed_in.html", 200, here="sign-in", wanted=attempt.wanted
        )
        begun = self._sign_in.begin(shown, person.client.name, b"", peer, person)
        return self._with_cookie(begun, "")

    def _authenticate(self, answer: AuthorizationResponse, attempt: Attempt) -> Person:
        person = self._provider.person(answer, attempt)
        self._access.identities.check_alone(person)
        return person

    def _unavailable(self, wanted: str, error: PlatformError) -> Response:
        log.warning("nobody can sign in at %s: %s", self._provider.settings.url, error)
        problem = (
            f"{self._provider.settings.host} cannot be asked now: {error}. A key still signs in."
        )
        return self._sign_in.refused_form(wanted, problem, 503)

    def _refused(self, wanted: str, why: str, problem: str = "", status: int = 403) -> Response:
        self._access.refuse(UNKNOWN, f"sign in at {self._provider.settings.host}", why)
        shown = problem or f"You are not signed in: {why}."
        return self._sign_in.refused_form(wanted, shown, status)

    def _with_cookie(self, response: Response, value: str) -> Response:
        line = forms.set_cookie(
            self._cookie, value, secure=self._access.secure, lasts_s=LASTS_S, samesite="Lax"
        )
        response.headers.append("set-cookie", line)
        return response


def _authorization_response(request: Request) -> tuple[str, AuthorizationResponse]:
    """State and answer in the provider's redirect.

    Raises:
        InputInvalid: a parameter occurs twice, or is too long.
    """
    pairs = request.query_params.multi_items()
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InputInvalid("the provider's answer", None, "it has a parameter twice")
    if any(len(value) > MOST_CHARACTERS for value in found.values()):
        raise InputInvalid("the provider's answer", None, f"longer than {MOST_CHARACTERS}")
    error = " ".join(found[key] for key in ("error", "error_description") if found.get(key))
    answer = AuthorizationResponse(found.get("code", ""), found.get("iss"), error)
    return found.get("state", ""), answer
