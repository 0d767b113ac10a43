"""`python -m mlplatform.process flows`: Prefect's server with this platform's flows.

Every flow has one deployment a model, which gives the model as a parameter, so that no flow knows
a model by name.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from mlplatform.model.declarations import AGAIN_S, POLL_S
from mlplatform.model.folders import model_names
from mlplatform.operations import wiring
from mlplatform.operations.prefect_client import events, names
from mlplatform.operations.prefect_server import choices, prefect_server
from mlplatform.operations.prefect_server.forms import description
from mlplatform.operations.prefect_server.prefect_server import AddDeployments, DeploymentGroup
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.scoring import wiring as scoring_wiring

if TYPE_CHECKING:  # Prefect reads its environment when it is imported
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.deployments.runner import RunnerDeployment
    from prefect.events.schemas.automations import AutomationCore
    from prefect.flows import Flow
    from prefect.schedules import Schedule

CHECKOUT = Path(__file__).parents[5] / "flows"
FLOWS = CHECKOUT if CHECKOUT.is_dir() else Path(sys.prefix).parent / "mlplatform/flows"
"""Folder of the flows: in the checkout that is installed, else beside the environment, as in the
image."""
DAILY = {"materialize": "5 0 * * *", "drift": "20 0 * * *", "skew": "50 0 * * *"}  # UTC
PASS_INTERVAL = timedelta(seconds=60)
REGISTRY_LIMIT_S, REGISTRY_PAUSE_S = 300.0, 3.0
"""Seconds in which the registry may start, and between two requests to it."""
RUNS_AT_A_TIME = 12
"""Most light runs at a time. On Kubernetes this is the limit of the pool, including heavy runs, and
its worker has no limit."""
HEAVY_AT_A_TIME = 1
"""Most heavy runs at a time: two would compete for cores and memory, also with requests."""
HEAVY_QUERY_S = 2.0
"""Seconds between queries for heavy runs: a query costs the server 20 ms, and these runs take
minutes."""
HEAVY_ELSEWHERE = 4
"""Most heavy runs at a time if heavy work has pods of its own: the runs then mostly wait."""
RETRIES_OF_NEW = 3
"""Retries of a call that registers a new folder's flows. Waits double from 2 s: as many as a run
has would have the folder wait for minutes, and all is tried again anyway."""
TAG = "mlplatform"
PRELOADED = (
    "mlplatform.operations.prefect_server.flow_run",
    "prefect.flow_engine",
    "mlplatform.operations.actions.features",
    "mlplatform.operations.actions.rollouts",
    "mlplatform.operations.actions.drift",
    "mlplatform.operations.actions.training",
    "pyarrow.dataset",  # brings pandas
)
ON_KSERVE = ("mlplatform.rollouts.serving.kserve",)
"""Modules to preload with KServe: they import the Kubernetes client, which takes a second in each
pass."""

log = logging.getLogger(__name__)


def deployment_groups(settings: Settings, models: Sequence[str]) -> list[DeploymentGroup]:
    """The deployments of all flows for these models, in two groups with separate limits; the
    approval comes last, so a client that waits for it finds all others. With recorded traffic there
    are no daily schedules: its player starts those runs at its own midnights."""
    heavy_at_a_time = HEAVY_AT_A_TIME if settings.argo is None else HEAVY_ELSEWHERE
    others = [flow for flow in names.RUNS if flow not in names.HEAVY]
    return [
        DeploymentGroup(
            heavy_at_a_time, _deployments(names.HEAVY, models, settings), HEAVY_QUERY_S
        ),
        DeploymentGroup(RUNS_AT_A_TIME, _deployments(others, models, settings)),
    ]


def _deployments(
    flows: Iterable[str], models: Sequence[str], settings: Settings
) -> list[RunnerDeployment]:
    pairs = itertools.product(flows, models)
    return [deployment(flow, model, settings, FLOWS) for flow, model in pairs]


def deployment(
    name: str, model: str, settings: Settings, flows: Path, **placed: Any
) -> RunnerDeployment:
    """The deployment of one flow for a model.

    Args:
        flows: the folder with the flow's file.
        placed: where its runs are executed, as arguments of Prefect's `to_deployment`; left out,
            the process that serves it executes them.
    """
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.annotations import freeze

    flow: Flow[..., Any] = load_flow_from_entrypoint(f"{flows / name}.py:{name}")
    return flow.to_deployment(
        names.deployment(name, model),
        parameters={"model": freeze(model)},  # the form shows it and takes no other one
        schedules=_schedules(name, settings),
        description=description(flow.description or ""),
        tags=[TAG, model],
        **placed,
    )  # type: ignore[return-value]


def _schedules(name: str, settings: Settings) -> list[Schedule]:
    from prefect.schedules import Cron, Interval

    if name == "rollout":
        return [Interval(PASS_INTERVAL, slug="passes")]
    if name in DAILY and settings.clock == "system":
        return [Cron(DAILY[name], timezone="UTC", slug="daily")]
    return []


def on_ready(settings: Settings, models: Sequence[str]) -> None:
    """Remove what an earlier release left, and begin with these models."""
    settle(models)
    begin(settings, models)


def begin(settings: Settings, models: Sequence[str]) -> None:
    """Create the automations that start retrains, have the forms offer the versions, and start one
    pass over these models' rollouts."""
    keep_automations(models)
    threading.Thread(
        target=offer_versions, args=(settings, models), name="forms", daemon=True
    ).start()
    api = wiring.prefect_api(settings)
    for model in models:
        api.start("rollout", {"model": model})
    api.close()


