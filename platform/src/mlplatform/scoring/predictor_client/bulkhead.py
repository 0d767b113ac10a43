"""How many requests of one model this gateway holds, and how often a call may be repeated."""

from __future__ import annotations


class Bulkhead:
    """At most `limit` requests of one model wait for predictors at a time; a further one is
    refused.

    A slow predictor piles up requests. This limit keeps them from taking the memory and the turns
    of the event loop that other models' requests need.
    """

    __slots__ = ("_limit", "inside")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.inside = 0

    def enter(self) -> bool:
        """Take a place if there is one. Returns whether there was; `leave` gives it back."""
        if self.inside >= self._limit:
            return False
        self.inside += 1
        return True

    def leave(self) -> None:
        self.inside -= 1


class RetryBudget:
    """Repeated calls as a share of first calls, of which a few are saved up.

    A predictor that fails under load gets at most that much more load from repeats.

    Source: Google, Site Reliability Engineering, chapter 21 (per-client retry budget).

    Args:
        share: number of repeats that each call adds to the budget, 0 to 1.
        burst: largest number of saved repeats, and the number at the start.
    """

    __slots__ = ("_burst", "_share", "_tokens")

    def __init__(self, share: float, burst: int) -> None:
        self._share = share
        self._burst = float(burst)
        self._tokens = float(burst)

    def record_call(self) -> None:
        """Count a first call."""
        self._tokens = min(self._burst, self._tokens + self._share)

    def may_repeat(self) -> bool:
        """Whether a call may be repeated; True spends one repeat."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
