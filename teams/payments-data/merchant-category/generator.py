"""Makes card payments whose descriptor tells the merchant's category, most of the time.

Each category has merchants of its own, a typical amount and typical hours. Some merchants sell
under one name in several categories, and some payments go through an intermediary whose name tells
nothing: there amount and hour say what can be said. One payment in five is never labelled.

From a change on, some categories have a shop on the internet, whose name nobody has seen before
and to which part of their payments go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

DAY_US: Final = 86_400_000_000
HOUR_US: Final = 3_600_000_000
CATEGORIES: Final = (
    *("groceries", "restaurants", "fuel", "public_transport", "taxi", "travel", "lodging"),
    *("clothing", "electronics", "furniture", "pharmacy", "health", "education", "insurance"),
    *("utilities", "telecom", "entertainment", "sports", "cash", "other"),
)
USUAL_AMOUNT: Final = (
    *(35, 25, 60, 8, 18, 320, 180, 70, 240, 380, 20, 90, 150, 110, 85, 40, 30, 55, 100, 45),
)
"""Of each category, the median in euros."""
USUAL_HOUR: Final = (17, 20, 8, 8, 23, 11, 18, 15, 14, 12, 11, 10, 9, 9, 9, 10, 21, 18, 13, 14)
SHARES: Final = (*(18, 13, 7, 9, 4, 3, 3, 7, 4, 2, 5, 3, 2, 2, 4, 4, 4, 3, 2, 1),)
"""Of the payments, in percent."""
MERCHANTS: Final = 8
"""Names of a category; the next category shares the last one."""
INTERMEDIARIES: Final = ("paylink", "quickcheckout", "onepay")
INTERMEDIARY_SHARE: Final = 0.08
SHARED_SHARE: Final = 0.06
ONLINE: Final = (
    *("groceries", "restaurants", "clothing", "electronics", "furniture", "pharmacy"),
    *("entertainment", "sports"),
)
"""Categories that are sold on the internet from the change on …"""
ONLINE_SHARE: Final = 0.35
"""… and how much of them."""
UNLABELLED_SHARE: Final = 0.2


@dataclass(frozen=True, slots=True)
class Population:
    """How many customers pay, each about as often as another.

    Args:
        payments_per_day: of all of them.
    """

    customers: int = 2_500
    payments_per_day: int = 900


def generate(
    *,
    seed: int,
    start_ms: int,
    days: int,
    pattern_change_ms: int | None = None,
    maturity_days: int = 5,
    population: Population | None = None,
) -> pa.Table:
    """Payments in the columns of the model's history, by event time; equal arguments, equal rows.

    Args:
        start_ms: a UTC midnight.
        pattern_change_ms: from when on there are shops on the internet; None for never.
        maturity_days: within them the label of a payment becomes known.
    """
    random, people = np.random.default_rng(seed), population or Population()
    count = days * people.payments_per_day
    place = random.choice(len(CATEGORIES), count, p=np.array(SHARES) / sum(SHARES))
    hour = np.mod(np.array(USUAL_HOUR)[place] + random.normal(0, 3, count), 24)
    day = random.integers(0, days, count)
    event_us = start_ms * 1000 + day * DAY_US + (hour * HOUR_US).astype(np.int64)
    order = np.argsort(event_us, kind="stable")
    place, event_us = place[order], event_us[order]
    amount = np.array(USUAL_AMOUNT)[place] * random.lognormal(0, 0.5, count)
    unlabelled = random.random(count) < UNLABELLED_SHARE
    known_us = event_us + (random.uniform(0.1, maturity_days, count) * DAY_US).astype(np.int64)
    is_changed = np.zeros(count, bool)
    if pattern_change_ms is not None:
        is_changed = event_us >= pattern_change_ms * 1000
    first = start_ms // 86_400_000
    return pa.table(
        {
            "request_id": pa.array([f"p{first}-{number}" for number in range(count)], pa.string()),
            "event_time": pa.array(event_us, pa.timestamp("us")),
            "customer_id": pa.array(random.integers(0, people.customers, count)),
            "descriptor": pa.array(_descriptors(random, place, is_changed).tolist(), pa.string()),
            "amount": pa.array(np.round(amount, 2)),
            "label": pa.array(np.array(CATEGORIES)[place].tolist(), pa.string(), mask=unlabelled),
            "label_time": pa.array(known_us, pa.timestamp("us"), mask=unlabelled),
        }
    )


def _descriptors(
    random: np.random.Generator, place: NDArray[np.int64], is_changed: NDArray[np.bool_]
) -> NDArray[np.str_]:
    """A merchant of the category, of the one before it, or an intermediary; after the change also
    a shop on the internet."""
    count = len(place)
    own = np.array([[f"{name}-{n:02d}" for n in range(MERCHANTS)] for name in CATEGORIES])
    names = own[place, random.integers(0, MERCHANTS, count)]
    shared = random.random(count) < SHARED_SHARE
    names = np.where(shared, own[place - 1, MERCHANTS - 1], names)
    through = random.random(count) < INTERMEDIARY_SHARE
    by = np.array(INTERMEDIARIES)[random.integers(0, len(INTERMEDIARIES), count)]
    names = np.where(through, by, names)
    [own_random] = random.spawn(1)  # what is drawn without a change stays as it is
    is_sold = np.isin(np.array(CATEGORIES), ONLINE)[place]
    online = is_changed & is_sold & (own_random.random(count) < ONLINE_SHARE)
    shops = np.char.add(np.array(CATEGORIES), "-online")[place]
    found: NDArray[np.str_] = np.where(online, shops, names)
    return found
