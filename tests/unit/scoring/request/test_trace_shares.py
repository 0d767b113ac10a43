"""At full load: everything that matters is kept, and few of the rest."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import msgspec
import pytest
from tests.bench.telemetry import finished

from mlplatform.runtime.telemetry.export import MAX_WAITING, MOST_A_POLL, SPARE_WAITING, SpanExport
from mlplatform.runtime.telemetry.span_files import FileSender
from mlplatform.runtime.telemetry.spans import ProcessIdentity
from mlplatform.scoring.request.decision import FinishedDecision
from mlplatform.scoring.request.spans import SPARE, AnsweredRequest, Traces

SLO_S = {"fraud": 0.010}
REQUESTS = 20_000
ODD = 400
"""So many of each kind that matters, spread over the others."""


class KeptRequests(list[AnsweredRequest]):
    def offer(self, item: AnsweredRequest, *, is_spare: bool) -> None:
        self.append(item)


def of_kind(kind: str) -> FinishedDecision:
    """A decision, ordinary but for what the kind says."""
    made = finished()
    if kind == "slow":
        return made._replace(recorded_s=made.started_s + 0.011)
    if kind == "error":
        return made._replace(is_recorded=False)
    decided, routed = made.decided, made.decided.routed
    changes: dict[str, Any] = {}
    if kind == "degraded":
        changes["gaps"] = dataclasses.replace(routed.gaps, degraded=True)
    if kind == "canary":
        changes["assignment"] = msgspec.structs.replace(routed.assignment, arm="challenger")
    routed = msgspec.structs.replace(routed, **changes)
    return made._replace(decided=msgspec.structs.replace(decided, routed=routed))


def test_all_that_matters_is_kept_and_at_most_five_percent_of_the_rest() -> None:
    kept, kinds = KeptRequests(), ("slow", "error", "degraded", "canary")
    traces = Traces(kept, SLO_S, 0.01, chance=random.Random(7).random)
    made = {kind: of_kind(kind) for kind in (*kinds, "ordinary")}
    for number in range(REQUESTS):
        kind = kinds[number % 4] if number % (REQUESTS // (4 * ODD)) == 0 else "ordinary"
        status = 503 if kind == "error" else 200
        traces.end("score", None, made[kind].started_s, status, [made[kind]], lambda: {})
    of = [each.sampled_for for each in kept]
    interesting = sum(of.count(kind) for kind in kinds)
    assert interesting == REQUESTS // (REQUESTS // (4 * ODD)) + (REQUESTS % (4 * ODD) > 0)
    rest = REQUESTS - interesting
    assert 0 < of.count("share") <= 0.05 * rest


@pytest.mark.parametrize("kind", ["error", "degraded", "canary"])
def test_a_flood_of_slow_requests_leaves_room_for_what_is_rarer(kind: str, tmp_path: Any) -> None:
    dropped: list[int] = []
    sender = FileSender(tmp_path, ProcessIdentity("gateway", "gateway-0"))
    export = SpanExport[int](
        sender, lambda _: pytest.fail("it is not started"), lambda _, n: dropped.append(n)
    )
    for number in range(5 * SPARE_WAITING):
        export.offer(number, is_spare="slow" in SPARE)
    assert len(dropped) == 4 * SPARE_WAITING
    for number in range(MAX_WAITING - SPARE_WAITING):
        export.offer(number, is_spare=kind in SPARE)
    assert len(dropped) == 4 * SPARE_WAITING
    assert MOST_A_POLL <= SPARE_WAITING  # nothing waits for nothing
