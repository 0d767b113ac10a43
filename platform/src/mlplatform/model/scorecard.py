"""A bundle's scorecard, evaluated without a predictor in microseconds, when none answers."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from mlplatform.model.bundle import Bundle
from mlplatform.model.policies.cut_offs import CutOffs
from mlplatform.model.policies.decision_scale import Decision
from mlplatform.model.policies.small_model import Characteristic, SmallModel


class SmallScorer:
    """A scorecard bound to the positions of a bundle's inputs.

    Source: Siddiqi, Credit Risk Scorecards (2006): binned inputs, points that add up to log odds.
    """

    __slots__ = ("_cut_offs", "_ordinary", "_places", "model")

    def __init__(
        self,
        model: SmallModel,
        names: Sequence[str],
        reference: Sequence[float],
        cut_offs: CutOffs,
    ) -> None:
        """
        Args:
            names: names of the inputs, in the order of a row.
            reference: the ordinary value of each input, NaN where a missing value is ordinary.
            cut_offs: the function from its scores, and their rows, to decisions.
        """
        self.model = model
        self._cut_offs = cut_offs
        self._places = tuple((names.index(c.input), c) for c in model.characteristics)
        self._ordinary = tuple(_points(c, reference[place]) for place, c in self._places)

    @classmethod
    def of(cls, bundle: Bundle) -> SmallScorer | None:
        """The scorer of a bundle; None for a bundle without a small model."""
        if (small := bundle.small_model) is None:
            return None
        values = (bundle.reference[name] for name in bundle.input_names)
        reference = [math.nan if value is None else value for value in values]
        own = [small.segment_thresholds[segment.name] for segment in bundle.segment_thresholds]
        cut_offs = CutOffs(bundle.scale, small.thresholds, bundle.segments, own)
        return cls(small, bundle.input_names, reference, cut_offs)

    def knows(self, row: Sequence[float]) -> bool:
        """Whether enough of the row is present to give a score."""
        present = sum(row[place] == row[place] for place, _ in self._places)
        return present >= self.model.minimum_present

    def raw(self, row: Sequence[float]) -> float:
        """The uncalibrated probability of a row; every row has one."""
        odds = self.model.base
        for place, characteristic in self._places:
            odds += _points(characteristic, row[place])
        return probability(odds)

    def decide(self, raw: float, row: Sequence[float]) -> tuple[float, Decision]:
        """The calibrated score and the decision, for a raw score and the row that got it."""
        score = self.model.calibration.probability(raw)
        return score, self._cut_offs.outcome(score, row)

    def strongest(self, row: Sequence[float], most: int) -> list[str]:
        """The inputs that got more points than an ordinary value gets, most points first."""
        above = [
            (_points(c, row[place]) - ordinary, c.input)
            for (place, c), ordinary in zip(self._places, self._ordinary, strict=True)
        ]
        above.sort(key=lambda pair: -pair[0])
        return [name for points, name in above[:most] if points > 0]


def probability(log_odds: float) -> float:
    """The probability of log odds, without overflow at either end."""
    if log_odds >= 0:
        return 1.0 / (1.0 + math.exp(-min(log_odds, 700.0)))
    odds = math.exp(max(log_odds, -700.0))
    return odds / (1.0 + odds)


def _points(characteristic: Characteristic, value: float) -> float:
    if value != value:
        return characteristic.missing
    return characteristic.points[bisect_right(characteristic.cuts, value)]
