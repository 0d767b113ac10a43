"""What a label of the fraud model is, and when it becomes known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

EARLIEST_REPORT_DAYS = 0.5
DAY_US = 86_400_000_000


def arrival_us(
    event_us: NDArray[np.int64],
    label: NDArray[np.int8],
    maturity_days: int,
    random: np.random.Generator,
) -> NDArray[np.int64]:
    """When each label arrives: a fraud when its customer reports it, the rest at maturity.

    Reports come evenly spread from half a day after the payment to its maturity; from then on a
    payment without one counts as genuine.
    """
    report = random.uniform(EARLIEST_REPORT_DAYS, maturity_days, len(event_us))
    days = np.where(label == 1, report, float(maturity_days))
    return event_us + (days * DAY_US).astype(np.int64)
