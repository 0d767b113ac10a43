"""Where a reader of the page sees a trace: Grafana, over the data source of traces."""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import urlencode

from mlplatform.runtime.units import MINUTE_MS

SOURCE: Final = "tempo"
"""Identifier of the data source of traces in observability/grafana/datasources.yaml."""
AROUND_MS: Final = 5 * MINUTE_MS


def trace_link(grafana: str, trace_id: str | None, recorded_ms: int | None) -> str:
    """The address of a trace in Grafana's Explore; empty if either is unknown.

    Args:
        grafana: address of Grafana; empty if no setting names one.
        recorded_ms: wall time of the record, around which Grafana searches.

    Source: Grafana's documentation of Explore, "Generate Explore URLs from external tools".
    """
    if not grafana or not trace_id:
        return ""
    source = {"type": SOURCE, "uid": SOURCE}
    query = {"refId": "A", "datasource": source, "queryType": "traceql", "query": trace_id}
    pane: dict[str, Any] = {"datasource": SOURCE, "queries": [query]}
    if recorded_ms is not None:
        ends = (recorded_ms - AROUND_MS, recorded_ms + AROUND_MS)
        pane["range"] = {"from": str(ends[0]), "to": str(ends[1])}
    panes = json.dumps({"trace": pane}, separators=(",", ":"))
    return f"{grafana}/explore?{urlencode({'schemaVersion': 1, 'orgId': 1, 'panes': panes})}"
