"""Receivers of events: a server in a process of its own that keeps what came, and does as told.

As a script: `event_receivers.py FOLDER`. It writes its port to FOLDER/port, and each request as a
JSON line to FOLDER/received.jsonl before it answers. How a path answers is in FOLDER/answers.json:
path → what it does (see `Handler`), 200 where the file says nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

START_S = 10.0
HUGE_BYTES = 64 << 20


@dataclass(frozen=True)
class Receivers:
    """What a server of this kind got, and how it is told to answer."""

    folder: Path
    port: int

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def answer(self, **by_name: Any) -> None:
        """Replace the answers: path without its slash → status, headers, or a hostile way."""
        fresh = self.folder / "answers.new"
        fresh.write_text(json.dumps({f"/{name}": how for name, how in by_name.items()}))
        fresh.replace(self.folder / "answers.json")

    def received(self, path: str) -> list[dict[str, Any]]:
        """Requests that came whole, oldest first."""
        file = self.folder / "received.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [one for one in map(json.loads, lines) if one["path"] == path]

    def ids(self, path: str) -> list[str]:
        return [one["headers"]["webhook-id"] for one in self.received(path)]


@contextmanager
def serving(folder: Path) -> Iterator[Receivers]:
    """A server until the end of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen([sys.executable, __file__, str(folder)])
    try:
        port = folder / "port"
        until_s = time.monotonic() + START_S
        while not port.exists():
            assert process.poll() is None, "the server of receivers has ended"
            assert time.monotonic() < until_s, "the server of receivers does not start"
            time.sleep(0.01)
        yield Receivers(folder, int(port.read_text()))
    finally:
        process.kill()
        process.wait()


class Handler(BaseHTTPRequestHandler):
    """Answers: a status; `[status, headers]`; "huge", a body without an end; "drip", a head that
    comes a byte at a time; "silent", nothing."""

    folder: Path
    writing = threading.Lock()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        how = self.how()
        line = {"path": self.path, "headers": headers, "body": body, "how": how}
        with self.writing, (self.folder / "received.jsonl").open("a") as kept:
            kept.write(f"{json.dumps(line)}\n")
        with suppress(OSError):  # who asked is gone
            self.answered(how)

    def how(self) -> Any:
        file = self.folder / "answers.json"
        answers = json.loads(file.read_text()) if file.exists() else {}
        return answers.get(self.path, 200)

    def answered(self, how: Any) -> None:
        if how == "silent":
            time.sleep(60)
        elif how == "drip":
            for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 10_000:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.05)
        elif how == "huge":
            self.send_response(200)
            self.send_header("content-length", str(HUGE_BYTES))
            self.end_headers()
            for _ in range(HUGE_BYTES >> 16):
                self.wfile.write(b"x" * 65536)
        else:
            status, headers = how if isinstance(how, list) else (how, {})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", "0")
            self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Nothing on standard error."""


def main() -> None:
    folder = Path(sys.argv[1])
    Handler.folder = folder
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fresh = folder / "port.new"
    fresh.write_text(str(server.server_address[1]))
    fresh.replace(folder / "port")
    server.serve_forever()


if __name__ == "__main__":
    main()
