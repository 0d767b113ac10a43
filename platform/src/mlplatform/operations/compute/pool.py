"""`python -m mlplatform.process jobs`: works on the jobs in a folder, a few processes at a time.

Each item is one process, the leader of a group of its own, which a cancellation kills. The pool
decides from what is on disk alone, so that the next one goes on where a killed one stopped.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import msgspec

from mlplatform.operations.compute.jobs import (
    FINAL,
    ITEMS,
    KEPT_S,
    RESULT,
    SHARED,
    TRACEPARENT,
    State,
)
from mlplatform.operations.compute.local import (
    CANCEL_FILE,
    LOCK_FILE,
    OUTPUTS,
    STATUS_FILE,
    JobFile,
    JobStatusFile,
    inputs_of,
    read_job,
    read_status,
)
from mlplatform.runtime.errors import Busy
from mlplatform.runtime.processes import endings
from mlplatform.runtime.processes.commands import PYTHON, command
from mlplatform.runtime.processes.parent_death import ParentDeathPipe
from mlplatform.runtime.processes.records import kill_group
from mlplatform.runtime.storage.files import write_atomically
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter

log = logging.getLogger(__name__)
log.addFilter(RateLimitFilter())

POLL_S: Final = 0.25
REASON_BYTES: Final = 2000


@dataclass
class _Item:
    """An item that runs; `kills_before` is the kernel's count of out-of-memory kills at its
    start."""

    name: str
    process: subprocess.Popen[bytes]
    kills_before: int | None


@dataclass
class _PoolJob:
    """The pool's state of a job beyond its files; `end` is a final state that could not be written
    to disk yet."""

    folder: Path
    job: JobFile
    items: list[_Item] = field(default_factory=list)
    end: tuple[State, str] | None = None

    def finished_count(self) -> int:
        return sum((self.folder / OUTPUTS / i / RESULT).exists() for i in self.job.items)

    def waiting_items(self) -> Iterator[str]:
        """Yield the items that are neither done nor running."""
        busy = {item.name for item in self.items}
        for name in self.job.items:
            if name not in busy and not (self.folder / OUTPUTS / name / RESULT).exists():
                yield name

    def kill(self) -> None:
        for item in self.items:
            kill_group(item.process.pid)
            item.process.wait()
        self.items.clear()


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Pool:
    """Runs the jobs of a folder, oldest first; a folder has at most one pool.

    Args:
        slots: number of processes that run at the same time, for all jobs together.

    Raises:
        Busy: another pool works on this folder.
    """

    def __init__(
        self,
        folder: Path,
        slots: int,
        *,
        python: Sequence[str] = PYTHON,
        now_ms: Callable[[], int] = _wall_ms,
    ) -> None:
        self._folder = folder
        self._slots = slots
        self._python = tuple(python)
        self._now_ms = now_ms
        self._running: dict[str, _PoolJob] = {}
        self._parent_pipe = ParentDeathPipe()
        self._lock = _lock(folder)

    def step(self) -> None:
        """Check every job once: end those that are due, read results, start items in free
        slots."""
        for name, job in self._open_jobs():
            running = self._running.setdefault(name, _PoolJob(self._folder / name, job))
            self._check(running)
        for running in self._by_age():
            self._start_items(running)
            self._say_progress(running)

    def close(self) -> None:
        """Kill the running jobs, which stay unfinished, and release the folder."""
        for running in self._running.values():
            running.kill()
        self._running.clear()
        self._parent_pipe.close()
        self._lock.close()

    def _open_jobs(self) -> Iterator[tuple[str, JobFile]]:
        for folder in sorted(self._folder.iterdir()):
            job = read_job(folder)
            if job is None:
                continue
            status = read_status(folder)
            if status is None or status.state not in FINAL:
                yield folder.name, job
            elif self._now_ms() - status.changed_ms > KEPT_S * 1000:
                shutil.rmtree(folder)

    def _check(self, running: _PoolJob) -> None:
        if running.end is not None:
            return self._end(running, *running.end)
        for item in list(running.items):
            if item.process.poll() is None:
                continue
            running.items.remove(item)
            kill_group(item.process.pid)  # with all processes that it started
            if (why := _failure(running.folder, item)) is not None:
                return self._end(running, "failed", why)
        if running.finished_count() == len(running.job.items):
            return self._end(running, "succeeded", "")
        if (running.folder / CANCEL_FILE).exists():
            return self._end(running, "cancelled", "it was asked to end")
        if self._now_ms() - running.job.submitted_ms > running.job.deadline_s * 1000:
            return self._end(
                running, "failed", f"not done by its deadline, {running.job.deadline_s} s"
            )
        return None

    def _end(self, running: _PoolJob, state: State, reason: str) -> None:
        running.end = state, reason
        running.kill()
        self._write(running, state, reason)
        del self._running[running.folder.name]

    def _by_age(self) -> list[_PoolJob]:
        return sorted(self._running.values(), key=lambda r: (r.job.submitted_ms, r.folder.name))

    def _start_items(self, running: _PoolJob) -> None:
        for name in running.waiting_items():
            if sum(len(r.items) for r in self._running.values()) >= self._slots:
                return
            kills = endings.memory_kills()
            running.items.append(_Item(name, self._process(running, name), kills))

    def _process(self, running: _PoolJob, item: str) -> subprocess.Popen[bytes]:
        inputs = inputs_of(running.job, running.folder.parent)
        output = running.folder / OUTPUTS / item
        shutil.rmtree(output, ignore_errors=True)  # files of a killed attempt
        output.mkdir(mode=0o700, parents=True)
        words = [
            *command("job-item", running.job.work, python=self._python),
            f"--model={running.job.model}",
            f"--shared={inputs / SHARED}",
            f"--item={inputs / ITEMS / item}",
            f"--output={output}",
        ]
        tracing = {TRACEPARENT: running.job.traceparent}
        with _log(running.folder, item).open("wb") as output_log:
            return subprocess.Popen(
                words,
                env={**os.environ, **self._parent_pipe.environment, **tracing},
                stdin=subprocess.DEVNULL,
                stdout=output_log,
                stderr=output_log,
                start_new_session=True,
                umask=0o077,
                pass_fds=[self._parent_pipe.read_fd],
            )

    def _say_progress(self, running: _PoolJob) -> None:
        if running.items:
            self._write(running, "running", "")
        else:
            self._write(running, "pending", f"waits for one of {self._slots} processes")

    def _write(self, running: _PoolJob, state: State, reason: str) -> None:
        done, before = running.finished_count(), read_status(running.folder)
        if before is None or (before.state, before.done, before.reason) != (state, done, reason):
            status = JobStatusFile(state, done, reason, self._now_ms())
            write_atomically(running.folder / STATUS_FILE, msgspec.json.encode(status))


def work(pool: Pool, stopping: threading.Event, poll_s: float = POLL_S) -> None:
    """Work until `stopping` is set; the next pool restarts unfinished jobs."""
    try:
        while not stopping.is_set():
            try:
                pool.step()
            except OSError as error:  # running items go on; try again later
                log.warning("work on jobs waits for the disk: %s", error)
            stopping.wait(poll_s)
    finally:
        pool.close()


def _failure(folder: Path, item: _Item) -> str | None:
    """The reason why an ended item has no result; None if it has one."""
    status = item.process.returncode
    if status == 0 and (folder / OUTPUTS / item.name / RESULT).exists():
        return None
    log_file = _log(folder, item.name)
    how = endings.ending(
        status,
        kills_before=item.kills_before,
        kills_after=endings.memory_kills(),
        last_lines=endings.tail(log_file, 0),
    )
    message = _last_line(log_file)
    return f"{item.name} {how}" + (f": {message}" if message else "")


def _last_line(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - REASON_BYTES))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""


def _log(folder: Path, item: str) -> Path:
    return folder / f"{item}.log"


def _lock(folder: Path) -> IO[bytes]:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = (folder / LOCK_FILE).open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise Busy(f"another pool runs the jobs in {folder}") from error
    return file


def parser() -> argparse.ArgumentParser:
    """The parser of the command line, which the supervisor writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, required=True, help="The folder of jobs: <home>/jobs."
    )
    parser.add_argument("--slots", type=int, default=1, help="The most processes at a time.")
    return parser


def run(options: argparse.Namespace, stopping: threading.Event) -> None:
    """Run the pool until `stopping` is set."""
    work(Pool(options.folder, options.slots), stopping)
