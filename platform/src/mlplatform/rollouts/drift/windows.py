"""The decisions of a model in the last days, read from the decision log as windows to be judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.decisions.records.logged_inputs import LoggedInputs
from mlplatform.decisions.records.port import DecisionLog, RecordQuery, Watermark
from mlplatform.decisions.records.record import FEATURES, NAMED
from mlplatform.model.definition import InputSpec, ModelDefinition
from mlplatform.model.features.views import FeatureView
from mlplatform.model.inputs import InputPlan
from mlplatform.model.policies.monitoring import DriftPolicy
from mlplatform.model.tensors.categories import Vocabularies
from mlplatform.rollouts.drift.faults import ViewReading
from mlplatform.rollouts.drift.slices import slices, void_ids
from mlplatform.rollouts.drift.verdict import Window
from mlplatform.rollouts.verdicts.completeness import lag_text
from mlplatform.runtime.units import HOUR_MS

COLUMNS = (
    "decision_id",
    "event_ms",
    "arm",
    "unit",
    "version",
    "score",
    "decision",
    "degraded",
    "degraded_reason",
    "payload",
)


@dataclass(frozen=True, slots=True)
class ChampionTenure:
    """The champion, and the event time since which it is champion."""

    version: int
    since_ms: int


def drift_plan(
    definition: ModelDefinition,
    views: Sequence[FeatureView],
    inputs: Sequence[InputSpec],
    watched: Collection[str] | None = None,
    vocabularies: Vocabularies | None = None,
) -> InputPlan:
    """The plan that computes inputs from a logged decision as the champion computed them.

    Args:
        inputs: inputs of the champion's bundle; those that are not watched are left out.
        watched: names of the watched inputs; None means those of `drift.inputs`.
        vocabularies: vocabularies of the champion's bundle.
    """
    names = definition.drift.inputs if watched is None else watched
    specs = [spec for spec in inputs if spec.name in names]
    return InputPlan(definition, views, specs, vocabularies=vocabularies)


def bounds(policy: DriftPolicy, champion: ChampionTenure, now_ms: int) -> list[tuple[int, int]]:
    """Start and end of the last complete windows, oldest first; days are UTC days. Windows that
    began under an earlier champion are left out."""
    width = policy.window_h * HOUR_MS
    last_end = now_ms // width * width
    starts = (last_end - i * width for i in range(policy.windows, 0, -1))
    return [(start, start + width) for start in starts if start >= champion.since_ms]


def read_windows(
    log: DecisionLog,
    plan: InputPlan,
    definition: ModelDefinition,
    champion: ChampionTenure,
    now_ms: int,
) -> Iterator[Window]:
    """The windows to judge the champion's inputs by, oldest first, one in memory at a time.

    Every decision counts for the inputs, whichever version answered it, except those whose features
    were not fresh: a job that stopped is no change of what customers do. The score and the alerts
    are those of the champion alone, without degraded answers. Two kinds of decisions count for
    nothing: void ones, and those whose request named its version, because its caller chose it.
    """
    wanted = bounds(definition.drift, champion, now_ms)
    if not wanted:
        return
    watermarks = log.watermarks()  # read first, so that records below them are included
    void = pa.array(void_ids(log, definition.name, wanted[0][0]), pa.string())
    decoded = LoggedInputs(plan)
    late = {v.name: int(definition.features.late_share * v.ttl_ms) for v in plan.views}
    for start_ms, end_ms in wanted:
        query = RecordQuery(
            model=definition.name,
            kinds=("decision",),
            from_ms=start_ms,
            to_ms=end_ms,
            columns=COLUMNS,
        )
        sliced = slices(log, query)
        parts = _Parts(plan.names, sliced.rows, definition.decision.alerts)
        for rows in sliced:
            parts.add(countable(rows, void), decoded, champion)
        yield parts.window(start_ms, end_ms, late, gaps_before(watermarks, end_ms))


def gaps_before(watermarks: Sequence[Watermark], end_ms: int) -> tuple[str, ...]:
    """The live writers that may still write records from before `end_ms`."""
    return tuple(
        f"the log is not complete: {lag_text(w, end_ms)}"
        for w in watermarks
        if w.live and (w.event_ms is None or w.event_ms < end_ms)
    )


def sampled(window: Window, rows: int, *, seed: int = 0) -> Window:
    """The window reduced to at most `rows` of its requests, for reports."""
    random = np.random.default_rng(seed)

    def chosen(count: int) -> npt.NDArray[np.int64]:
        return np.sort(random.choice(count, min(rows, count), replace=False))

    kept, scored = chosen(len(window.units)), chosen(len(window.scores))
    return dataclasses.replace(
        window,
        inputs={name: values[kept] for name, values in window.inputs.items()},
        units=window.units[kept],
        scores=window.scores[scored],
        alerts=window.alerts[scored],
        scored_units=window.scored_units[scored],
    )


class _Parts:
    """A window's columns, filled slice by slice: small types, and no second copy of a column."""

    def __init__(self, names: Sequence[str], most: int, alerts: Sequence[str]) -> None:
        self._names, self._alert_names = names, alerts
        self._inputs = np.empty((len(names), most), dtype=np.float32)
        self._units = np.empty(most, dtype=np.int64)
        self._scores = np.empty(most, dtype=np.float32)
        self._alerts, self._scored = np.empty(most, dtype=bool), np.empty(most, dtype=bool)
        self._newest: dict[str, int | None] = {}
        self._stale = self._rows = 0

    def add(self, rows: pa.Table, decoded: LoggedInputs, champion: ChampionTenure) -> None:
        rows = rows.filter(rows["payload"].is_valid())  # erased records have no inputs
        fresh = _numpy(rows, "degraded_reason") != FEATURES
        self._stale += int((~fresh).sum())
        # records appended to a past day while it is read wait for the next check
        rows = rows.filter(pa.array(fresh))[: len(self._units) - self._rows]
        here = slice(self._rows, self._rows + rows.num_rows)
        logged = decoded.read(rows)
        self._inputs[:, here] = logged.matrix.T
        self._units[here] = units_of(rows, self._rows)
        self._scores[here] = _numpy(rows, "score")
        self._alerts[here] = np.isin(_numpy(rows, "decision"), self._alert_names)
        self._scored[here] = scored_by(rows, champion.version)
        self._rows = here.stop
        for view, at_ms in logged.newest.items():
            known = [t for t in (self._newest.get(view), at_ms) if t is not None]
            self._newest[view] = max(known, default=None)

    def window(
        self, start_ms: int, end_ms: int, late: Mapping[str, int], gaps: tuple[str, ...]
    ) -> Window:
        units, scored = self._units[: self._rows], self._scored[: self._rows]
        scores, alerts = self._scores[: self._rows], self._alerts[: self._rows]
        whole = bool(scored.all())
        return Window(
            start_ms=start_ms,
            end_ms=end_ms,
            inputs={n: self._inputs[i, : self._rows] for i, n in enumerate(self._names)},
            units=units,
            scores=scores if whole else scores[scored],
            alerts=alerts if whole else alerts[scored],
            scored_units=units if whole else units[scored],
            gaps=gaps,
            views={v: ViewReading(self._newest.get(v), late_ms) for v, late_ms in late.items()},
            stale=self._stale,
        )


