"""What Argo's own workflow-controller makes of the templates and of what the adapter asks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from tests.cluster import argo
from tests.cluster.layout import ROOT
from tests.support.jobs_world import score_job, until
from tests.support.kserve_world import any_cluster, is_ours, own_or_plain
from tests.support.platform_process import wait
from tests.support.training_rows import payments

from mlplatform.learning.training import handover
from mlplatform.learning.training.folder import load_folder
from mlplatform.model.folders import load_definition
from mlplatform.model.policies.training import GpuPolicy
from mlplatform.operations.compute.argo import POOLS, WORKFLOWS, ArgoJobs
from mlplatform.operations.compute.artifacts import Artifacts
from mlplatform.operations.compute.job_run import run
from mlplatform.operations.compute.jobs import ITEMS, SHARED, Job, JobStatus
from mlplatform.operations.compute.templates import template
from mlplatform.rollouts.kubernetes.api import PODS, KubernetesApi, Object, Resource
from mlplatform.runtime.code_version import code_version
from mlplatform.runtime.errors import JobFailed, Refused

TEMPLATES = Resource("argoproj.io/v1alpha1", "workflowtemplates")
RESULTS = Resource("argoproj.io/v1alpha1", "workflowtaskresults")
WITHIN_S = 60.0


@dataclass(frozen=True)
class World:
    api: KubernetesApi
    namespace: str
    jobs: ArgoJobs
    folder: Path

    def job(self, name: str, items: int = 2, **given: Any) -> Job:
        """Under a name that no earlier test, and no earlier run, has used."""
        unused = f"{name}-{time.time_ns() // 1_000_000}"
        return score_job(self.folder, unused, [f"{n}.parquet" for n in range(items)], **given)

    def pods(self, job: Job) -> list[Object]:
        label = f"workflows.argoproj.io/workflow={job.name}"
        return self.api.items(PODS.path(self.namespace), labelSelector=label)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not holds():
            assert time.monotonic() < deadline, f"{what} did not come"
            time.sleep(0.2)

    def until_pods(self, job: Job, count: int) -> list[Object]:
        self.until(lambda: len(self.pods(job)) >= count, f"{count} pods of {job.name}")
        return self.pods(job)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    api, _ = any_cluster()
    if not api.serves(WORKFLOWS):
        how = "FULL=1 make test-cluster builds it" if is_ours() else "the cluster has none"
        pytest.skip(f"ARGO'S CONTROLLER IS NOT TESTED: {how}")
    namespace = own_or_plain(api, "jobs")
    folder = tmp_path_factory.mktemp("argo")
    (folder / "bucket").mkdir()
    argo.allow_jobs(api, namespace)
    for name in ("fraud-score", "fraud-fit"):
        rendered = yaml.safe_load((ROOT / "argo" / f"{name}.yaml").read_text())
        api.apply(TEMPLATES.path(namespace, name), rendered, force=True)
    artifacts = Artifacts((folder / "bucket").as_uri())
    yield World(api, namespace, ArgoJobs(api, namespace, artifacts, folder / "cache"), folder)
    for found in api.items(WORKFLOWS.path(namespace)):
        api.delete(WORKFLOWS.path(namespace, found["metadata"]["name"]))


def test_each_item_becomes_a_pod_of_the_template(world: World) -> None:
    job = world.job("pods", items=6)
    world.jobs.submit(job)
    pods = world.until_pods(job, 4)  # the template's parallelism
    assert len(pods) == 4
    mains = [next(c for c in p["spec"]["containers"] if c["name"] == "main") for p in pods]
    asked = sorted(next(a for a in m["args"] if a.startswith("--item=")) for m in mains)
    assert asked == [f"--item=/work/in/items/{n}.parquet" for n in range(4)]
    assert {p["spec"]["serviceAccountName"] for p in pods} == {"mlplatform-jobs"}
    assert mains[0]["resources"]["limits"] == {"cpu": "2", "memory": "4Gi"}
    assert mains[0]["securityContext"]["readOnlyRootFilesystem"] is True
    wait(lambda: world.jobs.status(job.name).state != "pending", "a job that has begun")
    status = world.jobs.status(job.name)
    assert (status.state, status.done, status.total) == ("running", 0, 6)
    world.jobs.cancel(job.name)


def test_a_job_that_is_submitted_again_is_adopted_and_another_one_refused(world: World) -> None:
    job = world.job("again")
    world.jobs.submit(job)
    path = WORKFLOWS.path(world.namespace, job.name)
    made = world.api.get(path)["metadata"]["uid"]
    world.jobs.submit(job)
    assert world.api.get(path)["metadata"]["uid"] == made
    other = Job(job.name, job.work, job.model, job.inputs, job.items[:1], job.deadline_s)
    with pytest.raises(Refused, match="a name of its own"):
        world.jobs.submit(other)
    world.jobs.cancel(job.name)


def test_a_cancelled_job_ends_and_so_do_its_pods(world: World) -> None:
    job = world.job("cancel")
    world.jobs.submit(job)
    world.until_pods(job, 2)
    world.jobs.cancel(job.name)
    status = until(world.jobs, job.name, lambda s: s.final)
    assert status == JobStatus(job.name, "cancelled", 0, 2, "it was asked to end")
    world.jobs.cancel(job.name)
    world.until(
        lambda: all("deletionTimestamp" in p["metadata"] for p in world.pods(job)),
        "the end of its pods",
    )


def test_a_job_is_ended_at_its_deadline(world: World) -> None:
    job = world.job("deadline", deadline_s=5)
    with pytest.raises(JobFailed, match="deadline"):
        run(world.jobs, job, lambda status: None)


def test_a_job_succeeds_when_its_pods_have(world: World) -> None:
    """The kubelet's and the executor's part is played here: their words, the controller's deeds."""
    job = _unschedulable(world, world.job("done"), "cpu")
    world.jobs.submit(job)
    first, second = world.until_pods(job, 2)
    status = until(world.jobs, job.name, lambda s: "Unschedulable" in s.reason)
    assert "node" in status.reason
    _finish(world, job, first)
    until(world.jobs, job.name, lambda s: s.done == 1)
    _finish(world, job, second)
    assert until(world.jobs, job.name, lambda s: s.final).state == "succeeded"


