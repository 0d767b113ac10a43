"""The days on which trials are tested: the last days of those that a model is fitted to."""

from __future__ import annotations

from dataclasses import dataclass

from mlplatform.learning.training_sets.dataset import Dataset, LabelledRows
from mlplatform.model.policies.search import SearchPolicy
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.units import DAY_MS


@dataclass(frozen=True, slots=True)
class SearchFold:
    """Rows to fit, and later ones to test on."""

    fitted: LabelledRows
    tested: LabelledRows


def search_folds(
    dataset: Dataset, policy: SearchPolicy, *, maturity_days: int
) -> tuple[SearchFold, ...]:
    """Folds of rolling origin within the days to fit, oldest first. They hold none of the held-out
    days, and `maturity_days` lie between fitted and tested rows, as in service.

    Raises:
        InputInvalid: a fold has one label alone.
    """
    rows = dataset.fitting
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
        for part, use in ((fold.fitted, "fit"), (fold.tested, "test on")):
            if not 0 < (positives := int(part.y.sum())) < len(part):
                problem = (
                    f"{positives} positives among {len(part)} requests to {use} in fold "
                    f"{number + 1} of the search; raise fold_days, or lower folds"
                )
                raise InputInvalid("training.search", None, problem)
        found.append(fold)
    return tuple(found)
