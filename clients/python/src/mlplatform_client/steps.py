"""What follows from the outcome of an attempt: the call's value, another attempt, or an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar, assert_never

import msgspec

from mlplatform_client.errors import CallFailed, DeadlineExceeded, refused
from mlplatform_client.exchange import Call, Continuation, NoReply, Outcome, Reply, Result
from mlplatform_client.replies import error_of, error_without_reply, may_repeat

T = TypeVar("T")
POLL_S: Final = 1.0
"""Between two polls where the gateway names no other pause."""


class Retries(msgspec.Struct, frozen=True, kw_only=True):
    """How often and how soon a request is sent again, within its deadline.

    Args:
        attempts: of one request at the most, 1 or more; 1: it is never sent again.
        first_s: the pause after the first attempt, seconds; each later one is twice as long.
        longest_s: the longest pause, seconds, but for what `Retry-After` asks for.
        attempt_s: what one attempt may take, seconds; longer where the gateway was given longer.

    Raises:
        InputRefused: one of them is out of range.
    """

    attempts: int = 6
    first_s: float = 0.05
    longest_s: float = 2.0
    attempt_s: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise refused("retries", "attempts", self.attempts, "1 or more")
        for name in ("first_s", "longest_s", "attempt_s"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise refused("retries", name, value, "seconds, more than 0")

    def allowed_s(self, call: Call[T]) -> float:
        """What one attempt of a call may take, seconds."""
        return max(self.attempt_s, call.takes_s)


@dataclass(frozen=True, slots=True)
class Retry(Generic[T]):
    """Send `call` after a pause.

    Args:
        pause_s: seconds.
        attempt: the number of the attempt that follows.
        error: why; None where nothing failed, and the answer is to come.
    """

    call: Call[T]
    pause_s: float
    attempt: int
    error: CallFailed | None


@dataclass(frozen=True, slots=True)
class Failure:
    """The call ends without a value."""

    error: CallFailed


def next_step(
    call: Call[T],
    outcome: Outcome,
    *,
    attempt: int,
    left_s: float,
    jitter: float,
    wall_s: float,
    retries: Retries,
) -> Result[T] | Retry[T] | Failure:
    """What follows from the outcome of an attempt.

    Args:
        attempt: its number, from 1 on.
        left_s: of the call's deadline, seconds; may be below 0.
        jitter: 0 to 1, drawn anew each time: clients that wait are not met all at once.
        wall_s: seconds since 1970.
    """
    is_late = False
    match outcome:
        case NoReply():
            is_late = outcome.kind == "late"
            error = error_without_reply(call.name, call.key, outcome)
            is_repeated = outcome.kind == "unreached" or (
                outcome.kind in ("broken", "late") and call.is_repeatable
            )
        case Reply(status=status) if 200 <= status < 300:
            try:
                read = call.read(outcome)
            except CallFailed as failed:
                return _ended(call, failed, attempt)
            if isinstance(read, Result):
                return read
            return _continued(read, attempt, left_s, jitter, retries)
        case Reply():
            error = error_of(call.name, call.key, outcome, wall_s)
            is_repeated = may_repeat(error, is_repeatable=call.is_repeatable)
        case _:
            assert_never(outcome)
    if not is_repeated or attempt >= retries.attempts:
        if is_late and left_s <= 0:
            error = _out_of_time(error, left_s, is_late=True)
        return _ended(call, error, attempt)
    pause_s = _pause_s(attempt, jitter, error.retry_after_s, retries)
    if pause_s >= left_s:
        return _ended(call, _out_of_time(error, left_s, is_late=is_late), attempt)
    return Retry(call, pause_s, attempt + 1, error.after(attempt))


def _continued(
    read: Continuation[T], attempt: int, left_s: float, jitter: float, retries: Retries
) -> Result[T] | Retry[T] | Failure:
    if read.is_poll:
        pause_s = (read.retry_after_s or POLL_S) + retries.first_s * jitter
        if pause_s >= left_s:
            return _ended(read.call, read.error, attempt)
        return Retry(read.call, pause_s, 1, None)
    pause_s = _pause_s(attempt, jitter, read.retry_after_s, retries)
    if attempt >= retries.attempts or pause_s >= left_s:
        return _ended(read.call, read.error, attempt)
    return Retry(read.call, pause_s, attempt + 1, read.error.after(attempt))


def _pause_s(attempt: int, jitter: float, asked_s: float | None, retries: Retries) -> float:
    if asked_s:
        return asked_s + retries.first_s * jitter
    doubled = min(retries.first_s * 2.0 ** min(attempt - 1, 30), retries.longest_s)
    return doubled * (0.5 + 0.5 * jitter)


def _ended(call: Call[T], error: CallFailed, attempt: int) -> Result[T] | Failure:
    if call.partial is not None:
        return Result(call.partial)
    return Failure(error.after(attempt))


def _out_of_time(error: CallFailed, left_s: float, *, is_late: bool) -> CallFailed:
    """The error of a call that has no time for another attempt."""
    if is_late:
        message = f"the deadline has passed: {error.facts.message}"
        return DeadlineExceeded(msgspec.structs.replace(error.facts, message=message))
    left = f"{max(left_s, 0.0):.2g} s of the deadline were left"
    return type(error)(
        msgspec.structs.replace(error.facts, message=f"{error.facts.message}; {left}")
    )
