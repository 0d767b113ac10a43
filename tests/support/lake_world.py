"""A bank's table in a folder, and a view that it is imported into."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec.structs import replace
from tests.support.external_world import BUREAU, T_S, Row, fraud_like

from mlplatform.learning.features.external.columns import ExternalColumns
from mlplatform.learning.features.external.files import TableSource
from mlplatform.learning.features.external.snapshot_rows import SnapshotRows
from mlplatform.learning.features.external.table_import import ImportReport, import_table
from mlplatform.learning.features.external_parts import ExternalParts
from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.model.features.views import FeatureView
from mlplatform.runtime.units import DAY_S

SourceOf = Callable[[ExternalColumns, Path, ExternalParts, int | None], TableSource]
"""The table of a folder at a version."""
NOW_MS: Final = (T_S + 30 * DAY_S) * 1000
FIRST: Final[list[Row]] = [(1, 0, 10, 1.0), (2, 5, 5, 9.0), (3, DAY_S, DAY_S, None)]
MORE: Final[list[Row]] = [(1, 0, 11, 2.0), (4, 0, 0, 3.0)]


class LakeWorld:
    """A table of a Delta or Iceberg folder, and a view that it is imported into."""

    def __init__(
        self, folder: Path, source_of: SourceOf, view: FeatureView = BUREAU, **field: Any
    ) -> None:
        self._source_of = source_of
        self.folder, self.table, self.view = folder, folder / "bureau", view
        self.parts = ExternalParts(folder / "offline" / "bureau")
        definition = fraud_like()
        columns = ExternalColumns.of(view, definition, bytes(32), NOW_MS)
        plain = replace(columns.field, pseudonymous=False, **field)
        self.columns = ExternalColumns(view, plain, bytes(32), NOW_MS)

    def source(self, version: int | None = None) -> SnapshotRows:
        found = self._source_of(self.columns, self.table, self.parts, version)
        assert isinstance(found, SnapshotRows)
        return found

    def take(self, version: int | None = None) -> ImportReport:
        with closing(FeastSqlite(self.folder / "online.db", "fraud", [self.view])) as online:
            source = self.source(version)
            return import_table(self.columns, source, self.parts, online, lambda: NOW_MS)

    def rows(self) -> list[tuple[Any, ...]]:
        """Key, event time and availability (s after T), and features of all imported rows."""
        paths = self.parts.every()
        found = pa.concat_tables(map(pq.read_table, paths)).to_pylist() if paths else []
        names = ("event_timestamp", "created")
        told = [
            (
                row["customer_id"],
                *(int(row[n].replace(tzinfo=None).timestamp()) - T_S for n in names),
                *(row[feature] for feature in self.view.feature_names),
            )
            for row in found
        ]
        return sorted(told, key=repr)


def expected(rows: list[Row]) -> list[tuple[Any, ...]]:
    made = [(*r[:3], r[3], None if r[3] is None else int(r[3])) for r in rows]
    told = [(*row, None if row[3] is None else row[3] > 5) for row in made]
    return sorted(told, key=repr)
