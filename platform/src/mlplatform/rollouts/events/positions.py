"""The port behind the stream: how far each receiver has come, and who may send to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Position:
    """The last fact of each journal that a receiver is done with."""

    rollouts: int
    incidents: int


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to send to a receiver: a token that grows with every taking.

    Args:
        at: position from which to continue.
    """

    receiver: str
    token: int
    at: Position


@dataclass(frozen=True, slots=True)
class Progress:
    """The present state of a receiver.

    Args:
        declared: the receivers' file declares it. A receiver that was removed from the file keeps
            its position.
        delivered, failed: number of successful and of failed attempts since the receiver was first
            declared.
        stopped: reason why nothing is sent to it any more; empty if it is not stopped.
        failure: reason why the last attempt failed; empty if it succeeded.
    """

    receiver: str
    at: Position
    token: int
    declared: bool
    delivered: int
    failed: int
    stopped: str
    failure: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """The result of one delivery.

    Args:
        failure: reason why it failed; empty if the receiver accepted it.
        gone: the receiver wants no further events.
    """

    failure: str = ""
    gone: bool = False


class Positions(Protocol):
    """The positions of receivers. They are stored apart from the transaction that writes a fact."""

    def declare(self, receivers: Iterable[str], start: Position) -> None:
        """Declare the receivers of the file; a new one starts after the position `start`."""
        ...

    def take(self, receiver: str, holder: str, *, until_ms: int, now_ms: int) -> Claim | None:
        """Take the right to send to a receiver. Returns None while another holder has it, or if the
        receiver is stopped.

        The same holder gets it again, under a new token: its earlier claims are stale.

        Raises:
            NotFound: no such receiver was declared.
        """
        ...

    def record(self, claim: Claim, at: Position, attempt: Attempt | None, *, until_ms: int) -> None:
        """Record that the receiver is done with everything up to `at`, and extend the claim to
        `until_ms`.

        Raises:
            StaleFence: the claim was taken over, or the position was moved.
        """
        ...

    def move(self, receiver: str, at: Position | None) -> None:
        """Move a receiver to a position, or without one leave it where it is. Ends a stop and all
        claims.

        Raises:
            NotFound: no such receiver was declared.
        """
        ...

    def list(self) -> list[Progress]:
        """All receivers that were ever declared, sorted by name."""
        ...
