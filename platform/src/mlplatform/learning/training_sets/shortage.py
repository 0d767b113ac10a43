"""The check, before anything is fitted, that a training set holds enough for a model to pass; an
import makes it too, by counts alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Final, NamedTuple

import numpy as np

from mlplatform.learning.training_sets.dataset import LabelledRows, TrainingSet, window
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.features.views import FeatureView
from mlplatform.runtime.times import day_text
from mlplatform.runtime.units import DAY_MS

LEARN: Final = "learn from"
CALIBRATE: Final = "calibrate with"
TEST: Final = "test on"
SPARSE_DAYS: Final = 3
"""Days of a window in which most entities have made a request."""


class FirstDays(NamedTuple):
    """Where the known past begins, epoch milliseconds; None where there is nothing.

    Args:
        request_ms: event time of the first request.
        snapshot_ms: feature view → the midnight of its first snapshot.
    """

    request_ms: int | None
    snapshot_ms: Mapping[str, int | None]


class Holdings(NamedTuple):
    """Counts of a training set.

    Args:
        requests: their number.
        positives: the number of those with label 1; counted for a task with such labels only.
        blind: watched inputs without a value on the held-out days; none where nothing is joined.
    """

    requests: int
    positives: int
    blind: tuple[str, ...] = ()


def holdings(definition: ModelDefinition, dataset: TrainingSet) -> Holdings:
    """The counts of a training set with joined inputs."""
    matrix = dataset.holdout.matrix
    watched = [name for name in definition.drift.inputs if name in matrix.names]
    missing = np.isnan(matrix.columns(watched))
    blind = tuple(name for i, name in enumerate(watched) if missing[:, i].all())
    is_binary = definition.task == "binary"
    positives = int(dataset.rows.training_rows.y.sum()) if is_binary else 0
    return Holdings(len(dataset.rows), positives, blind)


def shortage(definition: ModelDefinition, held: Holdings, first: FirstDays, as_of_ms: int) -> str:
    """Describe what the training set as of a moment lacks, with the days that would do; empty if a
    model can be fitted to it and judged.

    It lacks something where it has fewer requests or positives than model.yaml wants, or where a
    watched input has no value on the held-out days.
    """
    lacking = "; ".join(_lacking(definition, held))
    if not lacking:
        return ""
    bounds, policy = window(definition, as_of_ms), definition.training
    days = f"the {policy.window_days} days (training.window_days) from {day_text(bounds.from_ms)}"
    begins, at_ms = _begins(first, bounds.from_ms)
    wanted = f"wanted: {days} on, whose labels matured by {day_text(as_of_ms)}"
    if not begins:
        remedy = "wait for more requests, train as of another day, or lower what is wanted"
        return f"{lacking}; {wanted}; {remedy} in model.yaml"
    first_day_ms = -(-at_ms // DAY_MS) * DAY_MS
    could_ms = first_day_ms + (policy.window_days + definition.label.maturity_days) * DAY_MS
    later = f"train as of {day_text(could_ms)} or later (--as-of), with the requests until then"
    older = "or import the longer history into another home (MLPLATFORM_HOME=FOLDER)"
    return f"{lacking}; {begins}; {wanted}; {later}, {older}"


def short_history(
    definition: ModelDefinition, views: Sequence[FeatureView], first_ms: int, last_ms: int
) -> str:
    """Describe why a history is too short for a first version's features, roughly and before
    anything is joined; empty if it is long enough.

    A feature has no value for requests before the time that its delay leaves out, and few values in
    its window's first days. A training set with too many of those is refused by its gates.

    Args:
        first_ms, last_ms: event times of the first and the last request.
    """
    most, reaches = definition.gates.missing_share, _reaches(definition, views)
    days = last_ms // DAY_MS - first_ms // DAY_MS + 1
    name = max(reaches, key=lambda n: reaches[n].blind_days, default="")
    if not name or (share := _blind_share(definition, reaches[name], days)) <= most:
        return ""
    enough = next(n for n in count(days) if _blind_share(definition, reaches[name], n) <= most)
    begins, ends = reaches[name].delay_days, reaches[name].delay_days + reaches[name].window_days
    return (
        f"it has {days} days, and {name} looks {begins:g} to {ends:g} days back: about {share:.0%}"
        f" of the requests to learn from would have no value of it (at most {most:.0%}:"
        f" gates.missing_share). Bring {enough} days or more; earlier days can't be added later,"
        " but imported into another home (MLPLATFORM_HOME=FOLDER)"
    )


class _Reach(NamedTuple):
    """The days before a request at which a feature's window ends and the days that it has."""

    delay_days: float
    window_days: float

    @property
    def blind_days(self) -> float:
        """Days of a history until most entities have a value."""
        return self.delay_days + min(self.window_days, SPARSE_DAYS)


