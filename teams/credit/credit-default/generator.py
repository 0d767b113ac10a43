"""Makes card clients with six months of statements, some of whom default in the next one.

Each client has a hidden strain, from 0 on. It sets how much of the limit is used, how much of a
statement is paid and how fast arrears grow. Default depends on strain, on the arrears that are
seen, and on nothing else; younger clients are under more strain, so groups differ without being an
input.

From a change on, limits are higher, and part of the requests are of another kind: shops give small
cards at the till. These are used to the limit from the first month on and paid back bit by bit, so
that nobody is in arrears, and many default all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

DAY_US: Final = 86_400_000_000
MONTHS: Final = 6
EDUCATIONS: Final = ("graduate_school", "university", "high_school", "other")
SEXES: Final = ("female", "male")
AGE_GROUPS: Final = ("18-29", "30-39", "40-49", "50-59", "60 and over")
EDUCATION_SHARES: Final = (0.35, 0.47, 0.16, 0.02)
AGE_SHARES: Final = (0.32, 0.37, 0.21, 0.08, 0.02)
STRAIN_OF_AGE: Final = (1.05, 0.98, 0.98, 1.02, 1.05)
UNUSED_SHARE: Final = 0.1
"""Of the clients, who have a card and do not use it."""
NO_GROUP_SHARE: Final = 0.02
"""Of the clients, whose sex and age nobody recorded."""
LIMIT_LEVEL: Final = 1.5
"""Of limits after the change."""
TILL_SHARE: Final = 0.08
"""Of the requests after the change, those of cards from a shop's till."""
TILL_LIMIT: Final = 10_000.0
TILL_DEFAULT_SHARE: Final = 0.7


@dataclass(frozen=True, slots=True)
class Population:
    """How many clients ask, each about as often as another.

    Args:
        payments_per_day: requests a day.
    """

    customers: int = 12_000
    payments_per_day: int = 250


def generate(
    *,
    seed: int,
    start_ms: int,
    days: int,
    pattern_change_ms: int | None = None,
    maturity_days: int = 30,
    population: Population | None = None,
) -> pa.Table:
    """Requests in the columns of the model's history, by event time; equal arguments, equal rows.

    Args:
        start_ms: a UTC midnight.
        pattern_change_ms: from when on limits are higher and shops give cards at the till; None for
            never.
        maturity_days: after a request its label is known, which may be later than the last day.
    """
    random, people = np.random.default_rng(seed), population or Population()
    count = days * people.payments_per_day
    event_us = np.sort(random.integers(0, days * DAY_US, count)) + start_ms * 1000
    education = random.choice(len(EDUCATIONS), count, p=EDUCATION_SHARES)
    age = random.choice(len(AGE_GROUPS), count, p=AGE_SHARES)
    limit = np.round(random.lognormal(11.6 - 0.35 * education, 0.7, count), -4).clip(10_000, 1e6)
    strain = random.gamma(1.3, 0.6, count) * np.array(STRAIN_OF_AGE)[age]
    is_changed = np.zeros(count, bool)
    if pattern_change_ms is not None:
        is_changed = event_us >= pattern_change_ms * 1000
    at_till = is_changed & (random.spawn(1)[0].random(count) < TILL_SHARE)
    limit = np.where(at_till, TILL_LIMIT, np.where(is_changed, LIMIT_LEVEL * limit, limit))
    status, bill, paid = _months(random, strain, limit, at_till)
    odds = -2.7 + 0.8 * strain + 1.3 * np.clip(status[0], 0, 4) + 0.25 * np.clip(status[1], 0, 4)
    share = np.where(at_till, TILL_DEFAULT_SHARE, 1 / (1 + np.exp(-odds)))
    label = (random.random(count) < share).astype(np.int8)
    recorded = random.random(count) >= NO_GROUP_SHARE
    sex = np.array(SEXES)[random.integers(0, 2, count)]
    first = start_ms * 1000 // DAY_US
    return pa.table(
        {
            "request_id": pa.array([f"c{first}-{number}" for number in range(count)], pa.string()),
            "event_time": pa.array(event_us, pa.timestamp("us")),
            "customer_id": pa.array(random.integers(0, people.customers, count)),
            "limit_balance": pa.array(limit),
            "education": pa.array(np.array(EDUCATIONS)[education].tolist(), pa.string()),
            **{f"status_{month + 1}": pa.array(status[month]) for month in range(MONTHS)},
            **{f"bill_{month + 1}": pa.array(bill[month]) for month in range(MONTHS)},
            **{f"paid_{month + 1}": pa.array(paid[month]) for month in range(MONTHS)},
            "sex": pa.array(sex.tolist(), pa.string(), mask=~recorded),
            "age_group": pa.array(np.array(AGE_GROUPS)[age].tolist(), pa.string(), mask=~recorded),
            "label": pa.array(label),
            "label_time": pa.array(event_us + maturity_days * DAY_US, pa.timestamp("us")),
        }
    )


def _months(
    random: np.random.Generator, strain: Floats, limit: Floats, at_till: Flags
) -> tuple[list[Ints], list[Floats], list[Floats]]:
    """Status, statement and payment of each month, the newest first."""
    count = len(strain)
    used = np.clip(random.beta(1.0, 2.0, count) + 0.25 * strain, 0.0, 1.1)
    is_unused = random.random(count) < UNUSED_SHARE
    is_unused &= ~at_till
    used[is_unused], used[at_till] = 0.0, 1.0
    behind = np.zeros(count, np.int64)
    status, bill, paid = list[Ints](), list[Floats](), list[Floats]()
    for _ in range(MONTHS):
        statement = np.round(limit * used * random.uniform(0.85, 1.1, count))
        misses = ~is_unused & (random.random(count) < np.clip(0.04 + 0.16 * strain, 0, 0.7))
        misses &= ~at_till
        whole = ~misses & ~at_till & (random.random(count) < np.clip(0.6 - 0.4 * strain, 0.02, 1))
        behind = np.where(misses, np.minimum(behind + 1, 8), 0)
        share = np.where(whole, 1.0, np.where(misses, 0.0, random.uniform(0.03, 0.2, count)))
        paid_up = np.where(is_unused, -2, np.where(whole, -1, 0))
        status.insert(0, np.where(behind > 0, behind, paid_up))
        bill.insert(0, statement)
        paid.insert(0, np.round(statement * share))
    return status, bill, paid
