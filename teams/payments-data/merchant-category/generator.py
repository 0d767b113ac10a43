"""Makes card payments whose descriptor, as a terminal sends it, mostly tells the category.

Half of a category's payments go to shops of its chains, the others to merchants with an owner: some
have many payments, most have few, and new ones open every week. Some brands sell in two categories,
some owners' names tell nothing, and some payments go through an intermediary that names nobody:
there amount and hour say what can be said. One payment in five is never labelled.

From a change on, part of some categories' payments goes to shops on the internet, whose names
nobody has seen before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .descriptors import CATEGORIES, SHOPS, TRADES, online_shop, owned, shop

DAY_US: Final = 86_400_000_000
HOUR_US: Final = 3_600_000_000
USUAL_AMOUNT: Final = (
    *(35, 25, 60, 8, 18, 320, 180, 70, 240, 380, 20, 90, 150, 110, 85, 40, 30, 55, 100, 45),
)
"""Of each category, the median in euros."""
USUAL_HOUR: Final = (17, 20, 8, 8, 23, 11, 18, 15, 14, 12, 11, 10, 9, 9, 9, 10, 21, 18, 13, 14)
SHARES: Final = (*(18, 13, 7, 9, 4, 3, 3, 7, 4, 2, 5, 3, 2, 2, 4, 4, 4, 3, 2, 1),)
"""Of the payments, in percent."""
CHAIN_SHARE: Final = 0.5
OWNED: Final = 400
"""Merchants of a category with an owner, beside those that open …"""
OPENED_SHARE: Final = 0.15
"""… to which this share of their payments goes …"""
OPENED_A_WEEK: Final = 12
"""… so many of each category in a week, each of which has payments for a while …"""
OPENED_WEEKS: Final = 4
"""… of about so many weeks."""
INTERMEDIARIES: Final = ("PAYLINK", "QUICKCHECKOUT", "ONEPAY")
INTERMEDIARY_SHARE: Final = 0.05
ONLINE: Final = (
    *("groceries", "restaurants", "clothing", "electronics", "furniture", "pharmacy"),
    *("entertainment", "sports"),
)
"""Categories that are sold on the internet from the change on …"""
ONLINE_SHARE: Final = 0.35
"""… how much of them …"""
ONLINE_SHOPS: Final = 3
"""… and in how many shops of each category."""
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
            "descriptor": pa.array(_descriptors(random, place, event_us, is_changed), pa.string()),
            "amount": pa.array(np.round(amount, 2)),
            "label": pa.array(np.array(CATEGORIES)[place].tolist(), pa.string(), mask=unlabelled),
            "label_time": pa.array(known_us, pa.timestamp("us"), mask=unlabelled),
        }
    )


def _descriptors(
    random: np.random.Generator,
    place: NDArray[np.int64],
    event_us: NDArray[np.int64],
    is_changed: NDArray[np.bool_],
) -> list[str]:
    """Of each payment, a merchant's text or an intermediary's; after the change also of a shop on
    the internet."""
    count = len(place)
    through = random.random(count) < INTERMEDIARY_SHARE
    references = random.integers(10_000, 100_000, count)
    by = random.integers(0, len(INTERMEDIARIES), count)
    in_chain = random.random(count) < CHAIN_SHARE
    shops, owners = _shops(random, place), _owners(random, event_us)
    [own_random] = random.spawn(1)  # what is drawn without a change stays as it is
    is_sold = np.isin(np.array(CATEGORIES), ONLINE)[place]
    online = is_changed & is_sold & (own_random.random(count) < ONLINE_SHARE)
    sites = own_random.integers(0, ONLINE_SHOPS, count)

    def text(row: int) -> str:
        category = CATEGORIES[place[row]]
        if online[row]:
            return online_shop(category, int(sites[row]))
        if through[row]:
            return f"{INTERMEDIARIES[by[row]]} *{references[row]}"
        if in_chain[row]:
            return shop(category, int(shops[row]))
        return owned(category, int(owners[row]))

    return [text(row) for row in range(count)]


def _shops(random: np.random.Generator, place: NDArray[np.int64]) -> NDArray[np.int64]:
    """A shop of any chain of the payment's category."""
    chains = np.array([len(TRADES[name].chains) for name in CATEGORIES])[place]
    shops: NDArray[np.int64] = (random.random(len(place)) * chains * SHOPS).astype(np.int64)
    return shops


def _owners(random: np.random.Generator, event_us: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of a merchant with an owner: few have many payments, and some opened lately."""
    count = len(event_us)
    usual = (OWNED * random.random(count) ** 2).astype(np.int64)
    opened = random.random(count) < OPENED_SHARE
    age = np.minimum(random.exponential(OPENED_WEEKS, count), 10 * OPENED_WEEKS).astype(np.int64)
    week = event_us // (7 * DAY_US) - age
    new = OWNED + week * OPENED_A_WEEK + random.integers(0, OPENED_A_WEEK, count)
    owners: NDArray[np.int64] = np.where(opened, new, usual)
    return owners
