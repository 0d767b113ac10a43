"""The supervisor's specification of a child, and its delays before restarts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

FIRST_DELAY_S: Final = 0.2
LONGEST_DELAY_S: Final = 15.0
MOST_DOUBLINGS: Final = 3
STABLE_S: Final = 30.0
"""Seconds after which earlier failures of a running child no longer delay its restart."""
MOST_UNCOUNTED: Final = 0.9
"""Largest share of a silence that may not count."""


@dataclass(frozen=True, slots=True)
class HttpCheck:
    """The HTTP paths that say whether a child is ready and whether it is alive.

    Args:
        ready: path that answers 2xx once the child is ready.
        live: path that answers 2xx while the child is alive; None if `ready` is used for both.
        port: the port on which it listens, if it is fixed.
        address_file: JSON file with "port", which the child writes if it takes any free port.
        token_file: file with the bearer token to send; None without one.
        absent: meaning of status 404 of `ready`, if the child's answer does not explain it.
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
        argv: the command; the child must first call `follow_parent`.
        env: variables that are added to the supervisor's environment.
        check: an `HttpCheck`, or a file that exists once the child is ready, or None: a running
            child is ready.
        stop_order: children with a lower number stop earlier; equal ones stop together.
        stop_grace_s: seconds between SIGTERM and SIGKILL.
        start_deadline_s: seconds within which the child must answer its check. After each late
            start in a row they double, up to eight times as many (`start_patience`).
        live_failure_s: seconds without a sign of life after which the child is killed and
            restarted. In this and in the start deadline, seconds in which the child waited for a
            core do not count (`uncounted_s`).
        memory_bytes: largest memory of its own; a child with more is killed and restarted. None: no
            limit.
        memory_setting: the key that sets this limit, for the message.
        shared_port: port on which the supervisor listens for this child and others; they inherit
            the socket (`runtime.processes.inherited_socket`). So nobody else can listen there while
            the child starts, and receive its token.
        port_setting: the variable that sets the port, for the message that the port is in use.
        kept_port: port on which the child itself listens by SO_REUSEPORT; while it does not, the
            supervisor keeps other users from it.
        kept_port_setting: the variable that sets `kept_port`.
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
    return 2.0 ** min(late_starts, MOST_DOUBLINGS)


def uncounted_s(elapsed_s: float, core_wait_s: float) -> float:
    """The part of a silence that says nothing about a child, because its threads waited for a core.

    A restart takes more of the cores that are short, so a child that was killed for a busy machine
    would be silent for longer. One that hangs while other threads of it wait is killed all the
    same, ten times later at most (`MOST_UNCOUNTED`).

    Args:
        elapsed_s: seconds of the silence.
        core_wait_s: seconds that all threads of the child waited for a core meanwhile. Threads may
            wait at the same time, and the wait of a thread that has ended is lost.
    """
    return min(max(core_wait_s, 0.0), MOST_UNCOUNTED * elapsed_s)
