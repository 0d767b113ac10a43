"""One model's GPUs by bundle version: the hours that are taken and used, and their purpose."""

from __future__ import annotations

from mlplatform.observing.dashboards import links
from mlplatform.observing.dashboards.panels import Dashboard, Panel, Query, Row
from mlplatform.observing.dashboards.queries import PERIOD, WINDOW, increase, level, series
from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.units import HOUR_S

_NAME = "{{service}}"
_EVERY = "1m"
_PER_HOUR = 60
"""Number of samples in an hour, one for each `_EVERY`."""
_NONE = "no GPU"


def dashboard() -> Dashboard:
    return Dashboard(
        "gpu", "mlplatform: GPU hours",
        "GPUs, or the parts of them, that the predictors of a model hold, by bundle version: empty "
        "where a model runs on CPUs. Sums are of the time shown, by one value a minute.",
        (_hours(), _now()), links=(links.MODEL_PAGE, links.MLFLOW), window="now-7d",
    )  # fmt: skip


def _summed(expression: str) -> str:
    """A sum over the time shown, of values times hours."""
    over = f"sum_over_time(({expression})[{PERIOD}:{_EVERY}])"
    return f"{over} / {_PER_HOUR}"


def _hours() -> Row:
    taken = _summed(f"count by (service) ({series(signals.GPU_MEMORY)})")
    used = _summed(level(signals.GPU_BUSY, "service", how="sum"))
    energy = _summed(level(signals.GPU_POWER, "service", how="sum"))
    asked = f"({increase(signals.PREDICTOR_REQUESTS, 'service')} / 1000)"
    return Row("In the time shown", (
        Panel(
            "bars", "GPU hours taken", "Hours times GPUs that pods held, busy or not.",
            (Query(taken, _NAME),), "h", empty=_NONE,
        ),
        Panel(
            "bars", "GPU hours used", "Of the hours taken, those in which the GPU worked.",
            (Query(used, _NAME),), "h", empty=_NONE,
        ),
        Panel(
            "bars", "Share used", "A small share needs smaller parts of a GPU, fewer replicas, "
            "or CPUs.", (Query(f"({used}) / ({taken})", _NAME),), "percentunit", empty=_NONE,
            most=1,
        ),
        Panel(
            "bars", "GPU seconds for 1000 requests", "Time for which pods held GPUs, busy or "
            "not, divided by requests.",
            (Query(f"({taken}) * {HOUR_S} / {asked}", _NAME),), "s", width=12, empty=_NONE,
        ),
        Panel(
            "bars", "Energy", "Of GPUs alone, without the rest of the machine.",
            (Query(energy, _NAME),), "watth", width=12, empty=_NONE,
        ),
    ))  # fmt: skip


def _now() -> Row:
    memory = f"{series(signals.GPU_MEMORY)} / ({series(signals.GPU_MEMORY)} + "
    memory += f"{series(signals.GPU_MEMORY_FREE)})"
    busy = f"avg_over_time({series(signals.GPU_BUSY)}[{WINDOW}])"
    return Row("Over time", (
        Panel(
            "stacked", "GPUs taken", "By pods of each bundle version.",
            (Query(f"count by (service) ({series(signals.GPU_MEMORY)})", _NAME),), width=12,
            empty=_NONE,
        ),
        Panel(
            "lines", "Busy", "Share of the time.",
            (Query(f"avg by (service) ({busy})", _NAME),), "percentunit", width=12, most=1,
            empty=_NONE,
        ),
        Panel(
            "lines", "Utilisation, GPU by GPU", "As the driver says, of whole GPUs only.",
            (Query(level(signals.GPU_UTILISATION, "service", "instance", "gpu"),
                   "{{service}} {{instance}} {{gpu}}"),), "percent", empty=_NONE, most=100,
        ),
        Panel(
            "lines", "Memory in use", "Share of a GPU's, or of its part's.",
            (Query(f"max by (service) ({memory})", _NAME),), "percentunit", empty=_NONE, most=1,
        ),
        Panel(
            "lines", "Power", "Sum over GPUs.",
            (Query(level(signals.GPU_POWER, "service", how="sum"), _NAME),), "watt", empty=_NONE,
        ),
    ))  # fmt: skip
