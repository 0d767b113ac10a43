"""Inputs of a table's requests: features as they were readable at each request's event time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlplatform.learning.features.external.point_in_time_join import newest_ms, row_name
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.online import OnlineRow
from mlplatform.learning.features.policy import FeaturePolicies, Gaps
from mlplatform.learning.features.rows import is_missing
from mlplatform.learning.training_sets.join import training_join
from mlplatform.learning.training_sets.memory_join import KeptRows
from mlplatform.model.bundle import Bundle
from mlplatform.model.definition import EVENT_TIME, ModelDefinition
from mlplatform.model.features.views import FeatureSource, FeatureView, external, request_views
from mlplatform.model.inputs import InputPlan
from mlplatform.model.windows.declaration import (
    EntityWindows,
    Window,
    by_entity,
    check_same,
    read_by,
)
from mlplatform.runtime.units import DAY_MS, MINUTE_MS

_CAUSES: Final = (0, 1, 2)
_THERE, _MISSING, _STALE = _CAUSES
_EPOCH: Final = date(1970, 1, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """The model's inputs of some requests.

    Args:
        x: the inputs, float32, rows by inputs.
        kinds: for each request, the position of its gaps in `gaps`.
        gaps: the different combinations of gaps.
        without: for each entry of `gaps`, the views without a valid row.
    """

    x: NDArray[np.float32]
    kinds: NDArray[np.int64]
    gaps: Sequence[Gaps]
    without: Sequence[tuple[str, ...]]


class RowFeatures:
    """Makes inputs of requests as a gateway does, from the offline table.

    Raises:
        ConfigInvalid: the model folder no longer has an input of the bundle.
    """

    def __init__(
        self,
        definition: ModelDefinition,
        views: Sequence[FeatureView],
        bundle: Bundle,
        offline: OfflineTable,
    ) -> None:
        check_same(bundle.windows, definition.windows)
        self._plan = InputPlan(
            definition, views, bundle.inputs, bundle.defaults, bundle.vocabularies
        )
        self._policies = FeaturePolicies(self._plan.sources, self._plan.features)
        self._sources = self._policies.views
        used = read_by(self._plan.features, definition.windows)
        known = map(_request_counts, by_entity(used, definition.entities))
        narrowed = msgspec.structs.replace(definition, windows=(*used, *known))
        self._offline = OfflineTable(offline.folder, narrowed)
        self._kept = KeptRows()
        self._midnights = {v.name: _midnights(offline, v) for v in request_views(self._plan.views)}
        self._external = {v.name: offline.external(v.name) for v in external(self._plan.views)}

    def inputs(self, requests: pa.Table) -> Inputs:
        """
        Args:
            requests: requests in the form of `rows.request_schema`, in any order.

        Raises:
            InputInvalid: late rows would falsify the features.
        """
        if not self._sources or not requests.num_rows:
            nothing = np.zeros(requests.num_rows, np.int64)
            x = self._plan.matrix(_with(requests, self._plan.features))
            return Inputs(x, nothing, [_no_gaps(self._policies, self._sources)], [()])
        joined = training_join(self._offline, self._plan.views, requests, self._kept)
        event_ms = joined.column(EVENT_TIME).cast(pa.int64()).to_numpy() // 1000
        causes = [self._causes(joined, source, event_ms) for source in self._sources]
        kinds, gaps, without = self._grouped(causes)
        return Inputs(self._plan.matrix(joined), kinds, gaps, without)

    def _causes(
        self, joined: pa.Table, source: FeatureSource, event_ms: NDArray[np.int64]
    ) -> NDArray[np.int8]:
        """The state of a view for each request: there, missing, or stale, which means that no
        entity had a valid row. For windows: there was an earlier request of the entity, there was
        none, or the windows are not known."""
        if isinstance(source, EntityWindows):
            count = joined.column(_known_name(source)).to_numpy()  # NaN where there is none
            causes = np.select([np.isnan(count), count == 0], [_STALE, _MISSING], _THERE)
            return causes.astype(np.int8)
        lacks = np.ones(joined.num_rows, np.bool_)
        for name in source.feature_names:
            if name in joined.column_names:
                lacks &= is_missing(joined.column(name))
        if source.name in self._external:
            # A valid row without values counts as a known row, as in a gateway.
            lacks = ~joined.column(row_name(source.name)).to_numpy(zero_copy_only=False)
            fresh = newest_ms(self._external[source.name], event_ms) >= event_ms - source.ttl_ms
            return np.where(lacks, np.where(fresh, _MISSING, _STALE), _THERE).astype(np.int8)
        fresh = np.zeros(joined.num_rows, np.bool_)
        midnights = self._midnights.get(source.name)
        if midnights is not None and len(midnights):
            last = np.searchsorted(midnights, event_ms, side="right") - 1
            fresh = (last >= 0) & (event_ms - midnights[np.maximum(last, 0)] <= source.ttl_ms)
        return np.where(lacks, np.where(fresh, _MISSING, _STALE), _THERE).astype(np.int8)

    def _grouped(
        self, causes: Sequence[NDArray[np.int8]]
    ) -> tuple[NDArray[np.int64], list[Gaps], list[tuple[str, ...]]]:
        # One number for the causes of a row: sorting rows takes longer than the join.
        weights = len(_CAUSES) ** np.arange(len(causes), dtype=np.int64)
        codes = sum(cause * weight for cause, weight in zip(causes, weights, strict=True))
        different, places = np.unique(codes, return_inverse=True)
        gaps, without = [], []
        for code in different.tolist():
            row = (code // weights % len(_CAUSES)).tolist()
            named = dict(zip((s.name for s in self._sources), row, strict=True))
            gaps.append(self._gaps(named))
            without.append(tuple(name for name, cause in named.items() if cause != _THERE))
        return places.astype(np.int64), gaps, without

    def _gaps(self, causes: Mapping[str, int]) -> Gaps:
        times = {name: 0 if cause == _THERE else None for name, cause in causes.items()}
        stale = [name for name, cause in causes.items() if cause == _STALE]
        return self._policies.gaps(OnlineRow({}, times, stale))


def _request_counts(source: EntityWindows) -> Window:
    """A window that counts the entity's requests over the longest reach of its windows."""
    longest = max(source.fields, key=_reach_ms)
    return Window(
        name=_known_name(source),
        entity=source.entity,
        aggregate="count",
        window=f"{_reach_ms(longest) // MINUTE_MS}m",
        resolution=longest.resolution,
    )


def _known_name(source: EntityWindows) -> str:
    """A name with which no declared window begins."""
    return f"_{source.name}"


def _reach_ms(window: Window) -> int:
    return window.length_ms + window.delay_tiles * window.tile_ms


def _with(requests: pa.Table, features: Sequence[str]) -> pa.Table:
    empty: pa.Array[Any] = pa.nulls(requests.num_rows, pa.float64())
    for name in features:
        requests = requests.append_column(name, empty)
    return requests


def _no_gaps(policies: FeaturePolicies, sources: Sequence[FeatureSource]) -> Gaps:
    return policies.gaps(OnlineRow({}, {source.name: 0 for source in sources}))


def _midnights(offline: OfflineTable, view: FeatureView) -> NDArray[np.int64]:
    """Midnights of the view's snapshots in epoch milliseconds, ascending."""
    stems = sorted(path.stem for path in offline.snapshot_folder(view.name).glob("*.parquet"))
    days = [(date.fromisoformat(stem) - _EPOCH).days for stem in stems]
    return np.array(days, np.int64) * DAY_MS
