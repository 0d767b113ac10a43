"""The days on which trials are tested: the last days of those that a model is fitted to."""

from __future__ import annotations

from dataclasses import dataclass

from mlplatform.learning.training_sets.dataset import LabelledRows, TrainingSet
from mlplatform.learning.training_sets.shortage import LEARN, TEST, untrainable_reason
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.policies.search import SearchPolicy
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.units import DAY_MS


@dataclass(frozen=True, slots=True)
class SearchFold:
    """Rows to fit, and later ones to test on."""

    fitted: LabelledRows
    tested: LabelledRows


def search_folds(
    definition: ModelDefinition, dataset: TrainingSet, policy: SearchPolicy
) -> tuple[SearchFold, ...]:
    """Folds of rolling origin within the days to fit, oldest first. They hold none of the held-out
    days, and `maturity_days` lie between fitted and tested rows, as in service.

    Raises:
        InputInvalid: a fold has one label of two alone, lacks a class, or has no label.
    """
    rows, maturity_days = dataset.fitting, definition.label.maturity_days
    found = []
    for number in range(policy.folds):
        later = policy.folds - number
        from_ms = dataset.window.holdout_from_ms - later * policy.fold_days * DAY_MS
        to_ms = from_ms + policy.fold_days * DAY_MS
        until = rows.before(from_ms - maturity_days * DAY_MS)
        fold = SearchFold(
            rows.rows(slice(0, until)).training_rows,
            rows.rows(slice(rows.before(from_ms), rows.before(to_ms))).known,
        )
        for part, use in ((fold.fitted, LEARN), (fold.tested, TEST)):
            if why := untrainable_reason(definition, part, use):
                problem = (
                    f"{why} in fold {number + 1} of the search; raise fold_days, or lower folds"
                )
                raise InputInvalid("training.search", None, problem)
        found.append(fold)
    return tuple(found)
