"""Circuit breaker of a predictor: closed, open, or half open while a few probes go through."""

from __future__ import annotations

from collections import deque
from typing import Literal

from mlplatform.model.policies.serving import BreakerPolicy

State = Literal["closed", "open", "half_open"]

# The kind of a call; a failed call does not also count as slow.
_GOOD, _SLOW, _FAILED = 0, 1, 2


class Breaker:
    """Opens when too many of the last calls failed or were slow; then a few probes decide: after
    the policy's `open_s`, or as soon as another process stands behind the service.

    Reads no clock: times are arguments, in seconds of one monotonic clock. A call is reported
    with the time at which it was made. One made before the breaker last changed its state says
    nothing about now: late results neither close a half-open breaker nor open a closed one.
    """

    __slots__ = (
        "_calls",
        "_failures",
        "_policy",
        "_probes",
        "_since_s",
        "_slow",
        "_slow_s",
        "_successes",
        "state",
    )

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._slow_s = policy.slow_ms / 1000
        self.state: State = "closed"
        self._calls: deque[int] = deque()
        self._failures = 0
        self._slow = 0
        self._since_s = float("-inf")
        self._probes = 0
        self._successes = 0

    def allows(self, now_s: float) -> bool:
        """Whether a call may be made now; in the half-open state every True uses up one probe."""
        if self.state == "closed":
            return True
        if now_s - self._since_s >= self._policy.open_s:
            # This also holds when half open: probes without a result must not block calls for ever.
            self._become("half_open", now_s)
        if self.state == "half_open" and self._probes < self._policy.half_open_probes:
            self._probes += 1
            return True
        return False

    def record_answer(self, asked_s: float, now_s: float, slice_s: float) -> None:
        """Record a call that answered. It counts as slow beyond its slice or the policy's
        `slow_ms`.

        Args:
            asked_s: when the call began, on the monotonic clock.
            now_s: when it was answered, on the same clock.
            slice_s: seconds that the call was allowed to take.
        """
        slow = now_s - asked_s > min(self._slow_s, slice_s)
        if self.state == "closed":
            if asked_s >= self._since_s:
                self._count(_SLOW if slow else _GOOD, now_s)
        elif self.state == "half_open" and asked_s >= self._since_s:
            if slow:  # else everybody would wait for a slow predictor
                self._become("open", now_s)
                return
            self._successes += 1
            if self._successes >= self._policy.half_open_probes:
                self._become("closed", now_s)

    def record_failure(self, asked_s: float, now_s: float) -> None:
        """Record a call without a usable answer in its slice; one failed probe opens the breaker
        again."""
        if asked_s < self._since_s or self.state == "open":
            return
        if self.state == "half_open":
            self._become("open", now_s)
        else:
            self._count(_FAILED, now_s)

    def withdrawn(self, asked_s: float) -> None:
        """Forget a call that says nothing of the predictor: this process failed, or its caller
        left."""
        if self.state == "half_open" and asked_s >= self._since_s and self._probes > 0:
            self._probes -= 1

    def on_new_process(self, now_s: float) -> None:
        """Note that another process stands behind the service, so that earlier calls say nothing
        about it. It gets its probes at once, unless the breaker is closed."""
        self._become("closed" if self.state == "closed" else "half_open", now_s)

    def _count(self, outcome: int, now_s: float) -> None:
        calls = self._calls
        if len(calls) >= self._policy.window_calls:
            oldest = calls.popleft()
            self._failures -= oldest == _FAILED
            self._slow -= oldest == _SLOW
        calls.append(outcome)
        if outcome == _GOOD:
            return
        self._failures += outcome == _FAILED
        self._slow += outcome == _SLOW
        if self._too_many(len(calls)):
            self._become("open", now_s)

    def _too_many(self, calls: int) -> bool:
        policy = self._policy
        if calls < policy.minimum_calls:
            return False
        # A failed call counts here as well: half failed and half slow is as bad as all slow.
        not_quick = self._slow + self._failures
        return (
            self._failures >= policy.failure_share * calls or not_quick >= policy.slow_share * calls
        )

    def _become(self, state: State, now_s: float) -> None:
        self.state = state
        self._since_s = now_s
        self._calls.clear()
        self._failures = self._slow = self._probes = self._successes = 0
