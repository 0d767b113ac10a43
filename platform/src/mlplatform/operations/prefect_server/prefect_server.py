"""Prefect's server and the served flows in one process, which takes half the memory of two.

Nothing reaches the server but through its gate (`prefect_gate`), and what a run executes is one of
the flows that were registered here (`flow_processes`), whatever the server's database says.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvicorn

from mlplatform.decisions.records.pseudonym import load_or_create_key
from mlplatform.operations.prefect_server.prefect_gate import (
    PLATFORM,
    SURFACE,
    PrefectGate,
    PrefectSecrets,
)
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.configuration.servers import PREFECT_AUTH
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.http.cross_site_guard import Application, CrossSiteGuard
from mlplatform.runtime.http.uvicorn_limits import ListenerConnections
from mlplatform.runtime.processes.inherited_socket import inherited_socket
from mlplatform.runtime.storage.private_folder import may_others_write
from mlplatform.runtime.telemetry.refusals import Refusals
from mlplatform.scoring.admission.keyring import Keyring
from mlplatform.scoring.admission.people import People
from mlplatform.scoring.admission.store import Keys

if TYPE_CHECKING:  # Prefect reads its environment when it is imported
    from prefect.deployments.runner import RunnerDeployment

START_LIMIT_S: Final = 180
STOP_LIMIT_S: Final = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeploymentGroup:
    """Deployments whose runs share one limit.

    Args:
        limit: number of their runs at the same time; further runs stay scheduled. None: Prefect's
            default.
        query_s: seconds between two searches for runs that are due.
    """

    limit: int | None
    deployments: Sequence[RunnerDeployment]
    query_s: float = 0.5


AddDeployments = Callable[[Sequence[DeploymentGroup]], None]
"""Serves further deployments: those of each group beside the group's earlier ones."""


def environment(settings: Settings) -> dict[str, str]:
    """Environment variables that make Prefect store everything in the home folder; set them before
    importing Prefect.

    It also makes its clients find this server, so processes that talk to it need it too.
    """
    url = settings.prefect_url
    return {
        "PREFECT_HOME": str(settings.home.prefect),
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(settings.prefect_port),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": url,
        "PREFECT_SERVER_UI_API_URL": "/api",  # of the page's own origin, by whatever name
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # If leases of a limit are kept in memory, a slot stays taken for ever after a crash.
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
        # On a busy machine the server answers 503 for minutes; a run that gives up has crashed.
        # Waits double from 2 s, so that seven retries outlast four minutes and five one.
        "PREFECT_CLIENT_MAX_RETRIES": "7",
        "MLFLOW_CONFIGURE_LOGGING": "false",  # the platform formats the lines
        # Prefect's default is pickle.
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "mlplatform",
    }


def run(
    settings: Settings,
    open_keys: Callable[[], Keys],
    groups: Callable[[], Sequence[DeploymentGroup]],
    on_ready: Callable[[], None] = lambda: None,
    preload: Sequence[str] = (),
    follow: Callable[[AddDeployments], None] = lambda add: None,
) -> None:
    """Serve the API, the UI and the deployments until SIGTERM.

    Args:
        open_keys: opens the store of the keys of people.
        groups: returns the deployments to serve; called once the API is up.
        on_ready: called once, when the API is up and every deployment is registered.
        preload: modules that are imported in advance for flow runs.
        follow: called on a thread of its own, with what serves further deployments.

    Raises:
        Unavailable: the server did not start.
    """
    handed_down = inherited_socket()
    settings.home.prefect.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings.home.prefect.chmod(0o700)
    if may_others_write(Path.cwd()):
        # Prefect reads settings from files in the working folder. Otherwise the folder stays,
        # because paths may be relative to it.
        os.chdir(settings.home.prefect)
    os.environ.update(environment(settings))
    tokens = PrefectSecrets(
        secrets.token_urlsafe(32), settings.home.prefect_token.read_text().strip()
    )
    # Inherited by the flow runs, and written nowhere: it ends with this process.
    os.environ[PREFECT_AUTH] = f"{PLATFORM}:{tokens.platform}"
    os.umask(0o077)
    # imports Prefect, which finds that environment
    from mlplatform.operations.prefect_server import flow_processes

    flow_processes.warm_up(preload)
    from prefect.server.api.server import create_app  # finds that environment

    from mlplatform.operations.prefect_server import flow_run, run_names

    run_names.install()
    flow_run.lines_as_json("served", settings.log_level)

    hosts = [f"{name}:{settings.prefect_port}" for name in ("127.0.0.1", "localhost")]
    connections = ListenerConnections(SURFACE, Refusals(settings.home.audit))
    with people_of(open_keys()) as people:
        gated = gate(
            create_app(),
            settings,
            tokens,
            people,
            connections,
            hosts,
            approval_key=lambda: load_or_create_key(settings.home.approval_key),
        )
        server = uvicorn.Server(
            configuration(gated, connections, "127.0.0.1", settings.prefect_port)
        )
        thread = _start(server, None if handed_down is None else [handed_down])
        try:
            _serve(groups(), on_ready, Refusals(settings.home.audit), follow)
        finally:
            server.should_exit = True
            thread.join(STOP_LIMIT_S + 2)