def follow_folders(settings: Settings, served: Sequence[str], add: AddDeployments) -> None:
    """Serve the flows of models whose folders appear, as those of the models that are served
    already. What fails is tried again; it ends with the process.

    Deployments of a folder that goes stay until the next start, without their schedules: a run that
    somebody starts says what is missing.
    """
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    known, pause_s, absent = set(served), POLL_S, AbsentFolders()
    while True:
        time.sleep(pause_s)
        present = model_names()
        new = [model for model in present if model not in known]
        pause_s = POLL_S
        try:
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: RETRIES_OF_NEW}):
                absent.look(known, present)
                if new:
                    add(deployment_groups(settings, new))
                    begin(settings, new)
        except Exception:  # the outer loop of a thread: it goes on after any error
            log.exception("flows of %s do not follow their folders yet", ", ".join(new or known))
            pause_s = AGAIN_S
        else:
            known.update(new)
            if new:
                log.info("flows of %s are served: their folders are new", ", ".join(new))


PAUSES = 2
"""Looks that pause the schedules of a folder that is gone."""
GONE = "the folder of %s is gone: the schedules of its flows are paused until it is back"


class AbsentFolders:
    """Models with flows whose folders are gone. Their schedules are paused, because each run of
    them would fail, and are taken up again once the folder is back."""

    def __init__(self) -> None:
        self._missing: frozenset[str] = frozenset()
        self._paused: dict[str, list[UUID]] = {}
        self._pauses: dict[str, int] = {}

    def look(self, known: Collection[str], present: Collection[str]) -> None:
        """Pause and resume by the folders that are there now. A folder is gone if two looks miss
        it: one may find a folder that is being replaced. The look after that pauses once more,
        which removes the runs that Prefect's scheduler was planning in that moment.

        Args:
            known: models whose flows are served.
            present: models that have a folder.
        """
        missing = frozenset(known) - frozenset(present)
        for model in sorted(missing & self._missing):
            if model not in self._paused:
                self._paused[model], self._pauses[model] = scheduled_deployments(model), 0
            if self._pauses[model] == PAUSES:
                continue
            pause(self._paused[model])
            self._pauses[model] += 1
            if self._pauses[model] == 1:
                log.warning(GONE, model)
        for model in sorted(self._paused.keys() - missing):
            resume(self._paused[model])
            del self._paused[model]
            del self._pauses[model]
            log.info("the folder of %s is back: the schedules of its flows go on", model)
        self._missing = missing


def scheduled_deployments(model: str) -> list[UUID]:
    """Deployments of a model that follow a schedule and are not paused."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    theirs = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG, model]))
    with get_client(sync_client=True) as client:
        found = client.read_deployments(deployment_filter=theirs)
    return [d.id for d in found if d.schedules and not d.paused]


def pause(deployments: Iterable[UUID]) -> None:
    """Pause these deployments and remove their planned runs; those that are gone are left out."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        for deployment in deployments:
            with suppress(ObjectNotFound):
                client.pause_deployment(deployment)


