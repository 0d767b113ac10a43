"""What each gate of traffic measures: which numbers its picture shows, and its plain sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from mlplatform.observing.page.pictures.scales import Write, finite, percents, points
from mlplatform.rollouts.verdicts.verdict import Gate

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
    sentence: Callable[[Gate], str]


def milliseconds(value: float) -> str:
    """Microseconds, written in milliseconds."""
    return f"{value / 1000:.1f} ms" if value < 100_000 else f"{value / 1000:,.0f} ms"


def measure(name: str) -> Measure | None:
    """How a gate is shown; None for one that has no interval."""
    return _MEASURES.get(name)


def sentence(gate: Gate) -> str:
    """One plain sentence on a gate; the reason it gave where none is written for it."""
    found = measure(gate.name)
    known = (finite(gate.values.get(key)) for key in ("share", "ratio"))
    if found is not None and any(value is not None for value in known):
        return found.sentence(gate)
    mine, everyone = int(_number(gate, "challenger_units")), int(_number(gate, "units"))
    if gate.name == "split" and everyone > 0:
        fair = "as planned" if gate.verdict == "HEALTHY" else "not the share that was planned"
        share = percents(mine / everyone)
        return f"It answered {mine:,} of {everyone:,} customers ({share}): {fair}."
    reason = gate.reason[:1].upper() + gate.reason[1:]
    return reason if not reason or reason.endswith(".") else f"{reason}."


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


def _number(gate: Gate, key: str) -> float:
    return finite(gate.values.get(key)) or 0.0


def _harm(more: str, write: Write) -> Callable[[Gate], str]:
    """Says how far the challenger may be worse, and what is asked."""

    def said(gate: Gate) -> str:
        stop, limit = finite(gate.values.get("stop")), finite(gate.values.get("limit"))
        high = finite(gate.values.get("high"))
        proven = finite(gate.values.get("proven"))
        if gate.verdict == "UNHEALTHY" and proven is not None:
            beyond = "" if stop is None else f"; more than {write(stop)} stops it"
            return f"At least {write(proven)} more {more}{beyond}."
        left = "No" if high is not None and high <= 0 else "Any number of"
        if high is not None and high > 0:
            left = f"At most {write(high)}"
        if limit is None:
            return f"{left} more {more}; this step only asks that no harm is proven."
        unshown = "" if gate.verdict == "HEALTHY" else "; more traffic must show that it is less"
        return f"{left} more {more}; {write(limit)} allowed{unshown}."

    return said


def _alerts(gate: Gate) -> str:
    low, high = finite(gate.values.get("low")), finite(gate.values.get("high"))
    stop, limit = finite(gate.values.get("stop")), finite(gate.values.get("limit"))
    if low is None or high is None:
        return "Too few alerts yet to compare them."
    between = f"{_change(low)} to {_change(high)} alerts than expected"
    if gate.verdict == "UNHEALTHY":
        beyond = "" if stop is None else f"; more than {percents(stop)} off stops it"
        proven = _number(gate, "proven")
        way = "more" if _number(gate, "share") > 0 else "fewer"
        return f"At least {percents(proven)} {way} alerts than expected{beyond}."
    if limit is None:
        return f"{between}; this step only asks that no harm is proven."
    unshown = "" if gate.verdict == "HEALTHY" else "; more traffic must show that it is less"
    return f"{between}; {percents(limit)} either way allowed{unshown}."


def _change(share: float) -> str:
    if share < 0:
        return f"{percents(min(-share, 1.0))} fewer"
    return f"{percents(share)} more"


def _latency(which: str) -> Callable[[Gate], str]:
    def said(gate: Gate) -> str:
        ratio, stop = finite(gate.values.get("ratio")), finite(gate.values.get("limit_ratio"))
        allowed = finite(gate.values.get("tolerance_ratio"))
        if ratio is None:
            return f"{which} an unknown time."
        begun = f"{which} {ratio:.2f} times the champion's time"
        if gate.verdict == "UNHEALTHY" and stop is not None:
            return f"{begun}; more than {stop:g} times is proven, and stops it."
        if allowed is None:
            return f"{begun}; this step only asks that no harm is proven."
        unshown = "" if gate.verdict == "HEALTHY" else ", which more traffic must show"
        return f"{begun}; up to {allowed:g} times allowed{unshown}."

    return said


def _recall(gate: Gate) -> str:
    frauds = int(_number(gate, "frauds"))
    caught, other = int(_number(gate, "caught")), int(_number(gate, "champion_caught"))
    seen = f"It found {caught:,} of {frauds:,} frauds, the version before it {other:,}"
    loss = _loss(gate.values).high
    allowed = _up_to_band(gate.values)
    if loss is None:
        return f"{seen}."
    most = "" if allowed is None else f"; {points(allowed[1] or 0.0)} allowed"
    return f"{seen}: at most {points(max(loss, 0.0))} fewer{most}."


def _busy(gate: Gate) -> str:
    high, limit = finite(gate.values.get("high")), finite(gate.values.get("limit"))
    if gate.verdict == "UNHEALTHY":
        busy = f"at least {percents(_number(gate, 'low'))}"
    else:
        busy = "any share" if high is None else f"at most {percents(high)}"
    most = "" if limit is None else f"; {percents(limit)} allowed"
    return f"With all of the traffic it would be busy {busy} of the time{most}."


_failures: Final = Measure(
    axis="failures beyond the champion's",
    write=points,
    measured=_difference,
    allowed=_up_to,
    stops=_stop,
    arms=_arms("requests not answered in time", percents),
    sentence=_harm("of the requests fail than with the champion", points),
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
        arms=_arms("payments flagged", percents),
        sentence=_alerts,
    ),
    "disagreement": Measure(
        axis="alerts of one arm alone, beyond those predicted",
        write=points,
        measured=_difference,
        allowed=_up_to,
        stops=_stop,
        arms=_arms("", percents),
        sentence=_harm("of the alerts come from one arm alone than predicted", points),
    ),
    "utilisation": Measure(
        axis="of the time that it would be busy",
        write=percents,
        measured=_difference,
        allowed=_up_to,
        stops=_nowhere,
        arms=_arms("", percents),
        sentence=_busy,
    ),
    "latency_p50": Measure(
        axis="answers over the allowed time, against the champion's",
        write=points,
        measured=_difference,
        allowed=_none_more,
        stops=_nowhere,
        arms=_arms("usual latency (p50)", milliseconds, "challenger_us", "champion_us"),
        sentence=_latency("The usual answer takes"),
    ),
    "latency_p99": Measure(
        axis="answers over the allowed time, against the champion's",
        write=points,
        measured=_difference,
        allowed=_none_more,
        stops=_nowhere,
        arms=_arms("slowest answers (p99)", milliseconds, "challenger_us", "champion_us"),
        sentence=_latency("The slowest answers (p99) take"),
    ),
    "recall": Measure(
        axis="frauds missed that the version before it found",
        write=points,
        measured=_loss,
        allowed=_up_to_band,
        stops=_nowhere,
        arms=_arms("frauds found", percents, "challenger_recall_value", "champion_recall_value"),
        sentence=_recall,
    ),
}