def gate(
    application: Application,
    settings: Settings,
    tokens: PrefectSecrets,
    people: People,
    connections: ListenerConnections,
    hosts: Sequence[str],
    approval_key: Callable[[], bytes] | None = None,
) -> Application:
    """Prefect's application behind a gate that refuses requests without an identity.

    Args:
        hosts: allowed values of a request's `Host`, each with its port.
        approval_key: returns the key of approval codes; None if this process does not have it.
    """
    refusals = Refusals(settings.home.audit)
    gated = PrefectGate(application, tokens, people, refusals, connections.admit, approval_key)
    return CrossSiteGuard(gated, hosts)


def configuration(
    application: Application, connections: ListenerConnections, host: str, port: int
) -> uvicorn.Config:
    """Uvicorn's configuration, with the platform's log lines and limits on connections."""
    return uvicorn.Config(
        application,
        host=host,
        port=port,
        log_level="warning",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=STOP_LIMIT_S,
        **connections.options(),
    )


@contextmanager
def people_of(keys: Keys) -> Iterator[People]:
    """The people of a store of keys, who may log in, kept up to date.

    Raises:
        Unavailable: the store of keys does not answer.
    """
    keyring = Keyring(keys, SystemClock().wall_ms, lambda: None)
    keyring.start()
    try:
        yield People(keyring.client)
    finally:
        keyring.stop()


def _start(server: uvicorn.Server, sockets: list[socket.socket] | None) -> threading.Thread:
    """The thread of a server that answers."""
    thread = threading.Thread(target=server.run, args=(sockets,), name="prefect-api", daemon=True)
    thread.start()
    _await_start(server, thread)
    return thread


def _await_start(server: object, thread: threading.Thread) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while not getattr(server, "started", False):
        if not thread.is_alive() or time.monotonic() > deadline:
            raise Unavailable("Prefect's API did not start; its log says why")
        time.sleep(0.05)


def _serve(
    groups: Sequence[DeploymentGroup],
    on_ready: Callable[[], None],
    refusals: Refusals,
    follow: Callable[[AddDeployments], None],
) -> None:
    # imports Prefect, which finds that environment
    from prefect.exceptions import TerminationSignal

    from mlplatform.operations.prefect_server.flow_processes import WarmRunner, run_together

    # What prefect.serve does, with a moment between registering and running.
    runners = [
        WarmRunner(refusals, pause_on_shutdown=False, limit=one.limit, query_seconds=one.query_s)
        for one in groups
    ]

    def add(groups: Sequence[DeploymentGroup]) -> None:
        for runner, group in zip(runners, groups, strict=True):
            for deployment in group.deployments:
                runner.pin(deployment)

    add(groups)
    on_ready()
    threading.Thread(target=follow, args=(add,), name="folders", daemon=True).start()
    try:
        asyncio.run(run_together(runners))
    except (KeyboardInterrupt, TerminationSignal) as error:
        log.info("ends at %s", type(error).__name__)
