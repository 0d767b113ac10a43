"""The values in the evidence of transitions, by name; the journal stores evidence as canonical
JSON.

Evidence of an earlier release may lack any of them, and may hold values that no release writes any
more. The digest covers everything that was written, so rows are decoded as they stand. These types
are for code that writes and reads evidence.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from mlplatform.learning.validation.report_entries import ValidationReport
from mlplatform.rollouts.journal.basis_evidence import BasisEvidence, PlanEvidence

Verdict = Literal["HEALTHY", "UNHEALTHY", "INCONCLUSIVE"]


class GateEvidence(TypedDict):
    """A gate's answer.

    Args:
        holds: false where the rollout does not wait for it.
    """

    verdict: Verdict
    reason: str
    values: dict[str, float | int | None]
    holds: NotRequired[bool]


class Evidence(TypedDict, total=False):
    """The evidence that a transition is based on: the version judged, the counts, and the verdict.

    Args:
        model, rollout_id, version, bundle, author, alert_band: of the challenger.
        validation, plan: what was known of it before it met traffic.
        bootstrap: there is no champion to compare with.
        emergency, opened_by: it is promoted at once, as this person asks.
        stopped: by gateway, why it asks the version no more.
        arms: counts of either arm, by name. dropped: copies that were never sent, by reason.
        gates: by name, in the order in which they were asked.
        log: by writer, the first and the last number of what was counted.
        position: by writer, up to which number the log was read.
        counted: SHA-256 of everything that was counted.
        watermarks: by writer, number and event time.
        basis: what the verdict follows from besides the log.
    """

    model: str
    rollout_id: str
    version: int
    bundle: str
    author: str
    alert_band: list[float]
    validation: ValidationReport
    plan: PlanEvidence
    bootstrap: bool
    emergency: bool
    opened_by: str
    stopped: dict[str, str]
    verdict: Verdict
    generation: int
    records: int
    until_event_ms: int | None
    arms: dict[str, dict[str, int]]
    dropped: dict[str, int]
    gates: dict[str, GateEvidence]
    log: dict[str, list[int]]
    position: dict[str, int]
    counted: str
    watermarks: dict[str, list[int | None]]
    basis: BasisEvidence
