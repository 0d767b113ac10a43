"""The supervisor of one home folder's platform: it runs all children from the first to the last
moment."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from mlplatform.operations.supervisor.child import Child
from mlplatform.operations.supervisor.cluster_status import ClusterStatusMirror
from mlplatform.operations.supervisor.listeners import Listeners
from mlplatform.operations.supervisor.predictor_processes import PredictorProcesses
from mlplatform.operations.supervisor.retried_writes import RetriedWrites
from mlplatform.operations.supervisor.spec import ChildSpec
from mlplatform.operations.supervisor.start import prepare, when_there_is_room
from mlplatform.rollouts.bundles.background import BackgroundFetches
from mlplatform.rollouts.serving.plane import ServingPlane
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.processes.parent_death import ParentDeathPipe
from mlplatform.runtime.processes.records import (
    Lock,
    ProcessId,
    ProcessRecord,
    SupervisorRecord,
    descendants,
    write_processes,
    write_supervisor,
)

STOP_LIMIT_S: Final = 15.0
RECORD_S: Final = 5.0
RETRY_S: Final = 0.5
"""Seconds between two attempts to write what the disk did not take."""
MORE_S: Final = 1.0
"""Seconds between two questions for more children."""
AGAIN_S: Final = 1.0
"""Seconds before a failed part of the supervisor continues."""
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """A change of a child's state."""

    name: str
    state: str
    reason: str


