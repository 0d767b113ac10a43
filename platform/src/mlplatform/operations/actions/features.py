"""History taken in, and the snapshot of each day's end."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mlplatform.decisions.records.port import Span
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.learning.features import snapshots
from mlplatform.runtime.errors import InputInvalid, Refused

if TYPE_CHECKING:
    import pyarrow as pa

    from mlplatform.operations.wiring import Platform

DAY_MS = 86_400_000


def import_history(platform: Platform, model: str, table: pa.Table, source: str) -> int:
    """Take history in and snapshot every midnight that training may join; returns its rows.

    More is added behind what is there, as long as no payment was answered. An import that was
    killed between its rows and the last snapshot is finished by the next one, which must bring the
    same rows.

    Raises:
        Refused: payments were answered from the history that is there, or another import is half
            taken in.
        InputInvalid: names the source, the row and what is wrong; nothing was taken in.
    """
    offline = platform.offline(model)
    end_ms = offline.history_end_ms()
    is_rest = end_ms is not None and not history_is_whole(platform, model)
    if is_rest and not offline.has_history_of(table):
        raise Refused(f"an import of other payments was stopped halfway: give {model} the same")
    if not is_rest:
        check_addable(platform, model, table, source)
        offline.import_history(table, platform.pseudonym_key(), source)
    views = platform.views(model)
    first = table.column("event_time")[0].as_py().replace(tzinfo=UTC)
    first_ms = int(first.timestamp() * 1000) // DAY_MS * DAY_MS
    again = snapshots.forget_after(offline, views, first_ms)  # a platform that was up made some
    midnights = sorted({*_midnights(platform, model), *again})
    if midnights and views:
        snapshots.backfill(offline, views, midnights, platform.online(model))
    return table.num_rows


def check_addable(platform: Platform, model: str, table: pa.Table, source: str) -> None:
    """Nothing where this history may be taken in now; nothing is written.

    Raises:
        Refused, InputInvalid: as `import_history`.
    """
    offline = platform.offline(model)
    if offline.history_end_ms() is not None and _answered(platform, model):
        raise Refused(
            f"{model} has answered payments from the history that is here, so it can't change any"
            " more: what comes now is recorded by the decision log; start with another past in"
            f" another home (MLPLATFORM_HOME=FOLDER mlplatform history import {model} …)"
        )
    offline.check_follows(table, source)


def _answered(platform: Platform, model: str) -> bool:
    """Whether the log holds a decision of the model."""
    if not (platform.settings.home.decisions / DATABASE).exists():
        return False
    span = Span(model=model, kinds=("decision",), columns=("decision_id",))
    return platform.log.read(span).num_rows > 0


def history_is_whole(platform: Platform, model: str) -> bool:
    """Whether a history was taken in, with the snapshots of all its midnights."""
    offline = platform.offline(model)
    return bool(midnights := _midnights(platform, model)) and all(
        snapshots.snapshot_path(offline, view, at_ms).exists()
        for view in platform.views(model)
        for at_ms in midnights
    )


def _midnights(platform: Platform, model: str) -> range:
    """The midnights whose snapshots training may join to payments of the history."""
    end_ms = platform.offline(model).history_end_ms()
    if end_ms is None:
        return range(0)
    last = -(-end_ms // DAY_MS) * DAY_MS
    definition = platform.definition(model)
    days = definition.training.window_days + definition.label.maturity_days + 1
    return range(last - days * DAY_MS, last + DAY_MS, DAY_MS)


def materialize(platform: Platform, model: str, at_ms: int | None = None) -> dict[str, int]:
    """Bring the offline table up to the log and serve the snapshot of an event-time midnight.

    Args:
        at_ms: the midnight; the last one that has passed in event time where it is None.

    Raises:
        InputInvalid: it is to come in event time, or of recorded payments after their last day:
            its rows would pass for fresh ones until then, and no snapshot between could follow.
    """
    now_ms = platform.clock.event_ms()
    midnight_ms = now_ms // DAY_MS * DAY_MS if at_ms is None else at_ms
    # Recorded time stops at the last payment: its day may be over. Of a day that is not, a snapshot
    # would lack payments, and it is never made again.
    is_over = platform.settings.clock == "replay"
    last_ms = (-(-now_ms // DAY_MS) if is_over else now_ms // DAY_MS) * DAY_MS
    if midnight_ms > last_ms:
        wanted = f"{_day(midnight_ms)} is to come; wanted: {_day(last_ms)} or before"
        raise InputInvalid("at", None, wanted)
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


def _day(midnight_ms: int) -> str:
    return datetime.fromtimestamp(midnight_ms / 1000, UTC).date().isoformat()
