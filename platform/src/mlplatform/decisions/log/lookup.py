"""The records of single decisions: in the log, and spilled beside it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.erasures import acts_on
from mlplatform.decisions.records.port import RecordQuery
from mlplatform.decisions.records.record import ANSWERED, COLUMNS, SCALARS
from mlplatform.decisions.records.retention import AbsentPayload, expired_ranges, rule_of
from mlplatform.runtime.errors import Corrupt, NotFound
from mlplatform.runtime.times import day_text

ID_DIGITS: Final = (42, 32)
"""Digits of an id, and of one from before ids named their client."""
_logger = logging.getLogger(__name__)


def logged_records(
    log: SqliteDecisionLog,
    decision_id: str,
    *,
    from_ms: int | None = None,
    to_ms: int | None = None,
) -> list[dict[str, Any]]:
    """The records of a decision in the log, with every column and the payload parsed.

    Args:
        from_ms, to_ms: event times between which records are wanted, `to_ms` exclusive: fewer
            files are opened. None: no bound.

    Raises:
        NotFound: the log holds no record of the decision.
    """
    query = RecordQuery(
        decision_id=decision_id, from_ms=from_ms, to_ms=to_ms, columns=tuple(COLUMNS)
    )
    table = log.read(query)
    if table.num_rows == 0:
        raise not_logged(decision_id)
    records: list[dict[str, Any]] = table.to_pylist()
    for record in records:
        record["payload"] = json.loads(record["payload"] or "null")
    return records


def decisions_beside(log: SqliteDecisionLog, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The decisions about one model, unit and time: of a request with items, those of all items.

    Args:
        record: one of them, as `logged_records` returns it.
    """
    query = RecordQuery(
        record["model"],
        ("decision",),
        from_ms=record["event_ms"],
        to_ms=record["event_ms"] + 1,
        unit=record["unit"],
        columns=tuple(COLUMNS),
    )
    records: list[dict[str, Any]] = log.read(query).to_pylist()
    for one in records:
        one["payload"] = json.loads(one["payload"] or "null")
    return records


def erased_by(log: SqliteDecisionLog, records: Sequence[Mapping[str, Any]]) -> str | None:
    """Why the payload of a decision is missing, as a clause; None if it is there.

    Args:
        records: the decision's records, as `logged_records` returns them.

    Raises:
        Corrupt: the payload of an erasure record is damaged.
    """
    own = [r for r in records if r["kind"] in ("decision", "inference", "shadow")]
    gone = [record for record in own if record["payload"] is None]
    if not gone:
        return None
    reasons = [
        f"was erased on {day_text(wall_ms)} by {one.by} (act {one.act}): {one.reason}"
        for one, wall_ms in acts_on(records)
    ]
    if not reasons:
        reasons = list(dict.fromkeys(_expired_by(log, gone)))
    nothing = "is gone, and no erasure is on record; run `mlplatform log verify`"
    return " and ".join(reasons) or nothing


def _expired_by(log: SqliteDecisionLog, gone: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for model in {record["model"] for record in gone}:
        query = RecordQuery(model, ("retention",), columns=("model", "recorded_ms", "payload"))
        for row in log.read(query).to_pylist():
            try:
                rule = rule_of(row)
            except Corrupt as error:  # perhaps from another log: go on with the rest
                _logger.error("a retention of %s: %s", model, error)
                continue
            ranges = expired_ranges([rule])
            for one in gone:
                absent = AbsentPayload(*(one[name] for name in AbsentPayload._fields))
                if any(expired.covers(absent) for expired in ranges.get(one["writer"], ())):
                    yield rule.summary


def recorded_clients(
    log: SqliteDecisionLog,
    model: str,
    decision_ids: Sequence[str],
    *,
    from_ms: int | None = None,
    to_ms: int | None = None,
) -> Mapping[str, str]:
    """Decision id → the client that asked for it, of decisions that the log holds with their
    payload.

    Args:
        from_ms, to_ms: event times that enclose all of these decisions, `to_ms` exclusive. None
            means that the times are not known, and every record is searched.
    """
    query = RecordQuery(
        model=model,
        kinds=ANSWERED,
        from_ms=from_ms,
        to_ms=to_ms,
        decision_ids=tuple(decision_ids),
        columns=("decision_id", "payload"),
    )
    found = {}
    for row in log.read(query).to_pylist():
        client = json.loads(row["payload"] or "{}").get("client")
        if client is not None:
            found[row["decision_id"]] = client
    return found


def all_records(
    log: SqliteDecisionLog,
    decision_id: str,
    *,
    from_ms: int | None = None,
    to_ms: int | None = None,
) -> list[dict[str, Any]]:
    """The records of a decision in the log and in spills; spilled records have no number, and are
    marked.

    Args:
        from_ms, to_ms: as for `logged_records`; spills are read whole.

    Raises:
        NotFound: there is no record of the decision.
    """
    # spills first: a record that is moved into the log after this is found twice and shown once
    spilled = log.spilled_records(decision_id)
    try:
        records = logged_records(log, decision_id, from_ms=from_ms, to_ms=to_ms)
    except NotFound:
        if not spilled:
            raise
        records = []
    known = [{name: r[name] for name in SCALARS[2:]} for r in records]
    for writer, fields in spilled:
        if {name: fields[name] for name in SCALARS[2:]} not in known:
            records.append({"writer": writer, "seq": None, "spilled": True, **fields})
    return records


def not_logged(decision_id: str) -> NotFound:
    """The error for an id that the log does not have, with how to find a decision."""
    way = "an id stands in the answer as decision_id; the page searches by customer and time"
    if len(decision_id) not in ID_DIGITS:
        way = f"an id has {ID_DIGITS[0]} digits, and this one {len(decision_id)}; {way}"
    return NotFound(f"the decision log has no decision {decision_id}; {way}")
