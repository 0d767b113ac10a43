"""Erasure of an entity's rows of an external view from every store of the platform."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlplatform.learning.features.external.table_import import GROUP_ROWS
from mlplatform.learning.features.external_parts import ExternalParts
from mlplatform.learning.features.online import OnlineWriter
from mlplatform.learning.features.pushes.journal import KeptPush, Pushes
from mlplatform.learning.features.pushes.serving import serve
from mlplatform.learning.features.pushes.sql import PAGE
from mlplatform.model.features.views import FeatureView
from mlplatform.runtime.storage.files import sync

GIVEN_S: Final = 3.0
"""Seconds for which a gateway that has just stored a push is left to serve it itself."""
POLL_S: Final = 0.1
Keys = Set[int | str]
IsAbout = Callable[[int | str], bool]
"""Function that tells whether a stored key is about somebody."""


@dataclass(frozen=True, slots=True)
class ViewStores:
    """The stores of a model's view.

    Args:
        pushes: the journal of pushes; None if nothing was ever pushed here.
    """

    model: str
    view: FeatureView
    pushes: Pushes | None
    parts: ExternalParts
    online: OnlineWriter

    def kept(self, keys: Keys, *, unserved: bool = False) -> Iterator[KeptPush]:
        """Pushes in the journal that have rows of these entities."""
        for kept in _pushes(self, unserved=unserved):
            if any(row.key in keys for row in kept.push.rows):
                yield kept


class RowCounts(msgspec.Struct, frozen=True):
    """The number of an entity's rows in each store.

    Args:
        journal: rows of pushes that training's table does not have yet.
        table: rows of imports, and of pushes that training's table has.
        online: rows that requests read: 0 or 1 for each entity.
    """

    journal: int = 0
    table: int = 0
    online: int = 0


def known_keys(stores: ViewStores, is_about: IsAbout) -> set[int | str]:
    """The keys in journal and table that are about somebody."""
    found = {row.key for kept in _pushes(stores) for row in kept.push.rows if is_about(row.key)}
    for path in stores.parts.files():
        for batch in _batches(path, [stores.view.join_key]):
            listed: list[Any] = batch.column(0).unique().to_pylist()
            found |= {key for key in listed if is_about(key)}
    return found


def rows_of(stores: ViewStores, keys: Keys, at_ms: int) -> RowCounts:
    """The number of rows of these entities; nothing is written.

    Args:
        at_ms: event time of the read. The online store's row counts, however old it is.
    """
    pushed = sum(row.key in keys for kept in stores.kept(keys) for row in kept.push.rows)
    table = sum(_count(stores.view, path, keys) for path in stores.parts.files())
    return RowCounts(pushed, table, sum(_is_served(stores, key, at_ms) for key in keys))


def erase_rows(
    stores: ViewStores,
    whose: Keys | IsAbout,
    clock_ms: Callable[[], int],
    before: Callable[[], None] | None = None,
) -> RowCounts:
    """Remove the rows of these entities from journal, table and online store. Returns their number.

    If it is killed between two steps, the next call does the rest. Imports and other readers of the
    journal wait meanwhile; a running import is waited for. Other rows, and the time from which they
    count, stay as they are. Rows that come later are not erased. A gateway that is writing such a
    row to the online store is refused, however slow it is.

    Args:
        whose: the entities' keys, or a function that recognises them among `known_keys`, which are
            read once imports have ended.
        before: called before the first row is removed, if there is any row.

    Raises:
        Unavailable: a store does not answer; call again.
    """
    view = stores.view
    with stores.parts.building() as building:
        keys = known_keys(stores, whose) if callable(whose) else whose
        if not keys:
            return RowCounts()
        if before is not None and rows_of(stores, keys, clock_ms()) != RowCounts():
            before()
        _serve_first(stores, keys, clock_ms)
        # from here on, the journal has all pushes as served, and the fence stops earlier readers
        online = stores.online.remove(view.name, keys)
        pushes = stores.pushes
        journal = 0 if pushes is None else pushes.erase(stores.model, view.name, keys)
        table = sum(
            _without(view, path, keys, building / path.name) for path in stores.parts.files()
        )
    return RowCounts(journal, table, online)


def _serve_first(stores: ViewStores, keys: Keys, clock_ms: Callable[[], int]) -> None:
    """Make sure that no gateway is about to serve such a row. A push that is served is not given to
    the online store again, even if its client sends it again."""
    until_s = time.monotonic() + GIVEN_S
    while any(stores.kept(keys, unserved=True)) and time.monotonic() < until_s:
        time.sleep(POLL_S)
    for kept in stores.kept(keys, unserved=True):
        assert stores.pushes is not None
        serve(stores.pushes, stores.view, kept, stores.online, clock_ms)


def _pushes(stores: ViewStores, *, unserved: bool = False) -> Iterator[KeptPush]:
    after = 0
    while stores.pushes is not None:
        page = stores.pushes.waiting(
            stores.model, stores.view.name, after=after, most=PAGE, unserved=unserved
        )
        if not page:
            return
        yield from page
        after = page[-1].number


def _is_served(stores: ViewStores, key: int | str, at_ms: int) -> bool:
    found = stores.online.read({stores.view.entity: key}, at_ms)
    return found.times[stores.view.name] is not None or stores.view.name in found.stale


def _count(view: FeatureView, path: Path, keys: Keys) -> int:
    return sum(int(pc.sum(_is_of(batch, view, keys)).as_py() or 0) for batch in _batches(path))


def _without(view: FeatureView, path: Path, keys: Keys, draft: Path) -> int:
    """Replace a part by one without the rows of these entities, by one rename; a reader that has it
    open reads the old one to its end. Returns the number of rows removed; 0 leaves the part as it
    is."""
    count = _count(view, path, keys)
    if not count:
        return 0
    with pq.ParquetWriter(draft, pq.read_schema(path), compression="zstd") as writer:
        for batch in _batches(path):
            writer.write_batch(batch.filter(pc.invert(_is_of(batch, view, keys))))
    sync(draft)
    os.rename(draft, path)
    sync(path.parent)
    return count


def _batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError:
        return  # the part was replaced earlier and removed just now: another part has its rows
    with file:
        yield from file.iter_batches(GROUP_ROWS, columns=columns)


def _is_of(batch: pa.RecordBatch, view: FeatureView, keys: Collection[int | str]) -> pa.Array[Any]:
    column = batch.column(view.join_key)
    return pc.is_in(column, value_set=pa.array(list(keys), column.type))
