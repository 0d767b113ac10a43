"""Passes as processes of their own, which a test kills around every write that they make.

No list says what a write is. A pass meets everything outside of it through a pipe, and what has
changed after a call was written; of its databases each transaction is, at its commit, and each
statement outside of one that is no query; of files, what Python's audit events tell. At each of
these moments the pass stands still until the test lets it go on, or kills it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import multiprocessing
import os
import random
import re
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, Final

import pg8000.native

from mlplatform.rollouts.passes.execute import run_pass
from mlplatform.rollouts.passes.ports import Ports
from mlplatform.runtime.code_version import code_version

FORK: Final = multiprocessing.get_context("fork")
code_version()  # once, as in the fork server, and not in each pass
OUTSIDE: Final = ("plane", "versions", "log", "approvals", "raw")
DEADLINE_S: Final = 30.0
TURN_S: Final = 0.002
"""How long the turn of one pass is kept open for another that runs beside it."""
_READS: Final = re.compile(r"(SELECT|PRAGMA|BEGIN|ROLLBACK|--)", re.IGNORECASE)
_FILES: Final = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")


@dataclasses.dataclass
class Life:
    """A pass that runs, as the test sees it."""

    process: Any
    pipe: Connection
    has_ended: bool = False
    error: BaseException | None = None


@dataclasses.dataclass
class Deaths:
    """Counts moments, and says at which one a pass is killed.

    Args:
        at: counted from 1; None: none is.
    """

    at: int | None = None
    passed: int = 0
    killed: bool = False

    def comes(self) -> bool:
        """Whether who comes to this moment dies here."""
        self.passed += 1
        self.killed |= self.passed == self.at
        return self.passed == self.at


def lives(
    make: Callable[[Connection], Ports],
    definition: Any,
    outside: dict[str, Any],
    deaths: Deaths,
    *,
    passes: int = 1,
    seed: int = 0,
) -> list[Life]:
    """Run so many passes at once, each to its end or its death.

    Args:
        make: the ports of a pass, made in its process.
        outside: what they reach through their pipes, by the names of `OUTSIDE`.
        seed: of the order in which those that wait go on.
    """
    found = [_begin(make, definition) for _ in range(passes)]
    by_pipe = {life.pipe: life for life in found}
    order = random.Random(seed)
    try:
        while by_pipe:
            ready = wait(list(by_pipe), timeout=DEADLINE_S)
            assert ready, "a pass hangs"
            if 1 < len(by_pipe) != len(ready):
                ready = wait(list(by_pipe), timeout=TURN_S) or ready
            life = by_pipe[order.choice([one for one in ready if isinstance(one, Connection)])]
            if not _goes_on(life, outside, deaths):
                if not life.has_ended:
                    life.process.kill()
                life.process.join(DEADLINE_S)
                del by_pipe[life.pipe]
                life.pipe.close()
    finally:
        for life in by_pipe.values():
            life.process.kill()
    for life in found:
        if life.error is not None:
            raise life.error
    return found


def _begin(make: Callable[[Connection], Ports], definition: Any) -> Life:
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=_live, args=(make, definition, theirs), daemon=True)
    process.start()
    theirs.close()
    return Life(process, ours)


def _goes_on(life: Life, outside: dict[str, Any], deaths: Deaths) -> bool:
    """Answer what a pass asks; false where it has ended, or dies now."""
    kind, *told = life.pipe.recv()
    match kind:
        case "moment":
            if deaths.comes():
                return False
            life.pipe.send(None)
        case "attribute":
            port, name = told
            value = getattr(outside[port], name)
            life.pipe.send(("method", None) if callable(value) else ("value", value))
        case "call":
            port, name, args, named = told
            # The log stays what it is: to append to it fails.
            before = None if port == "log" else copy.deepcopy(outside[port])
            answer = _called(outside[port], name, args, named)
            if before is not None and outside[port] != before and deaths.comes():
                return False
            life.pipe.send(answer)
        case "ended":
            (life.error,), life.has_ended = told, True
            return False
    return True


def _called(port: Any, name: str, args: Any, named: Any) -> tuple[Any, BaseException | None]:
    try:
        return getattr(port, name)(*args, **named), None
    except Exception as error:  # noqa: BLE001 -- raised on the other side of the pipe
        return None, error


# In the process of a pass.


def _live(make: Callable[[Connection], Ports], definition: Any, pipe: Connection) -> None:
    error = None
    with _told_of_writes(pipe):
        try:
            run_pass(definition, make(pipe), holder="reconcile")
        except Exception as raised:  # noqa: BLE001 -- raised in the test
            error = raised
    pipe.send(("ended", error))
    pipe.close()
    os._exit(0)


_TURN: Final = threading.Lock()
"""A pass renews its lease from a thread of its own."""


def _asked(pipe: Connection, *told: Any) -> Any:
    with _TURN:
        pipe.send(told)
        return pipe.recv()


@dataclasses.dataclass
class Remote:
    """A port that is on the other side of a pipe."""

    name: str
    pipe: Connection

    def __getattr__(self, wanted: str) -> Any:
        kind, value = _asked(self.pipe, "attribute", self.name, wanted)
        return self._method(wanted) if kind == "method" else value

    def _method(self, wanted: str) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            value, error = _asked(self.pipe, "call", self.name, wanted, args, named)
            if error is not None:
                raise error
            return value

        return call


@contextlib.contextmanager
def _told_of_writes(pipe: Connection) -> Iterator[None]:
    """Stand still before each write to a database or a file, and after the last one."""
    itself, begun = threading.local(), set[int]()

    def stop() -> None:
        if not getattr(itself, "stops", False):  # what it writes to stop is no write of the pass
            itself.stops = True
            _asked(pipe, "moment")
            itself.stops = False

    def statement(text: str, *, is_within: bool) -> None:
        if text == "COMMIT" or not (is_within or _READS.match(text)):
            stop()

    def event(name: str, details: tuple[Any, ...]) -> None:
        writes = name == "open" and isinstance(details[2], int) and details[2] & _WRITES
        if (writes or name in _FILES) and "__pycache__" not in str(details[0]):
            stop()

    connect, run = sqlite3.connect, pg8000.native.Connection.run

    def connected(*args: Any, **named: Any) -> sqlite3.Connection:
        made = connect(*args, **named)
        made.set_trace_callback(lambda text: statement(text, is_within=made.in_transaction))
        return made

    def ran(self: Any, sql: str, **named: Any) -> Any:
        statement(sql, is_within=id(self) in begun)
        if sql.startswith("BEGIN"):
            begun.add(id(self))
        elif sql in ("COMMIT", "ROLLBACK"):
            begun.discard(id(self))
        return run(self, sql, **named)

    sqlite3.connect, pg8000.native.Connection.run = connected, ran  # type: ignore[assignment]
    sys.addaudithook(event)
    yield
    stop()


_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
