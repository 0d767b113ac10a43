"""Counts of a model's traffic that a pass makes for the page, beside its verdicts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from mlplatform.decisions.records.port import DecisionLog, RecordQuery, Watermark
from mlplatform.operations.actions import last_results
from mlplatform.operations.actions.last_results import Check
from mlplatform.operations.traffic import projection
from mlplatform.operations.wiring import Platform

AGES, CHECK = "ages", "check"
"""Kinds of samples: the ages of features, and the result of the last drift check."""
SAMPLED: Final = 32
"""Newest decisions of each writer from which the ages of features are read."""
LOOKED_BACK: Final = (SAMPLED, 1_024, 16_384)
"""Newest records of each writer in which decisions are looked for, further back only if nearer ones
are labels or of other models."""


def count(platform: Platform, model: str) -> None:
    """Count new records of the log, and store a sample of feature ages and of the last drift check.

    Raises:
        Unavailable: the log or the projection can't be read or written now.
    """
    path, event_ms = _file(platform, model), platform.clock.event_ms()
    alerting = platform.definition(model).decision.scale.alerts
    if projection.advance(path, platform.log, model, alerting=alerting):
        projection.reach(path, event_ms)
    ages = feature_ages(platform.log, model)
    if ages:
        projection.sample(path, AGES, event_ms, ages)
    checked = last_results.last(platform.settings.home.measured, model, Check)
    if checked is not None:
        projection.sample(path, CHECK, event_ms, checked)


def read(platform: Platform, model: str, back_ms: int) -> projection.TrafficReport | None:
    """The counts of a model's traffic; None if nothing was counted.

    Raises:
        Unavailable: the projection can't be read now.
    """
    return projection.read(_file(platform, model), back_ms)


def feature_ages(log: DecisionLog, model: str) -> dict[str, int]:
    """View → the median age of its features in the newest decisions, in milliseconds."""
    marks, found = log.watermarks(), dict[str, list[int]]()
    for row in _newest_decisions(log, model, marks):
        payload = json.loads(row["payload"] or "{}")
        for view, ms in (payload.get("feature_times") or {}).items():
            if ms is not None:  # None: the view had no features of this entity
                found.setdefault(view, []).append(row["event_ms"] - ms)
    return {view: _median(ages) for view, ages in found.items()}


def _newest_decisions(
    log: DecisionLog, model: str, marks: Sequence[Watermark]
) -> list[dict[str, Any]]:
    """The newest decisions among each writer's newest records; empty if they hold none."""
    for back in LOOKED_BACK:
        after = {mark.writer: max(0, mark.seq - back) for mark in marks}
        query = RecordQuery(
            model=model, kinds=("decision",), after=after, limit=back, columns=("writer", "seq")
        )
        table = log.read(query)
        if not len(table):
            continue
        last = table.group_by("writer", use_threads=False).aggregate([("seq", "list")]).to_pylist()
        begin = {row["writer"]: sorted(row["seq_list"])[-SAMPLED:][0] - 1 for row in last}
        columns = ("event_ms", "payload")
        newest = RecordQuery(
            model=model, kinds=("decision",), after={**after, **begin}, limit=SAMPLED,
            columns=columns,
        )  # fmt: skip
        return list(log.read(newest).to_pylist())
    return []


def check_of(body: Any) -> Check:
    """The drift check that a sample holds."""
    return msgspec.convert(body, Check)


def ages_of(body: Mapping[str, Any]) -> dict[str, int]:
    """View → the age of its features in a sample, in milliseconds."""
    return {str(view): int(age) for view, age in body.items()}


def _median(values: Iterable[int]) -> int:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def _file(platform: Platform, model: str) -> Path:
    return projection.file_of(platform.settings.home.counted, model)
