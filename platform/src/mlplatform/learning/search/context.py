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
        parameters: name in `training.search.space` → value.
        rows: rows without labels, float32 [n, inputs], on which the trial is tested; no row in the
            last fit, which uses the best parameters.
    """

    parameters: Mapping[str, Choice]
    rows: NDArray[np.float32]
    _judge: Judge | None = None

    def report(self, step: int, scores: NDArray[np.float64]) -> None:
        """Report the present scores of `rows`, so that a bad trial ends early.

        Args:
            step: number of the round or epoch, 0 to 998, rising; steps may be left out.
            scores: one score (0-1) for each row.

        Raises:
            TrialStopped: the trial ends here.
            InputInvalid: the step or the shape of the scores is not allowed.
        """
        if self._judge is not None:
            self._judge(step, np.asarray(scores, np.float64))


def last_fit(parameters: Mapping[str, Choice], inputs: int) -> FitContext:
    """The context of the last fit, which is no trial."""
    return FitContext(parameters, np.empty((0, inputs), np.float32))
