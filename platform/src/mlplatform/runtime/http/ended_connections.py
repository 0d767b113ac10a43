"""Connections that were ended because they exceeded a listener's limits, reported once a minute."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from mlplatform.runtime.telemetry.refusals import UNKNOWN, Refusal, Refusals

EVERY_S: Final = 60.0


class EndedConnections:
    """Counts ended connections, and stores one refusal a minute with their number.

    Args:
        listener: name of the listener.
        refusals: where refusals are stored; None: nothing is stored.
    """

    def __init__(
        self,
        listener: str,
        refusals: Refusals | None,
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._listener = listener
        self._refusals = refusals
        self._clock_s = clock_s
        self._kept_s = float("-inf")
        self._reasons: Counter[str] = Counter()
        self._peers: Counter[str] = Counter()

    def count(self, reason: str, peer: str) -> None:
        self._reasons[reason] += 1
        self._peers[peer] += 1

    def store(self) -> None:
        """Store the count, unless that was done less than a minute ago."""
        now_s = self._clock_s()
        if not self._reasons or now_s - self._kept_s < EVERY_S:
            return
        self._kept_s = now_s
        if self._refusals is not None:
            self._refusals.keep(self._refusal())
        self._reasons.clear()
        self._peers.clear()

    def _refusal(self) -> Refusal:
        total = sum(self._reasons.values())
        peer, of_peer = self._peers.most_common(1)[0]
        reasons = ", ".join(f"{count} {reason}" for reason, count in self._reasons.most_common())
        return Refusal(
            wall_ms=time.time_ns() // 1_000_000,
            door=self._listener,
            who=UNKNOWN if of_peer < total else peer,
            asked=f"connections: {total}",
            why=f"ended: {reasons}",
        )
