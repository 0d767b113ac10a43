"""A process that holds connections to a port: silent, half-open, slow, and idle ones.

As a script: `attacker.py PORT COUNT PROTOCOL UID`. It opens COUNT of them as that user, opens
others for those that are ended during the first seconds, and says on its standard output `holding`
once they are open, and in the end, as JSON, how many it opened and how many were still open, of
those on which no request was whole.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 -- not to be looked for as another user
import json
import os
import resource
import selectors
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Final

REOPEN_S: Final = 4.0
"""How long ended connections are replaced."""

WATCH_S: Final = 40.0
"""How long it waits for the last of them to be ended."""

PAUSE_S: Final = 0.002
_HTTP: Final = (
    b"",
    b"GET / HT",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{",
    b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 5000,
    b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n" * 10,
)
_WHOLE: Final = 4
"""Of these, the one that asks whole requests: it may be idle for as long as any connection."""
_GRPC: Final = (
    b"",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
)


class Attacker:
    """The process, by another user where there is one to be had."""

    def __init__(self, port: int, count: int, protocol: str) -> None:
        uid = 65_534 if os.getuid() == 0 else os.getuid()
        command = [sys.executable, __file__, str(port), str(count), protocol, str(uid)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "holding\n"

    def ended(self) -> dict[str, int]:
        """What it counted, once it is done."""
        said, _ = self._process.communicate(timeout=WATCH_S + 60)
        counted: dict[str, int] = json.loads(said)
        return counted

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@dataclass
class _OpenConnection:
    sock: socket.socket
    kind: int


class _ConnectionHolder:
    def __init__(self, port: int, kinds: tuple[bytes, ...]) -> None:
        self._port = port
        self._kinds = kinds
        self._selector = selectors.DefaultSelector()
        self.opened = self.open = 0  # of those that are open, those that ask nothing whole

    def add(self) -> None:
        kind = self.opened % len(self._kinds)
        self.opened += 1
        try:
            sock = socket.create_connection(("127.0.0.1", self._port), timeout=5.0)
            sock.setblocking(False)
            sock.send(self._kinds[kind]) if self._kinds[kind] else None
        except OSError:
            return
        self._selector.register(sock, selectors.EVENT_READ, _OpenConnection(sock, kind))
        self.open += kind != _WHOLE

    def poll(self, wait_s: float) -> int:
        """How many were ended."""
        ended = 0
        for key, _ in self._selector.select(wait_s):
            held: _OpenConnection = key.data
            try:
                is_over = not held.sock.recv(65536)
            except BlockingIOError:
                continue
            except OSError:
                is_over = True
            if is_over:
                self._selector.unregister(held.sock)
                held.sock.close()
                self.open -= held.kind != _WHOLE
                ended += 1
        return ended


def main(port: int, count: int, protocol: str, uid: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if uid != os.getuid():
        os.setuid(uid)
    holding = _ConnectionHolder(port, _GRPC if protocol == "grpc" else _HTTP)
    for _ in range(count):
        holding.add()
    print("holding", flush=True)
    began_s = time.monotonic()
    while time.monotonic() < began_s + REOPEN_S:
        for _ in range(min(holding.poll(0.05), 20)):
            holding.add()
            time.sleep(PAUSE_S)
    while holding.open and time.monotonic() < began_s + WATCH_S:
        holding.poll(0.2)
    print(json.dumps({"opened": holding.opened, "open": holding.open}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
