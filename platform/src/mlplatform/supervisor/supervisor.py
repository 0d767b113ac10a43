"""Runs the whole platform of one home folder: all children from the first to the last moment."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from mlplatform.files import write_atomically
from mlplatform.serving.plane import ServingPlane
from mlplatform.settings import Home
from mlplatform.supervisor.child import Child
from mlplatform.supervisor.fleet import Fleet
from mlplatform.supervisor.followed import Followed
from mlplatform.supervisor.lifeline import Lifeline
from mlplatform.supervisor.listeners import Listeners, taken
from mlplatform.supervisor.records import (
    Lock,
    ProcessId,
    SupervisorRecord,
    descendants,
    sweep,
    write_processes,
    write_supervisor,
)
from mlplatform.supervisor.spec import ChildSpec, HttpCheck

STOP_LIMIT_S: Final = 15.0
RECORD_S: Final = 5.0
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """A child's state became another one."""

    name: str
    state: str
    reason: str


class Supervisor:
    """Starts, watches, restarts and stops the platform's processes.

    Args:
        specs: the children that always run; predictors come and go with the desired manifests.
        on_change: told of every change of a child, from the supervisor's own thread.
        on_ready: called once, when every child of `specs` is ready for the first time.
        on_start: called once, when nothing stands in the way of the first child.
        elsewhere: whose services are followed; None: predictors are processes of this machine.
    """

    def __init__(
        self,
        home: Home,
        specs: Sequence[ChildSpec],
        on_change: Callable[[Change], None] = lambda change: None,
        on_ready: Callable[[], None] = lambda: None,
        on_start: Callable[[], None] = lambda: None,
        elsewhere: ServingPlane | None = None,
    ) -> None:
        self._home = home
        self._specs = specs
        self._on_change = on_change
        self._on_ready = on_ready
        self._on_start = on_start
        self._elsewhere = elsewhere
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._kill = asyncio.Event()

    def run(self) -> None:
        """Runs until SIGINT, SIGTERM, SIGHUP or `stop`, and then stops the children in order.

        A second signal kills them. Outside the main thread only `stop` ends it.

        Raises:
            Busy: another supervisor holds the home folder, or a port is taken. Nothing was started.
        """
        self._home.create()
        lock = Lock(self._home)
        lock.acquire()
        try:
            left = sweep(self._home)
            if left:
                log.warning("killed what an earlier supervisor left: %s", ", ".join(left))
            check_ports(self._specs)
            home = self._home
            for path in (
                home.predictor_token,
                home.mlflow_token,
                home.prefect_token,
                home.page_token,
                home.worker_token,
                home.exporter_token,
            ):
                new_token(path)
            listeners = Listeners(self._specs)
            self._on_start()
            asyncio.run(self._run(listeners))
        finally:
            lock.release()

    def stop(self) -> None:
        """Ends `run` in order; may be called from another thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._ask_to_stop)

    async def _run(self, listeners: Listeners) -> None:
        self._loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._loop.add_signal_handler(number, self._ask_to_stop)
        lifeline = Lifeline()
        fleet = self._predictors(lifeline)
        children = [
            Child(spec, self._home, lifeline, self._changed, listeners.of(spec))
            for spec in self._specs
        ]
        kept = [asyncio.create_task(child.keep()) for child in children]
        self._write_state("starting")
        others = [
            asyncio.create_task(fleet.reconcile()),
            asyncio.create_task(self._record(children, fleet)),
            asyncio.create_task(self._await_ready(children)),
        ]
        try:
            await self._until_told([*kept, *others])
        finally:
            self._write_state("stopping")
            listeners.close()
            kept += fleet.close()
            await self._stop_in_order([*children, *fleet.children])
            for task in others:
                task.cancel()
            await asyncio.gather(*kept, *others, return_exceptions=True)
            write_processes(self._home, [])
            self._write_state("stopped")
            lifeline.close()

    def _predictors(self, lifeline: Lifeline) -> Fleet | Followed:
        if self._elsewhere is None:
            return Fleet(self._home, lifeline, self._changed)
        return Followed(self._home, self._elsewhere)

    async def _until_told(self, tasks: list[asyncio.Task[None]]) -> None:
        """Returns when the platform is to stop; raises what any of the tasks raised."""
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

    async def _record(self, children: Sequence[Child], fleet: Fleet | Followed) -> None:
        """Keeps `run/processes.json` true: at once after a change, and from time to time."""
        last: list[object] = []
        written_s = 0.0
        while True:
            records = [child.record() for child in [*children, *fleet.children]]
            if records != last or time.monotonic() - written_s > RECORD_S:
                last, written_s = list(records), time.monotonic()
                pids = [r.process.pid for r in records if r.process is not None]
                below = await asyncio.to_thread(descendants, pids)
                write_processes(
                    self._home,
                    [
                        msgspec.structs.replace(r, descendants=below.get(r.process.pid, ()))
                        if r.process is not None
                        else r
                        for r in records
                    ],
                )
            await asyncio.sleep(0.1)

    async def _await_ready(self, children: Sequence[Child]) -> None:
        while not all(child.ready for child in children):
            await asyncio.sleep(0.1)
        self._write_state("ready")
        self._on_ready()

    def _changed(self, child: Child) -> None:
        log.info("%s is %s", child.spec.name, f"{child.state}: {child.reason}".rstrip(": "))
        self._on_change(Change(child.spec.name, child.state, child.reason))

    def _ask_to_stop(self) -> None:
        if self._stopping.is_set():
            self._kill.set()
        self._stopping.set()

    def _write_state(self, state: str) -> None:
        process = ProcessId.of(os.getpid())
        if process is not None:
            write_supervisor(self._home, SupervisorRecord(process, state))


def check_ports(specs: Sequence[ChildSpec]) -> None:
    """Nothing where every fixed port is free.

    Raises:
        Busy: names the first port that is taken, and the setting that moves it.
    """
    for spec in specs:
        if not isinstance(spec.check, HttpCheck) or spec.check.port is None:
            continue
        try:
            socket.create_server(("127.0.0.1", spec.check.port)).close()
        except OSError as error:
            raise taken(spec, spec.check.port, error) from error


def new_token(path: Path) -> None:
    """A fresh random token in a file of mode 0600, good for one life of the platform."""
    write_atomically(path, secrets.token_urlsafe(32).encode())
