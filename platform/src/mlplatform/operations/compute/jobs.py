"""The port for heavy work: a job is a program over items, each in its own process or pod."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from mlplatform.runtime.canonical import digest
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.units import DAY_S

Work = Literal["score", "fit"]
"""A program of `compute.work`."""
State = Literal["pending", "running", "succeeded", "failed", "cancelled"]
FINAL: Final[frozenset[State]] = frozenset({"succeeded", "failed", "cancelled"})

SHARED: Final = "shared"
"""Folder of a job's inputs that every item reads."""
ITEMS: Final = "items"
"""Folder of a job's inputs with each item's own file or folder, under its name."""
RESULT: Final = "result.json"
"""File of an item's outputs that is written last: its result, as one JSON object."""
MAX_ITEMS: Final = 1000
KEPT_S: Final = 7 * DAY_S
"""Seconds after which an ended job is removed with its outputs."""
TRACEPARENT: Final = "TRACEPARENT"
"""Environment variable of an item's process: the span in which the job was asked for.

Source: OpenTelemetry, Environment Variables as Context Propagation Carriers.
"""

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?")
_ITEM: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of heavy work.

    Args:
        name: a name that the caller chooses and uses once; submitting it again finds the same job.
        work: the program of `compute.work` to run.
        model: name of a model folder, whose model.yaml declares the accelerator.
        inputs: a folder with `items/<item>` for each item and, if items share files, `shared/`. It
            must not change until the job has ended.
        items: names of the items. Each is processed once, several at a time, in no order.
        deadline_s: seconds from submission on after which the job is ended and has failed.
        traceparent: the caller's span; empty without one. It does not change the job's work.

    Raises:
        InputInvalid: a name has another form, or the number of items is not allowed.
    """

    name: str
    work: Work
    model: str
    inputs: Path
    items: tuple[str, ...]
    deadline_s: int
    traceparent: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            problem = f"{self.name!r} is not a name: 1 to 53 of a-z, 0-9 and -"
            raise InputInvalid("job", None, problem)
        if not 0 < len(self.items) <= MAX_ITEMS or len(set(self.items)) < len(self.items):
            problem = f"{len(self.items)} items; wanted: 1 to {MAX_ITEMS}, each once"
            raise InputInvalid(f"job {self.name}", None, problem)
        for item in self.items:
            if not _ITEM.fullmatch(item):
                raise InputInvalid(f"job {self.name}", None, f"{item!r} is not a file's name")
        if self.deadline_s < 1:
            raise InputInvalid(f"job {self.name}", None, "its deadline is less than a second")

    @property
    def digest(self) -> str:
        """The digest of the job's work, without the path of its inputs."""
        return digest([self.work, self.model, list(self.items), self.deadline_s])


@dataclass(frozen=True, slots=True)
class JobStatus:
    """The progress of a job.

    Args:
        done: number of items, of `total`, that have succeeded.
        reason: why the job waits, or why it has no results, in words; otherwise empty.
    """

    name: str
    state: State
    done: int
    total: int
    reason: str = ""

    @property
    def final(self) -> bool:
        return self.state in FINAL


class Jobs(Protocol):
    """Runs jobs. A job continues if the process that submitted it dies, and is found again by its
    name."""

    def submit(self, job: Job) -> None:
        """Submit a job; returns before it starts. A submitted job of the same content is adopted.

        Raises:
            Refused: there is another job of that name, with other work, model, items or deadline.
            Unavailable: the backend did not answer; asking again is safe.
        """
        ...

    def status(self, name: str) -> JobStatus:
        """The present status of a job.

        Raises:
            NotFound: no such job was submitted.
            Unavailable: the backend did not answer.
        """
        ...

    def cancel(self, name: str) -> None:
        """End all processes of a job; does nothing if the job has ended.

        Returns at once; `status` says when it is cancelled.

        Raises:
            NotFound: no such job was submitted.
            Unavailable: the backend did not answer; asking again is safe.
        """
        ...

    def log(self, name: str) -> str:
        """Where a person finds the output of a job's items: a path, or a command."""
        ...

    def outputs(self, name: str) -> Path:
        """The folder with the outputs of each item of a succeeded job, under the item's name.

        The caller may read the folder; it stays for days.

        Raises:
            NotFound: no such job was submitted.
            Refused: the job has not succeeded.
            Unavailable: the backend did not answer.
        """
        ...
