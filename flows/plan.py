"""Say what each step of a rollout needs at the present traffic, and whether it can decide."""

from __future__ import annotations

from typing import Annotated

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from mlplatform.operations import wiring
from mlplatform.operations.actions import rollouts as job
from mlplatform.operations.prefect_client import names
from mlplatform.operations.prefect_server import artifacts
from mlplatform.operations.prefect_server.forms import OptionalVersion
from mlplatform.rollouts.passes import plan_text
from mlplatform.rollouts.passes.planning import PLANNED_DAYS
from mlplatform.rollouts.verdicts.ramp import Plan


@task(persist_result=False, cache_policy=NO_CACHE, timeout_seconds=600)
def make(model: str, version: int | None, days: float) -> Plan | str:
    return job.plan_rollout(wiring.platform(), model, version, days=days)


@flow(name="plan", flow_run_name=names.RUNS["plan"], persist_result=False)
def plan(
    model: str,
    version: OptionalVersion = None,
    days: Annotated[float, Field(ge=2, le=90)] = PLANNED_DAYS,
) -> State[str]:
    """Plan a rollout without opening one: steps, gates, and the harm that a bad version would do.

    Args:
        model: a model folder's name.
        version: the version to plan for; default: none, so that the plan uses no replay.
        days: days of event time to read from the decision log.
    """
    made = make(model, version, days)
    subject = model if version is None else f"version {version} of {model}"
    page = plan_text.page(subject, made)
    artifacts.keep_page(f"plan-{model}", page, about="Can it decide in time?")
    match made:
        case Plan():
            _keep_tables(model, made)
    return Completed(message=plan_text.outcome(made), data=page)


def _keep_tables(model: str, made: Plan) -> None:
    steps, needs, harm = plan_text.step_rows(made), plan_text.need_rows(made), plan_text.harm_rows
    keep, good = artifacts.keep_table, "A challenger as good as the champion, by gate"
    keep(f"plan-steps-{model}", plan_text.STEP_COLUMNS, steps, about="The steps of the rollout")
    keep(f"plan-needs-{model}", plan_text.NEED_COLUMNS, needs, about=good)
    keep(f"plan-harm-{model}", plan_text.HARM_COLUMNS, harm(made), about=plan_text.harm_title())
