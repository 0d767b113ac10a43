"""Containers of the built images: they answer as told, write nowhere, and end when they are asked.

`make test-images` builds them first. Without a daemon every test is skipped, and says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from support.onnx_bundles import sigmoid_bundle

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
DOCKER = os.environ.get("DOCKER", "docker")
START_S = 60.0
TOKEN = "a-token"
CONFINED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
CONFINED += ("--memory", "1g", "--pids-limit", "256", "--publish", "127.0.0.1::8080")


def docker(*arguments: str) -> str:
    done = subprocess.run([DOCKER, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def has_images() -> bool:
    try:
        return bool(docker("image", "ls", "--quiet", f"mlplatform/gateway:{VERSION}"))
    except (OSError, AssertionError):
        return False


if os.environ.get("MLPLATFORM_TEST_IMAGES") != "required":
    pytestmark = pytest.mark.skipif(
        not has_images(), reason="no Docker daemon has the images: make test-images builds them"
    )

Start = Callable[..., "Container"]


class Container:
    """A running container and its port 8080, on loopback."""

    def __init__(self, image: str, *arguments: str, given: tuple[str, ...] = ()) -> None:
        named = f"mlplatform/{image}:{VERSION}"
        self.id = docker("run", "--detach", *CONFINED, *given, named, *arguments)
        address = docker("port", self.id, "8080").splitlines()[0]
        headers = {"Authorization": f"Bearer {TOKEN}"}
        self.client = httpx.Client(base_url=f"http://{address}", headers=headers, timeout=30)

    def wait_for(self, path: str) -> None:
        until_s = time.monotonic() + START_S
        while time.monotonic() < until_s:
            try:
                if self.client.get(path).status_code == 200:
                    return
            except httpx.TransportError:
                assert self.is_running, self.log
            time.sleep(0.1)
        raise AssertionError(f"{path} is not 200 after {START_S:.0f} s: {self.log}")

    @property
    def is_running(self) -> bool:
        return docker("inspect", "--format", "{{.State.Running}}", self.id) == "true"

    @property
    def log(self) -> str:
        done = subprocess.run([DOCKER, "logs", self.id], capture_output=True, text=True)
        return (done.stdout + done.stderr)[-2000:]

    def stop(self) -> int:
        """End it as Kubernetes does, and return its status."""
        docker("stop", "--time", "30", self.id)
        return int(docker("inspect", "--format", "{{.State.ExitCode}}", self.id))

    def remove(self) -> None:
        self.client.close()
        docker("rm", "--force", "--volumes", self.id)


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Container] = []

    def run(*arguments: str, given: tuple[str, ...] = ()) -> Container:
        started.append(Container(*arguments, given=given))
        return started[-1]

    yield run
    for container in started:
        container.remove()


def readable(folder: Path) -> Path:
    """The folder, as the image's user may read it."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    for parent in list(folder.parents)[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    return folder


def test_a_predictor_gives_the_scores_of_its_bundle(start: Start, tmp_path: Path) -> None:
    bundle = tmp_path / "mounted"
    digest = sigmoid_bundle(bundle)
    (bundle / "token").write_text(TOKEN)
    name = f"fraud-v1-{digest[:8]}"
    options = (f"--model-name={name}", "--model-dir=/mnt/models", "--host=0.0.0.0")
    options += ("--port=8080", "--token-file=/mnt/models/token")
    mount = ("--volume", f"{readable(bundle)}:/mnt/models:ro")
    predictor = start("predictor", *options, given=mount)
    predictor.wait_for(f"/v2/models/{name}/ready")
    golden = json.loads((bundle / "bundle.json").read_text())["golden"]
    rows = golden["rows"]
    tensor = {"name": "inputs", "shape": [len(rows), 3], "datatype": "FP32", "data": rows}
    answer = predictor.client.post(f"/v2/models/{name}/infer", json={"inputs": [tensor]})
    assert answer.json()["outputs"][0]["data"] == pytest.approx(golden["scores"], abs=1e-5)
    stranger = httpx.post(f"{predictor.client.base_url}/v2/models/{name}/infer", json={})
    assert stranger.status_code == 401
    written = [line.split()[1] for line in docker("diff", predictor.id).splitlines()]
    assert set(written) <= {"/mnt", "/mnt/models"}, "the place of the mount alone"
    assert predictor.stop() == 0


def test_a_predictor_refuses_a_changed_bundle(start: Start, tmp_path: Path) -> None:
    bundle = tmp_path / "mounted"
    digest = sigmoid_bundle(bundle)
    model = bundle / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\x00")
    name = f"fraud-v1-{digest[:8]}"
    options = (f"--model-name={name}", "--model-dir=/mnt/models", "--host=0.0.0.0", "--port=8080")
    mount = ("--volume", f"{readable(bundle)}:/mnt/models:ro")
    predictor = start("predictor", *options, given=mount)
    predictor.wait_for("/v2/health/live")
    assert predictor.client.get(f"/v2/models/{name}/ready").status_code != 200
    until_s = time.monotonic() + START_S
    while "model.onnx" not in predictor.log and time.monotonic() < until_s:
        time.sleep(0.2)
    assert "model.onnx" in predictor.log
    assert predictor.client.get(f"/v2/models/{name}/ready").status_code != 200


def test_a_gateway_is_ready_and_asks_who_calls(start: Start) -> None:
    home = ("--tmpfs", "/home/mlplatform:uid=65532,gid=65532,mode=0700")
    home += ("--env", "MLPLATFORM_HOME=/home/mlplatform")
    gateway = start("gateway", "--host=0.0.0.0", given=home)
    gateway.wait_for("/readyz")
    assert gateway.client.post("/api/v2/models/fraud/score", json={}).status_code == 401
    assert gateway.stop() == 0
