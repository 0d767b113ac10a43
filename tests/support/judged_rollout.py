"""A rollout whose evidence the judge itself made: its journal, and the interim analyses in
between."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from mlplatform.decisions.records.port import Watermark
from mlplatform.operations.actions.interim_analyses import StepHistory, analysis_of, followed_by
from mlplatform.rollouts.journal.basis_evidence import Role
from mlplatform.rollouts.journal.transitions import (
    Answered,
    ApprovalAsked,
    CanaryStepped,
    Opened,
    PlannedStep,
    RolledBack,
    RolloutPlan,
    ShadowStarted,
    Transition,
)
from mlplatform.rollouts.passes.observe import step_limits
from mlplatform.rollouts.verdicts.judgement import Sources
from mlplatform.rollouts.verdicts.verdict import Prediction
from mlplatform.runtime.units import DAY_MS
from rollout_world import WRITER, arm, fraud, gate_report, judged

BEGUN_MS = 1_760_000_000_000
PREDICTED = Prediction(alert_ratio=1.0, disagreement=0.1, alert_share=0.03)


class JudgedRollout:
    """Version 2 of fraud: a shadow phase, an approval, and a canary step that failures end.

    Args:
        analyses: at each step. requests: in shadow, of which canary has a part.
    """

    def __init__(self, analyses: int = 3, requests: int = 3_000) -> None:
        self._analyses, self._requests = analyses, requests
        self.facts: list[Transition] = []
        self.histories: list[StepHistory] = []
        self._wall_ms = 0
        shadow, canary = self._evidence("shadow", 1), self._evidence("canary", 2)
        plan = RolloutPlan(history_h=72.0, requests_h=400.0, steps=(
            PlannedStep(percent=None, hours=50.0, deadline_h=168.0, passes=0.99,
                        decides="sample", exposed=0),
            *(PlannedStep(percent=p, hours=20.0, deadline_h=168.0, passes=0.97,
                          decides="failures", exposed=int(40 * p)) for p in (5.0, 25.0, 50.0)),
        ))  # fmt: skip
        self._add(Opened, 0, "ana", "a retrain of October", challenger=arm(2), author="ana",
                  alert_low=0.0, alert_high=0.05, bootstrap=False, plan=plan,
                  approval="required", validation=gate_report("b" * 64))  # fmt: skip
        self._add(ShadowStarted, 1, "pass 7", "its service is ready", displaced=None)
        asked = self._add(ApprovalAsked, 2 * DAY_MS, "pass 9", "shown in shadow", evidence=shadow)
        self._add(Answered, 2 * DAY_MS + 9_000_000, "ben", "the interval is narrow enough",
                  answer="approve", approver="ben", bound_to=asked.evidence_digest)  # fmt: skip
        self._add(CanaryStepped, 2 * DAY_MS + 9_060_000, "pass 9", "approved by ben",
                  step=0, percent=5.0)  # fmt: skip
        self._canary = canary

    def stopped(self) -> tuple[Transition, ...]:
        """The journal after the rollback."""
        self._add(RolledBack, 4 * DAY_MS, "pass 11", "too many failures", evidence=self._canary)
        return tuple(self.facts)

    def _add(self, kind: Any, after_ms: int, actor: str, reason: str, **more: Any) -> Any:
        fact = kind(rollout_id="fraud-v2-1", model="fraud", event_ms=BEGUN_MS + after_ms,
                    wall_ms=BEGUN_MS + after_ms, actor=actor, reason=reason, **more)  # fmt: skip
        self.facts.append(fact)
        return fact

    def _evidence(self, role: Role, generation: int) -> dict[str, Any]:
        policy = fraud().rollout
        step = policy.shadow if role == "shadow" else policy.canary[0]
        limits = step_limits(policy, step, PREDICTED)
        percent = None if role == "shadow" else 5.0
        history = StepHistory("fraud-v2-1", generation, role, percent, ())
        rows = (shadow_rows if role == "shadow" else canary_rows)(self._requests)
        begun_ms = BEGUN_MS + (0 if role == "shadow" else 2 * DAY_MS + 9_060_000)
        evidence: dict[str, Any] = {}
        for number in range(1, self._analyses + 1):
            part = rows[: len(rows) * number // self._analyses]
            until_ms = part[-1]["event_ms"] + 1
            mark = Watermark(WRITER, len(part), until_ms, until_ms, live=False)
            found = judged(part, role, limits, Sources((mark,), ()))
            evidence = {**found.evidence, "generation": generation, "model": "fraud",
                        "version": 2, "author": "ana",
                        "basis": {"limits": msgspec.to_builtins(limits)}}  # fmt: skip
            at_ms = begun_ms + (DAY_MS * 2 - 3_600_000) * number // self._analyses
            seen = analysis_of(evidence, at_ms)
            assert seen is not None
            history = followed_by(history, seen)
        self.histories.append(history)
        return evidence


def shadow_rows(requests: int) -> list[dict[str, Any]]:
    """Pairs of decisions, of which the challenger flags about as many."""
    rng, rows = np.random.default_rng(3), []
    for number in range(requests):
        flagged = "review" if rng.random() < 0.03 else "approve"
        agrees = rng.random() < 0.97 or flagged == "approve"
        copied = flagged if agrees else "approve"
        shared = {"decision_id": f"s{number}", "unit": number % 900,
                  "event_ms": BEGUN_MS + 7_000 * number}  # fmt: skip
        took = int(4000 + rng.exponential(900))
        rows.append({**shared, "decision": flagged, "latency_us": took})
        rows.append({**shared, "kind": "shadow", "arm": "challenger", "version": 2,
                     "decision": copied, "latency_us": took + 300})  # fmt: skip
    return rows


def canary_rows(requests: int) -> list[dict[str, Any]]:
    """Customers of both arms, of whom the challenger's are not answered in time too often."""
    rng, rows = np.random.default_rng(4), []
    for number in range(requests):
        unit = number % 1_500
        mine = unit % 20 == 0
        failed = mine and rng.random() < 0.3
        row: dict[str, Any] = {
            "decision_id": f"c{number}", "unit": unit, "arm": "challenger" if mine else "champion",
            "version": 2 if mine else 1, "event_ms": BEGUN_MS + 2 * DAY_MS + 18_000 * number,
            "latency_us": int(4200 + rng.exponential(900)),
        }  # fmt: skip
        if failed:
            row |= {"answered_by": "champion", "degraded": True, "degraded_reason": "deadline",
                    "version": 1}  # fmt: skip
        rows.append(row)
    return rows
