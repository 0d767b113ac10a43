"""The check, before anything is fitted, that a training set holds enough for a model to pass; an
import makes it too, by counts alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from mlplatform.learning.training_sets.dataset import Dataset, window
from mlplatform.model.definition import ModelDefinition
from mlplatform.runtime.times import day_text
from mlplatform.runtime.units import DAY_MS


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


def holdings(definition: ModelDefinition, dataset: Dataset) -> Holdings:
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
