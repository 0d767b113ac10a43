"""Forms of a real Prefect server with the platform's flows, and the names of its runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from mlplatform.operations.prefect_client import names
from mlplatform.operations.prefect_client.events import RETRAIN_EVENT, resource
from mlplatform.operations.prefect_client.prefect import PrefectApi
from mlplatform.runtime.configuration.settings import Home, Settings
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.storage.files import write_atomically
from support.platform_process import DEADLINE_S, wait
from support.ports import free_port
from support.probe import status_of

pytestmark = pytest.mark.slow
TOKEN = "of-this-start"
START_S = 150
PERSON = {"actor": "ana", "reason": "new terminals"}

SERVED = """
import os, sys
from pathlib import Path
from mlplatform.operations.prefect_server import choices, local_flows
from mlplatform.runtime.configuration.settings import load

def ready(settings, models):
    local_flows.settle(models)
    local_flows.keep_automations(models)
    choices.write_versions("fraud", [3, 1])
    assert choices.offered_versions("fraud") == [3, 1]
    Path(sys.argv[1]).write_text(os.environ["PREFECT_API_AUTH_STRING"])

local_flows.on_ready = ready
local_flows.RUNS_AT_A_TIME = local_flows.HEAVY_AT_A_TIME = 0  # nothing runs: it is all about forms
local_flows.run(local_flows.parser().parse_args([]), load(os.environ))
"""


@dataclass(frozen=True, slots=True)
class Prefect:
    """The server, its clients as the operator and as a flow run, and the operator's plain calls."""

    url: str
    api: PrefectApi
    of_the_platform: PrefectApi

    def call(self, path: str, **body: Any) -> httpx.Response:
        given = {"auth": ("operator", TOKEN), "timeout": 60.0}
        return httpx.post(f"{self.url}/api{path}", json=body, **given)  # type: ignore[arg-type]

    def start(self, flow: str, **parameters: Any) -> httpx.Response:
        name = f"{flow}/{names.deployment(flow, 'fraud')}"
        given = {"auth": ("operator", TOKEN), "timeout": 60.0}
        found = httpx.get(f"{self.url}/api/deployments/name/{name}", **given)  # type: ignore[arg-type]
        path = f"/deployments/{found.json()['id']}/create_flow_run"
        answers: list[httpx.Response] = []

        def answered() -> bool:
            """A busy database is 503, and has rolled back."""
            answers.append(self.call(path, parameters=parameters))
            return answers[-1].status_code != 503

        wait(answered, within_s=START_S)
        return answers[-1]

    def runs_of(self, flow: str) -> list[dict[str, Any]]:
        return self.call("/flow_runs/filter", flows={"name": {"any_": [flow]}}).json()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    folder = tmp_path_factory.mktemp("prefect")
    home, mark = Home(folder / "home"), folder / "ready"
    home.create()
    write_atomically(home.mlflow_token, b"secret")
    write_atomically(home.prefect_token, TOKEN.encode())
    settings = Settings(home, "system", 1, prefect_port=free_port(), mlflow_port=free_port())
    with (home.logs / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVED, str(mark)],
            env={**os.environ, **settings.environment()},
            stdout=log,
            stderr=log,
        )
    api = PrefectApi(settings.prefect_url, auth=lambda: f"operator:{TOKEN}")
    try:
        wait(
            lambda: (mark.exists() and mark.read_text()) or process.poll() is not None,
            within_s=START_S,
        )
        wait(lambda: status_of(f"{settings.prefect_url}/health") is not None, within_s=START_S)
        platform = PrefectApi(settings.prefect_url, auth=mark.read_text)
        yield Prefect(settings.prefect_url, api, platform)
        platform.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    finally:
        api.close()
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("flow", "given", "named"),
    [
        ("promote", {"version": "abc", **PERSON}, "version"),
        ("retrain", {"as_of": "yesterday", **PERSON}, "as_of"),
        ("validate", {"onnx_path": 7, "actor": "ana"}, "onnx_path"),
        ("control", {"act": "stop", **PERSON}, "act"),
        ("control", {"act": "pause", "rollout_id": "the newest", **PERSON}, "rollout_id"),
        ("rollback", {"actor": "ana", "reason": "no"}, "reason"),
        ("rollback", {"only": "the newest", **PERSON}, "only"),
        ("retrain", {"model": "fraudd", **PERSON}, "model"),
        ("promote", {"version": 2, **PERSON}, "2 is not one of [3, 1]"),
        ("replay", {"version": 3, "against": 2}, "against"),
        ("replay", {"version": 3, "days": 91}, "days"),
        ("replay", {"version": 3, "begins": {"review": "high"}}, "high"),
        ("plan", {"version": 2}, "version"),
        ("batch", {"version": 2}, "version"),
    ],
)
def test_a_run_that_its_form_does_not_take_is_refused_and_never_made(
    prefect: Prefect, flow: str, given: dict[str, Any], named: str
) -> None:
    before = len(prefect.runs_of(flow))
    refused = prefect.start(flow, **given)
    assert refused.status_code == (403 if named == "model" else 409)
    assert named in refused.json()["detail"]
    assert len(prefect.runs_of(flow)) == before


