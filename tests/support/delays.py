"""The curve of labels' delays from requests, a value each, to recount the platform's."""

from __future__ import annotations

import numpy as np

from mlplatform.rollouts.verdicts.delays import DelayCurve, Integers, counted_curve


def delay_curve(age_ms: Integers, delay_ms: Integers) -> DelayCurve:
    """The curve of one type of label, censored at the present time.

    Args:
        age_ms: of each request that could get a label, now.
        delay_ms: from request to label, at most the age; -1: none has come.
    """
    ages, place = np.unique(age_ms, return_inverse=True)
    without = np.bincount(place[delay_ms < 0], minlength=len(ages))
    return counted_curve(ages, without, *np.unique(delay_ms[delay_ms >= 0], return_counts=True))
