"""Admission to a server without a log-in: requests of programs, and of its own pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_BODY: Final = b'{"detail": "only programs of this machine and this server\'s own pages may ask"}'
_POLICY_VIOLATION: Final = 1008


class CrossSiteGuard:
    """An ASGI application that refuses requests which another site's page makes a browser send.

    CORS only keeps such a page from reading answers: a request that needs no preflight is carried
    out. And a page whose name is made to mean this machine (DNS rebinding) reads answers too. The
    first names itself in `Origin`, the second in `Host`; programs send no `Origin`.

    Args:
        hosts: allowed values of `Host`, each with its port.
        scheme: scheme of its own pages, as browsers use it.
        refused: called for each request that is refused.
    """

    def __init__(
        self,
        application: Application,
        hosts: Iterable[str],
        *,
        scheme: str = "http",
        refused: Callable[[Scope], None] = lambda scope: None,
    ) -> None:
        self._application = application
        self._hosts = {host.encode() for host in hosts}
        self._origins = {f"{scheme}://".encode() + host for host in self._hosts}
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._is_welcome(scope["headers"]):
            await self._application(scope, receive, send)
            return
        self._refused(scope)
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": _BODY})

    def _is_welcome(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        hosts = [value.lower() for name, value in headers if name == b"host"]
        origins = [value.lower() for name, value in headers if name == b"origin"]
        return len(hosts) == 1 and hosts[0] in self._hosts and set(origins) <= self._origins