class Supervisor:
    """Starts, watches, restarts and stops the platform's processes.

    Args:
        specs: the children that always run; predictors start and end with the desired manifests.
        on_change: called at every change of a child, in the supervisor's thread.
        on_ready: called once, when every child of `specs` is ready for the first time.
        on_start: called once, when the first child can be started.
        elsewhere: the serving plane whose services are followed; None: predictors are processes of
            this machine.
        more: returns children that are to run too, asked again and again on a thread; one that was
            started runs as long as the platform.
        fetches: fetches bundles that predictors of this machine lack; None: nothing is fetched.
    """

    def __init__(
        self,
        home: Home,
        specs: Sequence[ChildSpec],
        on_change: Callable[[Change], None] = lambda change: None,
        on_ready: Callable[[], None] = lambda: None,
        on_start: Callable[[], None] = lambda: None,
        elsewhere: ServingPlane | None = None,
        more: Callable[[], Sequence[ChildSpec]] = tuple,
        fetches: BackgroundFetches | None = None,
    ) -> None:
        self._home, self._fetches = home, fetches
        self._specs = specs
        self._on_change = on_change
        self._on_ready = on_ready
        self._on_start = on_start
        self._elsewhere = elsewhere
        self._more = more
        self._started = {spec.name for spec in specs}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._kill = asyncio.Event()
        self._files = RetriedWrites()
        self._is_heard = True

    def run(self) -> None:
        """Run until SIGINT, SIGTERM, SIGHUP or `stop`, then stop the children in order.

        A second signal kills them. Outside the main thread only `stop` ends it.

        Raises:
            Busy: another supervisor holds the home folder, or a port is taken. Nothing was started.
        """
        when_there_is_room(self._home, self._home.create)
        lock = Lock(self._home)
        when_there_is_room(self._home, lock.acquire)
        try:
            when_there_is_room(self._home, lambda: prepare(self._home, self._specs))
            listeners = Listeners(self._specs)
            self._on_start()
            asyncio.run(self._run(listeners))
        finally:
            lock.release()

    def stop(self) -> None:
        """End `run` in order; may be called from another thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._ask_to_stop)

    async def _run(self, listeners: Listeners) -> None:
        self._loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._loop.add_signal_handler(number, self._ask_to_stop)
        parent_pipe = ParentDeathPipe()
        predictors = self._predictors(parent_pipe)
        children = [
            Child(spec, self._home, parent_pipe, self._report_change, listeners.of(spec))
            for spec in self._specs
        ]
        kept = [asyncio.create_task(child.keep()) for child in children]
        added: list[Child] = []

        def add(spec: ChildSpec) -> None:
            added.append(Child(spec, self._home, parent_pipe, self._report_change))
            kept.append(asyncio.create_task(added[-1].keep()))

        self._write_state("starting")
        others = [
            asyncio.create_task(_restart_on_failure("the predictors", predictors.reconcile)),
            asyncio.create_task(
                _restart_on_failure(
                    "the record of processes",
                    lambda: self._record(lambda: [*children, *added, *predictors.children]),
                )
            ),
            asyncio.create_task(
                _restart_on_failure("the search for more to run", lambda: self._add_more(add))
            ),
            asyncio.create_task(
                _restart_on_failure(
                    "the wait for all to be ready", lambda: self._await_ready(children)
                )
            ),
        ]
        try:
            await self._until_stopping([*kept, *others])
        finally:
            self._write_state("stopping")
            listeners.close()
            kept += predictors.close()
            await self._stop_in_order([*children, *added, *predictors.children])
            for task in others:
                task.cancel()
            await asyncio.gather(*kept, *others, return_exceptions=True)
            write_processes(self._home, [], self._files.put)
            self._write_state("stopped")
            parent_pipe.close()

    def _predictors(self, parent_pipe: ParentDeathPipe) -> PredictorProcesses | ClusterStatusMirror:
        if self._elsewhere is None:
            changed, files = self._report_change, self._files
            return PredictorProcesses(self._home, parent_pipe, changed, files, self._fetches)
        return ClusterStatusMirror(self._home, self._elsewhere)

    async def _until_stopping(self, tasks: list[asyncio.Task[None]]) -> None:
        """Return when the platform is to stop; raises an error that any of the tasks raised."""
        stopping = asyncio.create_task(self._wait_for_stop())
        pending = {stopping, *tasks}
        while not stopping.done():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    async def _wait_for_stop(self) -> None:
        await self._stopping.wait()

    async def _stop_in_order(self, children: Sequence[Child]) -> None:
        deadline = time.monotonic() + STOP_LIMIT_S
        by_order = sorted(children, key=lambda child: child.spec.stop_order)
        for _, group in itertools.groupby(by_order, key=lambda child: child.spec.stop_order):
            together = list(group)
            for child in together:
                child.stop()
            while any(child.process is not None for child in together):
                if self._kill.is_set() or time.monotonic() > deadline:
                    for child in children:
                        child.kill()
                await asyncio.sleep(0.05)

    async def _add_more(self, add: Callable[[ChildSpec], None]) -> None:
        """Start what is to run too and does not yet, until cancelled."""
        while True:
            for spec in await asyncio.to_thread(self._more):
                if spec.name not in self._started and not self._stopping.is_set():
                    self._started.add(spec.name)
                    add(spec)
            await asyncio.sleep(MORE_S)

    async def _record(self, children: Callable[[], Sequence[Child]]) -> None:
        """Write `run/processes.json` after each change, and at regular intervals."""
        last: list[ProcessRecord] = []
        written_s = retried_s = 0.0
        while True:
            records = [child.record() for child in children()]
            if records != last or time.monotonic() - written_s > RECORD_S:
                last, written_s = records, time.monotonic()
                write_processes(self._home, await _with_descendants(records), self._files.put)
            if time.monotonic() - retried_s > RETRY_S:
                retried_s = time.monotonic()
                self._files.retry()
            await asyncio.sleep(0.1)

    async def _await_ready(self, children: Sequence[Child]) -> None:
        while not all(child.ready for child in children):
            await asyncio.sleep(0.1)
        self._write_state("ready")
        self._on_ready()

    def _report_change(self, child: Child) -> None:
        log.info("%s is %s", child.spec.name, f"{child.state}: {child.reason}".rstrip(": "))
        try:
            self._on_change(Change(child.spec.name, child.state, child.reason))
        except OSError as error:  # e.g. a closed terminal or a full disk
            if self._is_heard:
                log.warning("changes could not be shown: %s", error)
            self._is_heard = False
        else:
            self._is_heard = True

    def _ask_to_stop(self) -> None:
        if self._stopping.is_set():
            self._kill.set()
        self._stopping.set()

    def _write_state(self, state: str) -> None:
        process = ProcessId.of(os.getpid())
        if process is not None:
            write_supervisor(self._home, SupervisorRecord(process, state), self._files.put)


async def _with_descendants(records: Sequence[ProcessRecord]) -> list[ProcessRecord]:
    pids = [r.process.pid for r in records if r.process is not None]
    below = await asyncio.to_thread(descendants, pids)
    return [
        r
        if r.process is None
        else msgspec.structs.replace(r, descendants=below.get(r.process.pid, ()))
        for r in records
    ]


async def _restart_on_failure(what: str, run: Callable[[], Awaitable[None]]) -> None:
    """Run a part of the supervisor again after each failure, since its children are answering
    requests."""
    while True:
        try:
            return await run()
        except Exception:  # no caller could handle it better
            log.exception("%s failed and is started again", what)
            await asyncio.sleep(AGAIN_S)
