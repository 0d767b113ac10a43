"""A gateway on a machine beside the cluster is answered by pods, at addresses that it is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlplatform.model.folders import load_definition
from mlplatform.model.routes import Arm
from mlplatform.operations.supervisor.cluster_status import ClusterStatusMirror
from mlplatform.rollouts.kubernetes.api import PODS
from mlplatform.rollouts.serving.kserve import KServePlane
from mlplatform.rollouts.serving.local import StatusStore
from mlplatform.rollouts.serving.manifest import render
from mlplatform.runtime.configuration.on_kubernetes import OnKServe
from support.kserve_world import KServe
from support.platform_process import wait
from support.scoring_world import MODEL, ScoringWorld, write_amount_bundle

ON = OnKServe("beside", "pvc://bundles", replicas=1)


class Beside(ScoringWorld):
    """Gateway and journal of this machine; bundles on the volume, predictors in the cluster."""

    def __init__(self, root: Path, kserve: KServe) -> None:
        super().__init__(root)
        self.kserve = kserve
        self.told = StatusStore(self.home.serving)
        plane = KServePlane(kserve.api, ON.namespace, by_address=True)
        self.followed = ClusterStatusMirror(self.home, plane)

    def deploy_pod(self, version: int) -> Arm:
        """A version that the cluster serves, once the supervisor would say that it is ready."""
        draft = self.kserve.folder / "draft"
        bundle = write_amount_bundle(draft)
        folder = draft.rename(self.kserve.folder / bundle)
        uri = ON.storage_uri(folder)
        manifest = render(load_definition(MODEL), version, bundle, uri, ON.replicas)
        self.kserve.plane.apply(manifest)
        arm = Arm(version, bundle, manifest["metadata"]["name"])
        self.ready(arm)
        return arm

    def ready(self, arm: Arm) -> None:
        def is_told() -> bool:
            self.followed.refresh()
            return (
                self.told.endpoint(arm.service) is not None and self.told.status(arm.service).ready
            )

        wait(is_told, arm.service, within_s=KServe.deadline_s)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Beside]:
    kserve = KServe(load_definition(MODEL), ON.namespace)
    made = Beside(tmp_path, kserve)
    yield made
    made.close()
    kserve.close()


def test_payments_are_answered_by_a_pod_and_by_the_one_that_replaces_it(world: Beside) -> None:
    world.kserve.folder.chmod(0o755)
    arm = world.deploy_pod(1)
    world.promote(arm)
    environment = {
        "MLPLATFORM_KSERVE_NAMESPACE": ON.namespace,
        "MLPLATFORM_KSERVE_BUNDLES": ON.bundles,
        "MLPLATFORM_KSERVE_REPLICAS": str(ON.replicas),
        "MLPLATFORM_BUNDLES": str(world.kserve.folder),
    }
    world.start_gateway("--supervised", **environment)
    wait(lambda: world.answered_by() == "champion", "an answer by the pod")

    [pod] = world.kserve.pods(arm.service)
    world.kserve.api.delete(PODS.path(ON.namespace, pod["metadata"]["name"]), grace_s=0)

    def by_another() -> bool:
        pods = {found["metadata"]["uid"] for found in world.kserve.pods(arm.service)}
        return pod["metadata"]["uid"] not in pods and world.answered_by() == "champion"

    wait(by_another, "an answer by another pod", within_s=KServe.deadline_s)
