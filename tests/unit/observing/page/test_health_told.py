"""What a process says is wrong while it answers is told where people look."""

from __future__ import annotations

import re
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


@pytest.mark.parametrize(
    ("state", "processes", "headline"),
    [
        ("ready", {"prefect": "ready"}, "ready"),
        ("ready", {"gateway-0": "ready", "prefect": "gone"}, "ready to answer, but prefect is not"),
        (
            "ready",
            {"gateway-0": "gone", "prefect": "gone"},
            "ready, but gateway-0 and prefect are not",
        ),
        ("ready", {"mlflow": "gone", "page": "not ready"}, "ready, but mlflow and page are not"),
        ("ready", {"page": "restarting"}, "ready, but page is not"),
        ("ready", dict.fromkeys("abcde", "gone"), "ready, but a, b, c and 2 more are not"),
        ("starting", {"page": "starting"}, "starting"),
    ],
)
def test_the_headline_names_what_is_not_ready(
    state: str, processes: dict[str, str], headline: str
) -> None:
    each = tuple(process(name, of, "") for name, of in processes.items())
    assert PlatformStatus(state, each).headline == headline


def test_the_headline_names_what_warns_beside_what_is_not_ready() -> None:
    warns = [process(f"gateway-{n}", "ready", STALE) for n in range(2)]
    both = PlatformStatus("ready", (*warns, process("prefect", "gone", "")))
    told = "ready to answer, but prefect is not, and gateway-0 and gateway-1 warn"
    assert both.headline == told


def test_a_process_that_does_not_answer_the_page_is_not_shown_as_ready() -> None:
    """The supervisor's probes notice it later: the view would say both."""
    status = PlatformStatus("ready", (process("prefect", "ready", ""),))
    assert status.unanswered("prefect", "") == status
    silent = status.unanswered("prefect", "no answer to this page in 2 s")
    assert silent.headline == "ready to answer, but prefect is not"
    assert overview(silent).count("no answer to this page in 2 s") == 2  # above, and in the table


def test_a_prefect_that_is_away_is_a_note_and_what_answers_need_is_red() -> None:
    gateway = process("gateway-0", "not ready", "it is silent")
    away = process("prefect", "not ready", "no answer to this page for 60 s")
    page = overview(PlatformStatus("ready", (process("gateway-0", "ready", ""), away)))
    assert "bad" not in page.partition("<h1>")[2], "nothing is red, in the table neither"
    note = page.partition('<p class="away">')[2].partition("</p>")[0]
    assert "Answers to requests" in note
    assert "no pass moves a rollout on" in note
    assert "<code>mlplatform rollouts pass MODEL</code> makes a pass without it" in note
    both = overview(PlatformStatus("ready", (gateway, away)))
    (red,) = re.findall(r'<p class="verdict bad">(.*)</p>', both)
    assert red.endswith("</a> is not ready: it is silent.")
    assert both.count('<p class="away"><a href="#processes">prefect</a>') == 1
    assert both.count('class="n bad"') == 1, "the gateway's state in the table"


def test_the_page_says_so_first() -> None:
    page = overview(PlatformStatus("ready", (process("gateway-0", "ready", STALE),)))
    assert "<h1>The platform is ready, but gateway-0 warns</h1>" in page
    assert page.index(STALE) < page.index("Models")
    page = overview(PlatformStatus("ready", (process("prefect", "not ready", "no answer"),)))
    assert "<h1>The platform is ready to answer, but prefect is not</h1>" in page


def overview(status: PlatformStatus) -> str:
    return render(
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
