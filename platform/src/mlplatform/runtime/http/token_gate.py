"""Admission to a server behind one shared token."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Callable, Iterable
from typing import Final

from mlplatform.runtime.http.cross_site_guard import Application, Receive, Scope, Send

OPEN_PATHS: Final = ("/health",)


class TokenGate:
    """An ASGI application that admits callers with the token: as a bearer token, or as the password
    of any user.

    Programs send the first (MLflow's client by MLFLOW_TRACKING_TOKEN), a browser asks a person for
    the second.

    Args:
        name: name of the server, which a browser shows when it asks for the password.
        file: path below the home folder of the file that holds the token on one machine.
        admit: called with each request of a caller that has the token.
    """

    def __init__(
        self,
        application: Application,
        token: str,
        name: str,
        file: str,
        admit: Callable[[Scope], None] = lambda scope: None,
    ) -> None:
        self._application = application
        self._token = token.encode()
        self._name = name
        self._file = file
        self._admit = admit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in OPEN_PATHS:
            await self._application(scope, receive, send)
        elif self.admits(scope):
            self._admit(scope)
            await self._application(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._refuse(send)

    def admits(self, scope: Scope) -> bool:
        """Whether the caller knows the token."""
        headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
        for key, value in headers:
            if key == b"authorization":
                return bool(self._token) and hmac.compare_digest(_secret(value), self._token)
        return False

    async def _refuse(self, send: Send) -> None:
        message = (
            f"the token of this {self._name} is needed, as header `Authorization: Bearer TOKEN`; on"
            f" one machine {self._file} of the home folder holds it"
        )
        body = json.dumps({"error_code": "UNAUTHENTICATED", "message": message}).encode()
        asked = f'Basic realm="{self._name}: any name, the token as password"'
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"www-authenticate", asked.encode()),
        ]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _secret(authorization: bytes) -> bytes:
    scheme, _, value = authorization.partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""
