"""The order of a request's items, computed again from their records and bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mlplatform.decisions.records.rankings import LoggedPlace, place_of
from mlplatform.decisions.records.record import Record
from mlplatform.model.policies.ranking import ItemScore, OrderedBy, in_order
from mlplatform.scoring.request.explain import DeciderOf, Explanation, explain_records


class RankingAgain(msgspec.Struct, frozen=True, kw_only=True):
    """The order of a request's items beside the logged one.

    Args:
        items: decision ids, the first place first.
        differences: what does not come out again as it is on record.
    """

    id: str
    items: tuple[str, ...]
    ordered_by: OrderedBy
    differences: tuple[str, ...]


def order_again(
    ranking_id: str, rows: Sequence[Mapping[str, Any]], decider_of: DeciderOf
) -> RankingAgain:
    """The order of the items of one request, scored again.

    Args:
        rows: decision records with parsed payloads; those of other requests are passed by.

    Raises:
        NotFound: a bundle is not here.
        Corrupt: a payload or a bundle is damaged.
    """
    placed = [(place_of(row["payload"]), row) for row in rows]
    own = [(at, row) for at, row in placed if at is not None and at.id == ranking_id]
    own.sort(key=lambda pair: pair[0].item)
    found = [
        (at, explain_records([msgspec.convert({**row}, Record)], decider_of)[0]) for at, row in own
    ]
    if not found or len(found) != found[0][0].of:
        of = f"{found[0][0].of} items" if found else "its items"
        lacking = f"{len(found)} of {of} are on record here with their payloads"
        return RankingAgain(id=ranking_id, items=(), ordered_by="request", differences=(lacking,))
    order = in_order(_scored([one for _, one in found]))
    differences = [
        f"item {at.item}: {difference}" for at, one in found for difference in one.differences
    ]
    differences += _moved([at for at, _ in found], order.places)
    if order.by != found[0][0].by:
        differences.append(f"ordered by {found[0][0].by} in the log, by {order.by} computed again")
    items = tuple(found[number][1].decision_id for number in order.places)
    return RankingAgain(
        id=ranking_id, items=items, ordered_by=order.by, differences=tuple(differences)
    )


def _scored(items: Sequence[Explanation]) -> list[ItemScore]:
    """The scores computed again; none counts if several deciders gave them."""
    if len({(one.answered_by, one.bundle) for one in items}) > 1:
        return [ItemScore(None, None)] * len(items)
    again = [one.again for one in items]
    return [
        ItemScore(None, None) if one is None else ItemScore(one.score, one.raw) for one in again
    ]


def _moved(logged: Sequence[LoggedPlace], places: Sequence[int]) -> list[str]:
    again = {number: place for place, number in enumerate(places, start=1)}
    return [
        f"item {at.item}: place {at.place} in the log, {again[number]} computed again"
        for number, at in enumerate(logged)
        if again[number] != at.place
    ]
