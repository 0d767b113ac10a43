"""Offers put in order for customers: a history whose true order is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

DAY_US = 86_400_000_000
LIKED = {
    "card": 0.6, "loan": -0.4, "fund": 0.2, "cover": 0.0, "savings": 0.9, "mortgage": -1.2,
    "travel": -0.1, "broker": -0.6,
}  # fmt: skip
"""Offer → how much an ordinary customer likes it."""
DEAR = {"fund": 0.9, "broker": 0.8, "mortgage": 0.5}
"""Offer → how much more a richer customer likes it."""


def liking(offer: str, price: float, income: float) -> float:
    """How much a customer likes an offer: the true order of offers is by it."""
    rich = float(np.log(income / 3000))
    return 2.0 * (LIKED[offer] + DEAR.get(offer, 0.0) * rich - 0.7 * float(np.log(price / 20)))


def history(until_us: int, *, per_day: int, days: int, items: int) -> pa.Table:
    """Requests of several offers each; a customer takes one of them, or none."""
    random = np.random.default_rng(7)
    requests = per_day * days
    event_us = np.sort(random.integers(until_us - days * DAY_US, until_us, requests))
    income = np.round(random.lognormal(8, 0.5, requests), 2)
    customer = random.integers(0, 2_000, requests)
    names = np.array(list(LIKED))
    offers = [random.choice(names, items, replace=False) for _ in range(requests)]
    price = np.round(random.lognormal(3, 0.6, (requests, items)), 2)
    label = np.zeros((requests, items), np.int8)
    for number, (shown, of) in enumerate(zip(offers, income, strict=True)):
        likes = [liking(o, p, of) for o, p in zip(shown.tolist(), price[number], strict=True)]
        weights = np.exp([*likes, 0.5])  # the last is taking nothing
        taken = random.choice(items + 1, p=weights / weights.sum())
        if taken < items:
            label[number, taken] = 1
    each: dict[str, Any] = {
        "customer_id": np.repeat(customer, items),
        "event_time": pa.array(np.repeat(event_us, items), pa.timestamp("us")),
        "income": np.repeat(income, items),
    }
    known = np.minimum(event_us + 3 * DAY_US, until_us)
    return pa.table(
        {
            "request_id": np.arange(requests * items),
            **each,
            "offer": np.concatenate(offers),
            "price": price.reshape(-1),
            "label": label.reshape(-1),
            "label_time": pa.array(np.repeat(known, items), pa.timestamp("us")),
        }
    )


def true_scores(table: pa.Table) -> NDArray[np.float64]:
    """How much each row's customer likes its offer."""
    columns = (table.column(name).to_pylist() for name in ("offer", "price", "income"))
    return np.array([liking(*row) for row in zip(*columns, strict=True)])
