"""The context of a fit, for models whose model.yaml declares a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlplatform.model.policies.search import Choice

Judge = Callable[[int, NDArray[np.float64]], None]


class TrialStopped(Exception):
    """The trial ends here: it is worse than others, or the budget is spent. Let the exception
    pass."""


@dataclass(frozen=True, slots=True)
class FitContext:
    """The hyper-parameters of one fit, and the reports of its progress.

    Args:
        parameters: by the names in `training.search.space`.
        rows: float32 [n, inputs] that the trial is tested on, without labels; no row in the last
            fit, with the parameters that were chosen.
    """

    parameters: Mapping[str, Choice]
    rows: NDArray[np.float32]
    _judge: Judge | None = None

    def report(self, step: int, scores: NDArray[np.float64]) -> None:
        """Report the present scores of `rows`, so that a bad trial ends early.

        Args:
            step: 0 to 998, rising: rounds or epochs; not every one has to be reported.
            scores: of 0-1, one a row.

        Raises:
            TrialStopped: the trial ends here.
            InputInvalid: another step, or scores of another shape.
        """
        if self._judge is not None:
            self._judge(step, np.asarray(scores, np.float64))


def last_fit(parameters: Mapping[str, Choice], inputs: int) -> FitContext:
    """The context of the last fit, which is no trial."""
    return FitContext(parameters, np.empty((0, inputs), np.float32))
