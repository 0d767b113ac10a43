"""Responses of the page's views: HTML, and a sentence in place of what can't be shown."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from mlplatform.observing.page.rendering import render
from mlplatform.runtime.errors import Corrupt, InputInvalid, NotFound, PlatformError

log = logging.getLogger(__name__)

LISTS: Final = ("rollouts", "incidents", "decisions")
"""Paths of lists; a problem below one leads back to it."""

Show = Callable[[Request], str]
Refuse = Callable[[Request, str], Response]
"""Function that answers a request whose input is wrong, with the reason in words."""


def answering(show: Show, refuse: Refuse | None = None) -> Callable[[Request], Response]:
    """The endpoint of a view, with a problem page for each error of the platform.

    Args:
        refuse: answers a request whose input is wrong; None shows the problem page.
    """
    return or_problem(lambda request: html(show(request)), refuse)


def or_problem(
    make: Callable[[Request], Response], refuse: Refuse | None = None
) -> Callable[[Request], Response]:
    """The endpoint that makes a response, or shows why it can't.

    Args:
        refuse: answers a request whose input is wrong; None shows the problem page.
    """

    def endpoint(request: Request) -> Response:
        try:
            return make(request)
        except InputInvalid as error:
            if refuse is not None:
                return refuse(request, str(error))
            return problem_of(request, error)
        except PlatformError as error:
            return problem_of(request, error)

    return endpoint


def problem_of(request: Request, error: PlatformError) -> Response:
    """The problem page of an error; damage of what is stored goes to the process's log too."""
    match error:
        case NotFound():
            return problem(request, 404, "There is nothing of that name here", str(error))
        case InputInvalid():
            return problem(request, 400, "This search can't be read", str(error))
        case Corrupt():
            log.error("%s is damaged", request.url.path, exc_info=error)
            return problem(request, 500, "What is stored is damaged", str(error))
        case _:
            return problem(request, 503, "This cannot be read now", str(error))


def problem(
    request: Request,
    status: int,
    title: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A page that says what is wrong, with a way back to the list above."""
    above = request.url.path.split("/")[1].removesuffix(".csv")
    back = above if above in LISTS else "overview"
    text = render("problem.html", here="", status=status, title=title, detail=detail, back=back)
    return html(text, status, headers)


def html(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A page as a response."""
    return Response(text, status, headers, "text/html; charset=utf-8")
