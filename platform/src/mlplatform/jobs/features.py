"""History taken in once, and the snapshot of each day's end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlplatform.features import snapshots

if TYPE_CHECKING:
    import pyarrow as pa

    from mlplatform.wiring import Platform

DAY_MS = 86_400_000


def import_history(platform: Platform, model: str, table: pa.Table, source: str) -> int:
    """Take history in once and snapshot every midnight that training may join; returns its rows."""
    offline = platform.offline(model)
    rows = offline.import_history(table, platform.pseudonym_key(), source)
    end_ms = offline.history_end_ms()
    if end_ms is None:
        return 0
    last = -(-end_ms // DAY_MS) * DAY_MS
    definition = platform.definition(model)
    days = definition.training.window_days + definition.label.maturity_days + 1
    midnights = range(last - days * DAY_MS, last + DAY_MS, DAY_MS)
    snapshots.backfill(offline, platform.views(model), midnights, platform.online(model))
    return rows


def materialize(platform: Platform, model: str, at_ms: int | None = None) -> dict[str, int]:
    """Bring the offline table up to the log and serve the snapshot of an event-time midnight.

    Args:
        at_ms: the midnight; the last one that has passed in event time where it is None.
    """
    now_ms = platform.clock.event_ms()
    midnight_ms = now_ms // DAY_MS * DAY_MS if at_ms is None else at_ms
    offline = platform.offline(model)
    offline.project(platform.log)
    done = snapshots.materialize(
        offline,
        platform.views(model),
        midnight_ms,
        platform.online(model),
        available_ms=max(now_ms, midnight_ms),
    )
    return {view: int(rows) for view, rows in done.rows.items()}
