"""The life of one child process: started, watched, restarted, and finally stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import msgspec

from mlplatform.operations.supervisor.probe import NoAnswer, ProbeReply, ask
from mlplatform.operations.supervisor.spec import (
    ChildSpec,
    HttpCheck,
    next_failures,
    restart_delay_s,
    start_patience,
    uncounted_s,
)
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.processes import endings, inherited_socket
from mlplatform.runtime.processes.core_wait import core_wait_s
from mlplatform.runtime.processes.parent_death import ParentDeathPipe
from mlplatform.runtime.processes.records import ProcessId, ProcessRecord, kill_group
from mlplatform.runtime.telemetry import retention
from mlplatform.runtime.units import MIB

State = Literal["starting", "ready", "not ready", "restarting", "stopping", "stopped"]

EXIT_POLL_S: Final = 0.1
START_PROBE_S: Final = 0.25
PROBE_S: Final = 1.0

log = logging.getLogger(__name__)


class _Address(msgspec.Struct):
    port: int
    pid: int


class Child:
    """Keeps the process of one `ChildSpec` running until `stop`.

    Args:
        changed: called after every change of what `record` returns.
        listener: a listening socket that the process inherits; None: it opens its own.
    """

    def __init__(
        self,
        spec: ChildSpec,
        home: Home,
        parent_pipe: ParentDeathPipe,
        changed: Callable[[Child], None],
        listener: socket.socket | None = None,
    ) -> None:
        self.spec = spec
        self.state: State = "starting"
        self.reason = "not started yet"
        self.restarts = 0
        self.ended = ""
        self.ended_ms: int | None = None
        self.process: ProcessId | None = None
        self.port = spec.check.port if isinstance(spec.check, HttpCheck) else None
        self._log = home.logs / f"{spec.name}.log"
        self._parent_pipe = parent_pipe
        self._changed = changed
        self._listener = listener
        self._popen: subprocess.Popen[bytes] | None = None
        self._stop = asyncio.Event()
        self._killed = False
        self._late_starts = 0

    @property
    def ready(self) -> bool:
        return self.state == "ready"

    def record(self) -> ProcessRecord:
        """The record of the process for other programs; the supervisor adds descendants."""
        return ProcessRecord(
            self.spec.name,
            self.state,
            self.reason,
            self.restarts,
            self.process,
            self.port,
            ended=self.ended,
            ended_ms=self.ended_ms,
        )

    async def keep(self) -> None:
        """Run the process repeatedly until `stop` is called and the process has ended."""
        failures = 0
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                reason = await self._run()
            except Exception as error:
                # An error while one child is watched ends only that child.
                log.exception("%s can't be watched", self.spec.name)
                reason = f"could not be watched ({error or type(error).__name__}) and was killed"
            if self._stop.is_set():
                break
            self.ended, self.ended_ms = reason, time.time_ns() // 1_000_000
            failures = next_failures(failures, time.monotonic() - started)
            delay_s = restart_delay_s(failures)
            self._set("restarting", f"{reason}; starts again in {delay_s:.1f} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), delay_s)
            self.restarts += 1
        self._set("stopped", "")

    def stop(self) -> None:
        """Send SIGTERM, and SIGKILL to the process group after the grace; `keep` then returns."""
        self._stop.set()

    def kill(self) -> None:
        """Send SIGKILL to the process group at once."""
        self._killed = True
        self._stop.set()
        if self._popen is not None and self._popen.poll() is None:
            kill_group(self._popen.pid)

    async def _run(self) -> str:
        """Start the process and wait until its whole group has ended; returns why it ended."""
        kills_before, log_began = endings.memory_kills(), _size(self._log)
        try:
            popen = self._start()
        except OSError as error:
            return f"can't be started: {error}"
        watch = asyncio.create_task(self._watch())
        try:
            while popen.poll() is None and not watch.done() and not self._stop.is_set():
                await asyncio.sleep(EXIT_POLL_S)
            reason = watch.result() if watch.done() else ""
            watch.cancel()
            if self._stop.is_set() and popen.poll() is None and not self._killed:
                await self._terminate(popen)
        finally:
            watch.cancel()  # also when this task is cancelled itself
            # A group keeps its number while it has members, even if its leader has ended.
            kill_group(popen.pid)
            popen.wait()
            self._popen, self.process = None, None
        return reason or endings.ending(
            popen.returncode,
            kills_before=kills_before,
            kills_after=endings.memory_kills(),
            last_lines=endings.tail(self._log, log_began),
        )

    def _start(self) -> subprocess.Popen[bytes]:
        if retention.is_full(self._log, retention.LOGS):
            retention.rotate(self._log, retention.LOGS)
        if isinstance(self.spec.check, Path):
            self.spec.check.unlink(missing_ok=True)
        environment = {**os.environ, **self.spec.env, **self._parent_pipe.environment}
        handed_down = [self._parent_pipe.read_fd]
        if self._listener is not None:
            environment[inherited_socket.VARIABLE] = str(self._listener.fileno())
            handed_down.append(self._listener.fileno())
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            popen = subprocess.Popen(
                self.spec.argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
                umask=0o077,
                pass_fds=handed_down,
            )
        finally:
            os.close(descriptor)
        self._popen, self.process = popen, ProcessId.of(popen.pid)
        self._set("starting", "has not answered yet")
        return popen

    async def _terminate(self, popen: subprocess.Popen[bytes]) -> None:
        self._set("stopping", "")
        popen.terminate()
        deadline = time.monotonic() + self.spec.stop_grace_s
        while popen.poll() is None and time.monotonic() < deadline and not self._killed:
            await asyncio.sleep(EXIT_POLL_S)

    def _turn_log(self) -> None:
        try:
            retention.rotate_in_place(self._log, retention.LOGS)
        except OSError as error:  # a full disk must not end a serving process
            log.warning("%s keeps growing: %s", self._log, error)

    async def _watch(self) -> str:
        """Probe the child; returns only if it must be killed, with the reason."""
        begun = heard = probed = time.monotonic()
        waited_s: float | None = None
        answered = False
        deadline_s = self.spec.start_deadline_s * start_patience(self._late_starts)
        while True:
            if retention.is_full(self._log, retention.LOGS):
                await asyncio.to_thread(self._turn_log)
            if too_much := await asyncio.to_thread(self._too_much_memory):
                return too_much
            answer = await asyncio.to_thread(self._ask)
            if isinstance(answer, ProbeReply):
                now = time.monotonic()
                answered, heard, self._late_starts, waited_s = True, now, 0, None
                self._set("ready" if answer.ok else "not ready", answer.reason)
            else:
                before_s, waited_s = waited_s, await asyncio.to_thread(self._core_wait_s)
                now = time.monotonic()
                if before_s is not None:
                    uncounted = uncounted_s(now - probed, waited_s - before_s)
                    begun, heard = begun + uncounted, heard + uncounted
                if answered:
                    self._set("not ready", answer.reason)
                    if (silent_s := now - heard) > self.spec.live_failure_s:
                        return (
                            f"was not alive for {silent_s:.0f} s ({answer.reason}) and was killed"
                        )
                elif now - begun > deadline_s:
                    self._late_starts += 1
                    return f"did not come up within {deadline_s:.0f} s and was killed"
            probed = now
            young = not self.ready and now - begun < deadline_s
            await asyncio.sleep(START_PROBE_S if young else PROBE_S)

    def _too_much_memory(self) -> str | None:
        """A sentence if the child uses more memory than its limit; None if not."""
        limit, process = self.spec.memory_bytes, self.process
        if limit is None or process is None:
            return None
        taken = endings.own_memory(process.pid)
        if taken <= limit:
            return None
        setting = f" ({self.spec.memory_setting})" if self.spec.memory_setting else ""
        return (
            f"took {taken // MIB} MiB of memory, more than its {limit // MIB} MiB{setting},"
            " and was killed"
        )

    def _core_wait_s(self) -> float:
        return 0.0 if self.process is None else core_wait_s(self.process.pid)

    def _ask(self) -> ProbeReply | NoAnswer:
        check = self.spec.check
        if check is None:
            return ProbeReply(True, "")
        if isinstance(check, Path):
            return (
                ProbeReply(True, "") if check.exists() else NoAnswer(f"{check.name} is not there")
            )
        if check.address_file is not None:
            self.port = _port_of(self.process, check.address_file)
        port = self.port
        if port is None:
            return NoAnswer("does not listen yet")
        if check.live is not None:
            alive = ask(port, check.live)
            if isinstance(alive, NoAnswer) or not alive.ok:
                return NoAnswer(alive.reason)
        return ask(port, check.ready, check.token_file, absent=check.absent)

    def _set(self, state: State, reason: str) -> None:
        if (state, reason) != (self.state, self.reason):
            self.state, self.reason = state, reason
            self._changed(self)


def _port_of(process: ProcessId | None, address_file: Path) -> int | None:
    try:
        address = msgspec.json.decode(address_file.read_bytes(), type=_Address)
    except FileNotFoundError:
        return None
    # The file may still be from an earlier start of the child.
    return address.port if process is not None and address.pid == process.pid else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
