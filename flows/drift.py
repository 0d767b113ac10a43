"""Compare the last windows of decisions with the champion's profile; ask for a retrain when due."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from mlplatform.operations import wiring
from mlplatform.operations.actions import drift as job
from mlplatform.operations.prefect_client import events, names
from mlplatform.operations.prefect_server import artifacts
from mlplatform.rollouts.drift.execute import DriftCheck


@task(retries=2, retry_delay_seconds=2, persist_result=False, cache_policy=NO_CACHE)
def watch(model: str) -> DriftCheck:
    return job.watch(wiring.platform(), model, holder=names.DRIFT_WATCH)


@task(retries=3, retry_delay_seconds=1)
def emit(event: dict[str, Any]) -> None:
    wiring.platform().prefect.emit(event)


@task(timeout_seconds=300, persist_result=False, cache_policy=NO_CACHE)
def write_report(model: str, check: DriftCheck) -> Path:
    return job.write_report(wiring.platform(), model, check)


@flow(name="drift", flow_run_name=names.RUNS["drift"], persist_result=False)
def drift(model: str, report: bool | None = None) -> str:
    """Judge the last windows of a model; open or follow its incident; emit the event to retrain.

    Args:
        model: a model folder's name.
        report: write Evidently's report; default: only when an incident was opened just now.
    """
    check = watch(model)
    for request in check.requests:
        emit(events.event_of(request, check.wall_ms))
    artifacts.keep_page(f"drift-{model}", job.page(model, check), about=f"Has {model} drifted?")
    columns, rows = job.windows_table(check)
    artifacts.keep_table(f"windows-{model}", columns, rows, about="The judged windows")
    incidents = [found.incident.id for found in check.incidents]
    settings = wiring.platform().settings
    artifacts.keep_links(artifacts.incident_links(settings, model, incidents))
    if report or (report is None and check.opened):
        path = write_report(model, check)
        about = "Evidently's report on this machine"
        artifacts.keep_page(f"drift-report-{model}", job.report_note(path), about=about)
    return check.summary
