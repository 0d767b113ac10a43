"""The embedded `Jobs`: jobs are folders, and this machine's pool process runs them.

In a job's folder this module writes `job.json` and `cancel`; the pool (`compute.pool`) writes
`status.json` and `outputs`. The job's `inputs` stay where they are.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from mlplatform.operations.compute.jobs import FINAL, Job, JobStatus, State, Work
from mlplatform.runtime.errors import NotFound, Refused
from mlplatform.runtime.storage.files import create_atomically, is_held

JOB_FILE: Final = "job.json"
CANCEL_FILE: Final = "cancel"
STATUS_FILE: Final = "status.json"
OUTPUTS: Final = "outputs"
LOCK_FILE: Final = "pool.lock"
"""Lock file that the pool holds while it lives."""
NO_POOL: Final = "no pool runs jobs here: is the platform up?"


class JobFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`job.json`: the job, and the time of its submission.

    Args:
        inputs: path relative to the folder of jobs, if both are in one home folder; otherwise an
            absolute path.
    """

    work: Work
    model: str
    inputs: str
    items: tuple[str, ...]
    deadline_s: int
    digest: str
    submitted_ms: int
    traceparent: str = ""


class JobStatusFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`status.json`: the job's progress in the pool."""

    state: State
    done: int
    reason: str
    changed_ms: int


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class LocalJobs:
    """A `Jobs` whose items are processes of this machine.

    A submitter's death changes nothing. The pool dies with the platform, its processes with the
    pool; the next pool works on what is not done, and leaves done items alone.

    Args:
        folder: the folder `<home>/jobs`.
    """

    def __init__(self, folder: Path, now_ms: Callable[[], int] = _wall_ms) -> None:
        self._folder = folder
        self._now_ms = now_ms

    def submit(self, job: Job) -> None:
        content = JobFile(
            work=job.work,
            model=job.model,
            inputs=_input_place(job.inputs.absolute(), self._folder.absolute()),
            items=job.items,
            deadline_s=job.deadline_s,
            digest=job.digest,
            submitted_ms=self._now_ms(),
            traceparent=job.traceparent,
        )
        path = self._folder / job.name / JOB_FILE
        made = create_atomically(path, msgspec.json.encode(content))
        if not made and self._job(job.name).digest != job.digest:
            raise Refused(f"there is another job {job.name!r}; each job needs a name of its own")

    def status(self, name: str) -> JobStatus:
        job = self._job(name)
        found = read_status(self._folder / name) or JobStatusFile(
            "pending", 0, "", job.submitted_ms
        )
        idle = found.state not in FINAL and not is_held(self._folder / LOCK_FILE)
        reason = NO_POOL if idle else found.reason
        return JobStatus(name, found.state, found.done, len(job.items), reason)

    def cancel(self, name: str) -> None:
        self._job(name)
        (self._folder / name / CANCEL_FILE).touch(mode=0o600)

    def log(self, name: str) -> str:
        return str(self._folder.absolute() / name / "*.log")

    def outputs(self, name: str) -> Path:
        status = self.status(name)
        if status.state != "succeeded":
            raise Refused(f"job {name} is {status.state}: it has no outputs to take")
        return self._folder / name / OUTPUTS

    def _job(self, name: str) -> JobFile:
        job = read_job(self._folder / name)
        if job is None:
            raise NotFound(f"no job {name!r} was submitted here")
        return job


def read_job(folder: Path) -> JobFile | None:
    """The job of a folder; None if there is none."""
    try:
        return msgspec.json.decode((folder / JOB_FILE).read_bytes(), type=JobFile)
    except (FileNotFoundError, NotADirectoryError):
        return None


def inputs_of(job: JobFile, jobs: Path) -> Path:
    """The folder of a job's inputs. Jobs of earlier releases hold an absolute path, and the home
    may have been moved or copied since: the folder of that name in this home is used if it exists.

    Args:
        jobs: the folder of jobs.
    """
    named = Path(job.inputs)
    if not named.is_absolute():
        return Path(os.path.normpath(jobs / named))
    own = jobs.parent / named.parent.name / named.name
    return own if own.is_dir() else named


def _input_place(inputs: Path, jobs: Path) -> str:
    within = inputs.is_relative_to(jobs.parent)
    return os.path.relpath(inputs, jobs) if within else str(inputs)


def read_status(folder: Path) -> JobStatusFile | None:
    """The pool's last status of the job of a folder; None if there is none."""
    try:
        return msgspec.json.decode((folder / STATUS_FILE).read_bytes(), type=JobStatusFile)
    except FileNotFoundError:
        return None
