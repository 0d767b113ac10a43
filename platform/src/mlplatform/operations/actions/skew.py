"""Skew checks: compare the features that decisions read with those of the offline table, since the
last pass or over some days."""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from mlplatform.learning.features.pushes.gaps import StreamLoss, lost_values
from mlplatform.learning.skew import last_pass
from mlplatform.learning.skew.comparison import SAMPLE, compare
from mlplatform.learning.skew.last_pass import LastPass
from mlplatform.learning.skew.verdict import SkewReport
from mlplatform.model.features.views import external
from mlplatform.operations.wiring import Platform
from mlplatform.runtime.errors import Corrupt, NotFound
from mlplatform.runtime.text import markdown
from mlplatform.runtime.units import DAY_MS
from mlplatform.scoring import wiring as scoring_wiring

FIRST_DAYS: Final = 7
"""Days before the end of the log that the first pass reads."""
log = logging.getLogger(__name__)


def check(platform: Platform, model: str, *, size: int = SAMPLE) -> SkewReport:
    """Judge the decisions since the last pass, and store the findings for gates and the next pass.

    A pass whose sample is too small to say something of all features leaves its decisions to the
    next one.

    Raises:
        NotFound: the model has no features, or no decision yet.
    """
    _check_has_features(platform, model)
    folder = platform.settings.home.measured
    before = _last(platform, model)
    if before is not None and _is_ahead(platform, before):
        log.warning("the last skew pass over %s is ahead of the log: it begins anew", model)
        before = None
    after = None if before is None else before.position
    found = compare(
        platform.definition(model),
        platform.views(model),
        platform.log,
        platform.with_pushes(model),
        after=after,
        from_ms=_end_ms(platform, model) - FIRST_DAYS * DAY_MS if before is None else None,
        size=size,
    )
    report = _with_lost(platform, model, found.report)
    if not report.sampled and before is not None:
        return report
    is_full = size >= SAMPLE and report.population >= size  # waiting does not make it larger
    is_over = report.is_known or bool(report.skewed) or is_full
    position = found.position if is_over else (after or {})
    if is_over or before is not None:
        last_pass.keep(folder, model, LastPass(platform.clock.wall_ms(), position, report))
    return report


def check_period(
    platform: Platform,
    model: str,
    *,
    since_ms: int | None = None,
    days: int = FIRST_DAYS,
    size: int = SAMPLE,
) -> SkewReport:
    """Judge the decisions since a moment of event time, or of the last days; stores nothing.

    Raises:
        NotFound: the model has no features, or no decision yet.
    """
    _check_has_features(platform, model)
    from_ms = since_ms if since_ms is not None else _end_ms(platform, model) - days * DAY_MS
    found = compare(
        platform.definition(model),
        platform.views(model),
        platform.log,
        platform.with_pushes(model),
        from_ms=from_ms,
        size=size,
    )
    return _with_lost(platform, model, found.report)


def last_skew(platform: Platform, model: str) -> SkewReport | None:
    """The findings of the last pass; None before the first."""
    found = _last(platform, model)
    return None if found is None else found.report


def page(report: SkewReport) -> str:
    """The report in Markdown."""
    lines = [
        f"## Did decisions of {markdown(report.model)} read what they should have?",
        "",
        f"{report.summary[0].upper()}{report.summary[1:]}.",
        "",
        f"{report.sampled:,} of {report.population:,} decisions were counted again from records.",
        "",
        "| feature | verdict | equal | late | missing | different | likely cause |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in report.features:
        counts = f"{one.equal} | {one.late} | {one.missing} | {one.different}"
        cause = markdown(one.cause or "")
        lines.append(f"| {markdown(one.name)} | {one.verdict} | {counts} | {cause} |")
    return "\n".join(lines)


def lost(
    platform: Platform, model: str, from_ms: int | None, to_ms: int | None
) -> tuple[StreamLoss, ...]:
    """Messages that topics of the model's views dropped unread, where decisions in the range could
    have used them.

    Raises:
        Unavailable: pushes are on a server that does not answer.
    """
    if not scoring_wiring.has_pushes(platform.settings):
        return ()
    found = (
        lost_values(
            view.name,
            platform.pushes.gaps(model, view.name),
            ttl_ms=view.ttl_ms,
            from_ms=from_ms,
            to_ms=to_ms,
        )
        for view in external(platform.views(model))
    )
    return tuple(one for one in found if one is not None)


def _with_lost(platform: Platform, model: str, report: SkewReport) -> SkewReport:
    values = lost(platform, model, report.from_ms, report.to_ms)
    return msgspec.structs.replace(report, lost=values)


def _last(platform: Platform, model: str) -> LastPass | None:
    try:
        return last_pass.last(platform.settings.home.measured, model)
    except Corrupt:  # the next pass begins anew and replaces this file
        log.exception("what the last skew pass over %s found can't be read", model)
        return None


def _is_ahead(platform: Platform, before: LastPass) -> bool:
    """Whether the log was restored after the last pass: its new records then have numbers that were
    read before."""
    marks = {mark.writer: mark.seq for mark in platform.log.watermarks()}
    return any(marks.get(writer, 0) < seq for writer, seq in before.position.items())


def _check_has_features(platform: Platform, model: str) -> None:
    if not platform.views(model) and not platform.definition(model).windows:
        raise NotFound(f"{model} reads no features: its inputs are all of the request")


def _end_ms(platform: Platform, model: str) -> int:
    """The newest event time in the log, in epoch milliseconds."""
    ends = [mark.event_ms for mark in platform.log.watermarks() if mark.event_ms is not None]
    if not ends:
        raise NotFound(f"{model} has answered no request yet: there is nothing to compare")
    return max(ends)
