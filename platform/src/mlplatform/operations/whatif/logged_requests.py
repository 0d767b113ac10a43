"""Requests of a model as the log holds them, page by page, and their outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mlplatform.decisions.records.last_labels import dated_labels, label_columns
from mlplatform.decisions.records.port import DecisionLog, RecordQuery
from mlplatform.decisions.records.record import FEATURES
from mlplatform.model.definition import ModelDefinition
from mlplatform.rollouts.whatif.requests import NEGATIVE, POSITIVE, UNKNOWN, Flags, Integers
from mlplatform.runtime.units import DAY_MS, HOUR_MS

PAGE: Final = 20_000
"""Records of each writer that are in memory at once, with their payloads."""
_COLUMNS = (
    "writer", "seq", "decision_id", "event_ms", "unit", "version", "score", "decision", "degraded",
    "degraded_reason", "payload",
)  # fmt: skip


class LoggedRequests:
    """The decisions in a range of event time, page by page, without voided ones.

    Args:
        from_ms, to_ms: range of event time of the requests; labels and voids may be later.
    """

    def __init__(
        self, log: DecisionLog, definition: ModelDefinition, from_ms: int, to_ms: int
    ) -> None:
        self._log, self._model, self._task = log, definition.name, definition.task
        self._hides = definition.decision.hides_outcome
        self._from_ms, self._to_ms = from_ms, to_ms
        self._mature_to_ms = to_ms - definition.label.maturity_days * DAY_MS
        self._void = self._void_ids()
        self._labels = self._read_labels()
        self.left_out = 0
        self.erased = 0

    def _void_ids(self) -> set[str]:
        query = RecordQuery(
            model=self._model, kinds=("void",), from_ms=self._from_ms, columns=("decision_id",)
        )
        return {str(i) for i in self._log.read(query)["decision_id"].to_pylist()}

    def _read_labels(self) -> dict[str, Any]:
        query = RecordQuery(
            model=self._model, kinds=("label",), from_ms=self._from_ms,
            columns=label_columns(self._task),
        )  # fmt: skip
        labels = dated_labels(self._log.read(query), task=self._task)
        return {decision_id: label for decision_id, (_, label) in labels.items()}

    def pages(self) -> Iterator[pa.Table]:
        """Yield tables of at most `PAGE` decisions of each writer."""
        for start_ms in range(self._from_ms, self._to_ms, HOUR_MS):
            end_ms = min(start_ms + HOUR_MS, self._to_ms)
            after: dict[str, int] = {}
            while True:
                rows = self._page(start_ms, end_ms, after)
                if (kept := self._usable_rows(rows)).num_rows:
                    yield kept
                counts: Counter[str] = Counter()
                for row in rows.select(["writer", "seq"]).to_pylist():
                    after[row["writer"]] = row["seq"]
                    counts[row["writer"]] += 1
                if max(counts.values(), default=0) < PAGE:
                    break

    def _page(self, from_ms: int, to_ms: int, after: Mapping[str, int]) -> pa.Table:
        query = RecordQuery(
            model=self._model, kinds=("decision",), from_ms=from_ms, to_ms=to_ms, after=dict(after),
            limit=PAGE, columns=_COLUMNS,
        )  # fmt: skip
        return self._log.read(query)

    def _usable_rows(self, rows: pa.Table) -> pa.Table:
        ids = rows["decision_id"].to_pylist()
        stale = rows["degraded_reason"].to_numpy(zero_copy_only=False) == FEATURES
        void = np.array([i in self._void for i in ids], dtype=bool)
        there = rows["payload"].is_valid().to_numpy(zero_copy_only=False)
        self.erased += int((~there & ~void).sum())
        known = rows["unit"].is_valid().to_numpy(zero_copy_only=False) & there
        self.left_out += int((stale & ~void & known).sum())
        return rows.filter(~stale & ~void & known)

    @property
    def labelled(self) -> int:
        """The number of labels, also of decisions that are in no page."""
        return len(self._labels)

    def labels_of(self, ids: Sequence[str]) -> list[Any]:
        """The last label of each request, as the model's task has it; None where there is none."""
        return [self._labels.get(i) for i in ids]

    def matured(self, event_ms: Integers) -> Flags:
        """Marks the requests that get no label any more."""
        return event_ms < self._mature_to_ms

    def outcomes(
        self, ids: Sequence[str], event_ms: Integers, logged: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[np.int8], Flags]:
        """Labels of requests of two outcomes, and marks of those whose decision hides the outcome,
        so that nobody can know it.

        Args:
            logged: the decisions that were given at that time.
        """
        outcome = np.array([self._labels.get(i, UNKNOWN) for i in ids], dtype=np.int8)
        outcome[outcome > 0] = POSITIVE
        hidden = (outcome == UNKNOWN) & np.isin(logged, self._hides)
        outcome[(outcome == UNKNOWN) & ~hidden & self.matured(event_ms)] = NEGATIVE
        return outcome, hidden
