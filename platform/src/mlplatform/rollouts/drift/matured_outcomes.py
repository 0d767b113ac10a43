"""Outcomes of the champion's decisions, by day, once their labels are mature."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.decisions.records.last_labels import LABEL_COLUMNS, in_order, label_columns
from mlplatform.decisions.records.logged_inputs import LoggedInputs
from mlplatform.decisions.records.port import DecisionLog, RecordQuery
from mlplatform.decisions.records.record import LABEL_VALUES, Kind
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.inputs import InputPlan
from mlplatform.model.policies.decision_scale import Task
from mlplatform.model.policies.monitoring import Segment
from mlplatform.model.policies.segments import band
from mlplatform.model.profile import Floats
from mlplatform.rollouts.cache.days import DayQuery, findings_by_day
from mlplatform.rollouts.drift.performance import (
    ACCURACY,
    CALIBRATION,
    ERROR,
    MOST_REFERENCE_DAYS,
    NO_DAYS,
    RECENT_DAYS,
    DailyHits,
    Hits,
    MaturedDay,
    MaturedDays,
)
from mlplatform.rollouts.drift.slices import slices, void_times
from mlplatform.rollouts.drift.windows import (
    ChampionTenure,
    countable,
    gaps_before,
    scored_by,
    units_of,
)
from mlplatform.runtime.units import DAY_MS, HOUR_MS

QUIET_MS = DAY_MS
"""A day counts as labelled if any label, of whatever request, came in the last so many milliseconds
before the day matured, or later. Without such a label the feed may have stopped."""
_DECISION = ("decision_id", "event_ms", "arm", "unit", "version", "score", "decision", "degraded")


def read_matured(
    folder: Path,
    log: DecisionLog,
    definition: ModelDefinition,
    plan: InputPlan,
    champion: ChampionTenure,
    now_ms: int,
    faulty: Sequence[tuple[int, int]] = (),
) -> MaturedDays:
    """The champion's first matured days and its last ones, by which its performance is judged.

    A day counts the labels that had arrived when it matured, so that old days know no more than new
    ones. Labels and voids from before a day belong to none of its decisions. Two kinds of days are
    left out: those at whose end no label came at all, and those with a fault in their data, because
    the cost of a broken input is no drop of the model.

    Args:
        folder: folder in which the findings of days are stored. Only new days, and days with new
            records in the log, are read from the log.
        plan: plan of the inputs that define the segments.
        faulty: pairs (from, to) of event times between which the data had a fault.

    Raises:
        Unavailable: the log or the file of days can't be read or written now.
    """
    numbers = _numbers(log, definition, champion, now_ms, faulty)
    if not numbers:
        return NO_DAYS
    late_ms = definition.label.maturity_days * DAY_MS
    first = numbers[:MOST_REFERENCE_DAYS]
    chosen = [*first, *numbers[len(first) :][-RECENT_DAYS:]]
    gaps = list(gaps_before(log.watermarks(), (numbers[-1] + 1) * DAY_MS))
    identity = _identity(definition, plan, champion)
    query = DayQuery(definition.name, champion.version, identity, late_ms)
    read = partial(_read_days, log, definition, plan, champion)
    found = findings_by_day(folder, log, query, chosen, read)
    days = [_decoded(found[number]) for number in chosen]
    if days[-1] is None:
        gaps.append(_silence(numbers[-1], definition.task))
    return MaturedDays(tuple(day for day in days if day is not None), tuple(gaps))


def _identity(
    definition: ModelDefinition, plan: InputPlan, champion: ChampionTenure
) -> list[object]:
    """Everything besides the log from which the findings of a day follow."""
    decision, segments = definition.decision, definition.drift.segments
    found: list[object] = [champion.version, definition.label.maturity_days, definition.task]
    found += [decision.alert_share, decision.hides_outcome]
    if segments:
        found += [msgspec.to_builtins(part) for part in (segments, plan.inputs, plan.views)]
    return found


def _read_days(
    log: DecisionLog,
    definition: ModelDefinition,
    plan: InputPlan,
    champion: ChampionTenure,
    numbers: Sequence[int],
) -> Iterator[tuple[int, bytes]]:
    """The findings of each day; none of a day at whose end no label came."""
    late_ms = definition.label.maturity_days * DAY_MS
    for run in _runs(numbers):
        stretch = run[0] * DAY_MS, (run[-1] + 1) * DAY_MS
        voids = void_times(log, definition.name, stretch[0])
        labels = _read_labels(log, definition, stretch, late_ms)
        for number in run:
            matured_ms = (number + 1) * DAY_MS + late_ms
            day = None
            if labels.any_between(matured_ms - QUIET_MS, matured_ms):
                void = pa.array([i for i, ms in voids if ms >= number * DAY_MS], pa.string())
                day = _read_day(log, definition, plan, champion, number, labels, void)
            yield number, _encoded(day)


def _runs(numbers: Sequence[int]) -> Iterator[list[int]]:
    """Consecutive days, grouped."""
    for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        yield [number for _, number in run]


class _KeptHits(msgspec.Struct, array_like=True, frozen=True):
    """`DailyHits` as it is stored, with hits of this type."""

    units: bytes
    hits: bytes
    kind: str
    base: float


class _KeptDay(msgspec.Struct, array_like=True, frozen=True):
    """A matured day as it is stored."""

    start_ms: int
    requests: int
    hidden: int
    metrics: dict[str, _KeptHits]


def _encoded(day: MaturedDay | None) -> bytes:
    if day is None:
        return msgspec.msgpack.encode(None)
    metrics = {
        name: _KeptHits(hits.units.tobytes(), hits.hits.tobytes(), hits.hits.dtype.str, hits.base)
        for name, hits in day.metrics.items()
    }
    return msgspec.msgpack.encode(_KeptDay(day.start_ms, day.requests, day.hidden, metrics))


def _decoded(data: bytes) -> MaturedDay | None:
    kept = msgspec.msgpack.decode(data, type=_KeptDay | None)
    if kept is None:
        return None
    metrics = {
        name: DailyHits(
            np.frombuffer(hits.units, np.int64), np.frombuffer(hits.hits, hits.kind), hits.base
        )
        for name, hits in kept.metrics.items()
    }
    return MaturedDay(kept.start_ms, kept.requests, kept.hidden, metrics)


def _numbers(
    log: DecisionLog,
    definition: ModelDefinition,
    champion: ChampionTenure,
    now_ms: int,
    faulty: Sequence[tuple[int, int]],
) -> list[int]:
    """The epoch days that have matured under the champion, and that the log has."""
    query = RecordQuery(
        model=definition.name, kinds=("decision",), from_ms=champion.since_ms, limit=1,
        columns=("event_ms",),
    )  # fmt: skip
    event_ms = log.read(query)["event_ms"].to_numpy()
    if not len(event_ms):
        return []
    since_ms = max(champion.since_ms, int(event_ms.min()) // DAY_MS * DAY_MS)
    end = (now_ms - definition.label.maturity_days * DAY_MS) // DAY_MS
    broken = {
        day for from_ms, to_ms in faulty for day in range(from_ms // DAY_MS, -(-to_ms // DAY_MS))
    }
    return [day for day in range(-(-since_ms // DAY_MS), end) if day not in broken]


def _silence(number: int, task: Task) -> str:
    day = np.datetime64(number, "D")
    last = f"none came on the last day on which a label of {day} could arrive"
    text = f"labels have stopped coming: {last}"
    return f"{text}, so a missing label does not mean negative" if task == "binary" else text


@dataclass(slots=True)
class _Labels:
    """The labels of positives and of stopped requests in a stretch of time, and the hours in which
    any label came.

    Args:
        known: decision → its labels, sorted by `last_labels.RANK`, the last label at the end.
            Models of classes and numbers have the labels of all requests here.
        hours: hours since the epoch, in event time, in which a label arrived.
    """

    known: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    hours: set[int] = field(default_factory=set)

    def any_between(self, from_ms: int, to_ms: int) -> bool:
        return any(hour in self.hours for hour in range(from_ms // HOUR_MS, -(-to_ms // HOUR_MS)))

    def between(self, from_ms: int, to_ms: int) -> dict[str, Any]:
        """The labels of each decision that arrived between these times."""
        last = ((i, [label for at_ms, *_, label in found if from_ms <= at_ms < to_ms])
                for i, found in self.known.items())  # fmt: skip
        return {decision_id: labels[-1] for decision_id, labels in last if labels}


def _read_labels(
    log: DecisionLog, definition: ModelDefinition, stretch: tuple[int, int], maturity_ms: int
) -> _Labels:
    if definition.task != "binary":
        return _read_all_labels(log, definition, stretch, maturity_ms)
    decided = _query(definition, "decision", stretch, ("decision_id", "event_ms", "decision"))
    stopped: list[str | None] = []
    for rows in slices(log, decided):
        hides = np.isin(rows["decision"].to_numpy(), definition.decision.hides_outcome)
        stopped += rows.filter(pa.array(hides))["decision_id"].to_pylist()
    found = _Labels()
    query = _query(definition, "label", (stretch[0], stretch[1] + maturity_ms), LABEL_COLUMNS)
    for rows in slices(log, query):
        rows = in_order(rows)
        found.hours.update(np.unique(rows["event_ms"].to_numpy() // HOUR_MS).tolist())
        positive = rows.filter(pa.array(rows["label"].to_numpy() == 1))["decision_id"].to_pylist()
        wanted = pa.array([*stopped, *found.known, *positive], pa.string())
        kept = rows.filter(pc.is_in(rows["decision_id"], value_set=wanted))
        columns = (kept[n].to_pylist() for n in LABEL_COLUMNS)
        for decision_id, *rank in zip(*columns, strict=True):
            found.known.setdefault(decision_id, []).append(tuple(rank))
    for ranks in found.known.values():
        ranks.sort()  # slices hold records of several writers
    return found


def _read_all_labels(
    log: DecisionLog, definition: ModelDefinition, stretch: tuple[int, int], maturity_ms: int
) -> _Labels:
    found, columns = _Labels(), label_columns(definition.task)
    query = _query(definition, "label", (stretch[0], stretch[1] + maturity_ms), columns)
    for rows in slices(log, query):
        rows = in_order(rows, definition.task)
        found.hours.update(np.unique(rows["event_ms"].to_numpy() // HOUR_MS).tolist())
        for decision_id, *rank in zip(*(rows[n].to_pylist() for n in columns), strict=True):
            found.known.setdefault(decision_id, []).append(tuple(rank))
    for ranks in found.known.values():
        ranks.sort()
    return found


def _read_labelled_day(
    log: DecisionLog,
    definition: ModelDefinition,
    champion: ChampionTenure,
    number: int,
    labels: _Labels,
    void: pa.Array[pa.StringScalar],
) -> MaturedDay:
    """The matured day with the number of labelled requests that were decided rightly or, of
    numbers, with the errors of their scores."""
    start_ms, end_ms = number * DAY_MS, (number + 1) * DAY_MS
    known = labels.between(start_ms, end_ms + definition.label.maturity_days * DAY_MS)
    column = LABEL_VALUES[definition.task]
    units, pairs, requests, before = [], list[tuple[Any, Any]](), 0, 0
    for rows in slices(log, _query(definition, "decision", (start_ms, end_ms), _DECISION)):
        rows = countable(rows, void)
        of_rows = units_of(rows, before).tolist()
        before += rows.num_rows
        scored = scored_by(rows, champion.version).tolist()
        ids, decided = rows["decision_id"].to_pylist(), rows[column].to_pylist()
        for unit, is_scored, i, value in zip(of_rows, scored, ids, decided, strict=True):
            requests += is_scored
            if is_scored and i in known:
                units.append(unit)
                pairs.append((value, known[i]))
    name, hits = _LABELLED[definition.task](pairs)
    trials = DailyHits(np.array(units, np.int64), hits, float(len(hits)))
    return MaturedDay(start_ms, requests, 0, {name: trials})


def _right(pairs: Sequence[tuple[Any, Any]]) -> tuple[str, npt.NDArray[np.bool_]]:
    return ACCURACY, np.array([decided == label for decided, label in pairs], np.bool_)


def _errors(pairs: Sequence[tuple[Any, Any]]) -> tuple[str, npt.NDArray[np.float64]]:
    both = np.array(pairs, np.float64).reshape(-1, 2)
    return ERROR, np.abs(both[:, 0] - both[:, 1])


_LABELLED: Final[Mapping[str, Callable[[Sequence[tuple[Any, Any]]], tuple[str, Hits]]]] = {
    "classes": _right,
    "real": _errors,
}
"""Task of a model → function from decisions and their labels to the metric's name and hits."""


