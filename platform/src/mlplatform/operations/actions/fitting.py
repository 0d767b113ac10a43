"""The fit of a retrain as a job: in this machine's pool, or in a pod on the model's accelerator."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from mlplatform.learning.training import handover, retrain
from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.training.handover import Order
from mlplatform.learning.training_sets.dataset import TrainingSet
from mlplatform.learning.validation.replay import Recent
from mlplatform.model.definition import dns_name
from mlplatform.model.folders import folder_digest, model_folder
from mlplatform.operations.actions import staging
from mlplatform.operations.compute.job_run import GRACE_S, retry_until, run
from mlplatform.operations.compute.jobs import Job, Jobs, JobStatus
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.code_version import code_version
from mlplatform.runtime.errors import NotFound, Refused

DIGEST_CHARACTERS: Final = 16
MAX_ATTEMPTS: Final = 99

log = logging.getLogger(__name__)


def fit(
    platform: Platform,
    dataset: TrainingSet,
    recent: Recent | None,
    report: Callable[[JobStatus], None],
    bundles: Path | None = None,
) -> Candidate:
    """The candidate that the model's own training makes of a dataset. Its bundle is written below
    `bundles`, by default the platform's folder.

    The job is named after all that the candidate depends on. A caller that asks for the same again,
    while it runs or within a week of its end, gets that job's. So a flow run that was killed can be
    repeated.

    Raises:
        JobFailed: the job failed, was cancelled or took longer than `training.deadline_s`.
        Corrupt: the job's result does not match its digests; the result was not kept.
        Refused, Unavailable: for the same reasons as in `operations.compute.job_run.run`.
    """
    folder = folder_digest(model_folder(dataset.model))
    order = handover.order(dataset, recent, code=code_version(), folder=folder, seed=retrain.SEED)
    job = Job(
        name=attempt(platform.jobs, order),
        work="fit",
        model=order.model,
        inputs=_inputs(platform, order, dataset, recent),
        items=(handover.REQUESTS,),
        deadline_s=platform.definition(order.model).training.deadline_s,
        traceparent=platform.traceparent(),
    )
    outputs = run(platform.jobs, job, report)
    bundles = bundles or platform.settings.home.bundles
    candidate = handover.take(outputs / handover.REQUESTS, order, bundles)
    for line in candidate.progress:  # Prefect shows what this process logs
        log.info("fit: %s", line)
    shutil.rmtree(job.inputs, ignore_errors=True)
    return candidate


def attempt(jobs: Jobs, order: Order) -> str:
    """The name of the order's first job that neither failed nor was cancelled.

    Raises:
        Refused: `MAX_ATTEMPTS` attempts have failed within a week.
        Unavailable: the backend does not answer.
    """
    until_s = time.monotonic() + GRACE_S
    for number in range(1, MAX_ATTEMPTS + 1):
        name = f"{_name(order)}-{number}"
        try:
            status = retry_until(partial(jobs.status, name), until_s)
        except NotFound:
            return name
        if status.state not in ("failed", "cancelled"):
            return name
    raise Refused(f"{MAX_ATTEMPTS} jobs {_name(order)} have failed; the last one: {status.reason}")


def _name(order: Order) -> str:
    return f"fit-{dns_name(order.model)}-{order.digest[:DIGEST_CHARACTERS]}"


def _inputs(platform: Platform, order: Order, dataset: TrainingSet, recent: Recent | None) -> Path:
    def write(shared: Path, items: Path) -> None:
        handover.write(order, dataset, recent, shared, items)

    return staging.inputs(platform.settings.home.staging, _name(order), write)
