"""Decisions of a version on rows, their reasons, and the columns in which they are stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlplatform.model.bundle import MODEL_FILE, Bundle
from mlplatform.model.scorecard import SmallScorer
from mlplatform.model.weights.data_files import data_of
from mlplatform.operations.tables.plan import SHOWN_ERRORS, RowError
from mlplatform.operations.tables.row_features import Inputs
from mlplatform.scoring.arms.reasons import (
    NotExplained,
    codes,
    ordinary_row,
    reason_inputs,
    tree_shap,
    vector_places,
    without_each,
)
from mlplatform.scoring.predictor.model import scorer
from mlplatform.scoring.predictor.providers import Accelerator, hardware
from mlplatform.scoring.request.prediction import DEFAULT_REASON, STALE_REASON, without_model

CALL_ROWS: Final = 8_192
THREADS: Final = 2
"""Number of threads that score, and then explain: one explanation takes as long as scoring 250
rows. ONNX Runtime holds no interpreter lock meanwhile."""
EXPLAINED_ROWS: Final = 32
"""Alerts that a thread takes at a time, so that none waits for another that had slower ones."""
ANSWERED: Final = ("model", "small_model", "rules", "default")
NOBODY: Final = -1
_COLUMNS: Final[list[pa.Field[Any]]] = [
    pa.field("row", pa.int64(), nullable=False),
    pa.field("request_id", pa.string()),
    pa.field("score", pa.float64()),
    pa.field("decision", pa.string()),
    pa.field("answered_by", pa.string()),
    pa.field("degraded", pa.bool_(), nullable=False),
    pa.field("reasons", pa.list_(pa.string()), nullable=False),
    pa.field("reasons_omitted", pa.string()),
    pa.field("without_features", pa.list_(pa.string()), nullable=False),
    pa.field("error", pa.string()),
]
REPEATED: Final = (
    *("decision", "answered_by", "reasons_omitted"),
    *("reasons.list.element", "without_features.list.element"),
)
"""Columns of few values, which are dictionary-encoded in the file."""
RESULTS: Final = pa.schema(_COLUMNS)
"""Schema of the results: one row for each input row, in its order.

`row` is its place in the input's file, from 0. `score` is calibrated, 0 to 1, or a number in the
model's unit; `decision` an outcome of the bundle, by `answered_by`; `reasons` are codes, strongest
first, of alerts alone; `without_features` are views without a valid row. A row with an `error` has
neither score nor decision.
"""


@dataclass(frozen=True, slots=True, eq=False)
class BlockDecisions:
    """Decisions on the requests of a block; `NOBODY` in `decisions` marks a row with an error.

    `failed` are those that the model gave no number for.
    """

    inputs: Inputs
    raw: NDArray[np.float64]
    scores: NDArray[np.float64]
    decisions: NDArray[np.int8]
    answered_by: NDArray[np.int8]
    failed: NDArray[np.bool_]
    reasons: Mapping[int, Sequence[str]]
    omitted: Mapping[int, str]
    problems: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of a partition's rows."""

    decisions: Mapping[str, int]
    answered_by: Mapping[str, int]
    errors: int
    first_errors: tuple[RowError, ...]
    without_features: Mapping[str, int]


