"""Queries of panels, over metrics of signals.py and series that observing/slo/rules.py records."""

from __future__ import annotations

from typing import Final

from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.signals import Metric

MODEL: Final = "$model"
"""Variable with the model that is chosen at the top of a dashboard."""
WINDOW: Final = "$__rate_interval"
PERIOD: Final = "$__range"
SERVICES: Final = f'service=~"{MODEL}-v[0-9]+-[0-9a-f]+"'
"""Pattern of the model's predictors: a bundle version is an InferenceService, whose name has
both."""


def series(metric: Metric, where: str = "", *, suffix: str = "", of_all: bool = False) -> str:
    """A selector of the chosen model's series.

    Args:
        where: further matchers, in the form that PromQL has between braces.
        of_all: whether to select the series of every model; always so for a metric without a model.
    """
    chosen = [where] if where else []
    if not of_all and "model" in metric.label_names:
        chosen.insert(0, f'model="{MODEL}"')
    elif not of_all and signals.SERVICE.name in metric.label_names:
        chosen.insert(0, SERVICES)
    matchers = f"{{{','.join(chosen)}}}" if chosen else ""
    return f"{metric.name}{suffix}{matchers}"


def level(metric: Metric, *by: str, where: str = "", of_all: bool = False, how: str = "max") -> str:
    """The present value of a gauge: the largest of all processes unless `how` says otherwise."""
    return f"{_over(how, by)} ({series(metric, where, of_all=of_all)})"


def rate(metric: Metric, *by: str, where: str = "", of_all: bool = False) -> str:
    """A counter's events per second."""
    counted = series(metric, where, suffix="_total", of_all=of_all)
    return f"{_over('sum', by)} (rate({counted}[{WINDOW}]))"


def increase(metric: Metric, *by: str, where: str = "", of_all: bool = False) -> str:
    """A counter's events in the time range of the dashboard."""
    counted = series(metric, where, suffix="_total", of_all=of_all)
    return f"{_over('sum', by)} (increase({counted}[{PERIOD}]))"


def buckets(metric: Metric, *by: str, of_all: bool = False) -> str:
    """A histogram's observations per second, by upper bound."""
    counted = series(metric, suffix="_bucket", of_all=of_all)
    return f"sum by ({', '.join(('le', *by))}) (rate({counted}[{WINDOW}]))"


def quantile(share: float, metric: Metric, *by: str, of_all: bool = False) -> str:
    return f"histogram_quantile({share:g}, {buckets(metric, *by, of_all=of_all)})"


def mean(metric: Metric, *by: str) -> str:
    """The mean of a histogram's observations."""
    parts = [
        f"{_over('sum', by)} (rate({series(metric, suffix=suffix)}[{WINDOW}]))"
        for suffix in ("_sum", "_count")
    ]
    return " / ".join(parts)


def since(metric: Metric, *by: str, of_all: bool = False) -> str:
    """Seconds since the time that a gauge holds."""
    return f"time() - {level(metric, *by, of_all=of_all)}"


def recorded_series(name: str, where: str = "") -> str:
    """A series that a rule of observability/alerts/ records."""
    return f"{name}{{{where}}}" if where else name


def _over(how: str, by: tuple[str, ...]) -> str:
    return f"{how} by ({', '.join(by)})" if by else how
