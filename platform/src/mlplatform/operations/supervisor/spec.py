"""The supervisor's specification of a child, and its delays before restarts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

FIRST_DELAY_S: Final = 0.2
LONGEST_DELAY_S: Final = 15.0
MOST_PATIENCE_DOUBLINGS: Final = 3
STABLE_S: Final = 30.0
"""Seconds after which earlier failures of a running child no longer delay its restart."""


@dataclass(frozen=True, slots=True)
class HttpCheck:
    """The HTTP paths that say whether a child is ready and whether it is alive.

    Args:
        ready: path that answers 2xx once the child is ready.
        live: path that answers 2xx while the child is alive; None where `ready` says that too.
        port: on which it listens, where that is fixed.
        address_file: JSON with "port" that the child writes, where it takes any free port.
        token_file: bearer token to send.
        absent: what status 404 of `ready` means, where the child's own words don't tell.
    """

    ready: str
    live: str | None = None
    port: int | None = None
    address_file: Path | None = None
    token_file: Path | None = None
    absent: str = ""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One process to keep running.

    Args:
        argv: the command; the child calls `follow_parent` first thing.
        env: on top of the supervisor's own environment.
        check: an `HttpCheck`, a file that is there once the child is ready, or None: running
            is ready.
        stop_order: lower stops earlier; equal ones stop together.
        stop_grace_s: between SIGTERM and SIGKILL.
        start_deadline_s: within which the child must answer its check at all; twice as long after
            a start that was late, then four times, and at most eight times (`start_patience`).
        live_failure_s: after so long without a sign of life the child is killed and started again.
        memory_bytes: that it may hold for itself; a child with more is killed and started again.
        memory_setting: the key that moves this limit, for the message.
        shared_port: where the supervisor listens for this child, and for others that share the
            port; they inherit the socket (`runtime.processes.inherited_socket`). So
            nobody else can listen there while the child starts, and be sent its token.
        port_setting: the variable that moves the port, for the message that it is taken.
        kept_port: where the child listens for itself, by SO_REUSEPORT; the supervisor keeps it from
            other users while it does not.
        kept_port_setting: the variable that moves that one.
    """

    name: str
    argv: tuple[str, ...]
    check: HttpCheck | Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    stop_order: int = 0
    stop_grace_s: float = 5.0
    start_deadline_s: float = 90.0
    live_failure_s: float = 6.0
    memory_bytes: int | None = None
    memory_setting: str | None = None
    shared_port: int | None = None
    port_setting: str | None = None
    kept_port: int | None = None
    kept_port_setting: str | None = None


def next_failures(failures: int, ran_s: float) -> int:
    """The number of failures in a row after one more, which came `ran_s` seconds after the
    start."""
    return 1 if ran_s >= STABLE_S else failures + 1


def restart_delay_s(failures: int) -> float:
    """Seconds before the next start; they double with each failure in a row, up to a limit."""
    doublings = min(failures - 1, 16)
    return min(FIRST_DELAY_S * 2.0**doublings, LONGEST_DELAY_S)


def start_patience(late_starts: int) -> float:
    """The factor by which a child's start deadline grows after that many late starts in a row.

    A machine too busy for one start is too busy for the next: a child that was killed each time at
    the same age would never come up.
    """
    return 2.0 ** min(late_starts, MOST_PATIENCE_DOUBLINGS)