def resume(deployments: Iterable[UUID]) -> None:
    """Have these deployments follow their schedules again; those that are gone are left out."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        for deployment in deployments:
            with suppress(ObjectNotFound):
                client.resume_deployment(deployment)


def offer_versions(settings: Settings, models: Sequence[str]) -> None:
    """Have the forms of these models offer their versions, once the registry answers.

    The registry may start later than this process. If it does not answer in time, the forms take
    any version.
    """
    platform = wiring.Platform(settings)
    until_s = time.monotonic() + REGISTRY_LIMIT_S
    for model in models:
        while not choices.offer_versions(platform, model) and time.monotonic() < until_s:
            time.sleep(REGISTRY_PAUSE_S)


def settle(models: Sequence[str]) -> None:
    """Remove what an earlier start left on the server beside the flows of these models."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        retire_former(client, models)


def keep_automations(models: Sequence[str]) -> None:
    """Create the automations by which an incident of these models starts a retrain."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        for model in models:
            _keep_automation(client, model)


def retire_former(client: SyncPrefectClient, models: Sequence[str]) -> None:
    """Remove deployments that an earlier start served, of other models or under other names: no
    process runs them.

    Questions that wait there are cancelled; the next pass asks them again. An automation goes with
    the deployment that it would start.
    """
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        DeploymentFilterTags,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import State, StateType
    from prefect.states import Cancelled

    served = {names.deployment(flow, model) for model in models for flow in names.RUNS}
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    former = {d.id for d in client.read_deployments(deployment_filter=ours) if d.name not in served}
    if not former:
        return
    paused = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED]))
    )
    theirs = DeploymentFilter(id=DeploymentFilterId(any_=list(former)))
    for run in client.read_flow_runs(flow_run_filter=paused, deployment_filter=theirs):
        gone: State[Any] = Cancelled(message="asked again under a deployment's new name")
        client.set_flow_run_state(run.id, gone, force=True)
    for automation in client.read_automations():
        if former & {getattr(a, "deployment_id", None) for a in automation.actions}:
            client.delete_automation(automation.id)
    for deployment in former:
        client.delete_deployment(deployment)


def _keep_automation(client: SyncPrefectClient, model: str) -> None:
    retrain = client.read_deployment_by_name(f"retrain/{names.deployment('retrain', model)}")
    automation = _automation(model, retrain.id)
    present = client.read_automations_by_name(automation.name)
    if present:
        client.update_automation(present[0].id, automation)
    else:
        client.create_automation(automation)


def _automation(model: str, retrain: UUID) -> AutomationCore:
    from prefect.events.actions import RunDeployment
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    return AutomationCore(
        name=names.automation(model),
        description="A drift incident whose new pattern has matured starts a retrain.",
        trigger=EventTrigger(
            expect={events.RETRAIN_EVENT},
            match={"prefect.resource.id": events.resource(model)},
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[
            RunDeployment(
                source="selected",
                deployment_id=retrain,
                job_variables=None,
                parameters={
                    "model": "{{ event.payload.model }}",
                    "as_of": "{{ event.payload.as_of }}",
                    "incident": "{{ event.payload.incident }}",
                    "claim": "{{ event.payload.claim }}",
                    "reason": "{{ event.payload.reason }}",
                    "traceparent": "{{ event.payload.traceparent }}",
                    "actor": names.DRIFT_WATCH,
                    "open_rollout": True,
                },
            )
        ],
    )


def parser() -> argparse.ArgumentParser:
    """The parser of the command line; everything is a setting."""
    return argparse.ArgumentParser(description=__doc__)


def run(options: argparse.Namespace, settings: Settings) -> None:
    """Serve until SIGTERM."""
    models = model_names()
    prefect_server.run(
        settings,
        partial(scoring_wiring.keys, settings),
        lambda: deployment_groups(settings, models),
        lambda: on_ready(settings, models),
        preload=PRELOADED if settings.kserve is None else (*PRELOADED, *ON_KSERVE),
        follow=lambda add: follow_folders(settings, models, add),
    )