class RowDecisions:
    """Decides as a gateway does for a champion, without a time limit.

    Args:
        safe: the decision if nothing can decide.

    Raises:
        Refused: this machine lacks the accelerator.
        Corrupt: ONNX Runtime does not accept a graph of the bundle.
    """

    def __init__(
        self, bundle: Bundle, folder: Path, *, safe: str, accelerator: Accelerator = "cpu"
    ) -> None:
        self._bundle, self._scale = bundle, bundle.scale
        data, classes = data_of(folder, bundle.files), bundle.classes
        path = folder / MODEL_FILE
        self._score = scorer(path, hardware(accelerator), bundle.tensors, data, classes=classes)
        self._tree_shap = tree_shap(bundle, folder)
        self._ordinary, self._vectors = ordinary_row(bundle), vector_places(bundle)
        self._reasons = reason_inputs(bundle)
        self._small = SmallScorer.of(bundle)
        self._names = bundle.scale.names
        self._safe = safe

    def scored(self, inputs: Inputs) -> BlockDecisions:
        """Decide each row: by the model if its features allow it, else by a fallback. Alerts get
        reasons.

        A row that may not be answered has a problem.
        """
        count = len(inputs.x)
        raw = np.full(self._shape(count), np.nan)
        decisions = np.full(count, NOBODY, np.int8)
        answered_by = np.zeros(count, np.int8)
        refused, withheld = (
            np.array([is_so(gap) for gap in inputs.gaps], np.bool_)[inputs.kinds]
            for is_so in (lambda gap: bool(gap.refused), lambda gap: gap.withheld)
        )
        asked = np.flatnonzero(~(refused | withheld))
        together = len(asked) == count  # if so, the rows need not be copied

        def score(start: int) -> None:
            rows = asked[start : start + CALL_ROWS]
            x = inputs.x[start : start + CALL_ROWS] if together else inputs.x[rows]
            raw[rows] = self._score(x)

        with ThreadPoolExecutor(THREADS, "scores") as threads:
            list(threads.map(score, range(0, len(asked), CALL_ROWS)))
        scores = self._bundle.calibrate_many(raw)
        x = inputs.x if together else inputs.x[asked]
        decisions[asked] = self._bundle.decide_many(scores[asked], x)
        probabilities = raw
        if self._bundle.classes:  # the probability of the decided class is stored
            raw = scores = self._bundle.decider.certainty(raw)
        problems = {
            row: f"no {', '.join(inputs.gaps[inputs.kinds[row]].refused)}: model.yaml refuses it"
            for row in np.flatnonzero(refused).tolist()
        }
        reasons: dict[int, Sequence[str]] = {}
        failed = np.zeros(count, np.bool_)
        failed[asked] = ~np.isfinite(raw[asked])
        for row in np.flatnonzero(failed | (withheld & ~refused)).tolist():
            why = DEFAULT_REASON if failed[row] else STALE_REASON
            values = inputs.x[row].astype(np.float64).tolist()
            verdict = without_model(self._bundle, self._small, values, self._safe, why)
            raw[row], scores[row] = verdict.raw, verdict.score  # None is NaN
            decisions[row] = self._names.index(verdict.decision)
            answered_by[row] = ANSWERED.index(verdict.answered_by)
            if verdict.reasons:
                reasons[row] = [reason.code for reason in verdict.reasons]
        by_model = (decisions != NOBODY) & (answered_by == 0)
        alerts = np.flatnonzero(by_model & self._scale.alerting(decisions))
        omitted = self._explain(alerts, inputs.x, probabilities, reasons)
        return BlockDecisions(
            inputs, raw, scores, decisions, answered_by, failed, reasons, omitted, problems
        )

    def _shape(self, rows: int) -> tuple[int, ...]:
        return (rows, self._bundle.classes) if self._bundle.classes else (rows,)

    def results(
        self,
        scored: BlockDecisions,
        ids: pa.ChunkedArray[Any],
        good: NDArray[np.int64],
        problems: Mapping[int, str],
        first_row: int,
    ) -> tuple[pa.Table, Tally]:
        """All rows of a block as `RESULTS`, and their counts.

        Args:
            ids: ids of all rows of the block.
            good: positions of the rows that were scored.
            problems: position of each other row → why it was not scored.
            first_row: position of the block's first row in the file, from 0.
        """
        count = len(ids)
        reasons, omitted = scored.reasons, scored.omitted
        errors = {
            **problems,
            **{int(good[row]): problem for row, problem in scored.problems.items()},
        }
        decisions = np.full(count, NOBODY, np.int8)
        decisions[good] = scored.decisions
        decided = decisions != NOBODY
        scores = np.full(count, np.nan)
        scores[good] = scored.scores
        by = np.full(count, NOBODY, np.int8)
        by[good] = np.where(scored.decisions == NOBODY, NOBODY, scored.answered_by)
        kinds = np.zeros(count, np.int64)
        kinds[good] = scored.inputs.kinds
        is_degraded = np.array([gap.degraded for gap in scored.inputs.gaps])
        failed = np.zeros(count, np.bool_)
        failed[good] = scored.failed
        table = pa.table(
            [
                pa.array(np.arange(first_row, first_row + count)),
                ids,
                pa.array(scores, mask=~decided | np.isnan(scores)),
                _words(decisions, self._names),
                _words(by, ANSWERED),
                pa.array((is_degraded[kinds] | failed) & decided),
                _lists({int(good[row]): codes for row, codes in reasons.items()}, count),
                _texts({int(good[row]): why for row, why in omitted.items()}, count),
                _lists_by_kind(kinds, scored.inputs.without, good, count),
                _texts(errors, count),
            ],
            schema=RESULTS,
        )
        return table, self._tally(scored, decisions, by, errors, first_row)

    def _tally(
        self,
        scored: BlockDecisions,
        decisions: NDArray[np.int8],
        by: NDArray[np.int8],
        errors: Mapping[int, str],
        first_row: int,
    ) -> Tally:
        without = Counter[str]()
        found, counts = np.unique(scored.inputs.kinds, return_counts=True)
        for kind, rows in zip(found.tolist(), counts.tolist(), strict=True):
            without.update(dict.fromkeys(scored.inputs.without[kind], rows))
        first = sorted(errors)[:SHOWN_ERRORS]
        return Tally(
            decisions={name: int((decisions == at).sum()) for at, name in enumerate(self._names)},
            answered_by={n: c for at, n in enumerate(ANSWERED) if (c := int((by == at).sum()))},
            errors=len(errors),
            first_errors=tuple(RowError(row=first_row + r, problem=errors[r]) for r in first),
            without_features=dict(without),
        )

    def _explain(
        self,
        alerts: NDArray[np.int64],
        x: NDArray[np.float32],
        raw: NDArray[np.float64],
        found: dict[int, Sequence[str]],
    ) -> dict[int, str]:
        """Add the reason codes of each alert to `found`; returns row → why it has none."""
        omitted: dict[int, str] = {}

        def explain(row: int) -> None:
            try:
                shares = self._contributions(x[row].tolist(), raw[row])
            except NotExplained as failure:
                omitted[row] = failure.reason
            else:
                found[row] = codes(self._reasons, shares)

        def explain_all(rows: NDArray[np.int64]) -> None:
            for row in rows.tolist():
                explain(row)

        with ThreadPoolExecutor(THREADS, "reasons") as threads:
            parts = range(0, len(alerts), EXPLAINED_ROWS)
            list(threads.map(explain_all, [alerts[p : p + EXPLAINED_ROWS] for p in parts]))
        return omitted

    def _contributions(self, row: Sequence[float], raw: Any) -> list[float]:
        if self._bundle.classes:
            place = int(raw.argmax())
            rows = np.array(self._without_each(row), np.float32)
            return [float(raw[place] - other) for other in self._score(rows)[:, place]]
        raw = float(raw)
        if self._tree_shap is not None:
            return self._tree_shap(row, raw)
        others = self._score(np.array(self._without_each(row), np.float32))
        return [raw - other for other in others.astype(np.float64).tolist()]

    def _without_each(self, row: Sequence[float]) -> list[list[float]]:
        return without_each(row, self._ordinary, self._vectors)


