"""Actions on features: import history, make the snapshot of each day, write the folder for Feast's
commands."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

import pyarrow as pa

from mlplatform.decisions.records.port import RecordQuery
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.learning.features import rows, snapshots, unfinished_import
from mlplatform.learning.features.external.columns import ExternalColumns
from mlplatform.learning.features.external.compaction import compact
from mlplatform.learning.features.external.files import TableSource
from mlplatform.learning.features.external.table_import import (
    ImportReport,
    import_table,
    serve_missing,
)
from mlplatform.learning.features.feast_folder import folder as files
from mlplatform.learning.features.feast_folder.registry import registry
from mlplatform.learning.features.feast_values import project_name
from mlplatform.learning.features.pushes.gaps import StreamGap
from mlplatform.learning.training_sets.dataset import window
from mlplatform.learning.training_sets.shortage import (
    FirstDays,
    Holdings,
    short_history,
    shortage,
)
from mlplatform.learning.training_sets.time_order import epoch_ms
from mlplatform.model.bundle import load_bundle
from mlplatform.model.features.views import FeatureView, KeyType, external, request_views
from mlplatform.model.folders import declared_views, views_refused
from mlplatform.model.folds import history_days, training_day_ms
from mlplatform.model.windows.declaration import by_entity
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.serving.names import ServiceName
from mlplatform.runtime.errors import Corrupt, InputInvalid, NotFound, Unavailable
from mlplatform.runtime.times import day_text, iso_second_text
from mlplatform.runtime.units import DAY_MS
from mlplatform.scoring import wiring as scoring_wiring
from mlplatform.scoring.worker.feature_stream import topic_of

log = logging.getLogger(__name__)


def import_history(platform: Platform, model: str, table: pa.Table, source: str) -> int:
    """Import a history, make a snapshot of every midnight that training may join, and build the
    windows; returns the number of rows.

    Later history can be added after the existing history, as long as no request was answered. An
    import that was killed after it had stored its rows is finished by the next one, which must
    bring the same rows; where requests were answered in between, no snapshot that is there is made
    again.

    Raises:
        Refused: requests were answered, or another import is unfinished.
        InputInvalid: a row is wrong; the message names the source, the row and the problem. Nothing
            was imported.
        Busy: the log was sealed meanwhile; the same import finishes it.
    """
    offline = platform.offline(model)
    if not _is_rest(platform, model, table, source):
        _check_may_be_added(platform, model, table, source)
        offline.import_history(table, platform.pseudonym_key(), source)
    if _has_decisions(platform, model):
        _add_snapshots(platform, model)
    else:
        _make_snapshots(platform, model, table)
    build_windows(platform, model)
    offline.finish_history()
    return table.num_rows


def build_windows(platform: Platform, model: str) -> int:
    """Build the state of the model's windows from all known requests; returns the number of tiles.

    Raises:
        Busy: the log was sealed meanwhile; try again.
    """
    # imports the client of Redis
    from mlplatform.learning.features.windows.build import build, build_shared

    offline = platform.offline(model)
    if not offline.definition.windows:
        return 0
    if (windows := platform.shared_windows(model)) is not None:
        with closing(windows):
            return build_shared(windows, offline, platform.log)
    database = platform.settings.home.decisions / DATABASE
    return build(database, offline, platform.log)


def import_external(
    platform: Platform,
    model: str,
    view_name: str,
    source: TableSource,
    *,
    dry_run: bool,
    progress: Callable[[str], None],
) -> ImportReport:
    """Import one of the bank's tables into an external view.

    Raises:
        NotFound: the model has no such external view.
        InputInvalid: a file is wrong; the message names the file, the row and the problem. Nothing
            was imported.
        ConfigInvalid: another folder does not let the model use the view as it would, and the
            champion does not read it yet.
    """
    columns = external_columns(platform, model, view_name)
    _check_purposes(platform, model, view_name)
    offline = platform.offline(model) if dry_run else platform.with_pushes(model)
    parts = offline.external(view_name)
    with ExitStack() as until:
        online = None
        if not dry_run:
            online = platform.online(model)
            until.callback(online.close)
        return import_table(columns, source, parts, online, platform.clock.event_ms, progress)


def _check_purposes(platform: Platform, model: str, view_name: str) -> None:
    for refused in views_refused(declared_views()[model]):
        if refused.view == view_name and view_name not in _champion_views(platform, model):
            raise refused.error()


def _champion_views(platform: Platform, model: str) -> set[str]:
    champion = platform.rollouts.routes(model).champion
    if champion is None:
        return set()
    bundle = load_bundle(platform.bundle(model, champion), champion.bundle, data=False)
    return {view.name for view in bundle.views}


def external_columns(platform: Platform, model: str, view_name: str) -> ExternalColumns:
    """The columns of an external view.

    Raises:
        NotFound: the model has no such external view.
    """
    views = {view.name: view for view in external(platform.views(model))}
    if view_name not in views:
        there = ", ".join(views) or "none; docs/features.md says how to declare one"
        raise NotFound(f"{model} has no external view {view_name!r}; there are: {there}")
    definition, now_ms = platform.definition(model), platform.clock.event_ms()
    return ExternalColumns.of(views[view_name], definition, platform.pseudonym_key(), now_ms)


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """An external view that a topic feeds, and the messages that the topic dropped before they were
    read."""

    view: str
    topic: str
    gaps: Sequence[StreamGap]


def streams(platform: Platform, model: str) -> list[StreamStatus]:
    """Every view of a model that a topic feeds; the call creates no file.

    Raises:
        NotFound: there is no such model.
        Unavailable: pushes are on a server that does not answer.
    """
    has_pushes = scoring_wiring.has_pushes(platform.settings)
    return [
        StreamStatus(view.name, topic, platform.pushes.gaps(model, view.name) if has_pushes else ())
        for view in external(platform.views(model))
        if (topic := topic_of(view)) is not None
    ]


def check_addable(platform: Platform, model: str, table: pa.Table, source: str) -> None:
    """Raises unless this history may be imported now; writes nothing.

    Raises:
        Refused, InputInvalid: for the same reasons as in `import_history`.
    """
    rows.check_history(table, platform.definition(model), source)
    if not _is_rest(platform, model, table, source):
        _check_may_be_added(platform, model, table, source)


@dataclass(frozen=True, slots=True)
class FirstFit:
    """The fit that a history leads to.

    Args:
        as_of_ms: the moment to train as of; None if the present does as well.
        problem: what a training set as of then would lack; empty if it lacks nothing.
        short: why the history is short for a first version; empty if it is not.
    """

    as_of_ms: int | None
    problem: str
    short: str = ""


def first_fit(
    platform: Platform, model: str, table: pa.Table, now_ms: int, *, is_in: bool
) -> FirstFit:
    """The fit that a history leads to, by the check that a retrain makes before it; joins nothing.

    Args:
        table: the last rows of the history.
        is_in: whether the offline table holds these rows already.
    """
    definition, offline = platform.definition(model), platform.offline(model)
    event_ms = epoch_ms(table, "event_time")
    asked_ms = training_day_ms(definition, int(event_ms[-1]), now_ms)
    as_of_ms = now_ms if asked_ms is None else asked_ms
    bounds = window(definition, as_of_ms)
    known = offline.label_counts(bounds.from_ms, bounds.to_ms, as_of_ms)
    past = offline.requests(as_of_ms=as_of_ms)
    ((first_ms,),) = past.aggregate("epoch_ms(min(event_time))").fetchall()
    requests, positives = known.requests, known.positives
    if not (is_in or _is_rest(platform, model, table, model)):
        added = (event_ms >= bounds.from_ms) & (event_ms < bounds.to_ms)
        first_ms = int(event_ms[0]) if first_ms is None else first_ms
        requests += int(added.sum())
        if definition.task == "binary":
            is_known = epoch_ms(table, "label_time") <= as_of_ms
            is_positive = table.column("label").to_numpy() == 1
            positives += int((added & is_known & is_positive).sum())
    held = Holdings(requests, positives)
    problem = shortage(definition, held, FirstDays(first_ms, {}), as_of_ms)
    begins_ms = int(event_ms[0]) if first_ms is None else first_ms
    return FirstFit(
        asked_ms,
        problem,
        short_history(definition, platform.views(model), begins_ms, int(event_ms[-1])),
    )


def feast_folder(platform: Platform, model: str, into: Path | None = None) -> Path:
    """Render the folder for `feast -c` anew; returns its path.

    Args:
        into: the folder to write; None means `feast/`model in the home folder.

    Raises:
        NotFound: the model has neither feature views nor windows.
        Refused: the folder has files with these names that this function did not write.
    """
    settings, definition = platform.settings, platform.definition(model)
    views, keys = platform.views(model), definition.entities
    if not views and not definition.windows:
        raise NotFound(f"{model} has no features: its folder has no features.py, and no windows")
    folder = (into or settings.home.root / "feast" / model).absolute()
    types: dict[str, KeyType] = {
        key: "string" if definition.request[key].type == "string" else "int64"
        for key in keys.values()
    }
    state = files.WindowState(
        model, definition.windows, keys, settings.home.decisions.absolute() / DATABASE
    )
    files.write_folder(
        folder,
        store=files.store_text(
            project_name(model), settings.redis, state if definition.windows else None
        ),
        registry=registry(
            project_name(model),
            views,
            by_entity(definition.windows, keys),
            keys=types,
            owner=definition.owner,
            description=definition.purpose,
            rows=settings.home.offline(model).absolute(),
            made_ms=platform.clock.wall_ms(),
        ),
        online_db=settings.home.online_db if settings.redis is None else None,
    )
    return folder


def _is_rest(platform: Platform, model: str, table: pa.Table, source: str) -> bool:
    """Whether these rows belong to an import that was killed after it had stored them."""
    half = platform.offline(model).unfinished_import()
    if half is None:
        return False
    definition = platform.definition(model)
    table = rows.completed(table, definition)
    rows.check_columns(table.schema, rows.history_schema(definition), source)
    return half.rows == unfinished_import.history_digest(table, definition)


def _check_may_be_added(platform: Platform, model: str, table: pa.Table, source: str) -> None:
    if _has_decisions(platform, model):
        raise unfinished_import.closed_history(model)
    platform.offline(model).check_follows(table, source)


def _make_snapshots(platform: Platform, model: str, table: pa.Table) -> None:
    """Make the snapshots of all midnights from the first added request on, or from the first
    missing snapshot if training now reaches further back. A running platform may have made later
    snapshots without these requests: they are noted in the import's mark, removed and made
    again."""
    offline, views = platform.offline(model), request_views(platform.views(model))
    wanted = _midnights(platform, model)
    there = {view.name: snapshots.snapshot_days(offline, view) for view in views}
    missing = (at_ms for at_ms in wanted if any(at_ms not in days for days in there.values()))
    first = table.column("event_time")[0].as_py().replace(tzinfo=UTC)
    first_ms = min((int(first.timestamp() * 1000) // DAY_MS * DAY_MS, *missing))
    again = offline.note_forgotten(
        at_ms for days in there.values() for at_ms in days if at_ms > first_ms
    )
    snapshots.forget_after(offline, views, first_ms)
    if views:
        snapshots.backfill(offline, views, {*wanted, *again}, platform.online(model))


def _add_snapshots(platform: Platform, model: str) -> None:
    """Make the snapshots after the last one of each view; earlier ones stay, since requests were
    answered from them."""
    offline, online = platform.offline(model), platform.online(model)
    for view in request_views(platform.views(model)):
        last_ms = max(snapshots.snapshot_days(offline, view), default=0)
        behind = [at_ms for at_ms in _midnights(platform, model) if at_ms >= last_ms]
        if behind:
            snapshots.backfill(offline, [view], behind, online)


def _has_decisions(platform: Platform, model: str) -> bool:
    """Whether the log holds a decision of the model."""
    if not (platform.settings.home.decisions / DATABASE).exists():
        return False
    query = RecordQuery(model=model, kinds=("decision",), columns=("decision_id",), limit=1)
    return platform.log.read(query).num_rows > 0


def history_is_whole(platform: Platform, model: str) -> bool:
    """Whether a history was imported, with the snapshots of its midnights and its windows."""
    offline = platform.offline(model)
    return offline.history_end_ms() is not None and offline.unfinished_import() is None


def _midnights(platform: Platform, model: str) -> range:
    """Midnights whose snapshots training may join to requests of the history, in epoch
    milliseconds."""
    end_ms = platform.offline(model).history_end_ms()
    if end_ms is None:
        return range(0)
    last = -(-end_ms // DAY_MS) * DAY_MS
    days = history_days(platform.definition(model))
    return range(last - days * DAY_MS, last + DAY_MS, DAY_MS)


def materialize(platform: Platform, model: str, at_ms: int | None = None) -> dict[str, int]:
    """Bring the offline table up to the log, serve the snapshot of an event-time midnight, and
    serve imported rows that the online store lacks. Many small parts of an imported table become
    one part, without rows older than the view keeps. Returns view → number of rows, and for an
    imported table the number of parts.

    Args:
        at_ms: the midnight in event time, epoch milliseconds; None means the last midnight that has
            passed.

    Raises:
        InputInvalid: the time is no midnight in UTC, or is in the future or, for recorded traffic,
            after the last recorded day. Its rows would pass as fresh until then, and no earlier
            snapshot could follow.
    """
    now_ms = platform.clock.event_ms()
    midnight_ms = now_ms // DAY_MS * DAY_MS if at_ms is None else at_ms
    # Recorded time stops at the last request, so its day may be over. A snapshot of a day that is
    # not over would lack requests, and is never made again.
    is_over = platform.settings.clock == "replay"
    last_ms = (-(-now_ms // DAY_MS) if is_over else now_ms // DAY_MS) * DAY_MS
    if midnight_ms % DAY_MS:
        problem = f"{iso_second_text(midnight_ms)} is not a midnight in UTC; wanted: one, as"
        raise InputInvalid("at", None, f"{problem} {day_text(midnight_ms)}")
    if midnight_ms > last_ms:
        wanted = f"{day_text(midnight_ms)} is in the future; wanted: {day_text(last_ms)} or before"
        raise InputInvalid("at", None, wanted)
    offline = platform.project_offline(model)
    views, online = platform.views(model), platform.online(model)
    done = snapshots.materialize(
        offline, request_views(views), midnight_ms, online, available_ms=max(now_ms, midnight_ms)
    )
    rows = {view: int(count) for view, count in done.rows.items()}
    for view in external(views):
        parts = offline.external(view.name)
        if count := serve_missing(view, parts, online, platform.clock.event_ms):
            rows[view.name] = count
        compact(view, parts, horizon_ms=_horizon_ms(platform, model, view))
    return rows


def _horizon_ms(platform: Platform, model: str, view: FeatureView) -> int | None:
    """Event time (ms) from which a view's rows are kept: that of the first request that training
    may join to it, or that an existing bundle was trained on. None if the view keeps all rows or a
    bundle can't be read."""
    assert view.external is not None
    if view.external.keep_days is None:
        return None
    days = max(view.external.keep_days, history_days(platform.definition(model)))
    horizon_ms = platform.clock.event_ms() - days * DAY_MS
    bundles = platform.settings.home.bundles
    for folder in bundles.glob("[!.]*") if bundles.is_dir() else ():
        if ServiceName.parse(folder.name) is None:  # other folders are Triton's
            try:
                bundle = load_bundle(folder, data=False)
            except Corrupt as error:
                log.warning("old rows of %s were not removed: %s", view.name, error)
                return None
            if bundle.model == model:
                horizon_ms = min(horizon_ms, bundle.data.from_ms)
    if platform.bundles.store is None:
        return horizon_ms
    try:  # bundles that only the store has
        versions = platform.registry.versions(model)
    except Unavailable as error:
        log.warning("old rows of %s were not removed: %s", view.name, error)
        return None
    return min([horizon_ms, *(version.facts.data_from_ms for version in versions)])
