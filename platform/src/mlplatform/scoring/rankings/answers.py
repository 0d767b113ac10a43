"""The answer to a request with several items: their order, and what the record of each keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mlplatform.model.policies.ranking import Order, OrderedBy
from mlplatform.scoring.arms.routing import AssignedArm
from mlplatform.scoring.request.answers import AnsweredBy, Degradation, ModelInfo, ReasonInfo
from mlplatform.scoring.request.decision import DecidedRequest, score_body

BEYOND_TOP = "beyond_top"
"""Why an alert has no reasons: nobody is shown the item."""


class ArmInfo(msgspec.Struct, frozen=True):
    """The arm that the request belongs to, and the routes that said so."""

    arm: AssignedArm
    generation: int


class RankedItem(msgspec.Struct, frozen=True, kw_only=True):
    """One item at its place, 1 for the best.

    `item` is its number in the request's `items`, from 0. `decision_id` names it for labels, voids
    and explanations. `decision`, `score` and `reasons` are the item's own.
    """

    place: int
    item: int
    decision_id: str
    decision: str
    score: float | None
    reasons: list[ReasonInfo]
    reasons_omitted: str | None


class RankingAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The best items of one request, in order.

    `ordered_by` is `score`, or `request` where some item has no score: all items are then in the
    order in which they were sent, and `degraded` says why. One version scored all items or none.
    `of` is the number of items that were put in order. `ranking_id` is the decision's id of the
    first place.
    """

    ranking_id: str
    items: list[RankedItem]
    of: int
    ordered_by: OrderedBy
    answered_by: AnsweredBy
    model: ModelInfo | None
    route: ArmInfo
    degraded: Degradation | None


def ranking_answer(decided: Sequence[DecidedRequest], order: Order, top: int) -> RankingAnswer:
    """The answer for decisions about items, in the order of the request.

    Args:
        top: number of items in the answer.
    """
    first = decided[order.places[0]]
    body, arm = score_body(first), first.arm
    why = next((one.degraded_reason for one in decided if one.degraded_reason), None)
    return RankingAnswer(
        ranking_id=body.decision_id,
        items=[
            _item(place, number, decided[number])
            for place, number in enumerate(order.places[:top], start=1)
        ],
        of=len(decided),
        ordered_by=order.by,
        answered_by=body.answered_by,
        model=None if arm is None else ModelInfo(arm.version, arm.bundle),
        route=ArmInfo(body.route, body.generation),
        degraded=None if why is None else Degradation(why),
    )


def _item(place: int, number: int, decided: DecidedRequest) -> RankedItem:
    verdict = decided.verdict
    return RankedItem(
        place=place,
        item=number,
        decision_id=decided.routed.decision_id,
        decision=verdict.decision,
        score=verdict.score,
        reasons=list(verdict.reasons),
        reasons_omitted=verdict.omitted,
    )


def logged_place(order: Order, place: int, ranking_id: str, top: int) -> dict[str, Any]:
    """The place of an item, as its record keeps it.

    Args:
        place: of the item, from 1.
    """
    found: dict[str, Any] = {
        "id": ranking_id,
        "place": place,
        "item": order.places[place - 1],
        "of": len(order.places),
        "by": order.by,
    }
    return found if place <= top else found | {"withheld": True}
