"""What rules and panels ask for is emitted, and what is emitted is asked for by some of them."""

from __future__ import annotations

import pytest
from tests.observability import queries

from mlplatform.telemetry import signals

RECORDED = {rule["record"] for rule in queries.rules() if "record" in rule}


def asked() -> dict[str, str]:
    """Where it stands → the query."""
    made = {
        f"{r.get('alert') or r['record']} ({n})": r["expr"] for n, r in enumerate(queries.rules())
    }
    return made | {place: queries.plain(query) for place, query in queries.panels().items()}


def test_every_query_asks_for_something_that_is_emitted() -> None:
    known = queries.emitted().keys() | RECORDED
    for place, query in asked().items():
        unknown = {n for n in queries.series(query) - known if not queries.OTHERS.fullmatch(n)}
        assert not unknown, f"{place} asks for {sorted(unknown)}"


def test_every_metric_is_asked_for() -> None:
    if not queries.panels():
        used = {queries.emitted()[n].name for n in _used()}
        listed = {m.name for metrics in signals.METRICS.values() for m in metrics}
        pytest.skip(f"no dashboards yet; rules ask for {len(used)} of {len(listed)} metrics")
    used = {queries.emitted()[name].name for name in _used()}
    unused = [m.name for metrics in signals.METRICS.values() for m in metrics if m.name not in used]
    assert not unused


def _used() -> set[str]:
    return {name for query in asked().values() for name in queries.series(query)} & set(
        queries.emitted()
    )


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("sum by (model) (rate(a_total[5m])) / on () b", {"a_total", "b"}),
        ('absent(up{job="x"} == 1) or time() - max(c) > 5', {"up", "c"}),
        ("histogram_quantile(0.9, sum by (le) (rate(d_bucket[5m])))", {"d_bucket"}),
        ("avg_over_time(e[1h]) unless (f > 1)", {"e", "f"}),
    ],
)
def test_series_of_a_query_are_found_at_any_depth(query: str, expected: set[str]) -> None:
    assert queries.series(query) == expected


def test_variables_of_a_panel_are_replaced() -> None:
    query = 'sum(rate(a_total{model="$model"}[$__rate_interval]))'
    assert queries.series(queries.plain(query)) == {"a_total"}
