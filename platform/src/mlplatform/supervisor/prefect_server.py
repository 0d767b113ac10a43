"""Prefect's server and the served flows in one process: half the memory of two."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from mlplatform.errors import Unavailable
from mlplatform.settings import Settings
from mlplatform.supervisor.lifeline import follow_parent
from mlplatform.supervisor.own_pages import OwnPages

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

START_LIMIT_S: Final = 180
STOP_LIMIT_S: Final = 5
QUERY_S: Final = 0.5  # between two looks for runs that are due

log = logging.getLogger(__name__)


def environment(settings: Settings) -> dict[str, str]:
    """How Prefect is told to keep everything in the home folder; must be set before its import.

    It also makes its clients find this server, so processes that talk to it need it too.
    """
    url = settings.prefect_url
    return {
        "PREFECT_HOME": str(settings.home.prefect),
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(settings.prefect_port),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": (f"{url},http://localhost:{settings.prefect_port}"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # A slot of a limit that is leased in memory stays taken for ever after a crash.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
        # One write transaction for each event makes SQLite answer "database is locked".
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "2",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "500",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "MLFLOW_CONFIGURE_LOGGING": "false",  # in runs that ask it; lines are ours
        # Prefect's default is pickle.
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "mlplatform",
    }


def run(
    settings: Settings,
    deployments: Callable[[], Sequence[RunnerDeployment]],
    on_ready: Callable[[], None] = lambda: None,
    limit: int | None = None,
    preload: Sequence[str] = (),
) -> None:
    """Serves the API, the UI and the deployments until SIGTERM.

    Args:
        deployments: makes what is served; called once the API is up.
        on_ready: called once, when the API is up and every deployment is registered.
        limit: of flow runs at a time; None leaves Prefect's default.
        preload: modules that flow runs find imported.

    Raises:
        Unavailable: the server did not come up.
    """
    follow_parent()
    settings.home.prefect.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings.home.prefect.chmod(0o700)
    os.environ.update(environment(settings))
    os.umask(0o077)
    from mlplatform.supervisor import flow_processes

    flow_processes.warm_up(preload)
    import uvicorn
    from prefect.server.api.server import create_app

    from mlplatform.orchestration import flow_run

    flow_run.lines_as_json("served", settings.log_level)

    hosts = [f"{name}:{settings.prefect_port}" for name in ("127.0.0.1", "localhost")]
    server = uvicorn.Server(
        uvicorn.Config(
            OwnPages(create_app(), hosts),
            host="127.0.0.1",
            port=settings.prefect_port,
            log_level="warning",
            log_config=None,  # lines are ours
            access_log=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=STOP_LIMIT_S,
        )
    )
    thread = threading.Thread(target=server.run, name="prefect-api", daemon=True)
    thread.start()
    _await_start(server, thread)
    try:
        _serve(deployments(), on_ready, limit)
    finally:
        server.should_exit = True
        thread.join(STOP_LIMIT_S + 2)


def _await_start(server: object, thread: threading.Thread) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while not getattr(server, "started", False):
        if not thread.is_alive() or time.monotonic() > deadline:
            raise Unavailable("Prefect's API did not start; its log says why")
        time.sleep(0.05)


def _serve(
    deployments: Sequence[RunnerDeployment], on_ready: Callable[[], None], limit: int | None
) -> None:
    import asyncio

    from prefect.exceptions import TerminationSignal

    from mlplatform.supervisor.flow_processes import WarmRunner

    # What prefect.serve does, with a moment between registering and running.
    runner = WarmRunner(pause_on_shutdown=False, limit=limit, query_seconds=QUERY_S)
    for deployment in deployments:
        runner.add_deployment(deployment)
    on_ready()
    try:
        asyncio.run(runner.start())
    except (KeyboardInterrupt, TerminationSignal) as error:
        log.info("told to end by %s", type(error).__name__)
