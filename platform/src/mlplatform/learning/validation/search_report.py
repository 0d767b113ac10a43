"""The trials of a search of hyper-parameters, and its choice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from mlplatform.learning.validation.measures import LESS_IS_BETTER
from mlplatform.model.policies.search import Choice

MOST_REASON: Final = 500
MOST_TRIALS: Final = 1000
TrialState = Literal["complete", "pruned", "failed"]


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One trial that has ended.

    Args:
        number: the trial's number, from 0.
        value: mean of the measure over the folds that were fitted; None for a failed trial.
        steps: pairs of a step and the measure that was reported at it.
        reason: why the trial failed; empty if it did not.
    """

    number: Annotated[int, Meta(ge=0, lt=MOST_TRIALS)]
    state: TrialState
    parameters: Annotated[dict[str, Choice], Meta(max_length=50)]
    seconds: Annotated[float, Meta(ge=0)]
    value: float | None = None
    steps: tuple[tuple[int, float], ...] = ()
    reason: Annotated[str, Meta(max_length=MOST_REASON)] = ""


class SearchReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The result of a search.

    Args:
        wanted: number of declared trials; fewer were run if `budget_s` was used up.
        seconds: seconds that the trials took, including trials of killed runs that were continued.
        importances: parameter → its share (0-1) of importance for the best tenth of the trials
            (PED-ANOVA).
    """

    measure: str
    wanted: int
    budget_s: int
    seconds: float
    trials: Annotated[tuple[Trial, ...], Meta(max_length=MOST_TRIALS)]
    importances: dict[str, float] = {}

    @property
    def best(self) -> Trial:
        """The complete trial that was chosen; among equals the first.

        Raises:
            ValueError: no trial is complete.
        """
        sign = -1 if self.measure in LESS_IS_BETTER else 1
        return max(self._complete(), key=lambda trial: sign * (trial.value or 0.0))

    def has_best(self) -> bool:
        """Whether a trial is complete; a report that a job wrote may say anything."""
        return any(True for _ in self._complete())

    def _complete(self) -> Iterator[Trial]:
        return (t for t in self.trials if t.state == "complete" and t.value is not None)

    def count(self, state: TrialState) -> int:
        """The number of trials that ended in this state."""
        return sum(trial.state == state for trial in self.trials)

    def summary(self) -> dict[str, Any]:
        """The search without its trials, as plain values."""
        best = self.best
        return {
            "measure": self.measure,
            "wanted": self.wanted,
            "done": len(self.trials),
            **{state: self.count(state) for state in ("complete", "pruned", "failed")},
            "budget_s": self.budget_s,
            "seconds": round(self.seconds, 3),
            "best": best.number,
            "value": best.value,
            "parameters": dict(best.parameters),
            "reasons": sorted({t.reason for t in self.trials if t.state == "failed"})[:3],
        }
