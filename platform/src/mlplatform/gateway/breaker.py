"""Whether a predictor is worth asking: closed, open, or half open while a few probes go through."""

from __future__ import annotations

from collections import deque
from typing import Literal

from mlplatform.models.definition import BreakerPolicy

State = Literal["closed", "open", "half_open"]


class Breaker:
    """Opens when too many of the last calls failed, and lets probes through after a while.

    Reads no clock: `now_s` is an argument, in seconds of one monotonic clock.
    """

    __slots__ = ("_calls", "_failures", "_opened_s", "_policy", "_probes", "_successes", "state")

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self.state: State = "closed"
        self._calls: deque[bool] = deque(maxlen=policy.window_calls)
        self._failures = 0
        self._opened_s = 0.0
        self._probes = 0
        self._successes = 0

    def allows(self, now_s: float) -> bool:
        """Whether a call may be made now; in half open every True uses up one probe."""
        if self.state == "closed":
            return True
        if now_s - self._opened_s >= self._policy.open_s:
            # Also when half open: probes whose callers went away must not keep it shut for ever.
            self._half_open(now_s)
        if self.state == "half_open" and self._probes < self._policy.half_open_probes:
            self._probes += 1
            return True
        return False

    def succeeded(self) -> None:
        """Record a call that answered in time; enough of them close a half-open breaker."""
        if self.state == "half_open":
            self._successes += 1
            if self._successes >= self._policy.half_open_probes:
                self._close()
        elif self.state == "closed":
            self._count(failed=False)

    def failed(self, now_s: float) -> None:
        """Record a call that did not answer in time; one failed probe opens it again."""
        if self.state == "half_open":
            self._open(now_s)
        elif self.state == "closed":
            self._count(failed=True)
            if self._too_many_failures():
                self._open(now_s)

    def _count(self, *, failed: bool) -> None:
        if len(self._calls) == self._calls.maxlen:
            self._failures -= self._calls[0]
        self._calls.append(failed)
        self._failures += failed

    def _too_many_failures(self) -> bool:
        calls = len(self._calls)
        share = self._failures / calls
        return calls >= self._policy.minimum_calls and share >= self._policy.failure_share

    def _open(self, now_s: float) -> None:
        self.state = "open"
        self._opened_s = now_s

    def _half_open(self, now_s: float) -> None:
        self.state = "half_open"
        self._opened_s = now_s
        self._probes = 0
        self._successes = 0

    def _close(self) -> None:
        self.state = "closed"
        self._calls.clear()
        self._failures = 0
