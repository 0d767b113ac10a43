"""One call as plain values: what is sent, what comes back, and what that means for the call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from mlplatform_client.errors import CallFailed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole HTTP answer.

    Args:
        headers: names in lower case.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class NoReply:
    """An attempt without a whole answer.

    Args:
        kind: `unreached`: the request was not sent; `broken`: the connection ended; `late`: time
            was over; `oversized`: the answer was larger than this client takes. But for
            `unreached`, the gateway may have taken the request.
        message: what the transport says.
    """

    kind: Literal["unreached", "broken", "late", "oversized"]
    message: str


Outcome = Reply | NoReply
"""Of one attempt."""


@dataclass(frozen=True, slots=True)
class Result(Generic[T]):
    """The call's end: it has its value."""

    value: T


@dataclass(frozen=True, slots=True)
class Continuation(Generic[T]):
    """A success that is not the end: another request follows.

    Args:
        call: what is asked next.
        error: what the call ends with if there is no time for it.
        is_poll: whether it only asks again for what is to come, so that no attempt is counted.
        retry_after_s: what the gateway asked to wait, seconds.
    """

    call: Call[T]
    error: CallFailed
    is_poll: bool = False
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request to be sent, as often as `next_step` says.

    Args:
        name: what it asks, in words.
        path: below the gateway's address.
        read: what a 2xx answer means; raises AnswerNotUnderstood.
        key: the idempotency key that an application may go on with.
        is_repeatable: whether it may be sent again where an earlier attempt may have been taken.
        partial: what the call returns where it fails later on; None: it raises.
        takes_s: how long the gateway may take for it, seconds: no attempt is given up before that.
    """

    name: str
    method: Literal["GET", "POST"]
    path: str
    read: Callable[[Reply], Result[T] | Continuation[T]]
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    key: str | None = None
    is_repeatable: bool = True
    partial: T | None = None
    takes_s: float = 0.0
