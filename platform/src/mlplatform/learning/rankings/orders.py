"""The order that scores give to the items of each request, and how good it is.

The items of one request are the rows of one unit of assignment at one time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlplatform.learning.validation.measures import Measure, mean_measure

NDCG: Final = "ndcg"
MEASURES: Final = (NDCG, "mrr", "hit_rate")

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Requests:
    """Rows that are the items of requests.

    Args:
        number: for each row, the number of its request, from 0.
        unit: the unit of each request.
    """

    number: NDArray[np.intp]
    unit: Integers

    @property
    def sizes(self) -> NDArray[np.intp]:
        """How many items each request has."""
        return np.bincount(self.number, minlength=len(self.unit))

    def __len__(self) -> int:
        return len(self.unit)


@dataclass(frozen=True, slots=True)
class OrderFigures:
    """How good an order is, for each request that tells good orders from bad ones.

    Args:
        values: measure → its value for each request.
        by_chance: the mean NDCG of all orders of the same items.
    """

    values: dict[str, Floats]
    by_chance: Floats
    unit: Integers


def requests_of(event_ms: Integers, unit: Integers) -> Requests:
    """The requests of rows, by their unit and time."""
    if len(unit) == 0:
        return Requests(np.zeros(0, np.intp), unit)
    keys = np.stack([event_ms, unit], axis=1)
    own, number = np.unique(keys, axis=0, return_inverse=True)
    return Requests(number.reshape(-1), own[:, 1].copy())


def places(scores: Floats, requests: Requests, *, seed: int) -> NDArray[np.intp]:
    """The place of each row in its request, 0 for the highest score; equal scores are ordered by
    chance, so that no order of the rows can flatter."""
    chance = np.random.default_rng(seed).random(len(scores))
    order = np.lexsort((chance, -scores, requests.number))
    starts = np.concatenate([[0], np.cumsum(requests.sizes)[:-1]]).astype(np.intp)
    found = np.empty(len(scores), np.intp)
    found[order] = np.arange(len(scores)) - starts[requests.number[order]]
    return found


def figures(
    scores: Floats, y: NDArray[np.int8], requests: Requests, *, top: int, seed: int
) -> OrderFigures:
    """NDCG and hit rate among the first `top` places, and the reciprocal of the first good place.

    Requests of one item, and those whose items all have one label, tell nothing and are left out.

    Sources: Järvelin and Kekäläinen, ACM TOIS 20 (2002), for the normalized discounted cumulative
    gain; Voorhees, TREC-8 (1999), for the mean reciprocal rank.
    """
    count, number = len(requests), requests.number
    sizes, good = requests.sizes, np.bincount(number, y, minlength=count)
    tells = (good > 0) & (good < sizes)
    place = places(scores, requests, seed=seed)
    gains = y / np.log2(place + 2.0)
    gained = np.bincount(number, np.where(place < top, gains, 0.0), minlength=count)
    discounts = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(top) + 2.0))])
    ideal = discounts[np.minimum(good.astype(np.intp), top)]
    first = np.full(count, np.inf)
    np.minimum.at(first, number[y == 1], place[y == 1].astype(np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = good / sizes * discounts[np.minimum(sizes, top)] / ideal
        values = {
            NDCG: (gained / ideal)[tells],
            "mrr": (1 / (first + 1))[tells],
            "hit_rate": (first < top).astype(np.float64)[tells],
        }
    return OrderFigures(values, chance[tells], requests.unit[tells])


def order_measures(
    own: OrderFigures, champion: OrderFigures | None, *, seed: int
) -> tuple[Measure, ...]:
    """The means over requests, beside the champion's on the same ones, with 90 % intervals by unit;
    none without a request that tells."""
    if not len(own.unit):
        return ()
    return tuple(
        mean_measure(
            name,
            own.values[name],
            own.unit,
            seed=seed,
            champion=None if champion is None else champion.values[name],
            bounds=(0.0, 1.0),
        )
        for name in MEASURES
    )


def first_changes(own: Floats, other: Floats, requests: Requests, *, seed: int) -> float:
    """The share of requests of two items or more whose first item is another by other scores; NaN
    without such a request."""
    several = requests.sizes[requests.number] > 1
    firsts = [places(scores, requests, seed=seed) == 0 for scores in (own, other)]
    total = int((firsts[0] & several).sum())
    return float((firsts[0] & ~firsts[1] & several).sum() / total) if total else float("nan")
