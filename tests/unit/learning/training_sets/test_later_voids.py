"""A training set as of a time stays as it was, whatever is voided afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.unit.learning.features.test_features_offline import MemoryLog, decision, label, void

from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.training import retrain
from mlplatform.learning.training.folder import load_folder
from mlplatform.learning.training.folds import fold_problem, later_rows
from mlplatform.learning.training_sets.dataset import rows_digest
from mlplatform.learning.training_sets.join import training_join
from mlplatform.model.folds import Fold
from mlplatform.runtime.units import DAY_MS, HOUR_MS

FOLDER = load_folder("fraud")
POLICY = FOLDER.definition.training
MATURITY_DAYS = FOLDER.definition.label.maturity_days
BEGIN_MS = 20_000 * DAY_MS
DAYS = POLICY.window_days + MATURITY_DAYS + 4
AS_OF_MS = BEGIN_MS + (POLICY.window_days + MATURITY_DAYS) * DAY_MS
END_MS = BEGIN_MS + DAYS * DAY_MS
VOIDED = (0, 1, 20, 4 * POLICY.window_days - 2, 4 * POLICY.window_days + 2)
"""Numbers of payments, four a day: of the days to fit, held out, and not matured."""


@pytest.fixture
def log() -> MemoryLog:
    made = MemoryLog()
    for number in range(4 * DAYS):
        at_ms = BEGIN_MS + number * 6 * HOUR_MS
        made.add(decision(number, event_ms=at_ms, customer_id=-1 - number % 5))
        made.add(label(number, int(number % 4 == 0), arrives_ms=at_ms + DAY_MS))
    return made


def known(offline: OfflineTable, as_of_ms: int) -> tuple[int, str, int, str]:
    """How many requests a retrain as of a time fits and replays, with digests of them."""
    given = {"as_of_ms": as_of_ms, "champion": None, "join": training_join}
    built = retrain.build_dataset(FOLDER, offline, **given)
    recent = retrain.recent_requests(FOLDER, offline, **given)
    assert recent is not None
    replayed = rows_digest(recent.matrix, np.zeros(0))
    return len(built.rows), built.digest, len(recent.matrix), replayed


def test_a_later_void_changes_no_training_set_as_of_an_earlier_time(
    tmp_path: Path, log: MemoryLog
) -> None:
    offline = OfflineTable(tmp_path, FOLDER.definition)
    offline.project(log)
    before = known(offline, AS_OF_MS)
    log.add(*(void(number, AS_OF_MS + DAY_MS) for number in VOIDED))
    offline.project(log)

    assert known(offline, AS_OF_MS) == before
    found = known(offline, AS_OF_MS + DAY_MS)
    # both have moved on by a day, behind the first two of them
    assert (before[0] - found[0], before[2] - found[2]) == (3, 2)


def test_a_void_counts_at_its_own_time(tmp_path: Path, log: MemoryLog) -> None:
    offline = OfflineTable(tmp_path, FOLDER.definition)
    offline.project(log)
    rows, digest, replayed, other = known(offline, AS_OF_MS)
    log.add(*(void(number, AS_OF_MS) for number in VOIDED))
    offline.project(log)

    found = known(offline, AS_OF_MS)
    assert (rows - found[0], replayed - found[2]) == (4, 2)
    assert found[1] != digest
    assert found[3] != other


def test_a_fold_is_tested_on_what_was_not_void_when_it_is_judged(
    tmp_path: Path, log: MemoryLog
) -> None:
    fold = Fold(1, BEGIN_MS, AS_OF_MS, AS_OF_MS + 2 * DAY_MS)
    number = (AS_OF_MS - BEGIN_MS) // (6 * HOUR_MS)
    log.add(*(void(number + n, END_MS) for n in (1, 5)))
    offline = OfflineTable(tmp_path, FOLDER.definition)
    offline.project(log)

    def tested(as_of_ms: int) -> int:
        given = {"as_of_ms": as_of_ms, "champion": None, "join": training_join}
        return len(later_rows(FOLDER, offline, fold, **given))

    assert (tested(END_MS - 1), tested(END_MS)) == (8, 6)


def test_a_fold_has_the_history_that_was_there_at_its_own_time(
    tmp_path: Path, log: MemoryLog
) -> None:
    """The payments of the first two days are voided, which is later than the first fold."""
    offline = OfflineTable(tmp_path, FOLDER.definition)
    log.add(*(void(number, AS_OF_MS + 1) for number in range(8)))
    offline.project(log)
    lacking = "requests are known from"
    assert lacking not in fold_problem(FOLDER, offline, Fold(1, BEGIN_MS, AS_OF_MS, END_MS))
    later = Fold(2, BEGIN_MS, AS_OF_MS + DAY_MS, END_MS)
    assert lacking in fold_problem(FOLDER, offline, later)
