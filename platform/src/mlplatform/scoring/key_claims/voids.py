"""Voids of decisions in whose place another one stands under an idempotency key."""

from __future__ import annotations

from typing import Final

from mlplatform.decisions.records.port import Entry, Idempotency
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.spill.recovery import KEY_ANSWERED_ELSEWHERE

VOIDS: Final = "/voids"
"""Client of the claim that a decision is void once. Names of clients hold no slash."""


def void_entry(
    decision_id: str, model: str, stands: str, *, event_ms: int, recorded_ms: int
) -> Entry:
    """The record that takes a decision back, whether its own record exists or comes yet.

    Args:
        stands: id of the decision that has the key.
    """
    record = Record(
        kind="void",
        decision_id=decision_id,
        model=model,
        event_ms=event_ms,
        recorded_ms=recorded_ms,
        payload={"reason": KEY_ANSWERED_ELSEWHERE, "stands": stands},
    )
    return Entry(record, Idempotency(VOIDS, decision_id, "", b"{}", impersonal=True))
