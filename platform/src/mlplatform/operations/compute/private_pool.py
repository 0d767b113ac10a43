"""The `Jobs` of a process beside which no pool runs: it starts a pool, which ends with it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

from mlplatform.operations.compute.jobs import Job, JobStatus
from mlplatform.operations.compute.local import NO_POOL, LocalJobs
from mlplatform.runtime.processes.commands import command
from mlplatform.runtime.processes.parent_death import ParentDeathPipe


class PrivatePool:
    """A `Jobs` whose jobs belong to this process alone and end with it, however it ends.

    A flow run in its own pod has no other process that would work for it.

    Args:
        folder: folder for jobs and their outputs, which only this process uses; created if it is
            missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._jobs = LocalJobs(folder)
        self._parent_pipe = ParentDeathPipe()
        self._pool: subprocess.Popen[bytes] | None = None

    def submit(self, job: Job) -> None:
        self._jobs.submit(job)
        self._keep_pool()

    def status(self, name: str) -> JobStatus:
        found = self._jobs.status(name)
        if found.reason != NO_POOL:
            return found
        self._keep_pool()
        return replace(found, reason="its pool starts")

    def cancel(self, name: str) -> None:
        self._jobs.cancel(name)

    def log(self, name: str) -> str:
        return self._jobs.log(name)

    def outputs(self, name: str) -> Path:
        return self._jobs.outputs(name)

    def close(self) -> None:
        """End the pool and its running items."""
        self._parent_pipe.close()
        if self._pool is not None:
            self._pool.wait()

    def _keep_pool(self) -> None:
        if self._pool is None or self._pool.poll() is not None:
            self._pool = subprocess.Popen(
                command("jobs", f"--folder={self._folder}"),
                env={**os.environ, **self._parent_pipe.environment},
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[self._parent_pipe.read_fd],
            )
