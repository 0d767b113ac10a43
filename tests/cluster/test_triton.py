"""Services of Triton's runtime on a real API server and real pods, another server in its image.

Triton's image is not here. The runtime is the one of `kserve/runtimes/triton.yaml`: arguments,
probes and mounts as they are, image and program replaced by `tests/support/triton_place.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import yaml
from tests.cluster.layout import ROOT
from tests.cluster.predictor_image import NAME
from tests.support.kserve_world import KServe
from tests.support.onnx_bundles import sigmoid_bundle
from tests.support.platform_process import wait

from mlplatform.model.folders import load_definition
from mlplatform.rollouts.serving import golden
from mlplatform.rollouts.serving.kserve import KServePlane
from mlplatform.rollouts.serving.manifest import render
from mlplatform.rollouts.serving.names import ServiceName
from mlplatform.rollouts.serving.triton import lay_out

RUNTIMES = "/apis/serving.kserve.io/v1alpha1/clusterservingruntimes"
FRAUD = load_definition("fraud")
ON_TRITON = msgspec.structs.replace(
    FRAUD,
    tier=3,
    serving=msgspec.structs.replace(FRAUD.serving, runtime="triton", scaling=None),
)


def runtime() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "kserve/runtimes/triton.yaml").read_text())
    [container] = found["spec"]["containers"]
    program = (ROOT / "tests/support/triton_place.py").read_text()
    container |= {"image": NAME, "command": ["python", "-c", program]}
    return found


@pytest.fixture(scope="module")
def world() -> Iterator[KServe]:
    made = KServe(ON_TRITON, "triton")
    name = runtime()["metadata"]["name"]
    made.api.apply(f"{RUNTIMES}/{name}", runtime(), force=True)
    made.plane = KServePlane(made.api, made.namespace, by_address=True, bundles=made.folder)
    yield made
    made.close()
    made.api.delete(f"{RUNTIMES}/{name}")


def deployed(world: KServe, version: int, shift: float = 0.0) -> str:
    """A service of a bundle whose golden scores are shifted by so much."""
    digest = sigmoid_bundle(world.folder / f"draft-{version}", shift=shift)
    bundle = (world.folder / f"draft-{version}").rename(world.folder / digest)
    service = str(ServiceName.of("fraud", version, digest))
    repository = lay_out(ON_TRITON, service, bundle, world.folder)
    uri = f"pvc://bundles/{repository.name}"
    world.plane.apply(render(ON_TRITON, version, digest, uri, triton=True))
    return service


def test_a_service_is_ready_and_scores_from_its_repository(world: KServe) -> None:
    service = deployed(world, 1)

    world.until_ready(service)

    url = world.plane.endpoint(service)
    assert url is not None
    assert golden.ask(url, service, [(0.0, 0.0, 0.0), (0.0, 0.0, 1.0)]) == pytest.approx(
        [0.5, 0.731059], abs=1e-6
    )
    [pod] = world.pods(service)
    [main] = [c for c in pod["spec"]["containers"] if c["name"] == "kserve-container"]
    assert "--model-repository=/mnt/models" in main["args"]
    assert not any(a.startswith("--batch-rows") for a in main["args"])
    world.end_services()


def test_one_that_misses_its_golden_rows_is_never_ready(world: KServe) -> None:
    """Its pods are: nothing in them knows what the model should score."""
    service = deployed(world, 2, shift=0.1)

    wait(lambda: world.plane.status(service).failed, "its failure", within_s=world.deadline_s)

    status = world.plane.status(service)
    assert not status.ready
    assert "golden row 0 scores 0.5 in a batch; the bundle says 0.6" in status.reason
    [pod] = world.pods(service)
    conditions = {c["type"]: c["status"] for c in pod["status"]["conditions"]}
    assert conditions["Ready"] == "True"
