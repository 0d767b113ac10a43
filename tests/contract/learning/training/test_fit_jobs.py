"""A retrain's fit as a job: every backend makes the same candidate, also after a kill."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.support.argo_standin import NAMESPACE, ArgoStandIn, standin
from tests.support.jobs_world import at_work, ended, pool
from tests.support.training_rows import payments

from mlplatform.learning.training import handover, retrain
from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.training.folder import load_folder
from mlplatform.learning.training_sets.dataset import TrainingSet, rows_digest
from mlplatform.learning.validation.replay import Recent
from mlplatform.model.bundle import MODEL_FILE, BundleCorrupt, load_bundle
from mlplatform.operations.actions import fitting
from mlplatform.operations.compute import fitting as program
from mlplatform.operations.compute.jobs import JobStatus
from mlplatform.operations.compute.private_pool import PrivatePool
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.code_version import code_version
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import Corrupt, JobFailed, PlatformError, Refused

PER_DAY = 400


def rows() -> tuple[TrainingSet, Recent]:
    data = payments(1, per_day=PER_DAY)
    return data, Recent(data.holdout.matrix, "requests of the last 3 days")


DATA, RECENT = rows()
DATA = dataclasses.replace(DATA, units_share=0.5)
FOLDER = load_folder("fraud").digest


@dataclass(frozen=True)
class World:
    platform: Platform
    environment: dict[str, str]
    server: ArgoStandIn | None

    @property
    def home(self) -> Path:
        return self.platform.settings.home.root

    def fit(self, data: TrainingSet = DATA, recent: Recent | None = RECENT) -> Candidate:
        return fitting.fit(self.platform, data, recent, lambda status: None)

    def jobs(self) -> list[str]:
        """Names of the fits that were ever asked for."""
        if self.server is not None:
            return sorted(self.server.workflows)
        folder = self.home / "jobs"
        if isinstance(self.platform.jobs, PrivatePool):
            folder = self.platform.jobs._folder
        return sorted(f.name for f in folder.iterdir() if f.is_dir())

    def bundles(self) -> set[str]:
        folder = self.platform.settings.home.bundles
        return {f.name for f in folder.iterdir() if not f.name.startswith(".")}


@pytest.fixture
def world(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    given = {"MLPLATFORM_HOME": str(tmp_path / "home")}
    if request.param == "argo":
        given |= {
            "MLPLATFORM_ARGO_NAMESPACE": NAMESPACE,
            "MLPLATFORM_ARTIFACTS": (tmp_path / "bucket").as_uri(),
            "KUBECONFIG": str(tmp_path / "kubeconfig"),
        }
        with standin(tmp_path) as server:
            path = str(server.kubeconfig(tmp_path / "kubeconfig"))
            # The client reads the variable once a process; that of a test is not the first.
            monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", path)
            yield made(given, server, monkeypatch)
    elif request.param == "own":
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        found = made({**given, "MLPLATFORM_JOB_PROCESSES": "0"}, None, monkeypatch)
        jobs = found.platform.jobs
        assert isinstance(jobs, PrivatePool)
        yield found
        jobs.close()
    else:
        with pool(tmp_path / "home" / "jobs"):
            yield made(given, None, monkeypatch)


def made(
    environment: dict[str, str], server: ArgoStandIn | None, monkeypatch: pytest.MonkeyPatch
) -> World:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = load(environment)
    settings.home.create()
    return World(Platform(settings), environment, server)


everywhere = pytest.mark.parametrize("world", ["pool", "own", "argo"], indirect=True)
in_a_pool = pytest.mark.parametrize("world", ["pool"], indirect=True)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    """The candidate that a fit in this process makes of the same rows."""
    bundles = tmp_path_factory.mktemp("bundles")
    return retrain.fit(load_folder("fraud"), DATA, bundles=bundles, recent=RECENT)


@everywhere
def test_a_job_makes_the_candidate_that_a_fit_here_makes(world: World, here: Candidate) -> None:
    candidate = world.fit()
    assert candidate.bundle == here.bundle
    assert (candidate.parity, candidate.customers) == (here.parity, here.customers)
    assert candidate.folder == world.platform.settings.home.bundles / here.bundle.digest
    load_bundle(candidate.folder, here.bundle.digest)
    x = DATA.judging.matrix.x
    assert np.array_equal(candidate.model.scores(x), here.model.scores(x))
    assert list(world.platform.settings.home.staging.iterdir()) == []


@everywhere
def test_asked_again_for_the_same_it_is_not_fitted_again(world: World) -> None:
    first = world.fit()
    assert world.fit().bundle == first.bundle
    assert len(world.jobs()) == 1


@in_a_pool
def test_other_rows_code_folder_or_seed_are_another_job(world: World) -> None:
    orders = [
        handover.order(data, recent, code=code, folder=folder, seed=seed)
        for data, recent, code, folder, seed in (
            (DATA, RECENT, "1", FOLDER, 1),
            (DATA, None, "1", FOLDER, 1),
            (DATA, RECENT, "2", FOLDER, 1),
            (DATA, RECENT, "1", "0" * 64, 1),
            (DATA, RECENT, "1", FOLDER, 2),
            (dataclasses.replace(DATA, as_of_ms=DATA.as_of_ms + 1), RECENT, "1", FOLDER, 1),
        )
    ]
    names = {fitting.attempt(world.platform.jobs, order) for order in orders}
    assert len(names) == len(orders)


@everywhere
def test_a_fit_that_fails_says_why_and_is_tried_anew_when_asked_again(world: World) -> None:
    y = np.zeros_like(DATA.rows.y)
    rows = dataclasses.replace(DATA.rows, y=y)
    genuine = dataclasses.replace(DATA, rows=rows, digest=rows_digest(rows.matrix, y))
    for _ in range(2):
        with pytest.raises(JobFailed, match="InputInvalid: training set: 0 positives among"):
            world.fit(genuine)
    first, second = world.jobs()
    assert (first[-2:], second[-2:]) == ("-1", "-2")
    assert world.bundles() == set()


@everywhere
def test_whoever_stops_waiting_cancels_the_fit(world: World) -> None:
    def interrupt(status: JobStatus) -> None:
        if status.state == "running":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitting.fit(world.platform, DATA, RECENT, interrupt)
    [name] = world.jobs()
    assert ended(world.platform.jobs, name).state == "cancelled"
    assert at_work(world.home.parent) == []
    order = handover.order(DATA, RECENT, code=code_version(), folder=FOLDER, seed=retrain.SEED)
    assert fitting.attempt(world.platform.jobs, order) == f"{name[:-2]}-2"


@in_a_pool
@pytest.mark.parametrize("damaged", [MODEL_FILE, "bundle.json", "result.json"])
def test_what_was_changed_on_the_way_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    honest = fitting.run

    def tampered(*given: Any) -> Path:
        outputs = honest(*given)
        [file] = outputs.rglob(damaged)
        with file.open("ab") as appended:
            appended.write(b"!")
        return outputs

    monkeypatch.setattr(fitting, "run", tampered)
    with pytest.raises(Corrupt):
        world.fit()
    assert world.bundles() == set()


@in_a_pool
def test_the_candidate_of_another_order_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An honest bundle, on rows that nobody asked about."""
    other = payments(2, per_day=PER_DAY)
    world.fit(other, None)
    [name] = world.jobs()
    monkeypatch.setattr(fitting, "run", lambda *given: world.platform.jobs.outputs(name))
    with pytest.raises(BundleCorrupt, match="another order"):
        world.fit()


