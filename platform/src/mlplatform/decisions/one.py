"""Every record of one decision: in the log, and spilled beside it."""

from __future__ import annotations

import json
from typing import Any

from mlplatform.decisions.log import Span
from mlplatform.decisions.records import COLUMNS, SCALARS
from mlplatform.decisions.sqlite import SqliteDecisionLog
from mlplatform.errors import NotFound


def logged_records(log: SqliteDecisionLog, decision_id: str) -> list[dict[str, Any]]:
    """What the log holds of a decision, with every column and the payload parsed.

    Raises:
        NotFound: it holds nothing.
    """
    table = log.read(Span(decision_id=decision_id, columns=tuple(COLUMNS)))
    if table.num_rows == 0:
        raise NotFound(f"the decision log has no decision {decision_id}")
    records: list[dict[str, Any]] = table.to_pylist()
    for record in records:
        record["payload"] = json.loads(record["payload"] or "null")
    return records


def all_records(log: SqliteDecisionLog, decision_id: str) -> list[dict[str, Any]]:
    """As `logged_records`, and those that are spilled: they have no number, and say so.

    Raises:
        NotFound: there is nothing.
    """
    # spills first: what is moved into the log meanwhile is then found twice, and shown once
    spilled = log.spilled_records(decision_id)
    try:
        records = logged_records(log, decision_id)
    except NotFound:
        if not spilled:
            raise
        records = []
    known = [{name: r[name] for name in SCALARS[2:]} for r in records]
    for writer, fields in spilled:
        if {name: fields[name] for name in SCALARS[2:]} not in known:
            records.append({"writer": writer, "seq": None, "spilled": True, **fields})
    return records
