"""What the page shows of decisions: the newest ones, and every record of one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlplatform.decisions.records.record import trace_of

TONES = {"approve": "good", "decline": "bad"}
_CURSOR = re.compile(r"[A-Za-z0-9._-]{1,64}:\d{1,18}")
MAX_WRITERS = 64


@dataclass(frozen=True, slots=True)
class RecordShown:
    """One record of a decision.

    Args:
        fields: every scalar that has a value, in the log's order.
        reasons: codes of what raised the score most.
        request: what was asked, name and value; who it was about is a keyed hash.
        features: name and value, None where it was missing.
        feature_times: of which moment each view's features are, epoch milliseconds.
        feature_gaps: why views had no valid row, and which.
        failures: arm and reason, of each that was asked in vain.
        payload: as the log holds it.
    """

    kind: str
    fields: tuple[tuple[str, Any], ...]
    event_ms: int
    decision: str | None
    tone: str
    score: float | None
    version: int | None
    degraded_reason: str | None
    arm: str | None
    answered_by: str | None
    generation: int
    rollout_id: str | None
    latency_us: int | None
    trace_id: str | None
    reasons: tuple[str, ...]
    request: tuple[tuple[str, Any], ...]
    features: tuple[tuple[str, Any], ...]
    feature_times: tuple[tuple[str, int], ...]
    feature_gaps: tuple[tuple[str, str], ...]
    failures: tuple[tuple[str, str], ...]
    payload: Any


def record(found: Mapping[str, Any]) -> RecordShown:
    """A record of the log as the page shows it; nothing of it is left out.

    Args:
        found: with every column of the log, the payload parsed.
    """
    payload = found["payload"] if isinstance(found["payload"], Mapping) else {}
    fields = tuple((k, v) for k, v in found.items() if v is not None and k != "payload")
    decided = found["kind"] in ("decision", "inference")
    return RecordShown(
        kind=found["kind"],
        fields=fields,
        event_ms=found["event_ms"],
        decision=found["decision"],
        tone=TONES.get(found["decision"] or "", ""),
        score=found["score"],
        version=found["version"],
        degraded_reason=found["degraded_reason"],
        arm=found["arm"],
        answered_by=found["answered_by"],
        generation=found["generation"],
        rollout_id=found["rollout_id"],
        latency_us=found["latency_us"],
        trace_id=trace_of(found) if decided else None,
        reasons=tuple(map(str, payload.get("reasons") or ())),
        request=_named(payload.get("request")),
        features=_named(payload.get("features")),
        feature_times=tuple((payload.get("feature_times") or {}).items()),
        feature_gaps=_gaps(payload.get("feature_gaps")),
        failures=tuple((str(arm), str(why)) for arm, why in payload.get("failures") or ()),
        payload=found["payload"],
    )


def _gaps(values: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(values, Mapping):
        return ()
    return tuple((cause, ", ".join(map(str, views))) for cause, views in values.items())


def _named(values: Any) -> tuple[tuple[str, Any], ...]:
    """A raw call's request is rows of numbers: they stand in the record alone."""
    return tuple(values.items()) if isinstance(values, Mapping) else ()


@dataclass(frozen=True, slots=True)
class Listed:
    """A part of the newest decisions, newest first, and where the older ones begin.

    Args:
        older: `until` of the next part; None where there is none.
    """

    rows: tuple[Mapping[str, Any], ...]
    older: str | None


def listed(
    rows: Iterable[Mapping[str, Any]],
    *,
    until: Mapping[str, int],
    after: Mapping[str, int],
    limit: int,
) -> Listed:
    """The newest of these records, by when they were recorded.

    Args:
        rows: what was read of each writer, after `after` and to `until`.
        until: the last number of each writer that belongs to this part.
        after: the last number of each writer that was not read any more.
    """
    kept = [r for r in rows if after.get(r["writer"], 0) < r["seq"] <= until.get(r["writer"], 0)]
    kept.sort(key=lambda r: (r["recorded_ms"], r["seq"]), reverse=True)
    shown, left = kept[:limit], kept[limit:]
    ends = dict(after)
    for row in left:
        ends[row["writer"]] = max(ends.get(row["writer"], 0), row["seq"])
    older = {writer: seq for writer, seq in ends.items() if seq > 0}
    return Listed(tuple(shown), cursor(older) if older else None)


def cursor(until: Mapping[str, int]) -> str:
    """The last number of each writer, as a link holds it."""
    return ",".join(f"{writer}:{seq}" for writer, seq in sorted(until.items()))


def read_cursor(text: str) -> dict[str, int] | None:
    """What a link says; None where it says nothing that we wrote."""
    parts: Sequence[str] = text.split(",")
    if len(parts) > MAX_WRITERS or not all(_CURSOR.fullmatch(part) for part in parts):
        return None
    return {part.rpartition(":")[0]: int(part.rpartition(":")[2]) for part in parts}
