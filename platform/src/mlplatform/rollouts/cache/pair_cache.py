"""The labels of a shadow phase, kept in a file to which each pass adds the new records of the log.

The file follows from the log and may be deleted at any time; then all is read again, in portions. A
portion is one transaction, so that a pass that is killed leaves the file as it was before or after
it. The file covers the records up to a number of each writer, and one event time. If less of either
is asked for, the file is made again.
"""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path
from typing import Final

from mlplatform.decisions.records.last_labels import label_columns
from mlplatform.decisions.records.port import DecisionLog, RecordQuery
from mlplatform.rollouts.cache import pair_counts, pairs
from mlplatform.rollouts.cache.files import file_of, folder_lock, with_file
from mlplatform.rollouts.cache.pair_outcomes import PairAges, classes_of, numbers_of, outcomes_of
from mlplatform.rollouts.cache.portions import PORTION, common_positions, next_portion, up_to
from mlplatform.rollouts.verdicts.basis import LabelledRequests, OutcomeBasis
from mlplatform.rollouts.verdicts.facts import COLUMNS
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.storage import sqlite

FORMAT: Final = 2
"""Version of the file's content and its form; another number starts new files."""


def shadow_outcomes(
    folder: Path, log: DecisionLog, model: str, basis: OutcomeBasis, *, portion: int = PORTION
) -> LabelledRequests:
    """Outcomes of the requests that a version and its champion both scored in shadow. Only records
    and labels that were not read before are read.

    Args:
        folder: folder of the files, one for each model and generation; it is created at first use.

    Raises:
        Unavailable: the log or the file can't be read or written now.
    """
    identified = [basis.version, basis.hides, basis.explores, basis.task, basis.step_ms]
    identity = digest([FORMAT, *identified])[:8]
    with folder_lock(folder / model):
        return with_file(
            file_of(folder / model, "pairs", basis.generation, identity),
            pairs.TABLES,
            fits=partial(_fits, basis=basis),
            work=partial(_read, log=log, model=model, basis=basis, portion=portion),
        )


def _fits(db: sqlite3.Connection, basis: OutcomeBasis) -> bool:
    state = pairs.load(db)
    return state.now_ms <= basis.now_event_ms and all(
        seq <= basis.marks.get(writer, 0) for writer, seq in state.position.items()
    )


def _read(
    db: sqlite3.Connection, log: DecisionLog, model: str, basis: OutcomeBasis, portion: int
) -> LabelledRequests:
    state = pairs.load(db)
    with sqlite.transaction(db):
        pairs.pass_time(db, state, basis)
        pairs.save(db, state)
    while _add_records(db, log, model, basis, portion):
        pass
    while _add_labels(db, log, model, basis, portion):
        pass
    return _outcomes(db, basis)


def _outcomes(db: sqlite3.Connection, basis: OutcomeBasis) -> LabelledRequests:
    with sqlite.transaction(db):
        state = pairs.load(db)
        delays = pair_counts.read_delays(db, 0), pair_counts.read_delays(db, 1)
        ages = PairAges.of(pair_counts.read_ages(db), delays, basis)
        is_labelled_after = partial(pairs.is_labelled_after, db, until_ms=basis.now_event_ms)
        if basis.task == "classes":
            return classes_of(ages, state.sums.of_units, is_labelled_after)
        if basis.task == "real":
            return numbers_of(ages, pairs.read_pairs(db), state.writers, is_labelled_after)
        telling = partial(pair_counts.read_telling, db, state.sums, basis)
        found = outcomes_of(ages, telling, state.writers, is_labelled_after)
        pairs.save(db, state)
        return found


def _add_records(
    db: sqlite3.Connection, log: DecisionLog, model: str, basis: OutcomeBasis, portion: int
) -> bool:
    """Store the next records and voids. Returns whether there may be more."""
    with sqlite.transaction(db):
        state = pairs.load(db)
        if state.position == basis.marks:
            return False
        columns = (*COLUMNS, "payload") if basis.explores else COLUMNS
        records, full = next_portion(
            log,
            RecordQuery(
                model=model, kinds=("decision", "shadow"), generation=basis.generation,
                after=state.position, limit=portion, columns=columns,
            ),
        )  # fmt: skip
        named = ("writer", "seq", "decision_id")
        voids, voids_full = next_portion(
            log,
            RecordQuery(
                model=model, kinds=("void",), after=state.position, limit=portion, columns=named
            ),
        )
        state.position = common_positions(basis.marks, full, voids_full)
        voided = {str(i) for i in up_to(voids, state.position)["decision_id"].to_pylist()}
        pairs.add_records(db, state, up_to(records, state.position), voided, basis)
        pairs.save(db, state)
    return bool(full or voids_full)


def _add_labels(
    db: sqlite3.Connection, log: DecisionLog, model: str, basis: OutcomeBasis, portion: int
) -> bool:
    """Store the next labels. Returns whether there may be more."""
    with sqlite.transaction(db):
        state = pairs.load(db)
        if state.first_ms is None or state.labels == basis.marks:
            return False
        labels, full = next_portion(
            log,
            RecordQuery(
                model=model, kinds=("label",), from_ms=state.first_ms, after=state.labels,
                limit=portion, columns=("writer", *label_columns(basis.task)),
            ),
        )  # fmt: skip
        state.labels = common_positions(basis.marks, full)
        pairs.add_labels(db, state, up_to(labels, state.labels), basis)
        pairs.save(db, state)
    return bool(full)
