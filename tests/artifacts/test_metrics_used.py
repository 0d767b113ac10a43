"""What rules and panels ask for is emitted, and what is emitted is asked for by some of them."""

from __future__ import annotations

import functools
from typing import Final

import promql_parser
import pytest
from tests.observability import queries

from mlplatform.runtime.telemetry import signals

RECORDED = {rule["record"] for rule in queries.rules() if "record" in rule}
UNUSED: Final = {
    signals.VIRTUAL_MEMORY.name: "what a process has mapped tells nothing of what it uses; its "
    "resident memory is shown",
}
"""Metrics that no rule and no panel asks for, each for its reason."""
OF_RULES: Final = {"slo", "service"}
"""Labels of what rules record."""
OF_SCRAPES: Final = {"job", "instance", "le"}
"""Labels that Prometheus sets, and a histogram has."""


@functools.cache
def asked() -> dict[str, str]:
    """Where it stands → the query."""
    made = {
        f"{r.get('alert') or r['record']} ({n})": r["expr"] for n, r in enumerate(queries.rules())
    }
    shown = queries.panels() | queries.marks()
    return made | {place: queries.plain(query) for place, query in shown.items()}


def test_there_are_dashboards_to_look_at() -> None:
    names = {"overview", "model", "rollout", "drift", "labels", "gpu", "pipelines"}
    assert set(queries.dashboards()) == names


def test_every_query_asks_for_something_that_is_emitted() -> None:
    known = queries.emitted().keys() | RECORDED
    for place, query in asked().items():
        unknown = queries.series(query) - known
        assert not unknown, f"{place} asks for {sorted(unknown)}"


def test_every_metric_is_asked_for() -> None:
    emitted = queries.emitted()
    used = {
        emitted[name].name for q in asked().values() for name in queries.series(q) & set(emitted)
    }
    listed = {metric.name for metric in queries.metrics()}
    assert not sorted(listed - used - UNUSED.keys()), "emitted, and nobody looks"
    assert not sorted(UNUSED.keys() & used), "a reason for what is used"
    assert not sorted(UNUSED.keys() - listed), "a reason for what is not emitted"


def test_a_query_tells_by_labels_that_its_metrics_have() -> None:
    """A label that a metric lacks selects nothing, and groups everything into one."""
    emitted = queries.emitted()
    for place, query in asked().items():
        for selector in queries.selectors(query):
            metric = emitted.get(selector.name)
            if metric is not None:
                for matcher in selector.matchers.matchers:
                    assert_matched(metric, matcher, place)
        had = {
            label
            for name in queries.series(query)
            for label in (emitted[name].label_names if name in emitted else OF_RULES)
        }
        assert queries.groupings(query) <= had | OF_SCRAPES, place


def assert_matched(metric: signals.Metric, matcher: promql_parser.Matcher, place: str) -> None:
    labels = {label.name: label for label in metric.labels}
    assert matcher.name in labels.keys() | OF_SCRAPES, f"{place}: {metric.name} {matcher.name}"
    label = labels.get(matcher.name)
    exact = matcher.op in (promql_parser.MatchOp.Equal, promql_parser.MatchOp.NotEqual)
    if label is not None and label.values and exact:
        assert matcher.value in label.values, f"{place}: {metric.name} {matcher.value}"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("sum by (model) (rate(a_total[5m])) / on () b", {"a_total", "b"}),
        ('absent(up{job="x"} == 1) or time() - max(c) > 5', {"up", "c"}),
        ("histogram_quantile(0.9, sum by (le) (rate(d_bucket[5m])))", {"d_bucket"}),
        ("avg_over_time(e[1h]) unless (f > 1)", {"e", "f"}),
        ("sum_over_time((count by (g) (h))[1d:1m]) / 60", {"h"}),
    ],
)
def test_series_of_a_query_are_found_at_any_depth(query: str, expected: set[str]) -> None:
    assert queries.series(query) == expected


def test_labels_of_a_query_are_found_at_any_depth() -> None:
    query = "max by (a) (x) * on (b) group_left () sum by (c) (rate(y_total[5m]))"
    assert queries.groupings(query) == {"a", "b", "c"}


def test_variables_of_a_panel_are_replaced() -> None:
    query = 'sum(rate(a_total{model="$model"}[$__rate_interval]))'
    assert queries.series(queries.plain(query)) == {"a_total"}
