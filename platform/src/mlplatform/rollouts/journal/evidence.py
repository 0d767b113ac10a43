"""The values in the evidence of transitions, by name; the journal stores evidence as canonical
JSON.

Evidence of an earlier release may lack any of them, and may hold values that no release writes any
more. The digest covers everything that was written, so rows are decoded as they stand. These types
are for code that writes and reads evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NotRequired, TypedDict

from mlplatform.learning.validation.report_entries import ValidationReport
from mlplatform.rollouts.journal.basis_evidence import BasisEvidence, PlanEvidence

Verdict = Literal["HEALTHY", "UNHEALTHY", "INCONCLUSIVE"]
EARLIER_NAMES: Final[Mapping[str, str]] = {
    "frauds": "positives",
    "payments": "requests",
    **{
        f"{earlier}_labels_{part}": f"{name}_labels_{part}"
        for earlier, name in (("fraud", "positive"), ("genuine", "negative"))
        for part in ("share", "low", "high", "within_days")
    },
}
"""Name of a gate's value in a journal of 0.3 and before → its present name."""


class GateEvidence(TypedDict):
    """A gate's answer.

    Args:
        holds: False if the rollout does not wait for the gate.
    """

    verdict: Verdict
    reason: str
    values: dict[str, float | int | None]
    holds: NotRequired[bool]


class Evidence(TypedDict, total=False):
    """The evidence that a transition is based on: the version judged, the counts, and the verdict.

    Args:
        model, rollout_id, version, bundle, author, alert_band: facts about the challenger.
        validation, plan: gate report and rollout plan from before the challenger got traffic.
        bootstrap: there is no champion to compare with.
        emergency, opened_by: the version is promoted at once, at the request of this person.
        stopped: gateway → why it no longer asks the version.
        arms: arm → its counts by name.
        dropped: reason → number of copies that were never sent.
        gates: name → gate, in the order in which the gates were asked.
        log: writer → first and last number of the counted records.
        position: writer → number up to which the log was read.
        counted: SHA-256 digest of all counted data.
        watermarks: writer → number and event time.
        basis: all values that determine the verdict, besides the log.
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


def renewed_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """A gate's values by their present names, whichever release wrote them."""
    return {EARLIER_NAMES.get(name, name): value for name, value in values.items()}
