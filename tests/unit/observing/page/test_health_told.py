"""What a process says is wrong while it answers is told where people look."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from mlplatform.observing.page.rendering import render
from mlplatform.operations.supervisor.probe import ProbeReply, ask
from mlplatform.operations.supervisor.status import PlatformStatus, ProcessStatus

STALE = "features of fraud: the newest snapshot of customer_stats is too old"


class Gateway(BaseHTTPRequestHandler):
    """Ready, and says what it is asked to."""

    def do_GET(self) -> None:
        body = b'{"status":"ready"}'
        if self.path != "/readyz":
            body = b'{"status":"ready","detail":"%s"}' % STALE.encode()
        self.send_response(404 if self.path == "/absent" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), Gateway)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()


def test_a_ready_process_may_say_what_is_wrong(port: int) -> None:
    assert ask(port, "/readyz") == ProbeReply(True, "")
    assert ask(port, "/complaining") == ProbeReply(True, STALE)


def test_a_404_is_told_in_the_platforms_words_where_it_has_some(port: int) -> None:
    assert ask(port, "/absent") == ProbeReply(False, STALE)
    words = "its flows are not registered yet"
    assert ask(port, "/absent", absent=words) == ProbeReply(False, words)
    assert ask(port, "/complaining", absent=words) == ProbeReply(True, STALE)


def process(name: str, state: str, reason: str) -> ProcessStatus:
    return ProcessStatus(name, 1, state, reason, 0, 10.0, 5.0, 8080)


def test_the_platform_is_ready_and_not_healthy() -> None:
    well = process("gateway-0", "ready", "")
    starting = process("page", "starting", "has not answered yet")
    assert PlatformStatus("ready", (well, starting)).complaints == ()
    unwell = PlatformStatus("ready", (well, process("gateway-1", "ready", STALE)))
    assert unwell.complaints == (f"gateway-1: {STALE}",)


def test_the_page_says_so_first() -> None:
    status = PlatformStatus("ready", (process("gateway-0", "ready", STALE),))
    page = render(
        "overview.html",
        waiting=[],
        reviews=[],
        here="overview",
        refused={},
        status=status,
        models="away",
        rollouts=[],
        incidents=[],
        tones={},
        links={},
    )
    assert "The platform is ready, not healthy" in page
    assert page.index(STALE) < page.index("Models")