def test_items_on_a_gpu_wait_for_a_place_in_its_pool(world: World) -> None:
    job = _unschedulable(world, world.job("gpu"), "cuda")
    world.jobs.submit(job)
    [pod] = world.until_pods(job, 1)
    main = next(c for c in pod["spec"]["containers"] if c["name"] == "main")
    assert main["resources"]["limits"]["nvidia.com/gpu"] == "1"
    pool = f"{world.namespace}/ConfigMap/{POOLS}/gpu"
    world.until(lambda: pool in _waited_for(world, job), "the second item to wait for the pool")
    assert len(world.pods(job)) == 1
    _finish(world, job, pod)
    first = pod["metadata"]["uid"]
    world.until(
        lambda: any(p["metadata"]["uid"] != first for p in world.pods(job)), "the second item's pod"
    )
    world.jobs.cancel(job.name)


def test_a_fit_is_one_pod_on_the_gpu_that_its_training_names(world: World) -> None:
    """Whoever asks again after a kill finds it; its outcome is what its pod says."""
    job = _unschedulable(world, _fit(world), "cpu", gpu=GpuPolicy(resource="nvidia.com/gpu"))
    world.jobs.submit(job)
    [pod] = world.until_pods(job, 1)
    main = next(c for c in pod["spec"]["containers"] if c["name"] == "main")
    assert main["args"] == [
        "fit",
        f"--model={job.model}",
        "--shared=/work/in/shared",
        "--item=/work/in/items/requests.parquet",
        "--output=/work/out",
    ]
    assert main["resources"]["limits"]["nvidia.com/gpu"] == "1"
    held = world.api.get(WORKFLOWS.path(world.namespace, job.name))["status"]["synchronization"]
    assert [h["semaphore"] for h in held["semaphore"]["holding"]] == [
        f"{world.namespace}/ConfigMap/{POOLS}/gpu"
    ]
    world.jobs.submit(job)
    assert len(world.pods(job)) == 1
    _finish(world, job, pod)
    assert until(world.jobs, job.name, lambda s: s.final).state == "succeeded"


