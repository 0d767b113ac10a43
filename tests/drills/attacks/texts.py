"""What people write, where other people read it: names and reasons at a terminal."""

from __future__ import annotations

import os
import pty
import select
import sys
import time
from typing import Final

from tests.drills.attacks.attack import Attack, AttackResult, Target, all_of

ESCAPE: Final = "\x1b]0;owned by a name\x07"
FORGED: Final = tuple(
    mark.encode() for mark in ("\x1b]0;", "\x1b[2J", "\x07", "\u202e", "\u200b", "\x9b")
)
"""What none of the platform's own output has: it colours by other sequences."""
SHOWN_S: Final = 60.0
HIDDEN: Final = (
    ESCAPE + "eve",
    "eve\u202eevil",
    "e\u200bve",
    "eve\r\nbo",
    "\x9b2Jeve",
    "b\u043e",  # a Cyrillic letter beside a Latin one
    "\uff42\uff4f",  # full-width letters, which NFKC makes plain: taken as bo, or refused
)


def attacks() -> tuple[Attack, ...]:
    return (
        Attack(
            "text, escape sequences at a terminal",
            "low",
            "rollouts list, rollouts show and status in a terminal, over a journal that holds "
            "reasons with escape sequences",
            "no byte of them reaches the terminal as a command",
            shown,
            by_operator=True,
            asks=True,
        ),
        Attack(
            "text, names and reasons with what can't be seen",
            "low",
            "rollouts rollback and approve with escape sequences, bidirectional and zero-width "
            "characters, line breaks and mixed scripts in name and reason",
            "refused, naming the field; the terminal gets none of them",
            taken,
            by_operator=True,
            asks=True,
        ),
        Attack(
            "text, a client's name that looks like another's",
            "low",
            "keys create for names with Cyrillic letters, escapes, spaces, slashes and colons",
            "refused",
            clients,
            by_operator=True,
        ),
    )


def shown(target: Target) -> AttackResult:
    results = []
    for command in (
        ("rollouts", "list", "--all"),
        ("rollouts", "show", target.question.rollout_id),
        ("status",),
    ):
        output = in_a_terminal(target, *command)
        forged = any(mark in output for mark in FORGED)
        said = f"{' '.join(command[:2])}: {len(output)} bytes"
        results.append(
            AttackResult(bool(output) and not forged, f"{said}{', forged' if forged else ''}")
        )
    return all_of(results)


def taken(target: Target) -> AttackResult:
    results = []
    for text in HIDDEN[:-1]:
        command = ("rollouts", "rollback", "fraud", "--actor", text, "--reason", "a good reason")
        results.append(_refused(target, text, *command))
    approver = ("--approver", HIDDEN[0], "--reason", "a good reason", "--decision", "approve")
    results.append(
        _refused(target, HIDDEN[0], "rollouts", "approve", target.question.rollout_id, *approver)
    )
    for reason in HIDDEN[:3]:
        command = ("rollouts", "rollback", "fraud", "--actor", "eve", "--reason",
                   f"a good reason {reason}")  # fmt: skip
        results.append(_refused(target, reason, *command))
    return all_of(results)


def clients(target: Target) -> AttackResult:
    results = []
    for name in ("sh\u043ep", ESCAPE, "shop ", "shop/labels", "oidc:shop", "SHOP", "\uff53hop", ""):
        command = ("keys", "create", "--name", name, "--model", "fraud", "--scope", "score")
        results.append(_refused(target, name or "none", *command))
    return all_of(results)


def _refused(target: Target, text: str, *command: str) -> AttackResult:
    output = in_a_terminal(target, *command)
    status = int(output.rsplit(b"exit ", 1)[-1] or b"0")
    forged = any(mark in output for mark in FORGED)
    refused = status != 0 and b"Cancelled" not in output
    said = f"exit {status}" if refused and not forged else f"exit {status} to {text!a}"
    return AttackResult(refused and not forged, said)


def in_a_terminal(target: Target, *command: str) -> bytes:
    """What a terminal gets from a command, and at its end `exit` with its status."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(
            MLPLATFORM_HOME=str(target.home),
            MLPLATFORM_PREFECT_PORT=str(target.prefect_port),
            MLPLATFORM_GATEWAY_PORT=str(target.gateway_port),
            MLPLATFORM_MLFLOW_PORT=str(target.mlflow_port),
            MLPLATFORM_PAGE_PORT=str(target.page_port),
            TERM="xterm-256color",
        )
        os.execv(sys.executable, [sys.executable, "-m", "mlplatform.commands", *command])
    output, end_s = b"", time.monotonic() + SHOWN_S
    while (left_s := end_s - time.monotonic()) > 0:
        if not select.select([terminal], [], [], left_s)[0]:
            break
        try:
            part = os.read(terminal, 65_536)
        except OSError:  # its other end is closed
            break
        output += part
    os.close(terminal)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return output + b"exit %d" % status
