"""Score a table, or past days again, with a registered version."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated

from prefect import flow, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from mlplatform.operations import wiring
from mlplatform.operations.actions import batch as job
from mlplatform.operations.compute.jobs import Job, JobStatus
from mlplatform.operations.prefect_client import names
from mlplatform.operations.prefect_server import artifacts
from mlplatform.operations.prefect_server.forms import Day, OptionalVersion
from mlplatform.operations.tables import batch as tables
from mlplatform.operations.tables.plan import LEAST_ROWS, MOST_ROWS, PARTITION_ROWS, Partition
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.units import DAY_S, HOUR_S


@task(persist_result=False, cache_policy=NO_CACHE)
def prepare(batch: job.Batch) -> Job:
    return job.prepare(wiring.platform(), batch)


@task(persist_result=False, cache_policy=NO_CACHE)
def score(batch: job.Batch, work: Job) -> Path:
    """Its own deadline is the job's; a cancelled run cancels the job."""
    log = get_run_logger()

    def report(status: JobStatus) -> None:
        log.info("%s: %d of %d days. %s", status.state, status.done, status.total, status.reason)

    return job.score(wiring.platform(), batch, work, report)


@task(persist_result=False, cache_policy=NO_CACHE)
def score_table(batch: tables.TableBatch) -> str:
    """Another run with the same output goes on with what this one has finished."""
    log = get_run_logger()

    def report(one: Partition) -> None:
        log.info("%s: %d rows, %d with an error", one.name, one.rows, one.errors)

    return tables.page(tables.score_table(wiring.platform(), batch, report), batch.output)


@flow(name="batch", flow_run_name=names.RUNS["batch"], persist_result=False)
def batch(
    model: str,
    first: Day | None = None,
    last: Day | None = None,
    version: OptionalVersion = None,
    deadline_s: Annotated[int, Field(ge=10, le=DAY_S)] = HOUR_S,
    input: str = "",
    output: str = "",
    columns: dict[str, str] | None = None,
    partition_rows: Annotated[int, Field(ge=LEAST_ROWS, le=MOST_ROWS)] = PARTITION_ROWS,
) -> str:
    """Score each row of a table once (input, output), or each request of some past days (first).

    Args:
        model: a model folder's name.
        first: the first past day (UTC); results are Parquet files in the home folder, one a day.
        last: the last day, included; default: the first.
        version: the version to score with; default: the champion.
        deadline_s: how long the scoring of days may take.
        input: a file or folder that this run can read, s3://bucket/prefix, or
            postgresql://user@host/database?table=NAME; passwords by PGPASSFILE.
        output: a folder or s3://bucket/prefix; the same one goes on with what was begun there.
        columns: request_id, event_time or a field: the input's column, where it is named otherwise.
        partition_rows: rows that are read, scored and kept together.
    """
    match (first, bool(input and output)):
        case (None, True):
            batch = tables.TableBatch(model, input, output, version, columns or {}, partition_rows)
            text = score_table(batch)
            artifacts.keep_page(f"batch-{model}", text, about="A table, scored")
            return output
        case (date(), False):
            return _days(model, first, last or first, version, deadline_s)
        case _:
            names = {"input": input, "output": output, "first": first}
            named = " and ".join(name for name, value in names.items() if value) or "empty"
            raise ConfigInvalid("the choice of rows", named, "input and output, or only first")


def _days(model: str, first: date, last: date, version: int | None, deadline_s: int) -> str:
    batch = job.batch(
        wiring.platform(),
        model,
        version,
        name=f"batch-{runtime.flow_run.id}",
        from_ms=_midnight_ms(first),
        to_ms=_midnight_ms(last + timedelta(days=1)),
        deadline_s=deadline_s,
    )
    folder = score(batch, prepare(batch))
    about = "The days that were scored again"
    artifacts.keep_page(f"batch-{model}", job.page(folder), about=about)
    return str(folder)


def _midnight_ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
