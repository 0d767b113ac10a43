"""Once a day: count the features of a sample of decisions again, and name what differs."""

from __future__ import annotations

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from mlplatform.learning.skew.verdict import SkewReport
from mlplatform.operations import wiring
from mlplatform.operations.actions import skew as job
from mlplatform.operations.prefect_client import names
from mlplatform.operations.prefect_server import artifacts
from mlplatform.runtime.errors import NotFound


@task(persist_result=False, cache_policy=NO_CACHE, timeout_seconds=1200)
def check(model: str) -> SkewReport | str:
    try:
        return job.check(wiring.platform(), model)
    except NotFound as nothing:  # no features, or no payment yet: no failed run each day
        return str(nothing)


@flow(name="skew", flow_run_name=names.RUNS["skew"], persist_result=False)
def skew(model: str) -> str:
    """Compare what decisions read since the last run with what raw records give.

    Args:
        model: a model folder's name.
    """
    report = check(model)
    if isinstance(report, str):
        return report
    about = "Did decisions read what they should?"
    artifacts.keep_page(f"skew-{model}", job.page(report), about=about)
    return report.summary
