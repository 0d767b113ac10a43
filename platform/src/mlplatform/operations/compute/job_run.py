"""A job from its submission to its results; a cancelled wait cancels the job."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from mlplatform.operations.compute.jobs import Job, Jobs, JobStatus
from mlplatform.runtime.errors import JobFailed, NotFound, PlatformError, Unavailable

Answer = TypeVar("Answer")

POLL_S: Final = 0.5
GRACE_S: Final = 60.0
"""Seconds that the caller waits beyond the deadline, at which the backend ends the job, for the
backend to say so."""


def run(
    jobs: Jobs,
    job: Job,
    report: Callable[[JobStatus], None],
    *,
    poll_s: float = POLL_S,
    grace_s: float = GRACE_S,
) -> Path:
    """Submit a job, or adopt it, and wait for its end; returns the folder of its outputs.

    Whatever ends the wait before the job's own end (a cancelled flow, a signal) cancels the job.
    A process that is killed outright leaves it to run: submitting it again adopts it.

    Args:
        report: called with each status that differs from the one before.
        poll_s: seconds between two calls of the backend.
        grace_s: seconds to wait for an answer of the backend after the job's deadline.

    Raises:
        JobFailed: the job failed, was cancelled or took longer than its deadline.
        Refused: another job has that name.
        Unavailable: the backend has not answered for `grace_s` seconds after the deadline.
    """
    until_s = time.monotonic() + job.deadline_s + grace_s
    try:
        retry_until(lambda: jobs.submit(job), until_s, poll_s)
        status = _end(jobs, job.name, report, until_s, poll_s)
    except BaseException:
        with contextlib.suppress(NotFound, Unavailable):  # the job then ends at its deadline
            jobs.cancel(job.name)
        raise
    if status.state != "succeeded":
        raise JobFailed(f"job {job.name} {_ending(status, jobs.log(job.name))}")
    return jobs.outputs(job.name)


def retry_until(ask: Callable[[], Answer], until_s: float, poll_s: float = POLL_S) -> Answer:
    """Call a backend until it answers; returns the answer.

    Args:
        until_s: time on the monotonic clock after which the call is not repeated.

    Raises:
        Unavailable: the backend has not answered by then.
    """
    while True:
        try:
            return ask()
        except Unavailable:
            if time.monotonic() > until_s:
                raise
            time.sleep(poll_s)


def _end(
    jobs: Jobs, name: str, report: Callable[[JobStatus], None], until_s: float, poll_s: float
) -> JobStatus:
    """Wait for the job's final status; while the backend does not answer, it is asked again."""
    last: JobStatus | None = None
    silent: PlatformError | None = None
    while True:
        try:
            status = jobs.status(name)
        except Unavailable as error:
            silent = error
        else:
            silent = None
            if status != last:
                report(status)
            if status.final:
                return status
            last = status
        if time.monotonic() > until_s:
            raise silent or JobFailed(f"job {name} passed its deadline and was abandoned")
        time.sleep(poll_s)


def _ending(status: JobStatus, log: str) -> str:
    how = "was cancelled" if status.state == "cancelled" else "failed"
    reason = status.reason or "no reason"
    done = f"{status.done} of {status.total} items done"
    return f"{how} with {done}: {reason} (its log: {log})"
