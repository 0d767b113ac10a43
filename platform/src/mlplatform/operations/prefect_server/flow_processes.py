"""Flow runs as forks of a process that has imported everything already.

A cold interpreter spends two seconds importing Prefect and the platform for each run; a pass over
a rollout takes less. The standard library's fork server is such a process: it holds no thread, no
connection and no lock of ours, so that its children may begin where a fresh one would.

A run executes the file that was registered here for its deployment, and only while that file has
the content that it had then. What the server's database says about entrypoints, pull steps or
storage decides nothing; an entrypoint that was changed there is kept as a refusal.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import multiprocessing
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from multiprocessing import forkserver
from typing import Any, Final
from uuid import UUID

import anyio
import anyio.to_thread
import httpx
from anyio.abc import TaskStatus
from prefect.client.schemas.objects import FlowRun
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow
from prefect.runner import Runner
from prefect.runner._control_channel import ControlChannel
from prefect.runner._hook_runner import HookRunner
from prefect.runner._process_manager import ProcessHandle

from mlplatform.operations.prefect_server import orphans as orphans_module
from mlplatform.operations.prefect_server.control_channel import limit_strangers
from mlplatform.operations.prefect_server.orphans import Orphans
from mlplatform.operations.prefect_server.pins import Pin
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import Refused
from mlplatform.runtime.telemetry.refusals import UNKNOWN, Refusal, Refusals

CONTEXT: Final = multiprocessing.get_context("forkserver")
SETTLED: Final = "mlplatform.operations.prefect_server.fork_preload"

log = logging.getLogger(__name__)


def warm_up(modules: Sequence[str]) -> None:
    """Start the fork server with this process's present environment.

    Args:
        modules: modules that are imported in advance for its children; their import must not start
            a thread.
    """
    CONTEXT.set_forkserver_preload([__name__, *modules, SETTLED])
    forkserver.ensure_running()


class WarmRunner(Runner):
    """Prefect's runner, which starts each flow run as a fork of the warm process.

    Args:
        refusals: where runs are reported that this runner refuses, as their flow is not registered
            here.
    """

    def __init__(self, refusals: Refusals, **options: Any) -> None:
        super().__init__(**options)
        limit_strangers(self._control_channel)
        self._refusals = refusals
        self._pins: dict[UUID, Pin] = {}
        self._entrypoints: dict[UUID, str | None] = {}

    def pin(self, deployment: RunnerDeployment) -> None:
        """Register a deployment; its runs execute the file with its present content."""
        pin = Pin.of(deployment.entrypoint or "")
        registered = self.add_deployment(deployment)
        assert isinstance(registered, UUID)  # it is, outside an event loop
        self._pins[registered] = pin
        self._entrypoints[registered] = deployment.entrypoint

    async def __aenter__(self) -> WarmRunner:
        await super().__aenter__()
        poller = self._scheduled_run_poller
        # Prefect offers no public way to choose how a process starts, or where the hooks of a
        # crashed run come from. The version is pinned, and tests/e2e/test_supervisor_servers.py
        # fails if this no longer takes effect.
        poller._resolve_starter = self._starter
        hooks = HookRunner(resolve_flow=_no_hooks)
        self._hook_runner = poller._hook_runner = hooks
        self._cancellation_manager._hook_runner = hooks
        self._settling = asyncio.create_task(self._settle_orphans())
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        self._settling.cancel()
        await super().__aexit__(*exc_info)

    async def _settle_orphans(self) -> None:
        orphans = Orphans(self._client, self._pins, self._has_process)
        while True:
            await asyncio.sleep(orphans_module.EVERY_S)
            try:
                await orphans.settle()
            except Exception:  # the outer loop of a task: it goes on after any error
                log.exception("runs without a process were not settled")

    def _has_process(self, run_id: UUID) -> bool:
        submitting = self._scheduled_run_poller._submitting_flow_run_ids
        return run_id in submitting or self._process_manager.get(run_id) is not None

    def _starter(self, flow_run: FlowRun) -> WarmStarter:
        pin = self._pins.get(flow_run.deployment_id) if flow_run.deployment_id else None
        if pin is None:
            why = f"deployment {flow_run.deployment_id} was not registered by this process"
            self._keep(flow_run, why)
            raise Refused(f"flow run {flow_run.name}: {why}")
        return WarmStarter(self._control_channel, pin, self._report_if_changed)

    async def _report_if_changed(self, flow_run: FlowRun) -> None:
        """Record a refusal if the database names another file than the registered one, which
        runs."""
        if flow_run.deployment_id is None:
            return
        try:
            named = (await self._client.read_deployment(flow_run.deployment_id)).entrypoint
        except (httpx.HTTPError, ObjectNotFound) as error:
            log.warning("the deployment of %s was not read: %s", flow_run.name, error)
            return
        if named != self._entrypoints[flow_run.deployment_id]:
            self._keep(flow_run, f"Prefect's database names {named}; the registered file runs")

    def _keep(self, flow_run: FlowRun, why: str) -> None:
        wall_ms = time.time_ns() // 1_000_000
        self._refusals.keep(Refusal(wall_ms, "flow run", UNKNOWN, flow_run.name, why))


async def run_together(runners: Sequence[Runner]) -> None:
    """Run all runners until one ends, then stop the others. Prefect sends SIGTERM to the runner
    that started last only."""
    running = {asyncio.create_task(runner.start()): runner for runner in runners}
    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for task, runner in running.items():
        if runner.started:
            await runner.astop()
        elif not task.done():
            task.cancel()
    await asyncio.gather(*running)


async def _no_hooks(flow_run: FlowRun) -> Flow[..., Any]:
    """Refuse to load hooks: the platform's flows have none, and the runner would load the file that
    the server's database names."""
    raise Refused(f"no hooks are run for {flow_run.name}")


class WarmStarter:
    """Starts one flow run in a fork; Prefect's EngineCommandStarter starts a new interpreter
    instead."""

    def __init__(
        self,
        control_channel: ControlChannel,
        pin: Pin,
        before: Callable[[FlowRun], Awaitable[None]],
    ) -> None:
        self._control_channel = control_channel
        self._pin = pin
        self._before = before

    async def start(
        self,
        flow_run: FlowRun,
        task_status: TaskStatus[ProcessHandle] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Start the process, report its handle, and return when it has ended."""
        await self._before(flow_run)
        port, token = self._control_channel.register(flow_run.id)
        environment = {
            "PREFECT__FLOW_RUN_ID": str(flow_run.id),
            "PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS": "false",
            "PREFECT__CONTROL_PORT": str(port),
            "PREFECT__CONTROL_TOKEN": token,
        }
        process: Any = CONTEXT.Process(target=run_engine, args=(environment, self._pin))
        is_started = False
        try:
            process.start()
            task_status.started(ProcessHandle(process))
            is_started = True
            await anyio.to_thread.run_sync(process.join, abandon_on_cancel=True)
        finally:
            if not is_started:
                self._control_channel.unregister(flow_run.id)


def run_engine(environment: dict[str, str], pin: Pin) -> None:
    """Run Prefect's engine in the child for the run that the environment names, with the pinned
    flow."""
    os.environ.update(environment)
    from mlplatform.operations.prefect_server import flow_run  # reads that environment

    try:
        flow_run.prepare(load(os.environ))
        flow_run.execute(pin)
    finally:
        # multiprocessing exits without these functions, and in them Prefect sends its last logs and
        # events
        atexit._run_exitfuncs()