def _words(places: NDArray[np.int8], names: Sequence[str]) -> pa.Array[Any]:
    indices: Any = pa.array(places, pa.int8(), mask=places == NOBODY)
    return pa.DictionaryArray.from_arrays(indices, pa.array(names)).cast(pa.string())


def _texts(texts: Mapping[int, str], count: int) -> pa.Array[Any]:
    if not texts:
        return pa.nulls(count, pa.string())
    return pa.array([texts.get(row) for row in range(count)], pa.string())


def _lists(lists: Mapping[int, Sequence[str]], count: int) -> pa.Array[Any]:
    lengths = np.zeros(count + 1, np.int32)
    ordered = sorted(lists)
    for row in ordered:
        lengths[row + 1] = len(lists[row])
    values = [text for row in ordered for text in lists[row]]
    offsets: Any = pa.array(np.cumsum(lengths, dtype=np.int32), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(values, pa.string()))


def _lists_by_kind(
    kinds: NDArray[np.int64],
    lists: Sequence[Sequence[str]],
    good: NDArray[np.int64],
    count: int,
) -> pa.Array[Any]:
    """The list that belongs to each row's kind; empty for rows that were not scored."""
    is_good = np.zeros(count, np.bool_)
    is_good[good] = True
    if not any(lists):
        return _lists({}, count)
    lengths = np.array([len(one) for one in lists])
    flat = np.array([name for one in lists for name in one], dtype=object)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    each = np.where(is_good, lengths[kinds], 0)
    offsets = np.concatenate([[0], np.cumsum(each)])
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], each)
    names = sorted(set(flat.tolist()))
    codes = np.array([names.index(name) for name in flat], np.int32)
    picked = codes[np.repeat(starts[kinds], each) + within]
    indices: Any = pa.array(picked, pa.int32())
    values = pa.DictionaryArray.from_arrays(indices, pa.array(names)).cast(pa.string())
    stored: Any = pa.array(offsets.astype(np.int32), pa.int32())
    return pa.ListArray.from_arrays(stored, values)
