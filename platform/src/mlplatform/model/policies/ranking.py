"""Models whose requests name several items, which the answer puts in order."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Final, Literal, NamedTuple

from msgspec import Meta

from mlplatform.model.policies.values import FieldName, Rule, Section, Share

MOST_ITEMS: Final = 128
"""Most items of one request: their rows are one call of a predictor."""
ITEMS: Final = "items"
"""The member of a request's body that holds the items."""
OrderedBy = Literal["score", "request"]


class RankingPolicy(Section, frozen=True):
    """The items that one request puts in order, each with a score of its own.

    Args:
        items: request fields that each item has of its own; all other fields are the request's.
        most: most items of one request.
        top: number of items in an answer, the best first. Those beyond it are on record, but nobody
            is shown them, so an item without a label among them counts as unknown.
        ndcg_drop: largest tolerated loss of NDCG against the champion, on the same requests; the
            low end of its interval must be within it. A first version must be better than an order
            by chance.
        first_changes: largest share of replayed requests whose first item differs from the
            champion's.
    """

    items: Annotated[tuple[FieldName, ...], Meta(min_length=1)]
    most: Annotated[int, Meta(ge=2, le=MOST_ITEMS)]
    top: Annotated[int, Meta(ge=1, le=MOST_ITEMS)]
    ndcg_drop: Share = 0.02
    first_changes: Share = 1.0


class ItemScore(NamedTuple):
    """The score of an item, and the model's own number behind it; None where no model gave one."""

    score: float | None
    raw: float | None


class Order(NamedTuple):
    """The places of items.

    Args:
        by: `score`, or `request`: as they were sent, because an item has no score.
        places: for each place, the number of its item in the request, from 0.
    """

    by: OrderedBy
    places: tuple[int, ...]


def in_order(items: Sequence[ItemScore]) -> Order:
    """The items by falling score. Equal scores are ordered by the number behind them, then as they
    were sent; where an item has no score, all are."""
    found = [(one.score, one.raw) for one in items]
    if any(s is None or r is None or not math.isfinite(s) for s, r in found):
        return Order("request", tuple(range(len(items))))
    keys = [(-(s or 0.0), -(r or 0.0)) for s, r in found]
    return Order("score", tuple(sorted(range(len(items)), key=keys.__getitem__)))


def ranking_rules(
    policy: RankingPolicy,
    *,
    request: Collection[str],
    unit: str,
    refused: Sequence[tuple[str, object, str]],
) -> Iterator[Rule]:
    """The rules of a ranking: whether each holds, the key, the value, and what is wanted.

    Args:
        request: names of the request fields.
        unit: the assignment unit.
        refused: further keys, what they hold if it is more than nothing, and why a model that puts
            items in order has none of it.
    """
    key, shared = "ranking.items", [name for name in request if name not in policy.items]
    yield len(set(policy.items)) == len(policy.items), key, policy.items, "names that differ"
    unknown = [name for name in policy.items if name not in request]
    yield not unknown, key, unknown, f"request fields ({', '.join(request)})"
    wanted = f"a field that all items of a request share ({', '.join(shared) or 'none is left'})"
    yield unit in shared, "assignment_unit", unit, wanted
    wanted = "another name: a request's items lie under this one"
    yield ITEMS not in request, "request", ITEMS, wanted
    yield policy.top <= policy.most, "ranking.top", policy.top, f"at most most ({policy.most})"
    for name, value, why in refused:
        yield not value, name, value, f"nothing, where items are put in order: {why}"
