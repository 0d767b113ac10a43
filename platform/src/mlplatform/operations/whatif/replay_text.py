"""A replay in words and tables: what has a meaning for what the model decides, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mlplatform.learning.validation.report import MEASURES
from mlplatform.learning.validation.statistics import Interval
from mlplatform.operations.whatif.decided_pages import Speed
from mlplatform.operations.whatif.replay import Reasons, Replay
from mlplatform.rollouts.whatif.report import (
    LabelCounts,
    LabelMeasures,
    NumberDifferences,
    PredictedDisagreement,
    Segment,
    Share,
    WhatIf,
)
from mlplatform.rollouts.whatif.shadow import ShadowDisagreement
from mlplatform.runtime.figures import percent, span
from mlplatform.runtime.text import markdown

MOST_ROWS: Final = 12
"""Most rows of segments, and of changes of a class."""


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows of text."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Words:
    """How requests that are decided otherwise are called.

    Args:
        flips: words for these requests as the name of a row.
        changed: words for them as the name of a column.
        predicted: words for them as the disagreement gate counts them.
    """

    flips: str
    changed: str
    predicted: str


def _words(found: WhatIf) -> _Words:
    if found.known is not None:
        flagged = "requests that either version flags are decided otherwise"
        return _Words("decided otherwise", "decided otherwise", flagged)
    if found.changes is not None:
        other = "of another class"
        return _Words(other, other, f"requests {other}")
    moved = "requests whose number moves by more than the tolerance"
    moves = found.differences
    by = "the tolerance" if moves is None else f"{moves.tolerance:g} {moves.unit}"
    return _Words(f"moved by more than {by}", "moved", moved)


def fields(found: Replay) -> dict[str, str]:
    """Name and sentence, in the order in which they are read."""
    what_if, words = found.what_if, _words(found.what_if)
    again = (
        "it has no decision of its own to compare"
        if not found.served
        else (f"{found.alike:,} of {found.served:,} of its own decisions come out the same")
    )
    return {
        "requests": f"{what_if.requests:,} of {what_if.customers:,} customers",
        "left out": f"{found.left_out:,} made without fresh features",
        **({"erased": f"{found.erased:,} can't be decided again"} if found.erased else {}),
        found.reference: again,
        words.flips: _share(what_if.flips),
        **_top(what_if),
        **_moves(what_if.differences),
        **_alerts(what_if),
        **_prediction(what_if.disagreement, words),
        **dict(map(_shadow, found.shadow)),
        "speed, reference": _speed(found.reference_speed),
        "speed, candidate": _speed(found.candidate_speed),
        **({} if what_if.known is None else _outcomes(what_if.known)),
        **({} if what_if.measured is None else _labels(what_if.measured)),
        **{
            f"{name} alerts": _reasons(reasons)
            for name, reasons in (("added", found.added), ("dropped", found.dropped))
            if reasons is None or isinstance(reasons, Reasons)
        },
    }


def page(found: Replay) -> str:
    """A replay in Markdown; its tables are left out."""
    head = f"## {markdown(found.candidate)} beside {markdown(found.reference)}, {found.model}"
    lines = [f"- **{markdown(name)}**: {markdown(text)}" for name, text in fields(found).items()]
    return "\n".join([head, "", *lines, ""])


def summary(found: Replay) -> str:
    """The result of a replay in one line."""
    what_if, words = found.what_if, _words(found.what_if)
    return (
        f"{found.candidate} beside {found.reference}: {what_if.flips.count:,} of "
        f"{what_if.requests:,} requests are {words.flips}"
    )


def tables(found: Replay) -> list[Table]:
    """Tables that hold something."""
    return [table for table in _tables(found.what_if) if table.rows]


def _tables(found: WhatIf) -> Iterator[Table]:
    if found.decisions is not None:
        rows = [(mine, *map(str, theirs.values())) for mine, theirs in found.decisions.items()]
        candidates = next(iter(found.decisions.values()))
        yield Table(("reference \\ candidate", *candidates), rows)
    if found.changes is not None:
        changes = [
            (change.reference, change.candidate, f"{change.requests:,}", percent(change.share))
            for change in found.changes[:MOST_ROWS]
        ]
        yield Table(("of class", "by the candidate", "requests", "of all"), changes)
    if (moves := found.differences) is not None:
        numbers = ("candidate less reference", *(f"{v:+.4g}" for v in moves.quantiles.values()))
        yield Table((f"difference, {moves.unit}", *moves.quantiles), [numbers])
    yield _segments(found)
    if found.measured is not None:
        measures = [
            (
                MEASURES.get(measure.name, measure.name),
                _interval(measure.reference),
                _interval(measure.candidate),
                _interval(measure.difference, "+"),
            )
            for measure in found.measured.measures
        ]
        yield Table(("measure (90 %)", "reference", "candidate", "difference"), measures)


def _segments(found: WhatIf) -> Table:
    changed = sorted(found.segments, key=lambda s: s.flips / s.requests, reverse=True)
    shown = [segment for segment in changed[:MOST_ROWS] if segment.flips]
    columns: tuple[str, ...] = ("most changed", "requests", _words(found).changed)
    if found.both_alerts is not None:
        columns = (*columns, "alerts, reference", "alerts, candidate")
    if (moves := found.differences) is not None:
        columns = (*columns, f"on average, {moves.unit}")
    return Table(columns, [_segment(segment, len(columns)) for segment in shown])


def _segment(segment: Segment, width: int) -> tuple[str, ...]:
    if segment.value is not None:
        where = segment.value
    elif segment.above is None and segment.upto is None:
        where = "missing"
    elif segment.above is None:
        where = f"up to {segment.upto:g}"
    elif segment.upto is None:
        where = f"over {segment.above:g}"
    else:
        where = f"{segment.above:g} to {segment.upto:g}"
    flips = f"{segment.flips:,} ({percent(segment.flips / segment.requests)})"
    alerts = (segment.reference_alerts, segment.candidate_alerts)
    moved = segment.mean_difference
    more = [f"{count:,}" for count in alerts if count is not None]
    more += [f"{moved:+.4g}"] if moved is not None else []
    cells = (f"{segment.input} {where}", f"{segment.requests:,}", flips, *more)
    return (*cells, *[""] * (width - len(cells)))


def _share(share: Share) -> str:
    return f"{share.count:,} ({percent(share.share)}){_of_a_day(share.low, share.high)}"


def _of_a_day(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return ""
    return f"; {span(low, high)} are expected on a coming day"


def _top(found: WhatIf) -> dict[str, str]:
    top = found.top
    return {} if top is None else {f"other top {top.classes}": _share(top.changed)}


def _moves(moves: NumberDifferences | None) -> dict[str, str]:
    if moves is None:
        return {}
    where = (
        f"{moves.lower:,} numbers are lower, {moves.higher:,} higher; the mean change is "
        f"{moves.mean:+.4g} {moves.unit}, the mean absolute change {moves.mean_absolute:.4g} "
        f"{moves.unit}"
    )
    without = (
        {"without a number": f"{moves.without:,} requests, by one version or both"}
        if moves.without
        else {}
    )
    return {"to where": where, **without}


def _alerts(found: WhatIf) -> dict[str, str]:
    if (
        found.reference_alerts is None
        or found.candidate_alerts is None
        or found.both_alerts is None
    ):
        return {}
    return {
        "alerts, reference": _share(found.reference_alerts),
        "alerts, candidate": _share(found.candidate_alerts),
        "alerts of both": f"{found.both_alerts:,}",
    }


def _prediction(found: PredictedDisagreement | None, words: _Words) -> dict[str, str]:
    """The disagreement that the gate is predicted to see, and the limit beside it."""
    if found is None:
        return {}
    counts = f"{found.count:,} of {found.trials:,} {words.predicted} ({percent(found.share)})"
    stops = f"more than {percent(found.stops)} stops the candidate, once it is proven"
    passes = "" if found.passes is None else f"up to {percent(found.passes)} passes; "
    return {
        "predicted for shadow": counts + _of_a_day(found.low, found.high),
        "shadow allows": passes + stops,
    }


def _shadow(seen: ShadowDisagreement) -> tuple[str, str]:
    words = {True: "; this replay agrees", False: "; this replay does not agree", None: ""}
    text = (
        f"{seen.verdict}: {percent(seen.share)} of {seen.trials:,} requests (interval "
        f"{span(seen.low, seen.high)}); validation had predicted {percent(seen.validation)}"
        f"{words[seen.as_predicted]}"
    )
    return f"shadow saw, {seen.rollout}", text


def _speed(speed: Speed) -> str:
    return (
        f"{speed.p50_ms:.2f} ms for one request (99th percentile {speed.p99_ms:.2f} ms), "
        f"{speed.rows_per_s:,.0f} requests/s in large batches"
    )


def _outcomes(known: LabelCounts) -> Mapping[str, str]:
    if not known.positives:
        return {"outcomes": f"no positive among {known.requests:,} requests of known outcome"}
    arms = {"reference": known.reference, "candidate": known.candidate}
    shown = {
        f"positives found, {name}": f"{arm.caught:,} of {known.positives:,} by its {arm.alerts:,} "
        f"alerts; {arm.at_capacity:,} if {percent(known.capacity)} of requests were alerts"
        for name, arm in arms.items()
    }
    if known.more is not None and known.low is not None and known.high is not None:
        shown["candidate finds"] = (
            f"{abs(100 * known.more):.1f} percentage points {'fewer' if known.more < 0 else 'more'}"
            f" of the positives, with as many alerts (interval {100 * known.low:+.1f} to "
            f"{100 * known.high:+.1f})"
        )
    shown["unknown"] = (
        f"{known.immature:,} outcomes have not matured, {known.hidden:,} are hidden by the decision"
    )
    return shown


def _labels(labels: LabelMeasures) -> dict[str, str]:
    some = f", {labels.requests:,} of them measured" if labels.requests < labels.labelled else ""
    return {
        "labelled": f"{labels.labelled:,} requests{some}; {labels.immature:,} others have not "
        f"matured, {labels.unlabelled:,} have no label"
    }


def _reasons(reasons: Reasons | None) -> str:
    if reasons is None:
        return "not explained: only versions of the registry are"
    if not reasons.requests:
        return "none"
    named = ", ".join(f"{code} {count}" for code, count in reasons.first.items())
    return f"first reasons of {reasons.requests:,}: {named}"


def _interval(found: Interval, sign: str = "") -> str:
    value, low, high = (f"{number:{sign}.4g}" for number in (found.value, found.low, found.high))
    return f"{value} ({low} to {high})"
