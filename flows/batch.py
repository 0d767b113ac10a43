"""Score past days again with a registered version, as a job over one shard a day."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from mlplatform.operations import wiring
from mlplatform.operations.actions import batch as job
from mlplatform.operations.compute.jobs import Job, JobStatus
from mlplatform.operations.prefect_client import names


@task(persist_result=False, cache_policy=NO_CACHE)
def prepare(asked: job.Batch) -> Job:
    return job.prepare(wiring.platform(), asked)


@task(persist_result=False, cache_policy=NO_CACHE)
def score(asked: job.Batch, work: Job) -> Path:
    """Its own deadline is the job's; a cancelled run cancels the job."""
    log = get_run_logger()

    def report(status: JobStatus) -> None:
        log.info("%s: %d of %d days. %s", status.state, status.done, status.total, status.reason)

    return job.score(wiring.platform(), asked, work, report)


@flow(name="batch", flow_run_name=names.RUNS["batch"], persist_result=False)
def batch(
    model: str,
    first: date,
    last: date,
    version: Annotated[int | None, Field(ge=1, description="Default: the champion")] = None,
    deadline_s: Annotated[int, Field(ge=10, le=86_400)] = 3600,
) -> str:
    """Score every request of some days with a version; results are Parquet files, one a day.

    Args:
        model: a model folder's name.
        first: the first day (UTC).
        last: the last day, included.
        version: the registry's number of a version; default: the champion.
        deadline_s: how long the scoring may take.
    """
    platform = wiring.platform()
    asked = job.batch(
        platform,
        model,
        version,
        name=f"batch-{runtime.flow_run.id}",
        from_ms=_midnight_ms(first),
        to_ms=_midnight_ms(last + timedelta(days=1)),
        deadline_s=deadline_s,
    )
    folder = score(asked, prepare(asked))
    create_markdown_artifact(
        job.page(folder), key=f"batch-{model}", description="The days that were scored again"
    )
    return str(folder)


def _midnight_ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
