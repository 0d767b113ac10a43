"""Folds in time: fits to earlier days, and their quality on later days."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.snapshots import snapshot_days
from mlplatform.learning.training.candidate import Candidate
from mlplatform.learning.training.evaluate import Runnable
from mlplatform.learning.training.folder import ModelFolder
from mlplatform.learning.training.labelled_evaluation import champion_scores, task_measures
from mlplatform.learning.training_sets.dataset import (
    LabelledRows,
    TrainingSet,
    any_matrix,
    label_rows,
)
from mlplatform.learning.training_sets.port import TrainingJoin
from mlplatform.learning.training_sets.shortage import CALIBRATE, LEARN, untrainable_reason
from mlplatform.learning.validation.fold_gate import FoldFinding
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.features.views import request_views
from mlplatform.model.folds import Fold
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.times import day_text
from mlplatform.runtime.units import DAY_MS


def fold_problem(folder: ModelFolder, offline: OfflineTable, fold: Fold) -> str:
    """Why the history holds too little for a fold; empty if it holds enough."""
    known = offline.requests(0, fold.to_ms, as_of_ms=fold.as_of_ms)
    first = known.aggregate("epoch_ms(min(event_time))").fetchall()[0][0]
    if first is None or first >= fold.from_ms + DAY_MS:
        days = -(-(fold.as_of_ms - fold.from_ms) // DAY_MS)
        return (
            f"requests are known from {_day(first)} on, but {days} days before the fold are "
            "wanted; wait, import an older history, or lower training.folds"
        )
    for view in request_views(folder.views):
        snapshots = snapshot_days(offline, view)
        if not snapshots or min(snapshots) > fold.from_ms:
            return (
                f"the first snapshot of {view.name} is of {_day(min(snapshots, default=None))}, "
                f"but one of {_day(fold.from_ms)} is wanted; import the history again, or lower "
                "training.folds"
            )
    return ""


def untrainable_fold_reason(definition: ModelDefinition, dataset: TrainingSet) -> str:
    """Why nothing can be fitted to the days of a fold; empty if something can."""
    return untrainable_reason(
        definition, dataset.fitting.training_rows, LEARN
    ) or untrainable_reason(definition, dataset.calibrating.training_rows, CALIBRATE)


def later_rows(
    folder: ModelFolder,
    offline: OfflineTable,
    fold: Fold,
    *,
    as_of_ms: int,
    champion: Runnable | None,
    join: TrainingJoin,
) -> LabelledRows:
    """The requests of a fold's test days, with the labels and voids known at `as_of_ms`."""
    definition, views = folder.definition, folder.views
    most_rows = definition.training.maximum_rows
    sample = offline.sample_of(fold.as_of_ms, fold.to_ms, most_rows, as_of_ms)
    known = offline.labelled_requests(fold.as_of_ms, fold.to_ms, as_of_ms, sample)
    table = join(offline, views, known)
    also = champion.bundle.inputs if champion else ()
    words = champion.bundle.vocabularies if champion else {}
    matrix = any_matrix(definition, views, table, also, words)
    return label_rows(matrix, table, definition, as_of_ms)[0]


def tested_fold(
    definition: ModelDefinition,
    fold: Fold,
    fitted: Candidate,
    dataset: TrainingSet,
    tested: LabelledRows,
    *,
    champion: Runnable | None,
    seed: int,
) -> FoldFinding:
    """The quality of a fold's fit on its test days, beside the champion on the same rows.

    Args:
        dataset: the rows that it was fitted to.
        tested: rows of the test days, as `later_rows` returns them.
    """
    days = tested.share(fitted.customers).known
    own = Runnable(fitted.bundle, fitted.model)
    other, is_binary = None, definition.task == "binary"
    if champion is not None and len(days) and not is_binary:
        other = champion_scores(champion, days, own.bundle.scale)
    elif champion is not None and len(days):
        with suppress(InputInvalid):  # an input of the champion is no longer computed
            other = champion.bundle.calibrate_many(champion.raw(days))
    scores = own.bundle.calibrate_many(own.raw(days)) if len(days) else days.y.astype(float)
    is_unseen = champion is not None and fold.as_of_ms >= champion.bundle.data.holdout_from_ms
    return FoldFinding(
        number=fold.number,
        from_ms=fold.as_of_ms,
        to_ms=fold.to_ms,
        fitted=len(dataset.fitting.training_rows),
        rows=len(days),
        positives=int(days.y.sum()) if is_binary else len(days),
        units=len(np.unique(days.matrix.unit)),
        is_unseen=is_unseen and other is not None,
        measures=task_measures(definition, scores, days, other, seed=seed),
    )


def _day(epoch_ms: int | None) -> str:
    return "no day" if epoch_ms is None else day_text(epoch_ms)
