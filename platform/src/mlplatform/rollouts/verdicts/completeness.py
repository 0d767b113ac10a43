"""Writers that may still add to records that were read, and gateways that apply older routes."""

from __future__ import annotations

from collections.abc import Sequence

from mlplatform.decisions.records.port import Watermark
from mlplatform.rollouts.journal.journal import GatewayLease


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
        f"writer {w.writer} is at {w.event_ms}, before {event_ms}"
        + (f", with {w.spilled} records spilled" if w.spilled else "")
        for w in watermarks
        if w.live and (w.event_ms is None or w.event_ms < event_ms)
    ]
    leases = [
        f"gateway {g.gateway} applies generation {g.generation}, not {generation}"
        for g in gateways
        if g.generation is None or g.generation < generation
    ]
    return (*writers, *leases, *unlogged_gateways(watermarks, gateways))


def unlogged_gateways(
    watermarks: Sequence[Watermark], gateways: Sequence[GatewayLease]
) -> tuple[str, ...]:
    """Gateways that answer and whose records do not reach this log: no living writer has their
    name, or their log is elsewhere and its records do not come any more. A gateway that has just
    ended is one of them until its lease is over."""
    living = {w.writer: w for w in watermarks if w.live}
    silent = [
        f"gateway {g.gateway} answers, and no living writer of this log has its name"
        for g in gateways
        if g.gateway not in living
    ]
    late = [
        f"gateway {g.gateway} answers, and nothing of its log has come lately"
        for g in gateways
        if g.gateway in living and living[g.gateway].unheard
    ]
    return (*silent, *late)
