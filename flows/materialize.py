"""Once a day: project the decision log, take the snapshot of the day's end, put it online."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow, task

from mlplatform.operations import wiring
from mlplatform.operations.actions import features as job
from mlplatform.operations.prefect_client import names
from mlplatform.operations.prefect_server.forms import Time


@task(retries=2, retry_delay_seconds=2, timeout_seconds=600)
def take_snapshot(model: str, at_ms: int | None) -> dict[str, int]:
    return job.materialize(wiring.platform(), model, at_ms)


@flow(name="materialize", flow_run_name=names.RUNS["materialize"])
def materialize(model: str, at: Time | None = None) -> dict[str, int]:
    """Snapshot the features of a model at an event-time midnight (UTC) and serve them from then on.

    Args:
        model: a model folder's name.
        at: the midnight; default: the last one that has passed in event time.
    """
    return take_snapshot(model, None if at is None else int(_utc(at).timestamp() * 1000))


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
