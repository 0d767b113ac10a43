"""What an attack is, what it knows of the platform it attacks, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

Severity = Literal["critical", "high", "medium", "low"]

# Where refusals of each kind are looked for. Each is the name of one or more doors in
# `audit/refusals.jsonl`; a line of any of them counts.
PREFECT = ("prefect",)
APPROVAL = ("approval", "prefect")
LABELS = ("labels", "gateway")
VOIDS = ("voids", "void", "gateway")
EXPLANATIONS = ("explanations", "gateway")
CANDIDATES = ("candidate", "candidates")
PAGE = ("page",)


@dataclass(frozen=True, slots=True)
class Key:
    """An API key of a client or a person."""

    name: str
    secret: str


@dataclass(frozen=True, slots=True)
class Question:
    """A rollout that waits for an answer, and the flow run that asks.

    Args:
        author: who made the version, and so may not approve it.
        evidence: digest of what the answer is to be bound to.
    """

    rollout_id: str
    author: str
    evidence: str
    flow_run: str


@dataclass(frozen=True, slots=True)
class Target:
    """What an attacker may be expected to find out: addresses, names, ids. No secret of the home.

    Args:
        keys: of the attacker's own accounts by name: a person who may run flows, a client.
        ports: of every listener by the name of its process.
        pids: of every process by its name.
        unix: names of the Unix sockets that they have, with `@` for NUL.
        deployments: ids by name.
        operations: method and path of all that Prefect's server answers.
        folder: what the attacker may write to.
        earlier_code: bo's approval code for a question that was asked anew since.
    """

    home: Path
    prefect_port: int
    gateway_port: int
    mlflow_port: int
    page_port: int
    keys: dict[str, Key]
    ports: dict[str, int]
    pids: dict[str, int]
    unix: tuple[str, ...]
    deployments: dict[str, str]
    automations: tuple[str, ...]
    operations: tuple[tuple[str, str], ...]
    question: Question
    artifact: str
    decision: str
    folder: Path
    earlier_code: str = ""

    @property
    def prefect(self) -> str:
        return f"http://127.0.0.1:{self.prefect_port}"

    @property
    def gateway(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}"

    @property
    def mlflow(self) -> str:
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def page(self) -> str:
        return f"http://127.0.0.1:{self.page_port}"


@dataclass(frozen=True, slots=True)
class AttackResult:
    """What an attacker came to.

    Args:
        refused: whether every door that was tried held.
        said: what the platform answered, in a few words.
        asked: the requests that were sent, by `wire.without_ids`.
    """

    refused: bool
    said: str
    asked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack.

    Args:
        name: what is attempted, in a few words.
        does: what is sent or called, precisely enough to be done again.
        expected: what the platform should do.
        act: carries it out, in a process of another user unless `by_operator`.
        recorded_at: doors of `audit/refusals.jsonl`, one of which must tell of it; empty: nobody
            needs to know (a read that was refused, a try that no platform can see).
        metric: a gateway's counter that must have gone up.
        by_operator: needs the platform's own user: it is about what that user is handed.
        by_other_user: means nothing where the drill is not root and so can't be another user.
        asks: needs a rollout that waits for an answer.
        asks_anew: and a code for the one before it.
        kills: the first letters of the process that is killed a second after the attack began.
    """

    name: str
    severity: Severity
    does: str
    expected: str
    act: Callable[[Target], AttackResult]
    recorded_at: tuple[str, ...] = ()
    metric: str = ""
    by_operator: bool = False
    by_other_user: bool = False
    asks: bool = False
    asks_anew: bool = False
    kills: str = ""


class Finding(msgspec.Struct, kw_only=True):
    """What came of one attack.

    Args:
        done: what was sent or called.
        recorded: whether it left its trace; None where no trace is wanted.
        recorded_at: where the trace is, or was looked for.
        by: who carried it out.
    """

    name: str
    severity: str
    done: str
    expected: str
    got: str
    refused: bool
    recorded: bool | None
    recorded_at: str
    by: str
    seconds: float

    @property
    def holds(self) -> bool:
        return self.refused and self.recorded is not False


def all_of(results: list[AttackResult]) -> AttackResult:
    """Refused where each was; says what the first open door answered."""
    opened = [g for g in results if not g.refused]
    if opened:
        return AttackResult(False, "; ".join(g.said for g in opened[:4]))
    kinds = dict.fromkeys(g.said for g in results)
    return AttackResult(True, "; ".join(list(kinds)[:4]))
