"""Requests for credit as a team would bring them: the history of a model from the templates."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

DAY_US = 86_400_000_000


def history(until_us: int, *, per_day: int, days: int) -> pa.Table:
    """Requests of whom the poor and those who ask for much default more often."""
    random = np.random.default_rng(5)
    count = per_day * days
    event_us = np.sort(random.integers(until_us - days * DAY_US, until_us, count))
    income, amount = random.lognormal(8, 0.5, count), random.lognormal(8, 0.8, count)
    odds = -2.6 + 1.6 * np.log(amount / income)
    label = (random.random(count) < 1 / (1 + np.exp(-odds))).astype(np.int8)
    return pa.table(
        {
            "request_id": np.arange(count),
            "event_time": pa.array(event_us, pa.timestamp("us")),
            "customer_id": random.integers(0, 2_000, count),
            "amount": np.round(amount, 2),
            "income": np.round(income, 2),
            "label": label,
            "label_time": pa.array(np.minimum(event_us + 3 * DAY_US, until_us), pa.timestamp("us")),
        }
    )
