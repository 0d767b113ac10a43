"""The processes that always run on one machine; predictors are added and removed beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlplatform.model.declarations import Declaration, Declarations
from mlplatform.model.features.views import FeatureView, external, load_views
from mlplatform.model.folders import (
    check_folders,
    load_definition,
    model_folder,
    model_names,
    readable_names,
)
from mlplatform.operations.prefect_client import names
from mlplatform.operations.prefect_server.prefect_server import environment as prefect_environment
from mlplatform.operations.supervisor.spec import ChildSpec, HttpCheck
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.processes.commands import command

GATEWAY_GRACE_S = 15.0
"""Seconds between SIGTERM and SIGKILL: more than a gateway's limit for requests in flight, its
shadow copies and its last commit."""
WORKER_GRACE_S = 3.0
"""Seconds between SIGTERM and SIGKILL: a batch is committed within a second; if it is killed, it is
read again, and nothing doubles."""
EVENTS_GRACE_S = 12.0
"""Seconds between SIGTERM and SIGKILL: more than one attempt takes; if it is killed, the receiver
gets the event again."""
THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def children(settings: Settings) -> list[ChildSpec]:
    """The processes to start, in order, the registry first. Traffic stops first, the registry last.

    Raises:
        ConfigInvalid: a model folder can't be used.
    """
    check_folders()
    common = settings.environment()
    last = names.deployment(names.APPROVAL_FLOW, model_names()[-1])
    return [
        ChildSpec(
            name="mlflow",
            argv=command("mlflow"),
            check=HttpCheck(ready="/health", port=settings.mlflow_port),
            env={**common, **THREADS},
            stop_order=2,
            shared_port=settings.mlflow_port,
            port_setting="MLPLATFORM_MLFLOW_PORT",
            start_deadline_s=180.0,
            live_failure_s=30.0,
        ),
        *(gateway(settings, f"gateway-{number}") for number in range(settings.gateways)),
        # Recorded traffic leaves no work for later, and its speed needs the cores.
        *(workers(settings) if settings.clock == "system" else ()),
        *((jobs(settings),) if settings.argo is None and settings.job_processes else ()),
        exporter(settings),
        page(settings),
        *((events(settings),) if settings.receivers is not None else ()),
        ChildSpec(
            name="prefect",
            argv=command("flows"),
            # The last model's approval is registered last: until then, runs can't be started.
            check=HttpCheck(
                ready=f"/api/deployments/name/{names.APPROVAL_FLOW}/{last}",
                live="/health",
                port=settings.prefect_port,
                token_file=settings.home.prefect_token,
                absent="its flows are not registered yet",
            ),
            env={**common, **prefect_environment(settings)},
            stop_order=1,
            shared_port=settings.prefect_port,
            port_setting="MLPLATFORM_PREFECT_PORT",
            start_deadline_s=240.0,
            live_failure_s=60.0,
        ),
    ]


def gateway(settings: Settings, name: str) -> ChildSpec:
    """One gateway process. All gateways share one port, and each is probed on a port of its own."""
    address = settings.home.run / "gateways" / f"{name}.json"
    return ChildSpec(
        name=name,
        argv=command(
            "gateway",
            f"--name={name}",
            f"--address-file={address}",
            "--supervised",
        ),
        check=HttpCheck(ready="/readyz", live="/healthz", address_file=address),
        env={**settings.environment(), **THREADS},
        stop_order=0,
        stop_grace_s=GATEWAY_GRACE_S,
        shared_port=settings.gateway_port,
        port_setting="MLPLATFORM_GATEWAY_PORT",
        kept_port=settings.gateway_grpc_port or None,
        kept_port_setting="MLPLATFORM_GATEWAY_GRPC_PORT",
    )


def workers(settings: Settings) -> list[ChildSpec]:
    """One process for each model that takes asynchronous requests or reads features from a topic:
    it runs the worker, the outbox and the readers."""
    return [worker(settings, name) for name in readable_names() if has_worker(name)]


def later_workers(settings: Settings) -> Callable[[], Sequence[ChildSpec]]:
    """Returns the workers of the models as their folders are now, by what could be read last. Not
    with recorded traffic, as at the start."""
    if settings.clock != "system":
        return tuple
    declarations = Declarations()

    def present_workers() -> list[ChildSpec]:
        declarations.poll()
        present = declarations.present.items()
        return [worker(settings, name) for name, one in present if _has_work(one)]

    return present_workers


def has_worker(model: str) -> bool:
    """Whether a model takes asynchronous requests, or reads features from a topic."""
    return _has_work(Declaration(load_definition(model), load_views(model_folder(model))))


def _has_work(declaration: Declaration) -> bool:
    return declaration.definition.takes_async or bool(_streamed(declaration.views))


def streamed_views(model: str) -> tuple[str, ...]:
    """The views of a model whose values come by a topic too."""
    return _streamed(load_views(model_folder(model)))


def _streamed(views: Sequence[FeatureView]) -> tuple[str, ...]:
    found = external(views)
    return tuple(v.name for v in found if v.external is not None and v.external.topic)


def worker(settings: Settings, model: str) -> ChildSpec:
    """The worker process of a model. It stops before the gateways, after it has scored and
    committed its batch."""
    address = settings.home.run / "workers" / f"{model}.json"
    return ChildSpec(
        name=f"worker-{model}",
        argv=command(
            "worker",
            f"--model={model}",
            "--outbox",
            f"--address-file={address}",
            f"--token-file={settings.home.worker_token}",
        ),
        check=HttpCheck(ready="/healthz", address_file=address),
        env={**settings.environment(), **THREADS, "MALLOC_ARENA_MAX": "2"},
        stop_order=-1,
        stop_grace_s=WORKER_GRACE_S,
    )


def exporter(settings: Settings) -> ChildSpec:
    """The process that serves the state of rollouts, drift, labels and log as metrics."""
    address = settings.home.run / "exporter.json"
    return ChildSpec(
        name="exporter",
        argv=command(
            "exporter",
            f"--address-file={address}",
            f"--token-file={settings.home.exporter_token}",
        ),
        check=HttpCheck(ready="/healthz", address_file=address),
        env={**settings.environment(), **THREADS, "MALLOC_ARENA_MAX": "2"},
        stop_order=2,
    )


def jobs(settings: Settings) -> ChildSpec:
    """The pool of heavy jobs. Unfinished jobs are restarted at the next start."""
    return ChildSpec(
        name="jobs",
        argv=command(
            "jobs",
            f"--folder={settings.home.jobs}",
            f"--slots={settings.job_processes}",
        ),
        env={**settings.environment(), **THREADS},
        stop_order=0,
    )


def events(settings: Settings) -> ChildSpec:
    """The process that sends events of rollouts and incidents to receivers; it finishes an attempt
    before it stops."""
    return ChildSpec(
        name="events",
        argv=command("events"),
        env={**settings.environment(), **THREADS, "MALLOC_ARENA_MAX": "2"},
        stop_order=2,
        stop_grace_s=EVENTS_GRACE_S,
    )


def page(settings: Settings) -> ChildSpec:
    """The process of the platform's own page. It may stop at once, since every action of a person
    is in the journal or did not happen; signed-in people sign in again."""
    return ChildSpec(
        name="page",
        argv=command("page"),
        check=HttpCheck(ready="/health", port=settings.page_port),
        env={**settings.environment(), **THREADS, "MALLOC_ARENA_MAX": "2"},
        stop_order=1,
        stop_grace_s=2.0,
        shared_port=settings.page_port,
        port_setting="MLPLATFORM_PAGE_PORT",
        live_failure_s=30.0,
    )
