"""`Jobs`: what every backend of heavy work does, and what each does beyond that."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from tests.support.argo_standin import NAMESPACE, ArgoStandIn, standin
from tests.support.jobs_world import at_work, ended, expected_scores, pool, score_job, until

from mlplatform.operations.compute.argo import ArgoJobs, workflow
from mlplatform.operations.compute.artifacts import Artifacts
from mlplatform.operations.compute.job_run import run
from mlplatform.operations.compute.jobs import Jobs, JobStatus
from mlplatform.operations.compute.local import NO_POOL, LocalJobs
from mlplatform.operations.compute.private_pool import PrivatePool
from mlplatform.operations.compute.scoring import SCORES
from mlplatform.rollouts.kubernetes.api import KubernetesApi
from mlplatform.runtime.errors import JobFailed, NotFound, Refused, Unavailable
from mlplatform.runtime.processes.commands import command


@dataclass(frozen=True)
class Backend:
    jobs: Jobs
    folder: Path
    """Inputs of jobs; processes of their items name paths in here."""


@pytest.fixture(params=["pool", "own", "argo"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """A pool beside, one of this process's own, and Argo by its objects (tests/cluster has the real
    controller)."""
    if request.param == "pool":
        with pool(tmp_path / "jobs"):
            yield Backend(LocalJobs(tmp_path / "jobs"), tmp_path)
    elif request.param == "own":
        jobs = PrivatePool(tmp_path / "jobs")
        yield Backend(jobs, tmp_path)
        jobs.close()
    else:
        with standin(tmp_path) as server:
            yield Backend(argo_jobs(server, tmp_path), tmp_path)


def argo_jobs(server: ArgoStandIn, folder: Path) -> ArgoJobs:
    api = KubernetesApi.connect(str(server.kubeconfig(folder / "kubeconfig")))
    artifacts = Artifacts((folder / "bucket").as_uri())
    return ArgoJobs(api, NAMESPACE, artifacts, folder / "cache")


def test_each_item_is_scored_as_its_bundle_scores(backend: Backend) -> None:
    job = score_job(backend.folder, "plain", ["a.parquet", "b.parquet", "c.parquet"])
    seen: list[JobStatus] = []
    outputs = run(backend.jobs, job, seen.append, poll_s=0.05)
    for number, item in enumerate(job.items):
        table = pq.read_table(outputs / item / SCORES)
        assert table.column("request_id").to_pylist() == [f"{number}-{i}" for i in range(5)]
        assert table.column("score").to_pylist() == pytest.approx(expected_scores(number), abs=1e-6)
        assert table.schema.metadata[b"version"] == b"7"
    assert (seen[-1].done, seen[-1].total, seen[-1].state) == (3, 3, "succeeded")
    counts = [status.done for status in seen]
    assert counts == sorted(counts)


def test_a_job_that_is_submitted_again_is_the_same_job(backend: Backend) -> None:
    job = score_job(backend.folder, "again")
    backend.jobs.submit(job)
    backend.jobs.submit(job)
    done = ended(backend.jobs, "again")
    backend.jobs.submit(job)
    assert backend.jobs.status("again") == done
    assert done.state == "succeeded"


def test_a_name_is_used_for_one_job(backend: Backend) -> None:
    job = score_job(backend.folder, "one-name")
    backend.jobs.submit(job)
    with pytest.raises(Refused, match="one-name"):
        backend.jobs.submit(replace(job, items=("a.parquet",)))


def test_a_cancelled_job_leaves_no_process(backend: Backend) -> None:
    job = score_job(backend.folder, "cancelled", batches=60)
    backend.jobs.submit(job)
    until(backend.jobs, job.name, lambda s: s.state == "running" and bool(at_work(backend.folder)))
    backend.jobs.cancel(job.name)
    backend.jobs.cancel(job.name)
    status = ended(backend.jobs, job.name)
    assert status.state == "cancelled"
    assert at_work(backend.folder) == []
    backend.jobs.cancel(job.name)
    backend.jobs.submit(job)
    assert backend.jobs.status(job.name) == status


def test_cancelling_a_job_that_has_ended_changes_nothing(backend: Backend) -> None:
    job = score_job(backend.folder, "over")
    backend.jobs.submit(job)
    done = ended(backend.jobs, job.name)
    backend.jobs.cancel(job.name)
    assert backend.jobs.status(job.name) == done


def test_a_failed_job_says_which_item_and_why(backend: Backend) -> None:
    job = score_job(backend.folder, "failing", broken="b.parquet")
    with pytest.raises(JobFailed, match=r"b\.parquet.*no column hour.*\(its log: .*\)$"):
        run(backend.jobs, job, lambda status: None, poll_s=0.05)
    with pytest.raises(Refused, match="failed"):
        backend.jobs.outputs(job.name)


def test_a_job_is_ended_at_its_deadline(backend: Backend) -> None:
    job = score_job(backend.folder, "late", batches=200, deadline_s=3)
    backend.jobs.submit(job)
    status = ended(backend.jobs, job.name)
    assert (status.state, "deadline" in status.reason) == ("failed", True)
    assert at_work(backend.folder) == []


def test_whoever_stops_waiting_cancels_the_job(backend: Backend) -> None:
    job = score_job(backend.folder, "waited-for", batches=60)

    def interrupt(status: JobStatus) -> None:
        if status.state == "running":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(backend.jobs, job, interrupt, poll_s=0.05)
    assert ended(backend.jobs, job.name).state == "cancelled"


def test_nothing_is_said_about_an_unknown_job(backend: Backend) -> None:
    for ask in (backend.jobs.status, backend.jobs.cancel, backend.jobs.outputs):
        with pytest.raises(NotFound, match="nobody"):
            ask("nobody")


def test_a_job_without_results_has_no_outputs(backend: Backend) -> None:
    job = score_job(backend.folder, "slow", batches=60)
    backend.jobs.submit(job)
    with pytest.raises(Refused, match="slow"):
        backend.jobs.outputs("slow")
    backend.jobs.cancel("slow")


# What the pool does beyond the contract.


def test_a_job_outlives_its_submitter(tmp_path: Path) -> None:
    job = score_job(tmp_path, "orphan", batches=3)
    script = (
        "import os, sys; from pathlib import Path\n"
        "from tests.support.jobs_world import score_job as job\n"
        "from mlplatform.operations.compute.local import LocalJobs\n"
        "here = Path(sys.argv[1])\n"
        "LocalJobs(here / 'jobs').submit(job(here, 'orphan', batches=3))\n"
        "os.kill(os.getpid(), 9)"
    )
    with pool(tmp_path / "jobs"):
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], env={"PYTHONPATH": ":".join(sys.path)}
        )
        assert done.returncode == -9
        jobs = LocalJobs(tmp_path / "jobs")
        jobs.submit(job)  # whoever comes next adopts it
        assert ended(jobs, "orphan").state == "succeeded"


def test_a_killed_pool_takes_its_processes_along_and_the_next_one_goes_on(tmp_path: Path) -> None:
    job = score_job(tmp_path, "cut", ["a.parquet", "b.parquet", "c.parquet"], batches=5)
    jobs = LocalJobs(tmp_path / "jobs")
    jobs.submit(job)
    with pool(tmp_path / "jobs", slots=1) as first:
        until(jobs, "cut", lambda s: s.done == 1 and bool(at_work(tmp_path)))
        written = (tmp_path / "jobs" / "cut" / "outputs" / "a.parquet" / SCORES).stat().st_mtime_ns
        working = at_work(tmp_path)
        first.kill()
    psutil.wait_procs(working, timeout=10)
    assert at_work(tmp_path) == []
    assert jobs.status("cut").reason == NO_POOL
    with pool(tmp_path / "jobs"):
        assert ended(jobs, "cut").state == "succeeded"
    kept = tmp_path / "jobs" / "cut" / "outputs" / "a.parquet" / SCORES
    assert kept.stat().st_mtime_ns == written


def test_no_more_processes_run_than_there_are_slots(tmp_path: Path) -> None:
    jobs = LocalJobs(tmp_path / "jobs")
    names = ("first", "second", "third")
    for name in names:
        jobs.submit(score_job(tmp_path, name, ["a.parquet", "b.parquet"], batches=1))
    most = 0
    with pool(tmp_path / "jobs", slots=2):
        deadline = time.monotonic() + 60
        while not all(jobs.status(name).final for name in names):
            most = max(most, len(at_work(tmp_path)))
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert most == 2
    assert {jobs.status(name).state for name in names} == {"succeeded"}


def test_a_folder_has_one_pool(tmp_path: Path) -> None:
    with pool(tmp_path / "jobs"):
        jobs = LocalJobs(tmp_path / "jobs")
        jobs.submit(score_job(tmp_path, "any"))
        ended(jobs, "any")
        words = command("jobs", f"--folder={tmp_path / 'jobs'}")
        second = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert second.returncode == 1
    assert "another pool" in second.stderr


def test_a_stopped_pool_ends_what_it_runs(tmp_path: Path) -> None:
    jobs = LocalJobs(tmp_path / "jobs")
    jobs.submit(score_job(tmp_path, "stopped", batches=60))
    with pool(tmp_path / "jobs") as running:
        until(jobs, "stopped", lambda s: bool(at_work(tmp_path)))
        assert running.stop() == 0
    assert at_work(tmp_path) == []
    assert not jobs.status("stopped").final


# What Argo's adapter does when the API server does not.


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ArgoStandIn]:
    with standin(tmp_path) as made:
        yield made


@pytest.mark.parametrize("fault", [500, 503, 429, "cut"])
def test_an_api_server_that_fails_for_a_while_is_asked_again(
    server: ArgoStandIn, tmp_path: Path, fault: int | str
) -> None:
    job = score_job(tmp_path, "patient", ["a.parquet"])
    server.faults += [fault, fault]  # of the submission
    seen: list[JobStatus] = []

    def report(status: JobStatus) -> None:
        seen.append(status)
        if len(seen) == 1:
            server.faults += [fault] * 3  # of the questions after it

    outputs = run(argo_jobs(server, tmp_path), job, report, poll_s=0.05)
    assert (outputs / "a.parquet" / SCORES).exists()
    assert server.faults == []


def test_a_submission_whose_answer_was_lost_is_found_again(
    server: ArgoStandIn, tmp_path: Path
) -> None:
    job = score_job(tmp_path, "lost", ["a.parquet"])
    jobs = argo_jobs(server, tmp_path)
    server.faults += [404, "lost answer"]
    run(jobs, job, lambda status: None, poll_s=0.05)
    assert sum(request.startswith("POST") for request in server.requests) == 1


def test_of_two_submissions_that_race_the_second_adopts(
    server: ArgoStandIn, tmp_path: Path
) -> None:
    job = score_job(tmp_path, "race", ["a.parquet"])
    jobs = argo_jobs(server, tmp_path)
    jobs.submit(job)
    server.faults += [404]  # it looks before the other one's object is there, and creates: 409
    jobs.submit(job)
    assert sum(request.startswith("POST") for request in server.requests) == 2
    server.faults += [404]
    with pytest.raises(Refused, match="race"):
        jobs.submit(replace(job, deadline_s=9))


def test_an_api_server_that_stays_away_is_given_up_after_the_deadline(
    server: ArgoStandIn, tmp_path: Path
) -> None:
    job = score_job(tmp_path, "away", ["a.parquet"], deadline_s=1)
    server.faults += [503] * 1000
    with pytest.raises(Unavailable, match="fault 503"):
        run(argo_jobs(server, tmp_path), job, lambda status: None, poll_s=0.05, grace_s=0.2)


def test_what_the_cluster_forbids_is_not_tried_again(server: ArgoStandIn, tmp_path: Path) -> None:
    job = score_job(tmp_path, "forbidden", ["a.parquet"])
    server.faults += [403]
    with pytest.raises(Refused, match="fault 403"):
        run(argo_jobs(server, tmp_path), job, lambda status: None, poll_s=0.05)
    assert not any(request.startswith("POST") for request in server.requests)


def test_a_pod_that_finds_no_node_says_so(server: ArgoStandIn, tmp_path: Path) -> None:
    jobs = argo_jobs(server, tmp_path)
    workflow_of = workflow(score_job(tmp_path, "waiting", ["a.parquet"]))
    lacking = "Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    pod = {"name": "waiting-a", "type": "Pod", "phase": "Pending", "message": lacking}
    status = {"phase": "Running", "progress": "0/1", "nodes": {"x": pod}}
    server.workflows["waiting"] = {**workflow_of, "status": status}
    assert jobs.status("waiting").reason == f"waiting-a: {lacking}"


@pytest.mark.s3
def test_artifacts_survive_a_real_s3_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.servers.containers import place_of
    from tests.servers.process import ServerMissing, in_ci
    from tests.servers.seaweed import SeaweedServer

    try:
        server = SeaweedServer(place_of("s3"))
    except ServerMissing as missing:
        if in_ci():
            raise
        pytest.skip(f"S3 IS NOT TESTED: {missing}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
    where = f"scheme=http&endpoint_override=127.0.0.1:{server.port}&allow_bucket_creation=true"
    artifacts = Artifacts(f"s3://artifacts/here?{where}")
    job = score_job(tmp_path, "stored")
    try:
        artifacts.put(job.inputs, "jobs/stored/in")
        artifacts.put(job.inputs, "jobs/stored/in")
        artifacts.take("jobs/stored/in", tmp_path / "back")
        server.kill()
        with pytest.raises(Unavailable, match="jobs/stored"):
            artifacts.take("jobs/stored/in", tmp_path / "gone")
    finally:
        server.close()
    files = sorted(p.relative_to(job.inputs) for p in job.inputs.rglob("*") if p.is_file())
    back = tmp_path / "back"
    assert files == sorted(p.relative_to(back) for p in back.rglob("*") if p.is_file())
    for file in files:
        assert (back / file).read_bytes() == (job.inputs / file).read_bytes()
