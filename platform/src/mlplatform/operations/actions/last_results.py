"""The last results of flows, in small files: metrics are scraped after a flow run has ended.

They are for people and alerts; nothing is decided from them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import pyarrow as pa

from mlplatform.runtime.errors import PlatformError
from mlplatform.runtime.storage.struct_files import read_struct, write_struct


class ArmCounts(msgspec.Struct, frozen=True):
    """One arm's counts in the present step of a rollout, as the last pass saw them."""

    units: int = 0
    requests: int = 0
    failures: int = 0
    answers: int = 0
    alerts: int = 0
    pairs: int = 0
    flips: int = 0


class Pass(msgspec.Struct, frozen=True):
    """The end of a pass over a model's rollouts.

    Args:
        at_ms: when the pass ended, wall time.
        arms: arm → its counts; empty if there was nothing to judge.
    """

    at_ms: int
    arms: Mapping[str, ArmCounts] = {}


class InputShift(msgspec.Struct, frozen=True):
    """The distance of one input in the newest window from the champion's profile."""

    psi: float
    psi_limit: float
    distance: float
    distance_limit: float
    missing_share: float


class Outcomes(msgspec.Struct, frozen=True):
    """Counts of matured decisions by outcome.

    Args:
        matured: number of decisions with a mature label; decisions that hid their outcome count
            only if they are labelled.
        positives: number of positives among them.
        alerts, hits: number of alerts among them, and of alerts that were positive.
        late: number of positives among them whose label came after the model's maturity.
        newest_label_ms: event time of the newest label; None if there is none.
    """

    matured: int
    positives: int
    alerts: int
    hits: int
    late: int
    newest_label_ms: int | None

    @property
    def precision(self) -> float | None:
        return self.hits / self.alerts if self.alerts else None

    @property
    def recall(self) -> float | None:
        return self.hits / self.positives if self.positives else None

    @property
    def late_share(self) -> float | None:
        return self.late / self.positives if self.positives else None


class Check(msgspec.Struct, frozen=True):
    """A drift check; `verdict` is steady, drifted or undecided.

    Args:
        at_ms: when the check ended, wall time.
        performance: health of the performance, in lower case; None if it was not judged.
        undecided_since_ms: wall time of the first check in the present row of undecided ones; None
            if this check is decided.
    """

    at_ms: int
    verdict: str
    inputs: Mapping[str, InputShift] = {}
    outcomes: Outcomes | None = None
    undecided_since_ms: int | None = None
    performance: str | None = None


def undecided_since(verdict: str, at_ms: int, before: Check | None) -> int | None:
    """The time (ms) since which checks have been undecided, including this one; None if this one is
    decided."""
    if verdict != "undecided":
        return None
    began_ms = None if before is None else before.undecided_since_ms
    return at_ms if began_ms is None else began_ms


M = TypeVar("M", Pass, Check)
log = logging.getLogger(__name__)


@contextmanager
def for_people() -> Iterator[None]:
    """Log errors of the block and suppress them: no pass or check may fail because of a figure for
    people."""
    try:
        yield
    except (PlatformError, OSError, MemoryError, ValueError, pa.ArrowException):
        log.exception("the newest results could not be measured or saved")


def keep(folder: Path, model: str, result: Pass | Check) -> None:
    """Write the model's newest result over the stored one."""
    write_struct(_file(folder, model, type(result)), result)


def last(folder: Path, model: str, kind: type[M]) -> M | None:
    """The model's last result; None before the first.

    Raises:
        Corrupt: the file is not what `keep` writes.
    """
    return read_struct(_file(folder, model, kind), kind)


def _file(folder: Path, model: str, kind: type[Pass] | type[Check]) -> Path:
    return folder / f"{model}.{'pass' if kind is Pass else 'check'}.json"
