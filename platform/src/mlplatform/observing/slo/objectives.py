"""The objectives of the platform and their alerts: observability/slo.yaml, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from mlplatform.model import document
from mlplatform.runtime.errors import ConfigInvalid, ConfigUnusable
from mlplatform.runtime.units import DAY_S, HOUR_S

FILE: Final = "observability/slo.yaml"
_PACKAGED: Final = Path(__file__).with_name("slo.yaml")
SHIPPED: Final = _PACKAGED if _PACKAGED.is_file() else Path(__file__).parents[5] / FILE
"""The slo.yaml of the wheel, or of the repository."""
WINDOWS: Final = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
"""The windows over which error ratios are recorded."""

UNITS_S: Final = {"s": 1, "m": 60, "h": HOUR_S, "d": DAY_S}

Severity = Literal["page", "ticket"]
HEARTBEAT: Final = "none"
"""Severity of the alert that always fires; it only shows that alerts are delivered."""
Window = Literal["5m", "30m", "1h", "2h", "6h", "1d", "3d"]
Duration = Annotated[str, Meta(pattern=r"\A[1-9][0-9]{0,5}[smhd]\Z")]
Ratio = Annotated[float, Meta(gt=0, lt=1)]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown and missing keys are errors."""


class Burn(_Strict, frozen=True):
    """A pair of windows, and the burn rate that must be exceeded over both."""

    factor: Annotated[float, Meta(gt=0, le=1000)]
    long: Window
    short: Window


class Burns(_Strict, frozen=True):
    page: Annotated[tuple[Burn, ...], Meta(min_length=1)]
    ticket: Annotated[tuple[Burn, ...], Meta(min_length=1)]


class BurnFor(_Strict, frozen=True):
    page: Duration
    ticket: Duration


class Objective(_Strict, frozen=True):
    """An objective: a share, and whether a fast burn wakes somebody."""

    objective: Ratio
    page: bool

    @property
    def budget(self) -> float:
        """The share that may be bad."""
        return round(1 - self.objective, 10)


class Tier(_Strict, frozen=True):
    """The objectives of models of one tier."""

    availability: Objective
    latency: Objective
    deadline: Objective
    freshness: Objective
    log_completeness: Objective
    drift_check: Objective
    labels: Objective
    rollout: Objective


class AlertLimits(_Strict, frozen=True):
    """The value from which a state is bad, and how long it may last."""

    drift_check_late: Duration
    drift_undecided: Duration
    rollout_pass_late: Duration
    late_label_share: Ratio
    labels_missing: Duration
    nothing_scored: Duration
    process_gone: Duration
    clock_offset_ms: Annotated[float, Meta(gt=0, le=1000)]
    clock_unkept: Duration
    breaker_open: Duration
    log_spilling: Duration
    watermark_behind: Duration
    windows_behind: Duration
    routes_diverge: Duration
    rollout_overdue: Duration
    approval_waits: Duration
    incident_open: Duration
    worker_lag: Annotated[int, Meta(ge=1)]
    worker_lagging: Duration
    stream_behind: Duration
    stream_lagging: Duration
    dropped_alert: Duration
    refused_share: Ratio
    refusing: Duration
    shadow_dropped_share: Ratio
    store_failing: Duration
    unreadable: Duration
    home_free_share: Ratio
    home_filling: Duration
    refusals_of_a_day: Annotated[int, Meta(ge=1)]
    events_late: Duration


class Objectives(_Strict, frozen=True):
    """The content of slo.yaml.

    Args:
        minimum_bad: bad events in a long window, of which fewer fire nothing.
        runbooks: the address below which docs/runbooks/ is published.
    """

    window_days: Annotated[int, Meta(ge=1, le=90)]
    runbooks: Annotated[str, Meta(pattern=r"\Ahttps://[^\s/]+(/[^\s/]+)*\Z")]
    burns: Burns
    burn_for: BurnFor
    minimum_bad: Annotated[int, Meta(ge=1)]
    tiers: dict[Literal[1, 2, 3], Tier]
    limits: AlertLimits


def load(path: Path) -> Objectives:
    """The objectives of a file.

    Raises:
        ConfigInvalid: a value is wrong; the message names the key, its value and what is wanted.
    """
    return parse(path.read_text(), path.name)


def parse(text: str, source: str = "slo.yaml") -> Objectives:
    """The objectives of a text.

    Raises:
        ConfigInvalid: a key is unknown, missing or repeated, or a value is of a wrong type or
            impossible; the message names the key.
    """
    wanted = f"YAML like that of {FILE}, every key once"
    try:
        found = msgspec.convert(document.read(text, source, wanted), Objectives)
    except msgspec.ValidationError as error:
        raise ConfigUnusable(source, str(error), f"keys and values like those of {FILE}") from error
    if sorted(found.tiers) != [1, 2, 3]:
        raise ConfigInvalid(f"{source}: tiers", sorted(found.tiers), "1, 2 and 3")
    _check_burns(found, source)
    return found


def seconds(duration: str) -> int:
    """The seconds of a duration like `5m`."""
    return int(duration[:-1]) * UNITS_S[duration[-1]]


def _check_burns(found: Objectives, source: str) -> None:
    for severity in ("page", "ticket"):
        for number, burn in enumerate(getattr(found.burns, severity)):
            key = f"{source}: burns.{severity}.{number}"
            if seconds(burn.short) >= seconds(burn.long):
                raise ConfigInvalid(f"{key}.short", burn.short, f"shorter than {burn.long}")
            for tier, name, objective in _objectives(found):
                if severity == "page" and not objective.page:
                    continue
                if burn.factor * objective.budget >= 1:
                    wanted = f"more than {1 - 1 / burn.factor:.4f}: {key} could never fire"
                    place = f"{source}: tiers.{tier}.{name}.objective"
                    raise ConfigInvalid(place, objective.objective, wanted)


def _objectives(found: Objectives) -> list[tuple[int, str, Objective]]:
    return [
        (number, name, getattr(tier, name))
        for number, tier in found.tiers.items()
        for name in Tier.__struct_fields__
    ]
