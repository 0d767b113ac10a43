"""Figures of two bundles by the labels that have arrived: pure, from arrays."""

from __future__ import annotations

from typing import Final, assert_never

import numpy as np

from mlplatform.learning.validation.class_measures import class_measures
from mlplatform.learning.validation.measures import Measure
from mlplatform.learning.validation.number_measures import number_measures
from mlplatform.rollouts.verdicts.hidden_outcomes import PartialOutcomes
from mlplatform.rollouts.verdicts.outcomes import Outcomes, recall_at_capacity
from mlplatform.rollouts.verdicts.verdict import Errors, number_of
from mlplatform.rollouts.whatif.report import (
    LabelCounts,
    LabelMeasures,
    MeasureComparison,
    PositiveCounts,
)
from mlplatform.rollouts.whatif.requests import (
    POSITIVE,
    UNKNOWN,
    ClassLabels,
    NumberLabels,
    OutcomeLabels,
    Requests,
)

ERROR_SHARE: Final = 0.05
"""Chance that one end of an interval of outcomes is missed."""
SEED: Final = 0
"""Seed for the customers that are drawn for intervals: the same requests give the same ends."""


def label_measures(requests: Requests, labels: ClassLabels | NumberLabels) -> LabelMeasures:
    """The measures of the model's task, of both bundles on the same labelled requests."""
    match labels:
        case ClassLabels():
            unit = requests.unit[labels.rows]
            found = class_measures(
                labels.candidate, labels.place, unit, seed=SEED, champion=labels.reference
            )
            labelled, measured = labels.labelled, len(labels.rows)
        case NumberLabels():
            known, arms = np.isfinite(labels.number), (requests.reference, requests.candidate)
            both = known & np.isfinite([arm.scores for arm in arms]).all(axis=0)
            found = number_measures(
                requests.candidate.scores[both],
                labels.number[both],
                requests.unit[both],
                quantile=labels.quantile,
                seed=SEED,
                champion=requests.reference.scores[both],
            )
            labelled, measured = int(known.sum()), int(both.sum())
        case _:
            assert_never(labels)
    return LabelMeasures(
        labelled=labelled,
        requests=measured,
        immature=labels.immature,
        unlabelled=labels.unlabelled,
        measures=tuple(map(_compared, found)),
    )


def _compared(measure: Measure) -> MeasureComparison:
    reference, difference = measure.champion, measure.difference
    assert reference is not None, "both bundles were measured"
    assert difference is not None, "both bundles were measured"
    return MeasureComparison(measure.name, reference, measure.candidate, difference)


def known_labels(requests: Requests, labels: OutcomeLabels) -> LabelCounts:
    """Counts of the positive requests that each bundle finds."""
    known = labels.outcome != UNKNOWN
    positive = labels.outcome[known] == POSITIVE
    immature = int((~known & ~labels.hidden).sum())
    mature = known | labels.hidden
    champion = requests.reference.scores[mature]
    seen = Outcomes(
        requests=PartialOutcomes(
            unit=requests.unit[mature],
            positive=labels.outcome[mature] == POSITIVE,
            seen=known[mature],
            chance=known[mature].astype(np.float64),
            guess=np.clip(champion, 0.0, 1.0),
            came=np.ones(len(champion)),
        ),
        challenger=requests.candidate.scores[mature],
        champion=champion,
        immature=immature,
        silent=False,
        arrived_shares={},
    )
    errors = Errors(ERROR_SHARE, ERROR_SHARE)
    recall = recall_at_capacity(seen, capacity=labels.capacity, errors=errors)
    alerts = [arm.alerts[known] for arm in (requests.reference, requests.candidate)]
    reference, candidate = (
        PositiveCounts(int(flags.sum()), int((flags & positive).sum()), caught)
        for flags, caught in zip(
            alerts, (recall.champion.caught, recall.challenger.caught), strict=True
        )
    )
    return LabelCounts(
        requests=int(known.sum()),
        positives=int(positive.sum()),
        immature=immature,
        hidden=seen.hidden,
        capacity=labels.capacity,
        reference=reference,
        candidate=candidate,
        more=number_of(recall.known.value),
        low=number_of(recall.known.low),
        high=number_of(recall.known.high),
    )
