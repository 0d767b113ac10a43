"""Which metrics expressions use: of alerts, recorded series, and the panels of dashboards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import promql_parser
import yaml

from mlplatform.slo import rendered
from mlplatform.telemetry import signals

ROOT: Final = Path(__file__).parents[2]
DASHBOARDS: Final = ROOT / "observability" / "dashboards"
SUFFIXES: Final = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
}
OTHERS: Final = re.compile(r"up|DCGM_\w+|traces_span_metrics_\w+|process_\w+")
"""Series that somebody else makes: Prometheus, NVIDIA's exporter, the collector, every client."""
VARIABLES: Final = {
    r"\$__rate_interval|\$__interval|\$__range|\$\{__\w+\}": "5m",
    r"\$\{?\w+(:\w+)?\}?": "fraud",
}
"""Grafana's, which a parser of PromQL does not know."""


def rules() -> list[dict[str, Any]]:
    """Every rule of observability/alerts/."""
    files = sorted((ROOT / rendered.FOLDER).glob("*.yaml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> dict[str, str]:
    """Dashboard and panel → a PromQL query of it; empty while there are no dashboards."""
    found = {}
    for file in sorted(DASHBOARDS.glob("*.json")):
        for number, (title, query) in enumerate(_targets(json.loads(file.read_text()))):
            found[f"{file.stem}: {title} ({number})"] = query
    return found


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
    found: set[str] = set()
    _walk(promql_parser.parse(query), found)
    return found


def emitted() -> dict[str, signals.Metric]:
    """Name of a series → the metric that it belongs to."""
    return {
        f"{metric.name}{suffix}": metric
        for metrics in signals.METRICS.values()
        for metric in metrics
        for suffix in SUFFIXES[metric.kind]
    }


def _walk(node: Any, found: set[str]) -> None:
    if isinstance(node, promql_parser.VectorSelector):
        found.add(node.name)
    parts = [getattr(node, part, None) for part in ("expr", "lhs", "rhs", "vector_selector")]
    parts += list(getattr(node, "args", None) or [])
    for part in parts:
        if part is not None:
            _walk(part, found)


def _targets(node: Any, title: str = "") -> Iterator[tuple[str, str]]:
    """Expressions of panels on Prometheus, at any depth."""
    if isinstance(node, list):
        for one in node:
            yield from _targets(one, title)
    elif isinstance(node, dict):
        title = node.get("title", title)
        kind = (node.get("datasource") or {}).get("type", "prometheus")
        if isinstance(node.get("expr"), str) and kind == "prometheus":
            yield title, node["expr"]
        for key, value in node.items():
            if key != "expr":
                yield from _targets(value, title)
