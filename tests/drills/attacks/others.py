"""Carries an attack out in a process of its own, as a user who owns nothing here."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Final

import msgspec
from tests.drills.attacks import wire
from tests.drills.attacks.attack import AttackResult, Target

UID: Final = 54_321
"""A user id that no account has: the kernel asks for numbers alone."""
LIMIT_S: Final = 240.0


def can_be_another() -> bool:
    return os.geteuid() == 0


def carried_out(
    act: Callable[[Target], AttackResult],
    target: Target,
    *,
    uid: int | None,
    limit_s: float = LIMIT_S,
) -> AttackResult:
    """What came of it; an attack that could not be carried out counts as one that succeeded.

    Args:
        uid: whose process it is; None: this process's own user.
    """
    receiver, sender = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(receiver)
        _child(act, target, uid, sender)
    os.close(sender)
    try:
        answer = _read(receiver, time.monotonic() + limit_s)
    finally:
        os.close(receiver)
        _end(pid)
    if answer is None:
        return AttackResult(False, f"the attack was not over within {limit_s:g} s")
    return msgspec.json.decode(answer, type=AttackResult)


def _child(
    act: Callable[[Target], AttackResult], target: Target, uid: int | None, sender: int
) -> None:
    try:
        os.setsid()
        os.chdir("/")
        if uid is not None:
            become(uid)
        got = dataclasses.replace(act(target), asked=tuple(wire.ASKED))
    except BaseException as error:  # noqa: BLE001 -- the edge of this process
        got = AttackResult(False, f"the attack broke: {type(error).__name__}: {error}")
    try:
        os.write(sender, msgspec.json.encode(got))
    finally:
        os._exit(0)


def become(uid: int) -> None:
    """For good: no group, no way back, and no variable that tells of the platform."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.umask(0o022)
    for name in [n for n in os.environ if n.startswith(("MLPLATFORM_", "PREFECT_", "MLFLOW_"))]:
        del os.environ[name]


def _read(receiver: int, end_s: float) -> bytes | None:
    found = b""
    while (left_s := end_s - time.monotonic()) > 0:
        if not select.select([receiver], [], [], left_s)[0]:
            return None
        part = os.read(receiver, 65_536)
        if not part:
            return found or None
        found += part
    return None


def _end(pid: int) -> None:
    """The child and what it has started; it leads a session of its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