# What a kill leaves.

STEPS = {
    "inputs half written": "handover._write_rows = lambda *given: die()",
    "inputs written": "fitting.run = lambda *given: die()",
    "submitted": "report = lambda status: die()",
    "at work": "report = lambda status: status.state == 'running' and die()",
    "ended": "handover.take = lambda *given: die()",
    "bundle half taken": "handover.load_bundle = lambda *given: die()",
    "bundle taken": "fitting.shutil.rmtree = lambda *given, **more: die()",
}
SCRIPT = """
import os
from mlplatform.operations import wiring
from mlplatform.operations.actions import fitting
from mlplatform.learning.training import handover
from tests.contract.learning.training.test_fit_jobs import DATA, RECENT

def die():
    os.kill(os.getpid(), 9)

report = lambda status: None
platform = wiring.platform()
platform.jobs
{step}
fitting.fit(platform, DATA, RECENT, report)
"""


@pytest.mark.parametrize(
    ("world", "step"),
    [
        *(("pool", step) for step in STEPS),
        *(("argo", step) for step in ("submitted", "at work", "ended")),  # where it differs
    ],
    indirect=["world"],
)
def test_a_flow_run_killed_at_any_step_leaves_its_work_to_the_next(
    world: World, here: Candidate, step: str
) -> None:
    script = SCRIPT.format(step=STEPS[step])
    paths = {"PYTHONPATH": ":".join(sys.path)}
    killed = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **world.environment, **paths}
    )
    assert killed.returncode == -9
    assert world.fit().bundle == here.bundle
    assert len(world.jobs()) == 1
    assert world.bundles() == {here.bundle.digest}


