"""Writers that may still add to records that were read, and gateways that apply older routes."""

from __future__ import annotations

from collections.abc import Sequence

from mlplatform.decisions.records.port import Watermark
from mlplatform.rollouts.journal.journal import GatewayLease
from mlplatform.runtime.times import rfc3339_text, text_of_any


def complete_until_ms(watermarks: Sequence[Watermark]) -> int | None:
    """The event time up to which no living writer can add a record; None if no writer has reported,
    which `behind` says. Live traffic is always a little ahead of it."""
    return min((w.event_ms for w in watermarks if w.live and w.event_ms is not None), default=None)


def behind(
    watermarks: Sequence[Watermark],
    gateways: Sequence[GatewayLease],
    *,
    event_ms: int,
    generation: int,
) -> tuple[str, ...]:
    """The writers and gateways that may still add records to a range that ends at this event time;
    empty if it is complete."""
    writers = [
        lag_text(w, event_ms) + (f", and {w.spilled:,} wait in spills" if w.spilled else "")
        for w in watermarks
        if w.live and (w.event_ms is None or w.event_ms < event_ms)
    ]
    leases = [
        f"gateway {g.gateway} applies generation {g.generation}, not {generation}"
        for g in gateways
        if g.generation is None or g.generation < generation
    ]
    return (*writers, *leases, *unlogged_gateways(watermarks, gateways))


def lag_text(writer: Watermark, event_ms: int) -> str:
    """How far a writer has come, beside the event time that it has to reach."""
    wanted = f"those up to {_time(event_ms)} are needed"
    if writer.event_ms is None:
        return f"the log has no record of writer {writer.writer} yet; {wanted}"
    held = f"the log has records of writer {writer.writer} up to {_time(writer.event_ms)}"
    return f"{held}; {wanted}"


def unlogged_gateways(
    watermarks: Sequence[Watermark], gateways: Sequence[GatewayLease]
) -> tuple[str, ...]:
    """Gateways that answer and whose records do not reach this log: no living writer has their
    name, or their log is elsewhere and its records do not come any more. A gateway that has just
    ended is one of them until its lease is over."""
    living = {w.writer: w for w in watermarks if w.live}
    silent = [
        f"gateway {g.gateway} answers, but no living writer of this log has its name"
        for g in gateways
        if g.gateway not in living
    ]
    late = [
        f"gateway {g.gateway} answers, but none of its records have come lately"
        for g in gateways
        if g.gateway in living and living[g.gateway].unheard
    ]
    return (*silent, *late)


def _time(event_ms: int) -> str:
    return text_of_any(event_ms, rfc3339_text)