def _blind_share(definition: ModelDefinition, reach: _Reach, days: int) -> float:
    """The share of a training set without a value, for a history of so many days."""
    matured = max(days - definition.label.maturity_days, 1)
    learned = min(matured, definition.training.window_days)
    return min(max(reach.blind_days - (matured - learned), 0.0) / learned, 1.0)


def _reaches(definition: ModelDefinition, views: Sequence[FeatureView]) -> dict[str, _Reach]:
    """Input → the reach of its feature; of a ratio, of the one of its windows that ends earlier.
    A feature with a default is never without a value."""
    own = {
        w.name: _Reach(w.delay_tiles * w.tile_ms / DAY_MS, w.tiles * w.tile_ms / DAY_MS)
        for w in definition.windows
        if w.tile_ms
    }
    ratios = {
        w.name: max((own[of] for of in (w.of, w.to) if of in own), default=_Reach(0, 0))
        for w in definition.windows
        if not w.tile_ms
    }
    daily = {
        field.name: _Reach(field.delay_days, field.window_days)
        for view in views
        if view.external is None
        for field in view.fields
    }
    every = {**own, **ratios, **daily}
    defaults = {window.name: window.default for window in definition.windows}
    defaults |= {field.name: field.default for view in views for field in view.fields}
    read = (spec.name for spec in definition.inputs if spec.kind in ("view", "window"))
    return {name: every[name] for name in read if name in every and defaults[name] is None}


def _lacking(definition: ModelDefinition, held: Holdings) -> Iterator[str]:
    policy = definition.training
    if held.requests < policy.minimum_rows:
        yield f"{held.requests} requests; wanted: {policy.minimum_rows} (training.minimum_rows)"
    if definition.task == "binary" and held.positives < policy.minimum_positives:
        least = f"{policy.minimum_positives} (training.minimum_positives)"
        yield f"{held.positives} positives; wanted: {least}"
    if held.blind:
        yield f"no value of {', '.join(held.blind)} on the held-out days"


def _begins(first: FirstDays, from_ms: int) -> tuple[str, int]:
    """The beginnings that are later than the training set's, in words, and the latest of these
    times; empty if everything reaches back far enough."""
    late, at_ms = list[str](), from_ms
    if first.request_ms is not None and first.request_ms >= from_ms + DAY_MS:
        late.append(f"requests begin {day_text(first.request_ms)}")
        at_ms = first.request_ms
    for view, begin_ms in first.snapshot_ms.items():
        if begin_ms is not None and begin_ms > from_ms:
            late.append(f"snapshots of {view} begin {day_text(begin_ms)}")
            at_ms = max(at_ms, begin_ms)
    return ", ".join(late), at_ms


def untrainable_reason(definition: ModelDefinition, days: LabelledRows, use: str) -> str:
    """Why these rows are too few for a use: nothing can be learned from them, or be told by them;
    empty where something can.

    Args:
        use: `LEARN`, or another one, for which a class may be lacking: nothing is fitted then.
    """
    if definition.task == "binary":
        positives = int(days.y.sum())
        found = 0 < positives < len(days)
        return "" if found else f"{positives} positives among {len(days)} requests to {use}"
    if not len(days):
        return f"no labelled request to {use}"
    if use != LEARN:
        return ""
    there = {*days.y.tolist()} if definition.classes else set()
    lacking = [name for place, name in enumerate(definition.classes) if place not in there]
    return f"no request of class {', '.join(lacking)} to {use}" if lacking else ""
