"""What each gate of traffic measures: which numbers its picture shows, and its plain sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from mlplatform.observing.page.pictures.scales import Write, finite, percents, points

Values = Mapping[str, float | int | None]


@dataclass(frozen=True, slots=True)
class Measured:
    """One look at a gate, in the unit of its picture; None is unknown.

    Args:
        low, high: between which the value lies, with the gate's certainty.
    """

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Arms:
    """The two arms' own numbers, beside each other; None where the gate has none.

    Args:
        what: is measured of each.
    """

    what: str
    challenger: float
    champion: float
    write: Write


@dataclass(frozen=True, slots=True)
class Measure:
    """How a gate is shown.

    Args:
        axis: what the picture's height is.
        measured: the numbers of one look.
        allowed: from where to where harm is tolerated; None: not asked for at this step.
        stops: values beyond which a challenger is stopped.
    """

    axis: str
    write: Write
    measured: Callable[[Values], Measured]
    allowed: Callable[[Values], tuple[float | None, float | None] | None]
    stops: Callable[[Values], tuple[float, ...]]
    arms: Callable[[Values], Arms | None]


def milliseconds(value: float) -> str:
    """Microseconds, written in milliseconds."""
    return f"{value / 1000:.1f} ms" if value < 100_000 else f"{value / 1000:,.0f} ms"


def measure(name: str) -> Measure | None:
    """How a gate is shown, a segment's as that of all; None for one that has no interval."""
    return _MEASURES.get(name.partition(" of ")[0])


def _difference(values: Values) -> Measured:
    return Measured(*(finite(values.get(key)) for key in ("share", "low", "high")))


def _loss(values: Values) -> Measured:
    """A difference in which less is harm, turned over."""
    found = _difference(values)
    turned = (None if v is None else -v for v in (found.value, found.high, found.low))
    return Measured(*turned)


def _up_to(values: Values) -> tuple[float | None, float | None] | None:
    limit = finite(values.get("limit"))
    return None if limit is None else (None, limit)


def _either_way(values: Values) -> tuple[float | None, float | None] | None:
    limit = finite(values.get("limit"))
    return None if limit is None else (-limit, limit)


def _up_to_band(values: Values) -> tuple[float | None, float | None] | None:
    least = finite(values.get("band_low"))
    return None if least is None else (None, -least)


def _none_more(values: Values) -> tuple[float | None, float | None] | None:
    return None if finite(values.get("tolerance_ratio")) is None else (None, 0.0)


def _stop(values: Values) -> tuple[float, ...]:
    stop = finite(values.get("stop"))
    return () if stop is None else (stop,)


def _stop_either_way(values: Values) -> tuple[float, ...]:
    return tuple(end for stop in _stop(values) for end in (-stop, stop))


def _nowhere(values: Values) -> tuple[float, ...]:
    return ()


def _arms(what: str, write: Write, *keys: str) -> Callable[[Values], Arms | None]:
    own, other = keys or ("challenger", "champion")

    def found(values: Values) -> Arms | None:
        pair = [finite(values.get(key)) for key in (own, other)]
        return None if None in pair else Arms(what, pair[0], pair[1], write)  # type: ignore[arg-type]

    return found


_failures: Final = Measure(
    axis="failures beyond the champion's",
    write=points,
    measured=_difference,
    allowed=_up_to,
    stops=_stop,
    arms=_arms("requests not answered in time", percents),
)
_MEASURES: Final[Mapping[str, Measure]] = {
    "failures": _failures,
    "guardrail": _failures,
    "alerts": Measure(
        axis="alerts against those expected",
        write=percents,
        measured=_difference,
        allowed=_either_way,
        stops=_stop_either_way,
        arms=_arms("requests flagged", percents),
    ),
    "disagreement": Measure(
        axis="alerts of one arm alone, beyond those predicted",
        write=points,
        measured=_difference,
        allowed=_up_to,
        stops=_stop,
        arms=_arms("", percents),
    ),
    "utilisation": Measure(
        axis="of the time that it would be busy",
        write=percents,
        measured=_difference,
        allowed=_up_to,
        stops=_nowhere,
        arms=_arms("", percents),
    ),
    "latency_p50": Measure(
        axis="answers over the allowed time, against the champion's",
        write=points,
        measured=_difference,
        allowed=_none_more,
        stops=_nowhere,
        arms=_arms("usual latency (p50)", milliseconds, "challenger_us", "champion_us"),
    ),
    "latency_p99": Measure(
        axis="answers over the allowed time, against the champion's",
        write=points,
        measured=_difference,
        allowed=_none_more,
        stops=_nowhere,
        arms=_arms("slowest answers (p99)", milliseconds, "challenger_us", "champion_us"),
    ),
    "recall": Measure(
        axis="positives missed that the version before it found",
        write=points,
        measured=_loss,
        allowed=_up_to_band,
        stops=_nowhere,
        arms=_arms("positives found", percents, "challenger_recall_value", "champion_recall_value"),
    ),
}
