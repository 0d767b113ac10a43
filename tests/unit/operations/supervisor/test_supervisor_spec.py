"""How long a supervisor waits, what it sweeps, and whom MLflow's gate lets through."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.model.folders import load_definition, model_names
from mlplatform.observing.events.sender import SEND_S
from mlplatform.operations.supervisor.mlflow_server import environment
from mlplatform.operations.supervisor.platform import children
from mlplatform.operations.supervisor.spec import (
    LONGEST_DELAY_S,
    STABLE_S,
    next_failures,
    restart_delay_s,
    start_patience,
    uncounted_s,
)
from mlplatform.process import ENTRIES
from mlplatform.runtime.configuration.settings import Home, load
from mlplatform.runtime.http.token_gate import TokenGate
from mlplatform.runtime.processes.records import (
    ProcessId,
    ProcessRecord,
    descendants,
    read_processes,
    sweep,
    write_processes,
)


def test_delays_double_up_to_a_limit() -> None:
    assert [restart_delay_s(n) for n in range(1, 9)] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 15]


@given(st.integers(1, 10**9))
def test_no_delay_passes_the_limit(failures: int) -> None:
    assert 0 < restart_delay_s(failures) <= LONGEST_DELAY_S


def test_a_stable_run_forgets_earlier_failures() -> None:
    assert next_failures(7, STABLE_S - 1) == 8
    assert next_failures(7, STABLE_S) == 1


def test_a_silence_counts_only_where_the_child_had_a_core_or_wanted_none() -> None:
    assert uncounted_s(1.0, 0.0) == 0.0  # it hangs
    assert uncounted_s(1.0, 0.5) == 0.5
    assert uncounted_s(1.0, 7.0) == 0.9  # seven threads wait, and the eighth may hang
    assert uncounted_s(1.0, -4.0) == 0.0  # a thread has ended


def own_id() -> ProcessId:
    found = ProcessId.of(os.getpid())
    assert found is not None
    return found


def test_a_process_is_known_by_pid_and_start_time() -> None:
    own = own_id()

    assert own.alive()
    assert not ProcessId(own.pid, own.started_s - 60).alive()
    assert ProcessId.of(2**22 + 1) is None


def test_the_sweep_spares_a_process_that_only_has_the_pid(tmp_path: Path) -> None:
    home = Home(tmp_path)
    stranger = ProcessId(os.getpid(), own_id().started_s - 3600)
    write_processes(home, [ProcessRecord("gateway", "ready", "", 0, stranger, 8080, (stranger,))])

    assert sweep(home) == []
    assert read_processes(home) == []


def test_descendants_are_found_below_their_root() -> None:
    parent = psutil.Process().parent()
    assert parent is not None

    found = descendants([parent.pid])

    assert os.getpid() in [process.pid for process in found[parent.pid]]


async def passed(authorization: str | None, path: str = "/api") -> int:
    statuses: list[int] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        statuses.append(200)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = [] if authorization is None else [(b"authorization", authorization.encode())]
    scope = {"type": "http", "path": path, "headers": headers}
    gate = TokenGate(application, "secret", "server", "run/server.token")
    await gate(scope, None, send)  # type: ignore[arg-type]
    return statuses[0]


async def test_who_has_no_token_is_told_how_to_send_it_and_which_file_holds_it() -> None:
    sent: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("nobody without the token reaches the server")

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {"type": "http", "path": "/api", "headers": []}
    await TokenGate(application, "secret", "page", "run/page.token")(scope, None, send)  # type: ignore[arg-type]
    message = json.loads(sent[-1]["body"])["message"]
    assert "`Authorization: Bearer TOKEN`" in message
    assert "run/page.token of the home folder" in message


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    ("authorization", "path", "status"),
    [
        pytest.param("Bearer secret", "/api", 200, id="as MLflow's client sends it"),
        pytest.param(basic("anybody:secret"), "/api", 200, id="as a browser sends it"),
        pytest.param(None, "/health", 200, id="health is open"),
        pytest.param(None, "/api", 401, id="nothing"),
        pytest.param("Bearer wrong", "/api", 401, id="another token"),
        pytest.param("Bearer ", "/api", 401, id="an empty token"),
        pytest.param("secret", "/api", 401, id="no scheme"),
        pytest.param(basic("secret"), "/api", 401, id="a name without a password"),
        pytest.param("Basic !", "/api", 401, id="not Base64"),
        pytest.param(None, "/health/../api", 401, id="a path that only begins like health"),
    ],
)
async def test_whom_the_gate_lets_through(
    authorization: str | None, path: str, status: int
) -> None:
    assert await passed(authorization, path) == status


def test_mlflow_keeps_everything_at_home_and_reads_no_pickles(tmp_path: Path) -> None:
    variables = environment(load({"MLPLATFORM_HOME": str(tmp_path)}))

    assert variables["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert variables["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert variables["_MLFLOW_SERVER_FILE_STORE"].startswith(f"sqlite:///{tmp_path}")


def test_a_worker_is_one_process_a_model_and_stops_before_the_gateways(tmp_path: Path) -> None:
    specs = {spec.name: spec for spec in children(load({"MLPLATFORM_HOME": str(tmp_path)}))}
    asking = {f"worker-{n}" for n in model_names() if load_definition(n).takes_async}
    assert asking == {name for name in specs if name.startswith("worker-")} != set()
    for name in asking:
        assert specs[name].stop_order < specs["gateway-0"].stop_order
        assert "--outbox" in specs[name].argv


@pytest.mark.parametrize(
    ("told", "there"),
    [
        pytest.param({}, True, id="by default"),
        pytest.param({"MLPLATFORM_JOB_PROCESSES": "0"}, False, id="runs work on jobs themselves"),
        pytest.param(
            {"MLPLATFORM_ARGO_NAMESPACE": "jobs", "MLPLATFORM_ARTIFACTS": "s3://artifacts"},
            False,
            id="Argo does",
        ),
    ],
)
def test_a_pool_of_jobs_is_there_where_nobody_else_works_on_them(
    tmp_path: Path, told: dict[str, str], there: bool
) -> None:
    settings = load({"MLPLATFORM_HOME": str(tmp_path), **told})
    assert ("jobs" in {spec.name for spec in children(settings)}) is there


def test_events_go_out_only_where_a_file_says_to_whom(tmp_path: Path) -> None:
    told = {"MLPLATFORM_HOME": str(tmp_path)}
    assert "events" not in {spec.name for spec in children(load(told))}
    file = {"MLPLATFORM_RECEIVERS": "receivers.yaml"}
    (spec,) = [spec for spec in children(load(told | file)) if spec.name == "events"]
    assert spec.env["MLPLATFORM_RECEIVERS"] == str(Path("receivers.yaml").absolute())
    assert spec.stop_grace_s > SEND_S  # an attempt that is under way is finished and recorded
    assert ENTRIES["events"].niceness > 0


def test_a_start_that_was_late_gets_more_time_the_next_time() -> None:
    assert [start_patience(n) for n in range(6)] == [1, 2, 4, 8, 8, 8]
