"""`python -m mlplatform.orchestration.served`: Prefect's server with this platform's flows.

Every flow has one deployment, called "default". Schedules give the model as a parameter, so that
no flow knows a model by name.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlplatform import wiring
from mlplatform.drift.job import RETRAIN_EVENT
from mlplatform.models.definition import model_names
from mlplatform.orchestration.prefect import APPROVAL_FLOW, DEPLOYMENT
from mlplatform.settings import Settings
from mlplatform.supervisor import prefect_server
from mlplatform.supervisor.lifeline import step_back

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment
    from prefect.flows import Flow
    from prefect.schedules import Schedule

FLOWS = Path(__file__).parents[4] / "flows"
NAMES = (
    "materialize",
    "drift",
    "retrain",
    "validate",
    "promote",
    "rollout",
    "rollback",
    "batch",
    APPROVAL_FLOW,
)
DAILY = {"materialize": "5 0 * * *", "drift": "20 0 * * *"}  # UTC
PASS_INTERVAL = timedelta(seconds=60)
RUNS_AT_A_TIME = 3
AUTOMATION = "drift-retrain"
PRELOADED = (
    "prefect.flow_engine",
    "mlplatform.jobs.features",
    "mlplatform.jobs.rollouts",
    "mlplatform.jobs.drift",
    "mlplatform.jobs.training",
    "pyarrow.dataset",  # brings pandas
)


def deployments(settings: Settings) -> list[RunnerDeployment]:
    """One deployment a flow. Recorded traffic has no daily schedules: who plays it starts the runs
    at its own midnights."""
    return [deployment(name, settings, FLOWS) for name in NAMES]


def deployment(name: str, settings: Settings, flows: Path, **placed: Any) -> RunnerDeployment:
    """The deployment of one flow.

    Args:
        flows: the folder that has it.
        placed: where its runs go, as Prefect's `to_deployment` takes it; left out: who serves it.
    """
    from prefect.flows import load_flow_from_entrypoint

    flow: Flow[..., Any] = load_flow_from_entrypoint(f"{flows / name}.py:{name}")
    return flow.to_deployment(
        DEPLOYMENT,
        schedules=_schedules(name, settings),
        description=flow.description,
        tags=["mlplatform"],
        **placed,
    )  # type: ignore[return-value]


def _schedules(name: str, settings: Settings) -> list[Schedule]:
    from prefect.schedules import Cron, Interval

    if name == "rollout":
        return [
            Interval(PASS_INTERVAL, parameters={"model": model}, slug=model)
            for model in model_names()
        ]
    if name in DAILY and settings.clock == "system":
        return [
            Cron(DAILY[name], timezone="UTC", parameters={"model": model}, slug=model)
            for model in model_names()
        ]
    return []


def on_ready(settings: Settings) -> None:
    """Keep the automation that starts retrains, and pass once over every model's rollouts."""
    keep_automation()
    api = wiring.prefect_api(settings)
    for model in model_names():
        api.start("rollout", {"model": model})
    api.close()


def keep_automation() -> None:
    """The server's automation by which an incident starts a retrain, as it is defined here."""
    from prefect.client.orchestration import get_client
    from prefect.events.actions import RunDeployment
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    with get_client(sync_client=True) as client:
        retrain = client.read_deployment_by_name(f"retrain/{DEPLOYMENT}")
    automation = AutomationCore(
        name=AUTOMATION,
        description="A drift incident whose new pattern has matured starts a retrain.",
        trigger=EventTrigger(
            expect={RETRAIN_EVENT},
            match={"prefect.resource.id": "mlplatform.model.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[
            RunDeployment(
                source="selected",
                deployment_id=retrain.id,
                job_variables=None,
                parameters={
                    "model": "{{ event.payload.model }}",
                    "as_of": "{{ event.payload.as_of }}",
                    "incident": "{{ event.payload.incident }}",
                    "claim": "{{ event.payload.claim }}",
                    "reason": "{{ event.payload.reason }}",
                    "actor": "drift-watch",
                    "open_rollout": True,
                },
            )
        ],
    )
    with get_client(sync_client=True) as client:
        present = client.read_automations_by_name(AUTOMATION)
        if present:
            client.update_automation(present[0].id, automation)
        else:
            client.create_automation(automation)


def main() -> None:
    step_back()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", level=logging.INFO)
    settings = wiring.settings()
    prefect_server.run(
        settings,
        lambda: deployments(settings),
        lambda: on_ready(settings),
        limit=RUNS_AT_A_TIME,
        preload=PRELOADED,
    )


if __name__ == "__main__":
    main()
