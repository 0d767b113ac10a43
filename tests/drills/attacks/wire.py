"""Requests as an attacker makes them: over a socket, or with a client that follows nothing."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from tests.drills.attacks.attack import Target

VERSION: Final = "/api/admin/version"
"""Of Prefect: a read that every person may make, and that tells that Prefect was asked."""
PATIENCE_S: Final = 10.0
MOST_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and what came with it; status 0 where the connection ended without one."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def shut(self) -> bool:
        """Whether the door refused, before anything behind it was asked."""
        return self.status in (0, 400, 401, 403, 405)

    def __str__(self) -> str:
        return f"{self.status} {self.text[:80]!r}" if self.status else "no answer"


ASKED: Final[list[str]] = []
"""Requests of this process, as `without_ids` writes them: a refusal that was reported before stands
for the same request alone."""
_ID: Final = re.compile("/[0-9a-fA-F-]{32,36}(?=/|$)")


def without_ids(asked: str) -> str:
    """A request with each id in its path written alike."""
    return _ID.sub("/{id}", asked)


def ask(
    method: str,
    url: str,
    *,
    json: Any = None,
    data: Any = None,
    headers: Mapping[str, str] | None = None,
    within_s: float = PATIENCE_S,
) -> Answer:
    """The answer to one request; nothing is followed, and no proxy of the environment is asked."""
    ASKED.append(f"{method} {without_ids(urlsplit(url).path)}")
    try:
        with httpx.Client(timeout=within_s, trust_env=False, verify=False) as client:
            given = client.request(method, url, json=json, data=data, headers=dict(headers or {}))
            return Answer(given.status_code, given.headers, given.text[:20_000])
    except httpx.HTTPError as error:
        return Answer(0, {}, type(error).__name__)


def raw(port: int, request: bytes, *, within_s: float = 5.0) -> Answer:
    """What is answered to these bytes, as they are."""
    received = b""
    end_s = time.monotonic() + within_s
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=within_s) as connection,
    ):
        connection.sendall(request)
        while len(received) < MOST_BYTES and (left_s := end_s - time.monotonic()) > 0:
            connection.settimeout(left_s)
            part = connection.recv(16_384)
            if not part:
                break
            received += part
            if _is_whole(received):
                break
    return parsed(received)


def parsed(received: bytes) -> Answer:
    """The first answer of these bytes."""
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    status = int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
    return Answer(status, headers, body.decode("latin-1"))


def _is_whole(received: bytes) -> bool:
    head, found, body = received.partition(b"\r\n\r\n")
    if not found:
        return False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.partition(b":")[2])
    return b" 101 " in head[:20]


def upgrade(port: int, path: str, headers: Mapping[str, str] | None = None) -> Answer:
    """What a WebSocket's opening is answered."""
    key = base64.b64encode(os.urandom(16)).decode()
    asked = {
        "Host": f"127.0.0.1:{port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": key,
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "prefect",
        **(headers or {}),
    }
    lines = "".join(f"{k}: {v}\r\n" for k, v in asked.items())
    return raw(port, f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())


def credentials(name: str, secret: str) -> dict[str, str]:
    """As a browser sends them once a person has logged in, and as a program does."""
    pair = base64.b64encode(f"{name}:{secret}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


def identities(target: Target, *people: str) -> dict[str, dict[str, str]]:
    """Headers by sender: nobody, and each person, from the server's own pages."""
    found: dict[str, dict[str, str]] = {"nobody": {}}
    for name in people or ("eve",):
        key = target.keys[name]
        found[name] = credentials(key.name, key.secret) | {"Origin": target.prefect}
    return found


def asks_who(target: Target) -> bool:
    """Whether Prefect answers nobody without an identity."""
    return ask("GET", target.prefect + VERSION).shut


def is_let_in(target: Target, headers: Mapping[str, str]) -> bool:
    """Whether Prefect answers who sends these."""
    return not ask("GET", target.prefect + VERSION, headers=headers).shut
