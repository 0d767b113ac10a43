"""What every serving plane does with a service, from applying it to removing it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import httpx
import msgspec
import pytest

from mlplatform.model.folders import load_definition
from mlplatform.rollouts.serving.local import STALE_MS, LocalPlane, ServiceStatusFile, bundle_uri
from mlplatform.rollouts.serving.manifest import render
from mlplatform.rollouts.serving.plane import ServingPlane
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import ConfigInvalid, NotFound, Refused
from mlplatform.runtime.storage.files import write_atomically
from support.kserve_world import on_any_cluster
from support.onnx_bundles import sigmoid_bundle
from support.platform_process import PlatformProcess, wait

FRAUD = load_definition("fraud")
SMALL = msgspec.structs.replace(FRAUD, tier=3)
"""One pod a service: the test cluster is one small node."""
TENSOR = {"name": "inputs", "shape": [1, 3], "datatype": "FP32", "data": [0, 0, 0]}


class World(Protocol):
    """A plane, and what the tests do around it."""

    plane: ServingPlane
    deadline_s: float

    def manifest(self, version: int, **bundle: Any) -> dict[str, Any]:
        """Of a service whose bundle the plane can reach."""
        ...

    def lose(self, version: int, file: str) -> None:
        """Take a file of that version's bundle away."""
        ...

    def url(self, name: str) -> str:
        """The endpoint of a service, as this process reaches it."""
        ...

    def headers(self) -> dict[str, str]: ...

    def pid(self, name: str) -> int:
        """Of the predictor, on this machine."""
        ...

    def end_services(self) -> None: ...

    def close(self) -> None: ...


class Local:
    """The embedded plane with its supervisor."""

    deadline_s = 40.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Home(folder / "home")
        self.process = PlatformProcess(self.home)
        wait(self.process.started)
        self.plane: ServingPlane = LocalPlane(self.home.serving)

    def manifest(self, version: int, **bundle: Any) -> dict[str, Any]:
        folder = self.home.bundles / f"bundle {version}"
        digest = sigmoid_bundle(folder, **bundle)
        return render(SMALL, version, digest, bundle_uri(folder, self.home.bundles))

    def lose(self, version: int, file: str) -> None:
        (self.home.bundles / f"bundle {version}" / file).unlink()

    def url(self, name: str) -> str:
        return str(self.plane.endpoint(name))

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.home.predictor_token.read_text()}"}

    def pid(self, name: str) -> int:
        pid = self.plane.status(name).pid
        assert pid is not None
        return pid

    def end_services(self) -> None:
        for name in self.plane.names():
            self.plane.remove(name)

    def close(self) -> None:
        self.process.close()


