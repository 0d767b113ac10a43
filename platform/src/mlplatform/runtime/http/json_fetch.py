"""JSON from another server: of bounded size, in bounded time, without redirects."""

from __future__ import annotations

import io
import socket
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import urlencode

from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.units import KIB

HEAD_BYTES: Final = 64 * KIB
"""Most bytes of an answer besides its body: its head, and what a transfer coding adds."""

MOST_TEXT: Final = 200
"""Most characters of an answer's own words in logs and pages."""

_ACCEPT: Final = {"accept": "application/json"}


@dataclass(frozen=True, slots=True)
class _FetchLimits:
    timeout_s: float
    most_bytes: int


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: an answer must come from where the settings say."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class _DeadlineReader(io.RawIOBase):
    """Limits what a socket receives, by time and by size; its own timeout is for each read."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase, limits: _FetchLimits) -> None:
        self._sock = sock
        self._raw = raw
        self._limits = limits
        self._until_s = time.monotonic() + limits.timeout_s
        self._left_bytes = limits.most_bytes + HEAD_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(f"its answer takes longer than {self._limits.timeout_s:g} s")
        self._sock.settimeout(left_s)
        read = self._raw.readinto(buffer)
        self._left_bytes -= read or 0
        if self._left_bytes < 0:
            raise OSError(f"its answer has more than {self._limits.most_bytes} bytes")
        return int(read or 0)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(
        self, limits: _FetchLimits, sock: socket.socket, *arguments: Any, **options: Any
    ) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_DeadlineReader(sock, self.fp.detach(), limits))


def _connection(
    kind: type[HTTPConnection], limits: _FetchLimits, host: str, **options: Any
) -> HTTPConnection:
    made = kind(host, **options)
    made.response_class = partial(_Response, limits)  # type: ignore[assignment]
    return made


class _LimitedPlainHttp(urllib.request.HTTPHandler):
    def __init__(self, limits: _FetchLimits) -> None:
        super().__init__()
        self._limits = limits

    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        made: Any = partial(_connection, HTTPConnection, self._limits)
        return self.do_open(made, req)


class _LimitedHttps(urllib.request.HTTPSHandler):
    def __init__(self, limits: _FetchLimits) -> None:
        super().__init__()
        self._limits = limits

    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        made: Any = partial(_connection, HTTPSConnection, self._limits)
        return self.do_open(made, req)  # its context verifies names and chains


def fetch(
    url: str, headers: Mapping[str, str] = _ACCEPT, *, timeout_s: float, most_bytes: int
) -> bytes:
    """The body at a URL, without following redirects.

    Args:
        url: an http or https address, as settings and discovery check it.
        headers: headers of the request, in place of the one that accepts JSON.
        timeout_s: seconds to connect, and again from the answer's first byte to its last.

    Raises:
        Unavailable: no such body arrives in time.
    """
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310
    return _body(request, _FetchLimits(timeout_s, most_bytes))


def post(
    url: str,
    form: Mapping[str, str],
    headers: Mapping[str, str],
    *,
    timeout_s: float,
    most_bytes: int,
) -> tuple[int, bytes]:
    """The status and body of the answer to a form, without following redirects. A refusal (4xx) is
    an answer too.

    Args:
        timeout_s: as of `fetch`.

    Raises:
        Unavailable: no answer arrives in time, the server failed, or it redirects elsewhere.
    """
    limits = _FetchLimits(timeout_s, most_bytes)
    request = urllib.request.Request(  # noqa: S310
        url, urlencode(form).encode("ascii"), {**_ACCEPT, **headers}
    )
    try:
        return 200, _body(request, limits)
    except Unavailable as error:
        refusal = error.__cause__
        if not isinstance(refusal, HTTPError) or not 400 <= refusal.code < 500:
            raise
        return refusal.code, _read(refusal, url, limits)


def _body(request: urllib.request.Request, limits: _FetchLimits) -> bytes:
    url = request.full_url
    opener = urllib.request.build_opener(
        _NoRedirects, _LimitedPlainHttp(limits), _LimitedHttps(limits)
    )
    try:
        response = opener.open(request, timeout=limits.timeout_s)
    except (OSError, HTTPException, ValueError) as error:
        raise Unavailable(f"{url} does not answer: {str(error)[:MOST_TEXT]}") from error
    return _read(response, url, limits)


def _read(response: Any, url: str, limits: _FetchLimits) -> bytes:
    try:
        with response:
            body: bytes = response.read(limits.most_bytes + 1)
    except (OSError, HTTPException, ValueError) as error:
        raise Unavailable(f"{url} does not answer: {str(error)[:MOST_TEXT]}") from error
    if len(body) > limits.most_bytes:
        raise Unavailable(f"{url} gives more than {limits.most_bytes} bytes")
    return body
