"""One HTTP request to another party's server, with a deadline that the server cannot extend."""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import Final
from urllib.parse import SplitResult, urlsplit

from mlplatform.model.oip import Reply
from mlplatform.runtime.units import KIB

HEAD_BYTES: Final = 64 * KIB
"""Most bytes of status lines and headers, with those of each `100 Continue` before them."""


def reply(url: str, request: bytes, until_s: float, most_bytes: int) -> Reply:
    """The answer to one request, on a connection of its own.

    Args:
        url: address of the form http://host:port.
        request: complete bytes of the request; it must ask the server to close the connection.
        until_s: time of the monotonic clock by which the whole answer must have arrived.
        most_bytes: limit of the answer's body.

    Raises:
        OSError: nobody answers, or not in time (TimeoutError).
        http.client.HTTPException: the answer is not HTTP, or it is too long.
    """
    with _connected(urlsplit(url), until_s) as connection:
        connection.settimeout(_left_s(until_s))
        connection.sendall(request)  # the timeout covers all bytes
        response = http.client.HTTPResponse(connection)
        source = _BoundedSource(connection, until_s)
        response.fp = io.BufferedReader(source)
        response.begin()
        source.room += most_bytes
        headers = {k.lower().encode(): v.encode() for k, v in response.getheaders()}
        body = response.read(most_bytes + 1)
        if len(body) > most_bytes:
            problem = f"its answer has more than {most_bytes} bytes; wanted: only the outputs"
            raise http.client.HTTPException(problem)
        return Reply(response.status, headers, body)


class _BoundedSource(io.RawIOBase):
    """Reads from a connection until a time, and no more bytes than there is room for."""

    def __init__(self, connection: socket.socket, until_s: float) -> None:
        self._connection = connection
        self._until_s = until_s
        self.room = HEAD_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self.room <= 0:
            raise http.client.HTTPException("its answer is too long")
        # A timeout covers one read, and a server can send one byte at a time.
        self._connection.settimeout(_left_s(self._until_s))
        count = self._connection.recv_into(buffer)
        self.room -= count
        return count


def _connected(at: SplitResult, until_s: float) -> socket.socket:
    """A connection to the first address of a host that accepts one; all attempts share one
    deadline."""
    problem = OSError("its name has no address")
    port = at.port or 80
    for *_, address in socket.getaddrinfo(at.hostname, port, type=socket.SOCK_STREAM):
        try:
            return socket.create_connection((str(address[0]), port), _left_s(until_s))
        except OSError as error:
            problem = error
    raise problem


def _left_s(until_s: float) -> float:
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("it gave no whole answer in time")
    return left_s
