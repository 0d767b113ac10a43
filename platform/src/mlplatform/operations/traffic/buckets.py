"""Counts of decisions in buckets of event time, which are longer the older they are.

A bucket holds only sums, so that records may come in any order and in any portions. A void takes a
decision back for verdicts and training, but the decision was traffic and stays counted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mlplatform.decisions.records.record import Kind
from mlplatform.runtime.units import DAY_MS, HOUR_MS, MINUTE_MS

KINDS: Final[tuple[Kind, ...]] = ("decision", "inference", "shadow")
COLUMNS: Final = (
    *("writer", "seq", "kind", "event_ms", "arm", "version", "decision", "degraded"),
    "latency_us",
)
BINS_PER_OCTAVE: Final = 8
EDGES: Final = 64.0 * 2 ** (np.arange(18 * BINS_PER_OCTAVE + 1) / BINS_PER_OCTAVE)
"""Edges of latency bins in microseconds, 64 µs to 16.8 s, each 9 % above the one before."""
BINS: Final = len(EDGES) + 1
SHADOW: Final = "shadow"
NOBODY: Final = "unassigned"
"""Role of raw callers' requests whose arm the log does not name."""


@dataclass(frozen=True, slots=True)
class Level:
    """Buckets of one length.

    Args:
        keep_ms: how long before the newest event a bucket must have ended to be dropped, in
            milliseconds.
    """

    length_ms: int
    keep_ms: int


LEVELS: Final = (
    Level(5 * MINUTE_MS, 26 * HOUR_MS),
    Level(HOUR_MS, 8 * DAY_MS),
    Level(6 * HOUR_MS, 400 * DAY_MS),
)

Key = tuple[int, int, str, int]
"""Key of a bucket: length and start (ms), role, and version (-1: none)."""


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """The counts of one bucket.

    Args:
        alerts: number of alerts among the answers that are not degraded.
        latency: number of answers in each bin of `EDGES`.
    """

    requests: int
    degraded: int
    alerts: int
    latency: npt.NDArray[np.int64]

    def plus(self, other: Counts) -> Counts:
        return Counts(
            self.requests + other.requests,
            self.degraded + other.degraded,
            self.alerts + other.alerts,
            self.latency + other.latency,
        )


def no_counts() -> Counts:
    """The counts of an empty bucket."""
    return Counts(0, 0, 0, np.zeros(BINS, dtype=np.int64))


def bucket_counts(table: pa.Table, alerting: Sequence[str]) -> dict[Key, Counts]:
    """Counts of the records, in buckets of every level.

    Args:
        table: records with the columns `COLUMNS`, of kinds among `KINDS`.
        alerting: the decisions that are alerts.
    """
    if not len(table):
        return {}
    event_ms, role, names, version = _keys(table)
    degraded = np.asarray(table.column("degraded").to_numpy(zero_copy_only=False), dtype=bool)
    alerts = np.isin(_words(table, "decision"), alerting) & ~degraded
    latency = _numbers(table, "latency_us")
    bins = np.searchsorted(EDGES, np.maximum(latency, 0), side="right")
    found: dict[Key, Counts] = {}
    for level in LEVELS:
        start = event_ms - event_ms % level.length_ms
        keys, place = np.unique(np.stack([start, role, version]), axis=1, return_inverse=True)
        place, many = place.reshape(-1), keys.shape[1]
        requests = np.bincount(place, minlength=many)
        worse = np.bincount(place, weights=degraded, minlength=many)
        flagged = np.bincount(place, weights=alerts, minlength=many)
        timed = latency >= 0
        cells = place[timed] * BINS + bins[timed]
        histograms = np.bincount(cells, minlength=many * BINS).reshape(many, BINS)
        for number in range(many):
            begun, code, of = (int(v) for v in keys[:, number])
            found[(level.length_ms, begun, names[code], of)] = Counts(
                int(requests[number]), int(worse[number]), int(flagged[number]), histograms[number]
            )
    return found


def horizon(level: Level, newest_ms: int) -> int:
    """The event time before which buckets of a level are dropped, by their start."""
    return newest_ms - level.keep_ms - level.length_ms


def quantile_ms(latency: npt.NDArray[np.int64], quantile: float) -> float | None:
    """A quantile of latency in milliseconds, within a bin's 9 %; None if there are no answers."""
    total = int(latency.sum())
    if not total:
        return None
    place = int(np.searchsorted(np.cumsum(latency), quantile * total, side="left"))
    low = EDGES[max(place - 1, 0)]
    high = EDGES[min(place, len(EDGES) - 1)]
    return float(np.sqrt(low * high)) / 1000


def _keys(
    table: pa.Table,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], Sequence[str], npt.NDArray[Any]]:
    """Columns of the records: event time, role as a number, the roles' names, version."""
    arm, kind = _words(table, "arm"), _words(table, "kind")
    role = np.where(kind == SHADOW, SHADOW, np.where(arm == "", NOBODY, arm))
    names, codes = np.unique(role.astype(str), return_inverse=True)
    version = _numbers(table, "version")
    return _numbers(table, "event_ms"), codes.reshape(-1), [str(n) for n in names], version


def _words(table: pa.Table, name: str) -> npt.NDArray[Any]:
    coded = table.column(name).fill_null(pa.scalar("")).combine_chunks().dictionary_encode()
    words = np.array([*coded.dictionary.to_pylist(), ""], dtype=str)
    return np.asarray(words[coded.indices.to_numpy(zero_copy_only=False)])


def _numbers(table: pa.Table, name: str) -> npt.NDArray[np.int64]:
    return np.asarray(table.column(name).fill_null(pa.scalar(-1)).to_numpy(), dtype=np.int64)
