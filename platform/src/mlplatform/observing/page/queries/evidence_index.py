"""The rollout whose journal carries the evidence of a digest."""

from __future__ import annotations

import threading
from typing import Final

from mlplatform.rollouts.journal.sql import SqlRollouts
from mlplatform.rollouts.journal.transitions import Transition

PORTION: Final = 500
"""Number of transitions that are read at a time."""


class EvidenceIndex:
    """Digest → rollout, for the journal as far as it was read; safe for threads.

    The journal only grows, so each transition is read once. If its last position is before this
    index's, it was restored, and is read from its beginning.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._position = 0
        self._rollouts: dict[str, str] = {}

    def rollout_of(self, journal: SqlRollouts, digest: str) -> str | None:
        """The rollout of the newest transition with this evidence; None if there is none."""
        with self._lock:
            if journal.last_position() < self._position:
                self._position, self._rollouts = 0, {}
            while new := journal.facts(self._position, PORTION):
                for one in new:
                    if isinstance(one.fact, Transition) and one.fact.evidence:
                        self._rollouts[one.fact.evidence_digest] = one.fact.rollout_id
                self._position = new[-1].position
            return self._rollouts.get(digest)
