"""Approvals as suspended flow runs: one for each digest of evidence, asked again if a run ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mlplatform.operations.prefect_client.names import APPROVAL_FLOW
from mlplatform.operations.prefect_client.prefect import FlowRun, PrefectApi
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.units import MINUTE_MS

DEAD_AFTER_MS: Final = 90_000
"""Milliseconds after which a run that has not reached its suspension counts as killed."""
AGAIN_AFTER_MS: Final = MINUTE_MS
"""Least milliseconds between two runs of one question, however many wrong answers end its runs."""


class PrefectApprovals:
    """`rollouts.passes.ports.Approvals` over Prefect's API."""

    def __init__(self, api: PrefectApi, model: str, clock: Clock) -> None:
        self._api = api
        self._model = model
        self._clock = clock

    def ensure_requested(self, rollout_id: str, evidence: Mapping[str, Any], digest: str) -> None:
        parameters = {
            "model": self._model,
            "rollout_id": rollout_id,
            "evidence_digest": digest,
        }
        if any(map(self._waits, self._api.unfinished(APPROVAL_FLOW, parameters))):
            return
        asking = self._clock.wall_ms() // AGAIN_AFTER_MS
        self._api.start(APPROVAL_FLOW, parameters, f"approval-{digest}-{asking}")

    def _waits(self, run: FlowRun) -> bool:
        on_its_way = run.state in ("RUNNING", "PENDING")
        return not (on_its_way and self._clock.wall_ms() - run.state_ms > DEAD_AFTER_MS)
