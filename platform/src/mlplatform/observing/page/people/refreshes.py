"""Requests by which a page in a browser asks whether its view has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from mlplatform.runtime.http.cross_site_guard import Application, Receive, Scope, Send

HEADER: Final = b"mlplatform-refresh"
"""Header by which the page's script names such a request."""
_HTML: Final = b"text/html"


def is_refresh(scope: Scope) -> bool:
    """Whether the page's script sent this request, and no person did."""
    if scope["type"] != "http" or scope["method"] != "GET":
        return False
    return any(name == HEADER for name, _ in scope["headers"])


class Refreshes:
    """An ASGI application that answers 304 to a refresh of a view that has not changed.

    Source: RFC 9110 section 13.1.2. The tag is a digest of the whole page.
    """

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not is_refresh(scope):
            await self._application(scope, receive, send)
            return
        started: list[Mapping[str, Any]] = []
        page = bytearray()

        async def hold(message: Any) -> None:
            if message["type"] == "http.response.start" and _is_page(message):
                started.append(message)
            elif message["type"] == "http.response.body" and started:
                page.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    await _answer(scope, started[0], bytes(page), send)
            else:
                await send(message)

        await self._application(scope, receive, hold)


async def _answer(scope: Scope, start: Mapping[str, Any], page: bytes, send: Send) -> None:
    tag = f'"{hashlib.sha256(page).hexdigest()[:32]}"'.encode()
    known = any(name == b"if-none-match" and value == tag for name, value in scope["headers"])
    if known:
        await send({"type": "http.response.start", "status": 304, "headers": [(b"etag", tag)]})
        await send({"type": "http.response.body", "body": b""})
    else:
        await send({**start, "headers": [*start.get("headers", ()), (b"etag", tag)]})
        await send({"type": "http.response.body", "body": page})


def _is_page(start: Mapping[str, Any]) -> bool:
    kinds = [value for name, value in start.get("headers", ()) if name == b"content-type"]
    return start["status"] == 200 and any(kind.startswith(_HTML) for kind in kinds)