def scored_by(rows: pa.Table, version: int) -> npt.NDArray[np.bool_]:
    """Whether each decision carries a full answer of that version, not a degraded one."""
    its_own = _numpy(rows, "version").astype(np.float64) == version
    finite = np.isfinite(_numpy(rows, "score").astype(np.float64))
    return np.asarray(its_own & ~_numpy(rows, "degraded").astype(np.bool_) & finite)


def units_of(rows: pa.Table, before: int) -> npt.NDArray[np.int64]:
    """The assignment units; a decision without one counts as a unit of its own.

    Args:
        before: number of rows in earlier slices of the same stretch.
    """
    known = rows["unit"].fill_null(pa.scalar(0, pa.int64())).to_numpy(zero_copy_only=False)
    missing = rows["unit"].is_null().to_numpy(zero_copy_only=False)
    return np.where(missing, -1 - before - np.arange(len(known)), known).astype(np.int64)


def countable(rows: pa.Table, void: pa.Array[pa.StringScalar]) -> pa.Table:
    """The rows without void decisions and without requests that named their version."""
    rows = rows.filter(~pc.field("arm").isin([NAMED]))
    if not len(void):
        return rows
    return rows.filter(pc.invert(pc.is_in(rows["decision_id"], value_set=void)))


def _numpy(rows: pa.Table, name: str) -> npt.NDArray[Any]:
    return rows[name].to_numpy(zero_copy_only=False)
