"""Flow runs as Jobs of a work pool: registered with a real Prefect server, rendered as the worker
renders them, and run by the command that their pod would run. What is missing is Kubernetes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from mlplatform.operations.prefect_client import names
from mlplatform.operations.prefect_client.prefect import PrefectApi
from mlplatform.operations.prefect_server.choices import with_versions
from mlplatform.operations.prefect_server.local_flows import HEAVY_ELSEWHERE, RUNS_AT_A_TIME
from support.manifest_schemas import unknown
from support.pod_security import violations
from support.ports import free_port
from support.probe import status_of
from support.scoring_world import wait_for

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
WORKLOADS = ROOT / "platform" / "manifests" / "workloads"
AUTH = "platform:of tests"
START_S = 150


@dataclass(frozen=True)
class Server:
    """A Prefect server as its pod starts it, and what its clients are told."""

    url: str
    environment: dict[str, str]
    home: Path


def asking(server: Server) -> httpx.Client:
    """A client that opens a connection for each request: one that it kept could be closed by the
    server, for having been idle, in the moment of the next request."""
    name, _, token = AUTH.partition(":")
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.Client(base_url=f"{server.url}/api", auth=(name, token), limits=limits)


def container(of: str, kind: str = "containers") -> dict[str, Any]:
    found = yaml.safe_load_all((WORKLOADS / "prefect.yaml").read_text())
    [made] = [d for d in found if (d["kind"], d["metadata"]["name"]) == ("Deployment", of)]
    chosen: dict[str, Any] = made["spec"]["template"]["spec"][kind][0]
    return chosen


@contextmanager
def running(argv: list[str], log: Path, environment: dict[str, str]) -> Iterator[None]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *argv], env=environment, stdout=file, stderr=file
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, port = tmp_path_factory.mktemp("prefect"), free_port()
    spec = container("prefect")
    plain = {e["name"]: e["value"] for e in spec["env"] if "value" in e}
    own = {
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(folder / "ui"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder}/prefect.db",
        "PREFECT_API_AUTH_STRING": AUTH,
        "MLPLATFORM_HOME": str(folder / "server"),
        "MLPLATFORM_PREFECT_URL": f"http://127.0.0.1:{port}",
    }
    argv = [a for a in (*spec["command"][1:], *spec["args"])]
    argv = [{"0.0.0.0": "127.0.0.1", "4200": str(port)}.get(a, a) for a in argv]
    url = f"http://127.0.0.1:{port}"
    clients = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "platform" / "src"),
        "PREFECT_HOME": str(folder / "client"),
        "PREFECT_API_AUTH_STRING": AUTH,
        "MLPLATFORM_PREFECT_URL": url,
        "MLPLATFORM_HOME": str(folder / "var"),
    }
    with running(argv, folder / "server.log", {**os.environ, **plain, **own}):
        wait_for(
            lambda: status_of(f"{url}{spec['livenessProbe']['httpGet']['path']}") == 200, START_S
        )
        register(clients)
        yield Server(url, clients, folder / "server")


def register(environment: dict[str, str]) -> None:
    """As the worker's first container does."""
    argv = container("prefect-worker", "initContainers")["command"][1:]
    argv += [f"--template={WORKLOADS / 'flow-run.yaml'}", f"--folder={ROOT}", "--image=flows:2"]
    done = subprocess.run(
        [sys.executable, *argv], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def rendered(server: Server, run_id: str) -> dict[str, Any]:
    """The Job that the worker would create for that run."""
    code = "import asyncio, json, sys; from e2e import test_flow_run_jobs as t; " + (
        "print(json.dumps(asyncio.run(t.job(sys.argv[1]))))"
    )
    paths = os.pathsep.join([str(ROOT / "tests"), server.environment["PYTHONPATH"]])
    environment = server.environment | {
        "PREFECT_API_URL": f"{server.url}/api",
        "PREFECT_TEST_MODE": "0",
        "PYTHONPATH": paths,
    }
    done = subprocess.run(
        [sys.executable, "-c", code, run_id],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout.splitlines()[-1])
    return found


async def job(run_id: str) -> dict[str, Any]:
    from prefect.client.orchestration import get_client
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    async with get_client() as client:
        run = await client.read_flow_run(run_id)  # type: ignore[arg-type]
        deployment = await client.read_deployment(run.deployment_id)  # type: ignore[arg-type]
        pool = await client.read_work_pool(deployment.work_pool_name)  # type: ignore[arg-type]
        flow = await client.read_flow(run.flow_id)
        values = deployment.job_variables or {}
        made = await KubernetesWorkerJobConfiguration.from_template_and_values(
            base_job_template=pool.base_job_template, values=values, client=client
        )
    made.prepare_for_flow_run(run, deployment, flow, pool)
    manifest: dict[str, Any] = made.job_manifest
    return manifest


def test_nobody_registers_or_asks_without_the_password(server: Server) -> None:
    for path in ("/", "/api/ready", "/api/work_pools/kubernetes"):
        assert httpx.get(f"{server.url}{path}").status_code == 401
    assert status_of(f"{server.url}/health") == 200


def test_a_person_looks_and_changes_nothing(server: Server) -> None:
    """By a key of the platform's own, which the server's gate follows."""
    argv = ["-m", "mlplatform.commands", "keys", "create", "--name", "ana", "--model", "fraud"]
    made = subprocess.run(
        [sys.executable, *argv, "--scope", "run", "--json"],
        env={**os.environ, "MLPLATFORM_HOME": str(server.home)},
        capture_output=True,
        text=True,
        check=True,
    )
    ana = ("ana", json.loads(made.stdout)["secret"])
    pool = f"{server.url}/api/work_pools/kubernetes"
    wait_for(lambda: httpx.get(pool, auth=ana).status_code == 200, START_S)
    change = {"base_job_template": {}}
    assert httpx.patch(pool, json=change, auth=ana).status_code == 403
    elsewhere = httpx.get(f"{server.url}/api/health", headers={"Host": "evil.example"}, auth=ana)
    assert elsewhere.status_code == 403


def test_the_pool_takes_as_many_runs_at_a_time_as_one_machine(server: Server) -> None:
    with asking(server) as client:
        pool = client.get("/work_pools/kubernetes").json()

    assert pool["concurrency_limit"] == RUNS_AT_A_TIME


def test_more_heavy_runs_than_places_keep_no_pass_from_the_worker(server: Server) -> None:
    api = PrefectApi(server.url, auth=lambda: AUTH)
    days = {"model": "fraud", "first": "2026-01-01", "last": "2026-01-02"}
    heavy = {api.start("batch", days).id for _ in range(RUNS_AT_A_TIME + 2)}
    with asking(server) as client:
        now = {"scheduled_before": datetime.now(UTC).isoformat()}

        def given() -> list[str]:
            """The runs that the worker is given now, which begin."""
            found = client.post("/work_pools/kubernetes/get_scheduled_flow_runs", json=now).json()
            ids = [item["flow_run"]["id"] for item in found]
            for run_id in ids:
                begins = {"state": {"type": "PENDING"}, "force": True}
                client.post(f"/flow_runs/{run_id}/set_state", json=begins).raise_for_status()
            return ids

        begun = given() + given()
        rollback = {"model": "fraud", "actor": "ana", "reason": "it declines everybody"}
        passes = [api.start("rollout", {"model": "fraud"}).id, api.start("rollback", rollback).id]
        now = {"scheduled_before": datetime.now(UTC).isoformat()}

        assert set(passes) <= set(given())  # passes that the schedule makes due may be among them
        assert len(heavy.intersection(begun)) == HEAVY_ELSEWHERE
        for run_id in (*heavy, *begun, *passes):
            client.delete(f"/flow_runs/{run_id}")
    api.close()


def test_registering_again_changes_nothing(server: Server) -> None:
    def known() -> dict[str, Any]:
        with asking(server) as client:
            found = client.post("/deployments/filter", json={}).json()
            return {d["name"] + d["flow_id"]: (d["id"], len(d["schedules"])) for d in found}

    before = known()
    register(server.environment)

    assert len(before) == len(names.RUNS)
    assert known() == before


def test_registering_again_keeps_the_versions_to_choose_from(server: Server) -> None:
    """This process may not ask the registry; a run that registers a version has written them."""

    def version(flow: str) -> dict[str, Any]:
        path = f"/deployments/name/{flow}/{names.deployment(flow, 'fraud')}"
        schema: dict[str, Any] = client.get(path).json()["parameter_openapi_schema"]
        return schema["properties"]["version"]  # type: ignore[no-any-return]

    with asking(server) as client:
        assert "enum" not in version("promote")
        found = client.get(f"/deployments/name/promote/{names.deployment('promote', 'fraud')}")
        schema = with_versions(found.json()["parameter_openapi_schema"], ["version"], [3, 1])
        path = f"/deployments/{found.json()['id']}"
        changed = client.patch(path, json={"parameter_openapi_schema": schema})
        assert changed.is_success
        register(server.environment)
        assert version("promote")["enum"] == [3, 1]
        assert version("batch")["anyOf"][0]["enum"] == [3, 1]


@pytest.mark.parametrize(
    ("flow", "account", "asks", "priority"),
    [
        ("rollout", "rollouts", "true", "mlplatform-production"),
        ("batch", "batches", "true", "mlplatform-development"),
        ("drift", "flows", "false", "mlplatform-development"),
    ],
)
def test_a_run_becomes_a_job_that_kubernetes_takes(
    server: Server, flow: str, account: str, asks: str, priority: str
) -> None:
    api = PrefectApi(server.url, auth=lambda: AUTH)
    days = {"first": "2026-01-01", "last": "2026-01-02"} if flow == "batch" else {}
    manifest = rendered(server, api.start(flow, {"model": "fraud", **days}).id)
    api.close()
    pod = manifest["spec"]["template"]["spec"]

    # Prefect wants these two where they do nothing, and the API server leaves them out.
    assert (pod.pop("parallelism"), pod.pop("completions")) == (1, 1)
    assert unknown(manifest, "V1Job", "") == []
    assert violations(pod) == []
    assert manifest["metadata"]["namespace"] == "mlplatform"
    assert pod["serviceAccountName"] == account
    assert pod["priorityClassName"] == priority
    assert [c["image"] for c in pod["containers"]] == ["flows:2"]
    assert manifest["spec"]["template"]["metadata"]["labels"]["mlplatform/asks-api-server"] == asks
    assert "{{" not in str(manifest)


def test_what_the_pod_runs_ends_the_run_well(server: Server, tmp_path: Path) -> None:
    api = PrefectApi(server.url, auth=lambda: AUTH)
    run = api.start("rollout", {"model": "fraud", "dry_run": True})
    [made] = rendered(server, run.id)["spec"]["template"]["spec"]["containers"]
    told = {e["name"]: e["value"] for e in made["env"]}
    home = {"MLPLATFORM_HOME": str(tmp_path / "home"), "PREFECT_HOME": str(tmp_path / "prefect")}

    done = subprocess.run(
        [sys.executable, *made["command"][1:], *made["args"]],
        env={**server.environment, **told, **home},
        cwd=ROOT,  # as /opt/mlplatform in the image, it has the folder flows
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert api.run(run.id).state == "COMPLETED", done.stderr
    api.close()


def test_the_worker_is_started_with_options_that_it_has() -> None:
    spec = container("prefect-worker")
    help_page = subprocess.run(
        [sys.executable, *spec["command"][1:], "--help"], capture_output=True, text=True, check=True
    ).stdout
    for option in spec["args"]:
        assert option.split("=")[0] in help_page
