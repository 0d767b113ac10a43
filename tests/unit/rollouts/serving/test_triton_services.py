"""Models whose model.yaml asks for Triton: deployed from repositories, ready by golden rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.onnx_bundles import sigmoid_bundle
from tests.unit.rollouts.passes.test_rollout_passes import World

from mlplatform.model.folders import load_definition
from mlplatform.model.policies.model_server import ModelServer
from mlplatform.model.routes import Arm
from mlplatform.rollouts.passes.ports import Ports
from mlplatform.rollouts.passes.services import deploy, reconcile_services
from mlplatform.rollouts.serving import kserve
from mlplatform.rollouts.serving.kserve import KServePlane
from mlplatform.rollouts.serving.local import LocalPlane
from mlplatform.rollouts.serving.manifest import RUNTIME, TRITON, read, render
from mlplatform.rollouts.serving.names import ServiceName
from mlplatform.rollouts.serving.plane import ServiceStatus
from mlplatform.runtime.errors import Refused, Unavailable
from rollout_world import FakePlane

FRAUD = load_definition("fraud")
ON_TRITON = msgspec.structs.replace(
    FRAUD, serving=msgspec.structs.replace(FRAUD.serving, runtime="triton", scaling=None)
)


def arm_of(bundles: Path) -> Arm:
    """Version 1, whose bundle lies in the folder."""
    digest = sigmoid_bundle(bundles / "draft")
    (bundles / "draft").rename(bundles / digest)
    return Arm(1, digest, str(ServiceName.of("fraud", 1, digest)))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, definition=ON_TRITON)


def on_cluster(world: World) -> Ports:
    ports = world.ports()
    return dataclasses.replace(
        ports, repositories=ports.bundles, storage_uri=lambda folder: f"pvc://bundles/{folder.name}"
    )


def model_of(plane: FakePlane, arm: Arm) -> dict[str, Any]:
    found: dict[str, Any] = plane.manifests[arm.service]["spec"]["predictor"]["model"]
    return found


def test_a_cluster_runs_it_by_triton_from_a_repository_beside_the_bundle(world: World) -> None:
    ports = on_cluster(world)
    arm = arm_of(ports.bundles)

    deploy(ON_TRITON, ports, arm)

    model = model_of(world.plane, arm)
    assert model["runtime"] == TRITON
    assert model["storageUri"] == f"pvc://bundles/{arm.service}"
    assert (ports.bundles / arm.service / arm.service / "config.pbtxt").is_file()


def test_the_server_of_a_bundle_runs_it_whatever_model_yaml_says_by_now(world: World) -> None:
    server = ModelServer(
        runtime="bank", format="lightgbm/4", storage="s3://models/3", tolerance=1e-4
    )
    ports = dataclasses.replace(on_cluster(world), server_of=lambda folder: server)
    arm = arm_of(ports.bundles)

    deploy(ON_TRITON, ports, arm)

    model = model_of(world.plane, arm)
    assert (model["runtime"], model["storageUri"]) == ("bank", "s3://models/3")
    assert [p.name for p in ports.bundles.iterdir()] == [arm.bundle], "no repository is laid out"


def test_one_machine_runs_it_by_the_platforms_own_predictor(world: World) -> None:
    ports = world.ports()
    arm = arm_of(ports.bundles)

    deploy(ON_TRITON, ports, arm)

    assert model_of(world.plane, arm)["runtime"] == RUNTIME
    assert [p.name for p in ports.bundles.iterdir()] == [arm.bundle]


def test_a_repository_is_there_as_long_as_its_service(world: World) -> None:
    ports = on_cluster(world)
    arm = arm_of(ports.bundles)
    deploy(ON_TRITON, ports, arm)
    (ports.bundles / "fraud-v9-00000000").mkdir()

    reconcile_services(
        ON_TRITON, ports, []
    )  # no routes list it: it is retired, and its repository after it

    assert world.plane.manifests == {}
    assert [p.name for p in ports.bundles.iterdir()] == [arm.bundle]


def test_a_service_that_waits_for_room_keeps_its_repository(world: World) -> None:
    """Its rollout asks again each pass, and need not copy the model each time."""
    ports = on_cluster(world)
    arm = arm_of(ports.bundles)
    world.plane.gpus = 0
    with pytest.raises(Refused):
        deploy(ON_TRITON, ports, arm)
    world.open(1)
    [state] = ports.rollouts.active("fraud")
    waiting = state.challenger.service
    (ports.bundles / waiting).mkdir()

    reconcile_services(ON_TRITON, ports, [])

    assert (ports.bundles / waiting).is_dir()


def test_no_plane_of_one_machine_takes_it(tmp_path: Path) -> None:
    manifest = render(ON_TRITON, 1, "0" * 64, "file:///bundles/x", triton=True)

    with pytest.raises(Refused, match="runs only on Kubernetes"):
        LocalPlane(tmp_path).apply(manifest)


def test_its_manifest_has_no_arguments_and_is_read_back() -> None:
    manifest = render(ON_TRITON, 7, "0" * 64, "pvc://bundles/x", triton=True)

    assert "args" not in manifest["spec"]["predictor"]["model"]
    assert (read(manifest).runtime, read(manifest).args) == (TRITON, ())


# Readiness.


class Api:
    """One InferenceService of Triton, and its pods: uid → restarts, and whether it answers."""

    def __init__(self, service: dict[str, Any]) -> None:
        self.service = service
        self.pods: dict[str, tuple[int, bool]] = {}

    def find(self, path: str) -> dict[str, Any] | None:
        return self.service if path.split("/")[-2] == "inferenceservices" else None

    def items(self, path: str, **query: str) -> list[dict[str, Any]]:
        return [
            {
                "metadata": {"uid": uid},
                "status": {
                    "conditions": [{"type": "Ready", "status": str(is_ready)}],
                    "containerStatuses": [{"restartCount": restarts}],
                },
            }
            for uid, (restarts, is_ready) in self.pods.items()
        ]


Ask = Callable[[str, str, Sequence[Sequence[float]]], list[float]]


@dataclasses.dataclass
class ReadyPlane:
    """A plane whose pods are ready, and what its service is asked."""

    plane: KServePlane
    name: str
    api: Api
    ready: bool = True
    answer: Any = None
    calls: int = 0
    now_s: float = 0.0


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReadyPlane:
    (tmp_path / "bundles").mkdir()
    arm = arm_of(tmp_path / "bundles")
    service = render(ON_TRITON, 1, arm.bundle, f"pvc://bundles/{arm.service}", triton=True)
    service["metadata"]["uid"] = "one"
    api = Api(service)
    plane = KServePlane(
        api,  # type: ignore[arg-type]
        "models",
        bundles=tmp_path / "bundles",
        now_s=lambda: made.now_s,
    )
    made = ReadyPlane(plane, arm.service, api)

    def diagnose(name: str, *objects: object) -> ServiceStatus:
        return ServiceStatus(name, made.ready, "" if made.ready else "its container is being made")

    def ask(
        url: str, name: str, rows: Sequence[Sequence[float]], codec: object, until_s: float
    ) -> list[float]:
        made.calls += 1
        if isinstance(made.answer, Exception):
            raise made.answer
        return [made.answer or 1 / (1 + 2.718281828459045 ** -sum(row)) for row in rows]

    monkeypatch.setattr(kserve, "diagnose", diagnose)
    monkeypatch.setattr(kserve.golden, "ask", ask)
    return made


def test_it_is_ready_once_its_golden_rows_score_as_its_bundle_says(asked: ReadyPlane) -> None:
    assert asked.plane.status(asked.name).ready
    calls = asked.calls
    assert asked.plane.status(asked.name).ready
    assert asked.calls == calls, "asked once, as long as it stays ready"
    asked.ready = False
    assert not asked.plane.status(asked.name).ready
    asked.ready = True
    assert asked.plane.status(asked.name).ready
    assert asked.calls == 2 * calls


@pytest.mark.parametrize(
    ("pods", "after_s", "is_asked"),
    [
        pytest.param({"a": (0, True), "b": (0, True)}, 0.0, False, id="the same pods"),
        pytest.param({"a": (0, True)}, 0.0, False, id="one has gone"),
        pytest.param({"a": (0, True), "b": (0, True), "c": (0, False)}, 0.0, False, id="not yet"),
        pytest.param({"a": (0, True), "c": (0, True)}, 0.0, True, id="another pod"),
        pytest.param({"a": (0, True), "b": (1, True)}, 0.0, True, id="one started again"),
        pytest.param({"a": (0, True), "b": (0, True)}, kserve.ASK_AGAIN_S, True, id="later"),
    ],
)
def test_an_artefact_that_pods_load_later_is_seen(
    asked: ReadyPlane, pods: dict[str, tuple[int, bool]], after_s: float, is_asked: bool
) -> None:
    asked.api.pods = {"a": (0, True), "b": (0, True)}
    assert asked.plane.status(asked.name).ready
    asked.api.pods, asked.now_s, asked.answer = pods, asked.now_s + after_s, 0.25
    status = asked.plane.status(asked.name)
    assert (status.ready, status.failed) == (not is_asked, is_asked)
    asked.answer = None
    assert asked.plane.status(asked.name).ready, "it is asked until it scores as its bundle says"


def test_a_service_of_the_same_name_made_anew_is_asked(asked: ReadyPlane) -> None:
    assert asked.plane.status(asked.name).ready
    asked.api.service["metadata"]["uid"] = "two"
    asked.answer = 0.25
    assert asked.plane.status(asked.name).failed


def test_one_that_scores_otherwise_has_failed(asked: ReadyPlane) -> None:
    asked.answer = 0.25
    status = asked.plane.status(asked.name)
    assert (status.ready, status.failed) == (False, True)
    assert status.reason.startswith("golden row 0 scores 0.25 in a batch; the bundle says 0.5")


def test_one_that_gives_no_answer_is_asked_again(asked: ReadyPlane) -> None:
    asked.answer = Unavailable("nobody listens")
    status = asked.plane.status(asked.name)
    assert (status.ready, status.failed) == (False, False)
    assert "nobody listens" in status.reason
    asked.answer = None
    assert asked.plane.status(asked.name).ready


def test_one_that_does_not_run_yet_is_not_asked(asked: ReadyPlane) -> None:
    asked.ready = False
    assert asked.plane.status(asked.name).reason == "its container is being made"
    assert asked.calls == 0


def test_a_bundle_that_is_not_here_any_more_is_told(asked: ReadyPlane, tmp_path: Path) -> None:
    (tmp_path / "bundles").rename(tmp_path / "elsewhere")
    status = asked.plane.status(asked.name)
    assert (status.ready, "bundle.json" in status.reason) == (False, True)


def test_a_plane_that_knows_no_golden_rows_takes_none(asked: ReadyPlane) -> None:
    plane = KServePlane(Api({}), "models")  # type: ignore[arg-type]
    manifest = render(ON_TRITON, 1, "0" * 64, "pvc://bundles/x", triton=True)
    with pytest.raises(Refused, match="golden rows"):
        plane.apply(manifest)