def test_a_command_says_which_value_prefect_refuses(prefect: Prefect) -> None:
    with pytest.raises(InputInvalid, match=r"^version: 'abc' is not of type 'integer'; the form"):
        prefect.api.start("promote", {"model": "fraud", "version": "abc", **PERSON})


@pytest.mark.parametrize(
    ("flow", "given"),
    [
        ("promote", {"version": 1, **PERSON}),
        ("replay", {"version": 3, "against": 1, "begins": {"review": 0.12}, "days": 30}),
        ("replay", {"version": 3, "against": None}),
        ("plan", {"version": 3}),
        ("plan", {}),
        ("batch", {"first": "2026-03-01"}),
        ("control", {"act": "kill", **PERSON}),
        ("control", {"act": "pause", "rollout_id": "fraud-v2-1", **PERSON}),
        ("rollback", {"only": "fraud-v2-1", **PERSON}),
    ],
)
def test_a_form_takes_a_version_that_there_is(
    prefect: Prefect, flow: str, given: dict[str, Any]
) -> None:
    assert prefect.start(flow, **given).status_code == 201


def test_runs_of_a_schedule_have_their_names_before_they_start(prefect: Prefect) -> None:
    wait(lambda: all(map(prefect.runs_of, ("rollout", "drift", "skew"))), within_s=START_S)
    named = {run["name"] for flow in ("rollout", "drift", "skew") for run in prefect.runs_of(flow)}
    models = {run["parameters"]["model"] for run in prefect.runs_of("rollout")}
    assert "fraud" in models
    assert named == {
        f"{what} {model}"
        for what in ("rollout pass", "drift check", "skew check")
        for model in models
    }


def test_a_run_that_nobody_named_is_named_by_its_parameters(prefect: Prefect) -> None:
    started = prefect.start("promote", version=3, **PERSON)
    assert started.json()["name"] == "promote fraud v3"


def test_a_run_that_an_incident_starts_is_named_too(prefect: Prefect) -> None:
    payload = {"model": "fraud", "as_of": "2026-03-01T00:00:00.000Z", "incident": "i-1", "claim": 1}
    payload |= {"reason": "it has drifted", "traceparent": ""}
    about = {"prefect.resource.id": resource("fraud"), "prefect.resource.name": "fraud"}
    sent = {"id": str(uuid.uuid4()), "event": RETRAIN_EVENT, "resource": about, "payload": payload}
    prefect.of_the_platform.emit(sent)
    wait(lambda: bool(prefect.runs_of("retrain")), within_s=START_S)
    (run,) = prefect.runs_of("retrain")
    assert (run["name"], run["parameters"]["claim"]) == ("retrain fraud", 1)
