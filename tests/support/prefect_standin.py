"""A server that answers the questions of the page's schedules as Prefect's does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

NAMES: Final = ("fraud-drift", "fraud-rollout", "fraud-retrain", "fraud-batch", "credit-drift")
SCHEDULES: Final = {
    "drift": {"cron": "20 0 * * *", "timezone": "UTC"},
    "rollout": {"interval": 60.0},
}
DEPLOYMENTS: Final = [
    {"id": name, "name": name, "schedules": [
        {"active": True, "schedule": SCHEDULES[flow]} for flow in SCHEDULES if name.endswith(flow)
    ]} for name in NAMES
]  # fmt: skip
WHY: Final = "Flow run encountered an exception: Unavailable: the decision log does not answer"


def run(of: str, state: str, at: str, message: str = "") -> dict[str, Any]:
    """A run as Prefect gives it."""
    return {
        "id": f"run-{state.lower()}-of-{of}", "name": "calm-lynx", "deployment_id": of,
        "parameters": {"model": of.partition("-")[0]}, "expected_start_time": at,
        "state": {"type": state, "name": state.capitalize(), "message": message, "timestamp": at},
    }  # fmt: skip


RUNS: Final = [
    run("fraud-drift", "FAILED", "2026-12-01T00:20:01Z", WHY),
    run("fraud-rollout", "COMPLETED", "2026-12-01T08:00:00Z"),
    run("fraud-retrain", "RUNNING", "2026-12-01T07:00:00Z"),
    run("fraud-drift", "SCHEDULED", "2036-12-02T00:20:00Z"),
    run("fraud-rollout", "SCHEDULED", "2026-01-01T08:01:00Z"),
]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        found = DEPLOYMENTS if self.path == "/api/deployments/filter" else _runs(asked)
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def _runs(asked: dict[str, Any]) -> list[dict[str, Any]]:
    wanted, (flow,) = asked["flow_runs"]["state"]["type"], asked["flows"]["name"]["any_"]
    return [
        one
        for one in RUNS
        if one["deployment_id"].endswith(f"-{flow}")
        and one["state"]["type"] in wanted.get("any_", [one["state"]["type"]])
        and one["state"]["type"] not in wanted.get("not_any_", [])
    ]


@contextmanager
def prefect_standin() -> Iterator[int]:
    """The port of such a server on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
