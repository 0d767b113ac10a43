"""Simulated labels of a shadow phase, held to the judge's bounds on recall."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlplatform.rollouts.verdicts.hidden_outcomes import (
    Metric,
    MetricBounds,
    PartialOutcomes,
    interval,
    recall_difference,
)
from mlplatform.rollouts.verdicts.traffic_profile import HiddenRequests
from mlplatform.rollouts.verdicts.verdict import Errors


@dataclass(frozen=True, slots=True)
class LabelPaths:
    """Possible labels of a shadow phase in which some requests are stopped.

    Args:
        positives: share of requests that labels show to be positive, let-through requests included.
        limit, tolerance: positives found less than the champion, as a share of all positives.
        worse: the same for the bad challenger.
        alone: share of the positives that only one version finds, at equal recall.
    """

    positives: float
    hidden: HiddenRequests
    limit: float
    tolerance: float
    worse: float
    errors: Errors
    alone: float
    seed: int

    def passes(self, requests: int, drawn: int) -> float:
        """Chance that a version which finds as many positives passes."""
        return self._chance(requests, 0.0, self.errors.missed, drawn, self._is_shown)

    def stops(self, requests: int, drawn: int) -> float:
        """Chance that the bad version is stopped."""
        return self._chance(requests, self.worse, self.errors.stop, drawn, self._is_proven)

    def _is_shown(self, found: MetricBounds) -> bool:
        return -found.low <= self.tolerance

    def _is_proven(self, found: MetricBounds) -> bool:
        return -found.high > self.limit

    def _chance(
        self,
        requests: int,
        worse: float,
        error: float,
        drawn: int,
        is_met: Callable[[MetricBounds], bool],
    ) -> float:
        rng = np.random.default_rng(self.seed)
        found = (interval(*self._path(rng, requests, worse), error) for _ in range(drawn))
        return float(np.mean([is_met(one) for one in found]))

    def _path(
        self, rng: np.random.Generator, requests: int, worse: float
    ) -> tuple[Metric, PartialOutcomes]:
        """Positives that are seen, and all that the champion stops; each is of its own customer.

        The champion ranked high what it stops. A challenger as good finds fewer of these positives
        than the champion, and as many more of the other positives.
        """
        hidden, apart = self.hidden, max(self.alone, worse)
        others = max(self.positives - hidden.known_positive, 0.0)
        share = others / max(others + hidden.share * hidden.positive, 1e-12)
        found = min((apart - worse) / 2, share * (1 - worse) / (1 + share))
        plain = rng.poisson(requests * others)
        stopped = rng.poisson(requests * hidden.share)
        kind = rng.random(plain + stopped)
        is_stopped = np.arange(len(kind)) >= plain
        mine_alone = (kind < found / max(share, 1e-12)) & ~is_stopped
        other_alone = kind >= 1 - (found + worse)
        chance = np.where(is_stopped, 0.0, 1.0)
        chance[is_stopped & (rng.random(len(kind)) < hidden.drawn)] = hidden.chance
        seen = rng.random(len(kind)) < chance
        positive = seen & (~is_stopped | (rng.random(len(kind)) < hidden.positive))
        metric = recall_difference(~other_alone, ~mine_alone)
        outcomes = PartialOutcomes(
            unit=np.arange(len(kind)),
            positive=positive,
            seen=seen,
            chance=chance,
            guess=np.where(is_stopped, hidden.positive, 1.0),
            came=np.ones(len(kind)),
        )
        return metric, outcomes
