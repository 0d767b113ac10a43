"""The measure of each traffic gate: the numbers of its picture, and its plain sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from mlplatform.observing.page.pictures.scales import Write, finite, percents, points
from mlplatform.rollouts.verdicts.comparison import GATES
from mlplatform.rollouts.verdicts.judgement import OWN_LIMITS
from mlplatform.rollouts.verdicts.verdict import Picture

Values = Mapping[str, float | int | None]


@dataclass(frozen=True, slots=True)
class GateReading:
    """One analysis of a gate, in the unit of its picture; None is unknown.

    Args:
        low, high: ends of the interval of the value, at the gate's confidence level.
    """

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Arms:
    """The numbers of the two arms, side by side; None if the gate has none.

    Args:
        what: the quantity that is measured of both arms.
    """

    what: str
    challenger: float
    champion: float
    write: Write


@dataclass(frozen=True, slots=True)
class Measure:
    """The way in which a gate is shown.

    Args:
        axis: the quantity on the vertical axis.
        measured: returns the numbers of one analysis.
        allowed: returns both ends of the range of tolerated harm; None if this step has no such
            range.
        stops: returns the values beyond which a challenger is stopped.
    """

    axis: str
    write: Write
    measured: Callable[[Values], GateReading]
    allowed: Callable[[Values], tuple[float | None, float | None] | None]
    stops: Callable[[Values], tuple[float, ...]]
    arms: Callable[[Values], Arms | None]


def milliseconds(value: float) -> str:
    """Microseconds, written as milliseconds."""
    return f"{value / 1000:.1f} ms" if value < 100_000 else f"{value / 1000:,.0f} ms"


def measure(name: str, values: Values) -> Measure | None:
    """The measure of a gate; a segment's gate has that of all requests. None for a gate without an
    interval.

    Args:
        values: values of the analysis that is shown. Those of failures tell whether the version was
            held to the champion's or to a limit of its own.
    """
    if name in OWN_LIMITS and "proven" in values and "limit" not in values:
        return _OWN_FAILURES
    return _MEASURES.get(name.partition(" of ")[0])


def _difference(values: Values) -> GateReading:
    return GateReading(*(finite(values.get(key)) for key in ("share", "low", "high")))


def _deviation(values: Values) -> GateReading:
    """The reading of a deviation from a number expected: none can be further below than all."""
    found = _difference(values)
    return replace(found, low=None if found.low is None else max(found.low, -1.0))


def _loss(values: Values) -> GateReading:
    """The reading of a difference in which less is harm, with its sign turned."""
    found = _difference(values)
    turned = (None if v is None else -v for v in (found.value, found.high, found.low))
    return GateReading(*turned)


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


def _arms(what: str, write: Write, own: str, other: str) -> Callable[[Values], Arms | None]:
    def found(values: Values) -> Arms | None:
        pair = [finite(values.get(key)) for key in (own, other)]
        return None if None in pair else Arms(what, pair[0], pair[1], write)  # type: ignore[arg-type]

    return found


_ALLOWED: Final = {
    "more": _up_to, "either": _either_way, "fewer": _up_to_band, "slower": _none_more,
}  # fmt: skip
_READINGS: Final = {"fewer": _loss, "either": _deviation}
_UNITS: Final[Mapping[str, Write]] = {"percent": percents, "points": points, "ms": milliseconds}


def _measure_of(picture: Picture) -> Measure:
    stops = _stop_either_way if picture.harm == "either" else _stop
    return Measure(
        axis=picture.axis,
        write=_UNITS[picture.unit],
        measured=_READINGS.get(picture.harm, _difference),
        allowed=_ALLOWED[picture.harm],
        stops=stops if picture.stops else _nowhere,
        arms=_arms(picture.arms, _UNITS[picture.arm_unit], *picture.of_arms),
    )


_MEASURES: Final[Mapping[str, Measure]] = {
    kind.name: _measure_of(kind.picture) for kind in GATES if kind.picture is not None
}
_OWN_FAILURES: Final = Measure(
    axis="requests not answered in time, however many the champion fails",
    write=percents,
    measured=_difference,
    allowed=lambda values: None,
    stops=_stop,
    arms=_arms("requests not answered in time", percents, "challenger", "champion"),
)
