"""Prefect's REST API against a small server: what its answers become here."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from mlplatform.operations.prefect_client import prefect
from mlplatform.operations.prefect_client.prefect import Deployment, PrefectApi
from mlplatform.runtime.errors import InputInvalid, NotFound, Unavailable

DEPLOYMENT_PATH = "/api/deployments/name/drift/fraud-drift"
RUN_PATH = "/api/deployments/d-1/create_flow_run"
DROPPED = 0
"""For a status: the connection is closed without an answer."""
RUN = {
    "id": "r-1",
    "name": "calm-lynx",
    "parameters": {"model": "fraud"},
    "state": {
        "type": "RUNNING",
        "name": "Running",
        "message": None,
        "timestamp": "2026-03-01T00:00:01.500000Z",
    },
}


@dataclass
class Server:
    """Answers each path with what was set for it, in turn and the last one again and again."""

    answers: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    url: str = ""

    def gives(self, path: str, *answers: tuple[int, Any]) -> None:
        self.answers[path] = list(answers)

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        self.asked.append((method, path, body))
        left = self.answers.get(path, [(404, {"detail": "Not Found"})])
        return left.pop(0) if len(left) > 1 else left[0]


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("GET")

        def do_POST(self) -> None:
            self._answer("POST")

        def log_message(self, *_: object) -> None: ...

        def _answer(self, method: str) -> None:
            server.authorizations.append(self.headers.get("authorization"))
            sent = self.rfile.read(int(self.headers.get("content-length", 0)))
            status, content = server.answer(method, self.path, json.loads(sent or b"null"))
            if status == DROPPED:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            body = b"" if content is None else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    known = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler(known))
    known.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    known.gives(DEPLOYMENT_PATH, (200, {"id": "d-1"}))
    known.gives(RUN_PATH, (201, RUN))
    yield known
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def api(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrefectApi]:
    monkeypatch.setattr(prefect, "PAUSE_S", 0.0)
    api = PrefectApi(server.url, timeout_s=5.0)
    yield api
    api.close()


def test_a_run_is_asked_of_the_flows_deployment(api: PrefectApi, server: Server) -> None:
    run = api.start("drift", {"model": "fraud"}, idempotency_key="fraud-1")
    assert (run.id, run.name, run.state, run.final) == ("r-1", "calm-lynx", "RUNNING", False)
    assert (run.message, run.state_ms) == ("", 1_772_323_201_500)
    method, path, body = server.asked[-1]
    assert (method, path) == ("POST", RUN_PATH)
    assert body["parameters"] == {"model": "fraud"}
    assert body["name"] == "drift check fraud"
    assert body["idempotency_key"] == "fraud-1"


def test_a_servers_password_is_sent_where_it_has_one(server: Server) -> None:
    api = PrefectApi(server.url, timeout_s=5.0, auth=lambda: "operators:with:colons")

    api.start("drift", {"model": "fraud"})
    api.close()

    sent = base64.b64encode(b"operators:with:colons").decode()
    assert set(server.authorizations) == {f"Basic {sent}"}


def test_no_password_is_sent_where_there_is_none(api: PrefectApi, server: Server) -> None:
    api.start("drift", {"model": "fraud"})

    assert set(server.authorizations) == {None}


def test_a_deployment_is_looked_up_once(api: PrefectApi, server: Server) -> None:
    for _ in range(3):
        api.start("drift", {"model": "fraud"})
    assert [path for _, path, _ in server.asked].count(DEPLOYMENT_PATH) == 1


@pytest.mark.parametrize("state", ["COMPLETED", "FAILED", "CANCELLED", "CRASHED"])
def test_a_run_that_ended_is_final(api: PrefectApi, server: Server, state: str) -> None:
    server.gives("/api/flow_runs/r-1", (200, {**RUN, "state": {"type": state}}))
    assert api.run("r-1").final


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_error_is_unavailable(api: PrefectApi, server: Server, status: int) -> None:
    server.gives("/api/flow_runs/r-1", (status, {"detail": "database is locked"}))
    with pytest.raises(Unavailable, match=f"answered {status}"):
        api.run("r-1")


def test_what_a_busy_database_refused_is_asked_again_as_the_same_run(
    api: PrefectApi, server: Server
) -> None:
    server.gives(RUN_PATH, (503, None), (503, None), (201, RUN))
    assert api.start("drift", {"model": "fraud"}).id == "r-1"
    keys = [body["idempotency_key"] for _, path, body in server.asked if path == RUN_PATH]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert keys[0]


@pytest.mark.parametrize(("drops", "asked"), [(0, 1), (1, 2)])
def test_a_dropped_connection_is_asked_over_once_more(
    api: PrefectApi, server: Server, drops: int, asked: int
) -> None:
    server.gives("/api/flow_runs/r-1", *[(DROPPED, None)] * drops, (200, RUN))
    assert api.run("r-1").id == "r-1"
    assert len(server.asked) == asked


def test_connections_that_are_dropped_again_are_unavailable(
    api: PrefectApi, server: Server
) -> None:
    server.gives("/api/flow_runs/r-1", (DROPPED, None))
    with pytest.raises(Unavailable):
        api.run("r-1")
    assert len(server.asked) == 2


def test_an_answer_whose_connection_is_dropped_is_not_sent_again(
    api: PrefectApi, server: Server
) -> None:
    server.gives("/api/flow_runs/r-1/resume", (DROPPED, None))
    with pytest.raises(Unavailable):
        api.submit_input("r-1", {})
    assert len(server.asked) == 1


def test_an_answer_that_met_a_locked_database_is_sent_again(
    api: PrefectApi, server: Server
) -> None:
    """Status 503 says that nothing was written; on a busy machine every second answer met it."""
    server.gives("/api/flow_runs/r-1/resume", (503, None), (200, {"status": "ACCEPT"}))
    api.submit_input("r-1", {"decision": "approve"})
    assert len(server.asked) == 2


def test_nobody_listening_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    api = PrefectApi(f"http://127.0.0.1:{port}")
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
        api.run("r-1")
    assert not api.healthy()
    api.close()


def test_a_server_that_is_slow_is_told_as_slow_and_not_as_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:  # accepts, and never answers
        api = PrefectApi(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout_s=0.1, tries=1)
        with pytest.raises(Unavailable, match=r"did not answer within 0\.1 s$"):
            api.run("r-1")


def test_what_the_server_does_not_know_is_not_found(api: PrefectApi) -> None:
    with pytest.raises(NotFound, match="/flow_runs/nobody"):
        api.run("nobody")
    with pytest.raises(NotFound, match=r"no deployment bake/fraud-bake yet: .*within a minute"):
        api.start("bake", {"model": "fraud"})


@pytest.mark.parametrize("status", [409, 422])
def test_refused_parameters_are_invalid_input_in_the_servers_words(
    api: PrefectApi, server: Server, status: int
) -> None:
    server.gives(RUN_PATH, (status, {"detail": "'perhaps' is not a boolean"}))
    with pytest.raises(InputInvalid, match="'perhaps' is not a boolean"):
        api.start("drift", {"model": "fraud", "report": "perhaps"})


def test_a_refused_parameter_is_named_with_its_value_and_a_way_out(
    api: PrefectApi, server: Server
) -> None:
    told = "Validation failed for field 'report'. Failure reason: 7 is not of type 'boolean'"
    server.gives(RUN_PATH, (409, {"detail": f"Error creating flow run: {told}"}))
    with pytest.raises(InputInvalid) as refused:
        api.start("drift", {"model": "fraud", "report": 7})
    assert str(refused.value) == (
        "report: 7 is not of type 'boolean'; the form of this flow's deployment in Prefect shows"
        " what it takes"
    )


def test_an_accepted_answer_resumes_the_run(api: PrefectApi, server: Server) -> None:
    server.gives("/api/flow_runs/r-1/resume", (200, {"status": "ACCEPT"}))
    api.submit_input("r-1", {"decision": "approve", "approver": "bo"})
    assert server.asked[-1][2] == {"run_input": {"decision": "approve", "approver": "bo"}}


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({"status": "REJECT", "details": {"reason": "decision is missing"}}, "decision is missing"),
        ({"status": "ABORT", "details": None}, "no reason given"),
        ({}, "no reason given"),
    ],
)
def test_an_answer_that_the_form_refuses_is_invalid_though_the_status_is_200(
    api: PrefectApi, server: Server, result: dict[str, Any], reason: str
) -> None:
    server.gives("/api/flow_runs/r-1/resume", (200, result))
    with pytest.raises(InputInvalid, match=f"flow run r-1: the answer was refused: {reason}"):
        api.submit_input("r-1", {})


def test_suspended_runs_are_those_of_the_approval_flow(api: PrefectApi, server: Server) -> None:
    paused = {**RUN, "state": {"type": "PAUSED", "name": "Suspended"}}
    server.gives("/api/flow_runs/filter", (200, [paused]))
    (run,) = api.suspended()
    assert (run.state, run.state_name, run.final) == ("PAUSED", "Suspended", False)
    asked = server.asked[-1][2]
    assert asked["flows"] == {"name": {"any_": ["approval"]}}
    assert asked["flow_runs"] == {"state": {"type": {"any_": ["PAUSED"]}}}


def test_unfinished_runs_are_those_with_the_same_parameters(
    api: PrefectApi, server: Server
) -> None:
    asked = {"model": "fraud", "rollout_id": "fraud-v2-1", "evidence_digest": "e"}
    other = {**RUN, "parameters": {**asked, "evidence_digest": "f"}}
    server.gives("/api/flow_runs/filter", (200, [other, {**RUN, "id": "r-2", "parameters": asked}]))
    assert [run.id for run in api.unfinished("approval", asked)] == ["r-2"]
    assert server.asked[-1][2]["flow_runs"]["name"] == {"any_": ["approve fraud-v2-1"]}


def test_an_event_is_sent_with_its_time(api: PrefectApi, server: Server) -> None:
    server.gives("/api/events", (204, None))
    event = {"id": "e-1", "event": "drift", "resource": {"prefect.resource.id": "fraud"}}
    api.emit(event)
    (sent,) = server.asked[-1][2]
    assert {k: sent[k] for k in event} == event
    assert sent["related"] == []
    assert "T" in sent["occurred"]
    api.emit({**event, "occurred": "2026-03-01T00:00:00Z"})
    assert server.asked[-1][2][0]["occurred"] == "2026-03-01T00:00:00Z"


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (404, False)])
def test_health_is_what_the_server_says(
    api: PrefectApi, server: Server, status: int, healthy: bool
) -> None:
    server.gives("/api/health", (status, True))
    assert api.healthy() is healthy


def test_what_a_run_wrote_is_there_by_key_and_the_newest_of_a_key_counts(
    api: PrefectApi, server: Server
) -> None:
    newest_first = [
        {"key": "drift-fraud", "data": "# now"},
        {"key": "gates-fraud", "data": "# gates"},
        {"key": "drift-fraud", "data": "# before"},
        {"key": "card-fraud", "data": "[version 1 of fraud](http://127.0.0.1:8081/models/fraud)"},
    ]
    server.gives("/api/artifacts/filter", (200, newest_first))
    assert api.reports("r-1") == {"drift-fraud": "# now", "gates-fraud": "# gates"}
    asked = server.asked[-1][2]["artifacts"]
    assert asked == {"flow_run_id": {"any_": ["r-1"]}, "type": {"any_": ["markdown"]}}


def test_schedules_are_read_in_words_and_a_paused_deployment_has_none(
    server: Server, api: PrefectApi
) -> None:
    cron = {"schedule": {"cron": "5 0 * * *", "timezone": "UTC"}, "active": True}
    interval = {"schedule": {"interval": 60.0}, "active": True}
    off = {"schedule": {"interval": 5.0}, "active": False}
    rule = {"schedule": {"rrule": "FREQ=DAILY"}, "active": True}
    found = [
        {"id": "d-1", "name": "fraud-drift", "schedules": [cron, off, interval, rule]},
        {"id": "d-2", "name": "fraud-batch", "schedules": [cron], "paused": True},
    ]
    server.gives("/api/deployments/filter", (200, found))
    assert api.deployments() == [
        Deployment("d-1", "fraud-drift", ("5 0 * * * UTC", "every 60 s", "by a rule")),
        Deployment("d-2", "fraud-batch", ()),
    ]


def test_deployments_are_read_part_by_part(server: Server, api: PrefectApi) -> None:
    part = [{"id": f"d-{n}", "name": "fraud-drift"} for n in range(prefect.PART)]
    server.gives("/api/deployments/filter", (200, part), (200, part[:3]))
    assert len(api.deployments()) == prefect.PART + 3
    assert [body["offset"] for _, _, body in server.asked] == [0, prefect.PART]


def test_runs_that_have_begun_and_runs_to_come_are_asked_for_apart(
    server: Server, api: PrefectApi
) -> None:
    begun = RUN | {"deployment_id": "d-1", "start_time": "2026-03-01T00:00:01Z"}
    server.gives("/api/flow_runs/filter", (200, [begun]), (200, [RUN]), (200, []))
    (last,), (coming,) = api.newest_runs(["drift"], 4), api.next_runs(["drift"], 999)
    assert (last.deployment, last.start_ms) == ("d-1", 1_772_323_201_000)
    assert (coming.deployment, coming.start_ms) == ("", None)
    assert api.newest_run_of("d-1") is None
    first, second, third = (body for _, _, body in server.asked)
    not_begun = ["SCHEDULED", "PENDING"]
    assert first["flow_runs"]["state"]["type"] == {"not_any_": not_begun}
    assert second["flow_runs"]["state"]["type"] == {"any_": not_begun}
    assert (first["limit"], second["limit"], third["limit"]) == (4, prefect.PART, 1)
    assert third["deployments"] == {"id": {"any_": ["d-1"]}}


def test_a_client_with_one_try_does_not_wait_for_a_busy_database(server: Server) -> None:
    server.gives("/api/deployments/filter", (503, {}))
    impatient = PrefectApi(server.url, tries=1)
    with pytest.raises(Unavailable, match="503"):
        impatient.deployments()
    assert len(server.asked) == 1
    impatient.close()