@pytest.fixture(scope="module", params=["local", "kserve"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    made: World
    if request.param == "local":
        made = Local(tmp_path_factory.mktemp("local"))
    else:
        made = on_any_cluster(SMALL, "serving-contract")
    yield made
    made.close()


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A service of one test takes no room from the next one's."""
    yield
    if "world" in request.fixturenames:
        request.getfixturevalue("world").end_services()


def until(world: World, holds: Callable[[], object], what: str = "") -> None:
    wait(holds, what, within_s=world.deadline_s)


def served(world: World, version: int, **bundle: Any) -> str:
    manifest = world.manifest(version, **bundle)
    world.plane.apply(manifest)
    return str(manifest["metadata"]["name"])


def ready(world: World, version: int, **bundle: Any) -> str:
    name = served(world, version, **bundle)
    until(world, lambda: world.plane.status(name).ready, f"{name} is not ready")
    return name


def score(world: World, name: str) -> float:
    response = httpx.post(
        f"{world.url(name)}/v2/models/{name}/infer",
        json={"inputs": [TENSOR]},
        headers=world.headers(),
        timeout=30,
    )
    response.raise_for_status()
    answer: float = response.json()["outputs"][0]["data"][0]
    return answer


def test_a_service_becomes_ready_and_scores_where_its_endpoint_says(world: World) -> None:
    name = ready(world, 1)

    assert score(world, name) == 0.5
    assert world.plane.status(name).reason == ""
    assert name in world.plane.names()


def test_applying_the_same_manifest_again_changes_nothing(world: World) -> None:
    manifest = world.manifest(2)
    name = ready(world, 2)
    before = world.plane.status(name)

    world.plane.apply(manifest)

    assert world.plane.status(name) == before


def test_another_manifest_under_the_same_name_is_refused(world: World) -> None:
    manifest = world.manifest(3)
    name = served(world, 3)
    manifest["spec"]["predictor"]["minReplicas"] = 5

    with pytest.raises(Refused, match="immutable"):
        world.plane.apply(manifest)
    world.plane.remove(name)


def test_a_manifest_that_splits_traffic_is_refused_and_nothing_is_applied(world: World) -> None:
    manifest = world.manifest(4)
    manifest["spec"]["predictor"]["canaryTrafficPercent"] = 10

    with pytest.raises(Refused, match="canaryTrafficPercent"):
        world.plane.apply(manifest)

    assert manifest["metadata"]["name"] not in world.plane.names()


def test_a_removed_service_ends_and_an_unknown_one_is_removed_already(world: World) -> None:
    name = ready(world, 5)
    url = world.url(name)

    world.plane.remove(name)
    world.plane.remove(name)

    def gone() -> bool:
        try:
            httpx.get(f"{url}/v2/health/live")
        except httpx.TransportError:
            return True
        return False

    until(world, gone)
    assert name not in world.plane.names()
    assert world.plane.endpoint(name) is None
    with pytest.raises(NotFound):
        world.plane.status(name)


def test_a_service_that_fails_its_self_test_is_never_ready_and_says_why(world: World) -> None:
    name = served(world, 6, shift=0.1)

    until(world, lambda: "golden row" in world.plane.status(name).reason)

    assert not world.plane.status(name).ready
    world.plane.remove(name)


def test_a_service_without_its_bundle_says_what_is_missing(world: World) -> None:
    manifest = world.manifest(7)
    world.lose(7, "model.onnx")
    world.plane.apply(manifest)
    name = manifest["metadata"]["name"]

    until(world, lambda: "model.onnx" in world.plane.status(name).reason)

    assert not world.plane.status(name).ready
    world.plane.remove(name)


def test_a_killed_service_comes_back_at_the_same_endpoint(world: World) -> None:
    name = ready(world, 8)
    endpoint, pid = world.plane.endpoint(name), world.pid(name)

    os.kill(pid, signal.SIGKILL)
    until(world, lambda: world.plane.status(name).restarts == 1)
    until(world, lambda: world.plane.status(name).ready)

    assert world.pid(name) != pid
    assert world.plane.endpoint(name) == endpoint
    assert score(world, name) == 0.5


def test_a_frozen_service_is_reported_and_replaced(world: World) -> None:
    name = ready(world, 9)
    pid = world.pid(name)

    os.kill(pid, signal.SIGSTOP)
    until(world, lambda: not world.plane.status(name).ready)
    assert "no answer" in world.plane.status(name).reason
    until(world, lambda: world.plane.status(name).ready)

    assert world.pid(name) != pid


def test_a_status_that_nobody_renews_is_not_ready(tmp_path: Path) -> None:
    manifest = render(FRAUD, 1, "0" * 64, "file:///nowhere")
    name = manifest["metadata"]["name"]
    now_ms = time.time_ns() // 1_000_000
    at_ms = [now_ms]
    plane = LocalPlane(tmp_path, now_ms=lambda: at_ms[0])
    plane.apply(manifest)
    assert plane.status(name).reason == "waits for the supervisor to start it"
    write_atomically(
        tmp_path / "status" / f"{name}.json",
        msgspec.json.encode(ServiceStatusFile(name, True, "", 0, 1, 2, now_ms)),
    )
    assert plane.status(name).ready

    at_ms[0] += STALE_MS + 1

    assert not plane.status(name).ready
    assert "has not reported on it" in plane.status(name).reason


def test_a_bundle_elsewhere_is_not_served_here(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="storageUri"):
        LocalPlane(tmp_path).apply(render(FRAUD, 1, "0" * 64, "s3://bucket/x"))


def test_a_name_is_never_taken_for_a_path(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        LocalPlane(tmp_path).remove("../../secrets/api")
