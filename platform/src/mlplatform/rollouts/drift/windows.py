"""What the decision log says about the last days of a model, cut into windows to be judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mlplatform.decisions.records.port import DecisionLog, Span, Watermark
from mlplatform.decisions.records.record import FEATURES
from mlplatform.model.definition import EVENT_TIME, DriftPolicy, InputSpec, ModelDefinition
from mlplatform.model.feature_views import FeatureView
from mlplatform.model.inputs import InputPlan
from mlplatform.rollouts.drift.verdict import Window
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import Corrupt

HOUR_MS = 3_600_000
COLUMNS = (
    "decision_id",
    "event_ms",
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
    """The champion, and since when it is that, in event time."""

    version: int
    since_ms: int


def drift_plan(
    definition: ModelDefinition, views: Sequence[FeatureView], inputs: Sequence[InputSpec]
) -> InputPlan:
    """How the drift inputs are computed from a logged decision: as the champion computed them.

    Args:
        inputs: of the champion's bundle; those that are not watched are left out.
    """
    watched = set(definition.drift.inputs)
    return InputPlan(definition, views, [spec for spec in inputs if spec.name in watched])


def bounds(policy: DriftPolicy, champion: ChampionTenure, now_ms: int) -> list[tuple[int, int]]:
    """Start and end of the last windows that are over, oldest first; days are UTC days.

    A window that began under an earlier champion is not one of them.
    """
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
) -> list[Window]:
    """The windows to judge the champion's inputs by, oldest first.

    Every decision counts for the inputs, whoever answered it, but for those whose features were not
    fresh: a job that stopped is no change of what customers do. The score and the alerts are those
    of the champion alone, without degraded answers. A void decision counts for nothing.
    """
    wanted = bounds(definition.drift, champion, now_ms)
    if not wanted:
        return []
    watermarks = log.watermarks()  # before reading: what they promise must have been read
    void = _void_ids(log, definition.name, wanted[0][0])
    decoder = _decoder(plan)
    windows = []
    for start_ms, end_ms in wanted:
        span = Span(
            model=definition.name,
            kinds=("decision",),
            from_ms=start_ms,
            to_ms=end_ms,
            columns=COLUMNS,
        )
        rows = log.read(span)
        kept = rows.filter(_numpy(rows, "degraded_reason") != FEATURES)
        kept = kept.filter(~np.isin(_numpy(kept, "decision_id"), void)) if void else kept
        gaps = gaps_before(watermarks, end_ms)
        windows.append(_window(kept, plan, decoder, champion, (start_ms, end_ms), gaps))
    return windows


def gaps_before(watermarks: Sequence[Watermark], end_ms: int) -> tuple[str, ...]:
    """Which live writers may still write records of before `end_ms`."""
    return tuple(
        f"the log is not complete: writer {w.writer} has reached {w.event_ms}, not {end_ms}"
        for w in watermarks
        if w.live and (w.event_ms is None or w.event_ms < end_ms)
    )


def _void_ids(log: DecisionLog, model: str, from_ms: int) -> list[str]:
    span = Span(model=model, kinds=("void",), from_ms=from_ms, columns=("decision_id",))
    return [str(v) for v in log.read(span)["decision_id"].to_pylist()]


def _window(
    rows: pa.Table,
    plan: InputPlan,
    decoder: msgspec.json.Decoder[Any],
    champion: ChampionTenure,
    span: tuple[int, int],
    gaps: tuple[str, ...],
) -> Window:
    units = _units(rows)
    scores = _numpy(rows, "score").astype(np.float64)
    its_own = _numpy(rows, "version").astype(np.float64) == champion.version
    scored = its_own & ~_numpy(rows, "degraded").astype(np.bool_) & np.isfinite(scores)
    matrix = plan.matrix(_facts(rows, plan, decoder))
    return Window(
        start_ms=span[0],
        end_ms=span[1],
        inputs={name: matrix[:, i] for i, name in enumerate(plan.names)},
        units=units,
        scores=scores[scored],
        alerts=(_numpy(rows, "decision") != "approve")[scored],
        scored_units=units[scored],
        gaps=gaps,
    )


def _numpy(rows: pa.Table, name: str) -> npt.NDArray[Any]:
    return rows[name].to_numpy(zero_copy_only=False)


def _units(rows: pa.Table) -> npt.NDArray[np.int64]:
    """The assignment units; a decision without one counts as a unit of its own."""
    known = rows["unit"].fill_null(pa.scalar(0, pa.int64())).to_numpy(zero_copy_only=False)
    missing = rows["unit"].is_null().to_numpy(zero_copy_only=False)
    return np.where(missing, -np.arange(len(known)), known).astype(np.int64)


def _facts(rows: pa.Table, plan: InputPlan, decoder: msgspec.json.Decoder[Any]) -> pa.Table:
    """What the inputs are computed from: event time, request fields and features, as columns."""
    try:
        payloads = [decoder.decode(text or "") for text in rows["payload"].to_pylist()]
    except NOT_JSON as error:
        raise Corrupt(f"the payload of a decision is not what was logged: {error}") from error
    columns: dict[str, Any] = {EVENT_TIME: rows["event_ms"].cast(pa.timestamp("ms"))}
    for part, names in (("request", _request_fields(plan)), ("features", plan.features)):
        values = [msgspec.structs.astuple(getattr(p, part)) for p in payloads]
        by_name = zip(*values, strict=True) if values else [()] * len(names)
        for name, column in zip(names, by_name, strict=True):
            columns[name] = pa.array(column, type=pa.float64())
    return pa.table(columns)


def _decoder(plan: InputPlan) -> msgspec.json.Decoder[Any]:
    """Reads from a payload only what the plan needs."""
    parts = [
        ("request", _struct("Request", _request_fields(plan))),
        ("features", _struct("Features", plan.features)),
    ]
    return msgspec.json.Decoder(msgspec.defstruct("Payload", parts))


def _struct(name: str, fields: Sequence[str]) -> type[msgspec.Struct]:
    numbered = {f"f{i}": field for i, field in enumerate(fields)}
    shape = [(key, float | bool | None, None) for key in numbered]
    return msgspec.defstruct(name, shape, rename=numbered, gc=False)


def _request_fields(plan: InputPlan) -> tuple[str, ...]:
    named = (n for i in plan.inputs if i.kind == "request" for n in (i.of, i.to) if n is not None)
    return tuple(dict.fromkeys(n for n in named if n not in plan.features))