def _read_day(
    log: DecisionLog,
    definition: ModelDefinition,
    plan: InputPlan,
    champion: ChampionTenure,
    number: int,
    labels: _Labels,
    void: pa.Array[pa.StringScalar],
) -> MaturedDay:
    if definition.task != "binary":
        return _read_labelled_day(log, definition, champion, number, labels, void)
    start_ms, end_ms = number * DAY_MS, (number + 1) * DAY_MS
    known = labels.between(start_ms, end_ms + definition.label.maturity_days * DAY_MS)
    positives = pa.array([i for i, label in known.items() if label == 1], pa.string())
    labelled = pa.array(list(known), pa.string())
    segments, decoded = definition.drift.segments, LoggedInputs(plan)
    hides = definition.decision.hides_outcome
    columns = (*_DECISION, "payload") if segments else _DECISION
    parts: list[tuple[npt.NDArray[Any], ...]] = []
    hidden = before = 0
    for rows in slices(log, _query(definition, "decision", (start_ms, end_ms), columns)):
        rows = countable(rows, void)
        units = units_of(rows, before)
        before += rows.num_rows
        scored = scored_by(rows, champion.version)
        unknown = pc.invert(pc.is_in(rows["decision_id"], value_set=labelled)).to_numpy()
        unknown = scored & unknown & np.isin(rows["decision"].to_numpy(), hides)
        hidden += int(unknown.sum())
        kept = scored & ~unknown
        rows = rows.filter(pa.array(kept))
        positive = pc.is_in(rows["decision_id"], value_set=positives).to_numpy()
        scores = rows["score"].to_numpy().astype(np.float64)
        members = _members(segments, plan, decoded.read(rows).matrix) if segments else ()
        parts.append((units[kept], scores, positive, *members))
    whole = [np.concatenate(part) for part in zip(*parts, strict=True)]
    return matured_day(
        start_ms,
        ScoredRequests(*whole[:3]),
        capacity=definition.decision.alert_share,
        hidden=hidden,
        segments={s.name: inside for s, inside in zip(segments, whole[3:], strict=True)},
    )


