"""Which metrics expressions use: of alerts, recorded series, and the panels of dashboards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import promql_parser
import yaml

from mlplatform.observing.slo import render_files
from mlplatform.runtime.telemetry import signals

ROOT: Final = Path(__file__).parents[2]
DASHBOARDS: Final = ROOT / "observability" / "dashboards"
SUFFIXES: Final = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
}
VARIABLES: Final = {
    r"\$__rate_interval|\$__interval|\$__range|\$\{__\w+\}": "5m",
    r"\$\{?\w+(:\w+)?\}?": "fraud",
}
"""Grafana's, which a parser of PromQL does not know."""


def rules() -> list[dict[str, Any]]:
    """Every rule of observability/alerts/."""
    files = sorted((ROOT / render_files.FOLDER).glob("*.yaml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def dashboards() -> dict[str, dict[str, Any]]:
    """Name of its file → a dashboard."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(DASHBOARDS.glob("*.json"))}


def panels(store: str = "prometheus") -> dict[str, str]:
    """Dashboard, panel and query → the query, of panels on a kind of data source."""
    return {
        f"{name}: {panel['title']} ({target['refId']})": target.get("expr") or target["query"]
        for name, dashboard in dashboards().items()
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
        if target["datasource"]["type"] == store
    }


def marks() -> dict[str, str]:
    """Dashboard and annotation → its query."""
    return {
        f"{name}: marks of {mark['name']}": mark["expr"]
        for name, dashboard in dashboards().items()
        for mark in dashboard["annotations"]["list"]
    }


def plain(query: str) -> str:
    """A panel's query without Grafana's variables."""
    for pattern, value in VARIABLES.items():
        query = re.sub(pattern, value, query)
    return query


def series(query: str) -> set[str]:
    """Names of the series that a query selects.

    Raises:
        ValueError: it is no PromQL.
    """
    return {selector.name for selector in selectors(query)}


def selectors(query: str) -> list[promql_parser.VectorSelector]:
    """What a query selects, at any depth.

    Raises:
        ValueError: it is no PromQL.
    """
    return [node for node in _nodes(query) if isinstance(node, promql_parser.VectorSelector)]


def groupings(query: str) -> set[str]:
    """Labels that a query groups by or joins on."""
    found: set[str] = set()
    for node in _nodes(query):
        modifier = getattr(node, "modifier", None)
        for part in (modifier, getattr(modifier, "matching", None)):
            found |= set(getattr(part, "labels", None) or [])
    return found


def emitted() -> dict[str, signals.Metric]:
    """Name of a series → the metric that it belongs to."""
    return {f"{m.name}{suffix}": m for m in metrics() for suffix in SUFFIXES[m.kind]}


def metrics() -> list[signals.Metric]:
    """All that are listed: of the platform's processes, and those of others that it uses."""
    own = [metric for of_process in signals.METRICS.values() for metric in of_process]
    return [*own, *signals.PROCESS_METRICS, *signals.FOREIGN]


def _nodes(query: str) -> Iterator[Any]:
    yield from _below(promql_parser.parse(query))


def _below(node: Any) -> Iterator[Any]:
    yield node
    parts = [getattr(node, part, None) for part in ("expr", "lhs", "rhs", "vector_selector")]
    parts += list(getattr(node, "args", None) or [])
    for part in parts:
        if part is not None:
            yield from _below(part)
