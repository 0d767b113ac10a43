"""Flow runs as forks of a process that has imported everything already.

A cold interpreter spends two seconds importing Prefect and the platform for each run; a pass over
a rollout takes less. The standard library's fork server is such a process: it holds no thread, no
connection and no lock of ours, so that its children may begin where a fresh one would.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing import forkserver
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread
from prefect.runner import Runner
from prefect.runner._process_manager import ProcessHandle

if TYPE_CHECKING:
    from anyio.abc import TaskStatus
    from prefect.client.schemas.objects import FlowRun
    from prefect.runner._control_channel import ControlChannel

CONTEXT: Final = multiprocessing.get_context("forkserver")
SETTLED: Final = "mlplatform.supervisor.settled"


def warm_up(modules: Sequence[str]) -> None:
    """Start the fork server, with this process's environment of now.

    Args:
        modules: what its children find imported; importing them must start no thread.
    """
    CONTEXT.set_forkserver_preload([__name__, *modules, SETTLED])
    forkserver.ensure_running()


class WarmRunner(Runner):
    """Prefect's runner, which starts each flow run as a fork of the warm process."""

    async def __aenter__(self) -> WarmRunner:
        await super().__aenter__()
        poller = self._scheduled_run_poller
        # Prefect offers no public way to choose how a process starts; the version is pinned, and
        # tests/e2e/test_supervisor_servers.py fails where this no longer takes effect.
        poller._resolve_starter = self._starter
        return self

    def _starter(self, flow_run: FlowRun) -> WarmStarter:
        return WarmStarter(self._control_channel)


class WarmStarter:
    """Starts one flow run, as Prefect's own EngineCommandStarter does with a new interpreter."""

    def __init__(self, control_channel: ControlChannel) -> None:
        self._control_channel = control_channel

    async def start(
        self,
        flow_run: FlowRun,
        task_status: TaskStatus[ProcessHandle] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Returns when the process has ended; its handle is told before that."""
        port, token = self._control_channel.register(flow_run.id)
        environment = {
            "PREFECT__FLOW_RUN_ID": str(flow_run.id),
            "PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS": "false",
            "PREFECT__CONTROL_PORT": str(port),
            "PREFECT__CONTROL_TOKEN": token,
        }
        process: Any = CONTEXT.Process(target=run_engine, args=(environment,))
        is_started = False
        try:
            process.start()
            task_status.started(ProcessHandle(process))
            is_started = True
            await anyio.to_thread.run_sync(process.join, abandon_on_cancel=True)
        finally:
            if not is_started:
                self._control_channel.unregister(flow_run.id)


def run_engine(environment: dict[str, str]) -> None:
    """What the child does: Prefect's engine for the run that the environment names."""
    os.environ.update(environment)
    from mlplatform.orchestration import flow_run

    try:
        flow_run.observe()
        flow_run.run()
    finally:
        # multiprocessing leaves without them, and Prefect sends its last logs and events there
        atexit._run_exitfuncs()