def _members(
    segments: Sequence[Segment], plan: InputPlan, matrix: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.bool_], ...]:
    """The rows of each segment; a missing value belongs to no segment."""
    found = []
    for segment in segments:
        values = matrix[:, plan.names.index(segment.input)]
        found.append(band(values, segment.at_least, segment.below))
    return tuple(found)


def _query(
    definition: ModelDefinition, kind: Kind, stretch: tuple[int, int], columns: tuple[str, ...]
) -> RecordQuery:
    from_ms, to_ms = stretch
    return RecordQuery(
        model=definition.name, kinds=(kind,), from_ms=from_ms, to_ms=to_ms, columns=columns
    )


@dataclass(frozen=True, slots=True, eq=False)
class ScoredRequests:
    """The requests of a day that the champion scored and whose outcome is not hidden.

    Args:
        positive: whether the last label that had arrived when the day matured is positive.
    """

    units: npt.NDArray[np.int64]
    scores: Floats
    positive: npt.NDArray[np.bool_]


def matured_day(
    start_ms: int,
    scored: ScoredRequests,
    *,
    capacity: float,
    hidden: int = 0,
    segments: Mapping[str, npt.NDArray[np.bool_]] | None = None,
) -> MaturedDay:
    """The metrics of one day.

    Args:
        capacity: share (0-1) of the day's requests that people can look at; these are the ones with
            the highest scores.
        segments: name of a segment → flag for each request: it belongs to the segment. None means
            no segments.
    """
    highest = np.zeros(len(scored.scores), dtype=bool)
    highest[np.argsort(-scored.scores, kind="stable")[: round(capacity * len(highest))]] = True
    positive, units = scored.positive, scored.units
    metrics = {
        "recall": _share(units, positive & highest, positive),
        "precision": _share(units, positive & highest, highest),
        CALIBRATION: DailyHits(units[positive], positive[positive], float(scored.scores.sum())),
    }
    for name, inside in (segments or {}).items():
        found = positive & highest & inside
        metrics[f"recall of {name}"] = _share(units, found, positive & inside)
        metrics[f"precision of {name}"] = _share(units, found, highest & inside)
    return MaturedDay(start_ms, len(highest), hidden, metrics)


def _share(
    units: npt.NDArray[np.int64], hits: npt.NDArray[np.bool_], trials: npt.NDArray[np.bool_]
) -> DailyHits:
    return DailyHits(units[trials], hits[trials], float(trials.sum()))