def test_the_template_of_fits_is_taken_as_it_is_rendered(world: World) -> None:
    job = _fit(world)
    world.jobs.submit(job)
    [pod] = world.until_pods(job, 1)
    assert pod["spec"]["serviceAccountName"] == "mlplatform-jobs"
    world.jobs.cancel(job.name)
    assert until(world.jobs, job.name, lambda s: s.final).state == "cancelled"


def _fit(world: World) -> Job:
    """A job to fit the rows of a real order."""
    name = f"fit-{time.time_ns() // 1_000_000}"
    data = payments(1, per_day=50)
    folder = load_folder("fraud").digest
    asked = handover.order(data, None, code=code_version(), folder=folder, seed=1)
    shared, items = world.folder / name / SHARED, world.folder / name / ITEMS
    shared.mkdir(parents=True)
    items.mkdir()
    handover.write(asked, data, None, shared, items)
    return Job(name, "fit", "fraud", shared.parent, (handover.REQUESTS,), 120)


def _unschedulable(world: World, job: Job, accelerator: Any, gpu: GpuPolicy | None = None) -> Job:
    """The job by a template whose pods find no node, so that no kubelet speaks for them.

    Args:
        gpu: of the model's training.
    """
    fraud = load_definition("fraud")
    training = msgspec.structs.replace(fraud.training, gpu=gpu)
    changed = msgspec.structs.replace(
        fraud, name=f"on-{accelerator}", accelerator=accelerator, training=training
    )
    rendered = template(changed, job.work)
    rendered["spec"]["nodeSelector"] = {"mlplatform.test/there-is": "none"}
    path = TEMPLATES.path(world.namespace, rendered["metadata"]["name"])
    world.api.apply(path, rendered, force=True)
    return replace(job, model=changed.name)


def _waited_for(world: World, job: Job) -> set[str]:
    nodes = (
        world.api.get(WORKFLOWS.path(world.namespace, job.name)).get("status", {}).get("nodes", {})
    )
    return {n["synchronizationStatus"]["waiting"] for n in nodes.values() if _waits(n)}


def _waits(node: Object) -> bool:
    return "waiting" in node.get("synchronizationStatus", {})


def _finish(world: World, job: Job, pod: Object) -> None:
    """Say that a pod has ended well, and that its outputs are stored."""
    name = pod["metadata"]["name"]
    node = pod["metadata"]["annotations"]["workflows.argoproj.io/node-id"]
    labels = {
        "workflows.argoproj.io/workflow": job.name,
        "workflows.argoproj.io/report-outputs-completed": "true",
    }
    result = {
        "apiVersion": RESULTS.group_version,
        "kind": "WorkflowTaskResult",
        "metadata": {"name": node, "labels": labels},
        "outputs": {"exitCode": "0", "artifacts": [{"name": "results", "s3": {"key": "k"}}]},
    }
    world.api.create(RESULTS.path(world.namespace), result)
    ended = {"exitCode": 0, "reason": "Completed"}
    containers = [
        {
            **{"name": c["name"], "image": c["image"], "imageID": "", "restartCount": 0},
            **{"ready": False, "state": {"terminated": ended}},
        }
        for c in pod["spec"]["containers"]
    ]
    status = {"phase": "Succeeded", "containerStatuses": containers}
    world.api.merge(f"{PODS.path(world.namespace, name)}/status", {"status": status})