@pytest.mark.parametrize("world", ["own"], indirect=True)
def test_a_pool_of_its_own_goes_with_a_killed_run(world: World) -> None:
    script = SCRIPT.format(step=STEPS["at work"])
    paths = {"PYTHONPATH": ":".join(sys.path), "TMPDIR": str(world.home.parent)}
    killed = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **world.environment, **paths}
    )
    assert killed.returncode == -9
    left = [p for p in psutil.process_iter() if _works_in(p, world.home.parent)]
    assert psutil.wait_procs(left, timeout=10)[1] == []


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return "mlplatform.process" in line and str(folder) in line


# What the program itself refuses.


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Inputs as a run writes them."""
    for name in ("shared", "items", "output"):
        (tmp_path / name).mkdir()
    order = handover.order(DATA, RECENT, code=code_version(), folder=FOLDER, seed=retrain.SEED)
    handover.write(order, DATA, RECENT, tmp_path / "shared", tmp_path / "items")
    return tmp_path


def work(folder: Path, model: str = "fraud") -> None:
    payments = folder / "items" / handover.REQUESTS
    program.fit(folder / "shared", payments, folder / "output", model)


def test_rows_come_back_bit_by_bit(written: Path) -> None:
    """Also numbers that are none, of which there are many: a digest is over their bits."""
    x = DATA.rows.matrix.x.copy()
    x[:, 3] = np.array([0x7FC00001, 0xFFC00000] * (len(x) // 2), np.uint32).view(np.float32)
    matrix = dataclasses.replace(DATA.rows.matrix, x=x)
    rows = dataclasses.replace(DATA.rows, matrix=matrix)
    data = dataclasses.replace(DATA, rows=rows, digest=rows_digest(matrix, rows.y))
    order = handover.order(data, None, code="1", folder=FOLDER, seed=1)
    handover.write(order, data, None, written / "shared", written / "items")
    back, recent = handover.read(order, written / "shared", written / "items" / handover.REQUESTS)
    assert recent is None
    assert back.rows.matrix.x.tobytes() == x.tobytes()
    assert (back.window, back.labels_until_ms) == (data.window, data.labels_until_ms)


def test_code_that_did_not_ask_does_not_fit(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "code_version", lambda: "9.9.9+other")
    with pytest.raises(Refused, match=r"this job runs mlplatform 9\.9\.9\+other"):
        work(written)


def test_a_folder_that_was_changed_since_does_not_fit(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = dataclasses.replace(load_folder("fraud"), digest="0" * 64)
    monkeypatch.setattr(program, "load_folder", lambda model: changed)
    with pytest.raises(
        Refused, match=f"content 00000000 here, and the fit was ordered for content {FOLDER[:8]}"
    ):
        work(written)


def test_an_order_is_for_its_model(written: Path) -> None:
    with pytest.raises(Refused, match="came to a job of other"):
        work(written, "other")


@pytest.mark.parametrize("file", ["shared/recent.parquet", "items/requests.parquet"])
def test_rows_that_are_not_as_ordered_are_not_learned_from(written: Path, file: str) -> None:
    other = payments(5, per_day=PER_DAY)
    handover._write_rows(other.rows, written / file)
    with pytest.raises(Corrupt, match="as ordered"):
        work(written)


@pytest.mark.parametrize("file", ["shared/order.json", "items/requests.parquet"])
def test_a_file_that_cannot_be_read_is_named(written: Path, file: str) -> None:
    (written / file).write_bytes(b"{}")
    with pytest.raises(PlatformError, match=Path(file).name):
        work(written)
