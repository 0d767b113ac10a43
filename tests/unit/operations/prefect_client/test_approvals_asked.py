"""A question is asked in Prefect until it is answered, whatever wrong answers end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from mlplatform.operations.prefect_client.approvals import (
    AGAIN_AFTER_MS,
    DEAD_AFTER_MS,
    PrefectApprovals,
)
from mlplatform.operations.prefect_client.prefect import FlowRun, PrefectApi
from mlplatform.runtime.clock import Clock


@dataclass
class FakePrefect:
    """Keeps runs by idempotency key, as Prefect does."""

    now_ms: int = 0
    runs: dict[str, FlowRun] = field(default_factory=dict)

    def wall_ms(self) -> int:
        return self.now_ms

    def start(self, flow: str, parameters: Mapping[str, Any], key: str) -> FlowRun:
        new = FlowRun(f"r-{len(self.runs)}", flow, "PAUSED", "", "", parameters, self.now_ms)
        return self.runs.setdefault(key, new)

    def unfinished(self, flow: str, parameters: Mapping[str, Any]) -> list[FlowRun]:
        return [r for r in self.runs.values() if not r.final and r.parameters == parameters]

    def sets(self, state: str) -> None:
        key = list(self.runs)[-1]
        self.runs[key] = replace(self.runs[key], state=state, state_ms=self.now_ms)

    def asks(self, digest: str = "e") -> None:
        approvals = PrefectApprovals(cast(PrefectApi, self), "fraud", cast(Clock, self))
        approvals.ensure_requested("fraud-v2-1", {}, digest)


def test_a_question_that_waits_is_not_asked_again() -> None:
    prefect = FakePrefect()
    for _ in range(3):
        prefect.asks()
        prefect.now_ms += AGAIN_AFTER_MS
    assert len(prefect.runs) == 1
    prefect.asks("other evidence")
    assert len(prefect.runs) == 2


def test_a_question_is_asked_anew_each_minute_for_as_long_as_wrong_answers_end_it() -> None:
    prefect = FakePrefect()
    for number in range(200):
        prefect.asks()
        prefect.asks()
        assert len(prefect.runs) == number + 1
        assert not prefect.runs[list(prefect.runs)[-1]].final, "somebody can answer"
        prefect.sets("FAILED")
        prefect.now_ms += AGAIN_AFTER_MS


def test_a_run_that_was_killed_on_its_way_is_replaced() -> None:
    prefect = FakePrefect()
    prefect.asks()
    prefect.sets("RUNNING")
    prefect.now_ms += DEAD_AFTER_MS
    prefect.asks()
    assert len(prefect.runs) == 1
    prefect.now_ms += 1
    prefect.asks()
    assert len(prefect.runs) == 2
