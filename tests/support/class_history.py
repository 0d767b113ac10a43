"""Made-up requests of the template of classes, with the class that each turned out to be."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

CLASSES = ("small", "usual", "large")
CHANNELS = ("web", "shop", "phone")
PER_DAY, DAYS, DAY_US = 300, 26, 86_400_000_000


def history(until_us: int) -> pa.Table:
    """Four in five requests are of the class that their channel tells, one in ten has no label."""
    random = np.random.default_rng(3)
    count = PER_DAY * DAYS
    event_us = np.sort(random.integers(until_us - DAYS * DAY_US, until_us, count))
    channel = random.integers(0, 3, count)
    place = np.where(random.random(count) < 0.8, channel, random.integers(0, 3, count))
    unknown = random.random(count) < 0.1
    known_us = np.minimum(event_us + 2 * DAY_US, until_us)
    return pa.table(
        {
            "request_id": np.arange(count),
            "event_time": pa.array(event_us, pa.timestamp("us")),
            "customer_id": random.integers(0, 900, count),
            "channel": pa.array(np.array(CHANNELS)[channel].tolist(), pa.string()),
            "amount": np.round(random.lognormal(3, 1, count), 2),
            "label": pa.array(np.array(CLASSES)[place].tolist(), pa.string(), mask=unknown),
            "label_time": pa.array(known_us, pa.timestamp("us"), mask=unknown),
        }
    )
