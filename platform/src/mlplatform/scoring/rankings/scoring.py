"""The path of one request with several items, from its parsed body to its durable answer.

Each item is decided and recorded as a request of its own; their order, and who scored them, are
those of all of them together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from typing import Any

from mlplatform.decisions.records.port import Entry
from mlplatform.model.policies.ranking import ItemScore, Order, RankingPolicy, in_order
from mlplatform.runtime.telemetry.context import Origin
from mlplatform.scoring.arms.fallback import predict_until
from mlplatform.scoring.arms.live import Live
from mlplatform.scoring.rankings.answers import logged_place, ranking_answer
from mlplatform.scoring.rankings.bodies import RankingBodies, RankRequest
from mlplatform.scoring.rankings.prediction import decide_item, predict_all
from mlplatform.scoring.request.answers import ScoreResponse, encode
from mlplatform.scoring.request.decision import (
    Caller,
    DecidedRequest,
    RoutedRequest,
    check_named,
)
from mlplatform.scoring.request.payloads import ScoreRequest
from mlplatform.scoring.request.prediction import (
    KILLED_REASON,
    STALE_REASON,
    Failure,
    Prediction,
    Verdict,
    without_predictor,
)
from mlplatform.scoring.request.recording import IdempotencyClaim
from mlplatform.scoring.request.scoring import Scoring, ScoringInput


class RankingScoring(Scoring):
    """Answers requests with several items too, of a model whose model.yaml has `ranking`."""

    def __init__(self, *parts: Any) -> None:
        """
        Args:
            parts: those of `Scoring`.
        """
        super().__init__(*parts)
        policy = self.definition.ranking
        assert policy is not None
        self.policy: RankingPolicy = policy
        self.bodies = RankingBodies(self.definition, policy)

    def _begin(
        self, request: ScoreRequest, new_id: str, caller: Caller, claim: IdempotencyClaim | None
    ) -> Awaitable[ScoreResponse]:
        if isinstance(request, RankRequest):
            return self._rank(request, new_id, caller, claim)
        return super()._begin(request, new_id, caller, claim)

    async def _rank(
        self, request: RankRequest, new_id: str, caller: Caller, claim: IdempotencyClaim | None
    ) -> ScoreResponse:
        self.check_accepts(request.event_ms)
        ids = [new_id, *(self._new_id(caller) for _ in request.items[1:])]
        inputs = [
            ScoringInput(one, self.pseudonymised(fields), request.event_ms)
            for one, fields in zip(ids, request.items, strict=True)
        ]
        with self.times.answering(request.event_ms):
            decided, order = await self._decide_items(
                await self._route_items(inputs, caller), caller
            )
            response = await self._record_items(decided, order, caller, claim)
        if not response.replayed:
            for one in decided:
                self._count(one, caller)
                self._copy(one.routed)
        return response

    async def _route_items(
        self, inputs: Sequence[ScoringInput], caller: Caller
    ) -> list[RoutedRequest]:
        """The items, all by the same routes."""
        while True:
            routed = await asyncio.gather(*(self._route(one, caller) for one in inputs))
            if all(one.live is routed[0].live for one in routed):
                return routed

    async def _decide_items(
        self, routed: Sequence[RoutedRequest], caller: Caller
    ) -> tuple[list[DecidedRequest], Order]:
        """The decision about each item, in the order of the request, and their order.

        An item whose features are too old is not scored, so all items then are as they were sent.
        """
        live = routed[0].live
        until_s = predict_until(live.chain, caller.started_s, caller.deadline_s)
        steps = live.order(routed[0].assignment)
        failures: Sequence[Failure] = ()
        asked = [number for number, one in enumerate(routed) if not one.gaps.withheld]
        found: dict[int, Prediction] = {}
        if live.routes.killed:
            failures = (Failure(steps[0].name, "killed"),)
        elif asked:
            origin = Origin(routed[0].decision_id, caller.trace)
            facts = [routed[number].facts for number in asked]
            predictions, failures = await predict_all(live, steps, facts, until_s, origin)
            found = dict(zip(asked, predictions, strict=False))
        if found:
            order = in_order([_scored(found.get(number)) for number in range(len(routed))])
            shown = {*order.places[: self.policy.top]}
            verdicts = await asyncio.gather(
                *(
                    self._verdict(one, found.get(number), until_s, is_shown=number in shown)
                    for number, one in enumerate(routed)
                )
            )
        else:
            verdicts = [_without_model(live, one) for one in routed]
            order = in_order([ItemScore(one.score, one.raw) for one in verdicts])
        decided_s, failed = time.monotonic(), tuple(failures)
        return [
            DecidedRequest(one, verdict, failed, found.get(number), decided_s)
            for number, (one, verdict) in enumerate(zip(routed, verdicts, strict=True))
        ], order

    @staticmethod
    async def _verdict(
        routed: RoutedRequest, prediction: Prediction | None, until_s: float, *, is_shown: bool
    ) -> Verdict:
        if prediction is None:
            return _without_model(routed.live, routed)
        return await decide_item(prediction, until_s, is_shown=is_shown)

    async def _record_items(
        self,
        decided: Sequence[DecidedRequest],
        order: Order,
        caller: Caller,
        claim: IdempotencyClaim | None,
    ) -> ScoreResponse:
        """The answer, once the records of all items are durable, in one transaction. The first
        place's record holds the key."""
        first, top = decided[order.places[0]], self.policy.top
        check_named(first, caller)
        ranking_id = first.routed.decision_id
        entries = []
        for place, number in enumerate(order.places, start=1):
            entry = self._entry(decided[number], caller)
            entry.payload["ranking"] = logged_place(order, place, ranking_id, top)
            entries.append(entry)
        body = encode(ranking_answer(decided, order, top))
        others = [Entry(entry) for entry in entries[1:]]
        return await self._append(first, caller, claim, entries[0], body, others)


def _without_model(live: Live, routed: RoutedRequest) -> Verdict:
    """The decision about an item that no predictor scored."""
    if live.routes.killed:
        return without_predictor(live, routed.facts, KILLED_REASON)
    if routed.gaps.withheld:
        return without_predictor(live, routed.facts, STALE_REASON)
    return without_predictor(live, routed.facts)


def _scored(prediction: Prediction | None) -> ItemScore:
    if prediction is None or isinstance(prediction.raw, tuple):
        return ItemScore(None, None)
    return ItemScore(prediction.target.bundle.calibrate(prediction.raw), prediction.raw)
