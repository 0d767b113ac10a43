"""One pass over a model's rollouts: read the journal, take the steps that are due, exit."""

from __future__ import annotations

from typing import Any

from prefect import flow, task

from mlplatform.operations import wiring
from mlplatform.operations.actions import rollouts as job
from mlplatform.operations.prefect_client import names


@task(retries=2, retry_delay_seconds=1, timeout_seconds=300)
def take_pass(model: str, dry_run: bool) -> dict[str, Any]:
    return job.rollout_pass(wiring.platform(), model, dry_run=dry_run)


@flow(name="rollout", flow_run_name=names.RUNS["rollout"])
def rollout(model: str, dry_run: bool = False) -> dict[str, Any]:
    """Advance, hold or take back what is being rolled out, under a lease; safe to start any time.

    Args:
        model: a model folder's name.
        dry_run: only say what the next step would be.
    """
    return take_pass(model, dry_run)
