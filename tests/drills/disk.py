"""`make drill-disk`: what becomes of a whole platform whose disk fills up, at ten moments.

The home is a tmpfs, which is filled to its last byte for some seconds while payments come at a
constant rate with idempotency keys and retries, and while the platform does something else too.
Then there is room again, and nobody lends a hand: every process has to be ready, payments have to
be answered as before, every answer has to be in the log once, and what was asked for has to work
when it is asked again. Needs root, for the mount. The report is build/drills/disk.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from tests.drills.disk_home import Filler, SmallPlatform, small_disk, until
from tests.drills.disk_moments import (
    EXPECTED_START,
    MOMENTS,
    SETTLED_S,
    START,
    Action,
    write_history,
)
from tests.drills.scoring import CALM_S, Load, decisions, verified
from tests.drills.scoring_findings import Window, finding

from mlplatform.model.folders import load_definition
from mlplatform.operations.supervisor.status import ProcessStatus
from mlplatform.runtime.processes.records import LOCK_FILE
from mlplatform.runtime.storage.files import is_held
from support.scoring_world import MODEL

ROOT = Path(__file__).parents[2]
OUT = ROOT / "build" / "drills" / "disk.json"
SIZE_MB = 400
BEFORE_S = 1.5
RECOVERY_LIMIT_S = 180.0
"""More than the longest pause between two starts of a process, and a slow start after it."""
AFTER_S = 3.0
START_RATE = 30.0


class Finding(msgspec.Struct, kw_only=True):
    """The figures of one moment.

    Args:
        answers: decisions that were given; `refused` by problem; `unanswered` requests had no whole
            response after one retry with the same key.
        lost: answers that are not in the log, acknowledged labels and later requests included;
            `doubled` keys have two decisions there.
        recovery_s: until the last payment that was refused or degraded, from when there was room.
        ready_s: until every process was ready; null: one was not.
        restarted: processes that were started again, and what had ended them.
        hands: processes that did not come back by themselves.
        ended: how what was asked for ended on the full disk; `again`: what kept it from working
            afterwards.
        half_written: files that nobody will end.
        broken: promises that do not hold.
    """

    answers: int
    refused: dict[str, int]
    unanswered: int
    degraded: dict[str, int]
    lost: int
    doubled: int
    recovery_s: float | None
    ready_s: float | None
    restarted: dict[str, str]
    hands: int
    ended: str
    again: str
    half_written: list[str]
    verified: bool
    expected: str
    broken: list[str] = []
    ok: bool = True


def drilled(name: str, world: SmallPlatform, full_s: float) -> Finding:
    """The finding of one moment of a platform that runs."""
    drill, action = MOMENTS[name], Action()
    before = world.processes()
    with contextlib.ExitStack() as asked:
        if drill.before_payments:
            asked.enter_context(drill.moment(world, action))
        load = Load(world, name, drill.rate, world.outside)
        try:
            load.await_calm(time.monotonic(), BEFORE_S, RECOVERY_LIMIT_S)
            if not drill.before_payments:
                asked.enter_context(drill.moment(world, action))
            from_s = time.monotonic()
            with Filler(world.folder):
                time.sleep(full_s)
            to_s = time.monotonic()
            ready_s = world.await_ready(RECOVERY_LIMIT_S)
            asked.close()
            calm_from_s = load.await_calm(to_s, CALM_S, RECOVERY_LIMIT_S)
        finally:
            load.stop()
    return _found(
        world, load, name, Window(from_s, to_s), action,
        expected=drill.expected, before=before, ready_s=ready_s, calm_from_s=calm_from_s,
    )  # fmt: skip


def started(world: SmallPlatform, full_s: float) -> Finding:
    """The finding of a start on a full disk; the platform runs afterwards."""
    action = Action()
    world.stop()
    with Filler(world.folder):
        from_s = time.monotonic()
        world.start()
        lock = world.home.run / LOCK_FILE  # once it is held, the next step is to write
        until(lambda: is_held(lock) or not world.is_up, RECOVERY_LIMIT_S)
        until(lambda: not world.is_up, full_s)
        action.ended = "waits" if world.is_up else "refuses"
        to_s = time.monotonic()
    if not world.is_up:
        action.again = "the platform ended by itself"
    ready_s = world.await_ready(RECOVERY_LIMIT_S)
    load = Load(world, START, START_RATE, world.outside)
    try:
        calm_from_s = load.await_calm(time.monotonic(), AFTER_S, RECOVERY_LIMIT_S)
    finally:
        load.stop()
    return _found(
        world, load, START, Window(from_s, to_s), action,
        expected=EXPECTED_START, before=world.processes(), ready_s=ready_s, calm_from_s=calm_from_s,
    )  # fmt: skip


def _found(
    world: SmallPlatform,
    load: Load,
    name: str,
    fault: Window,
    action: Action,
    *,
    expected: str,
    before: dict[str, ProcessStatus] | Any,
    ready_s: float | None,
    calm_from_s: float | None,
) -> Finding:
    scored = finding(
        load.requests,
        fault,
        decisions(world, name),
        deadline_ms=load_definition(MODEL).deadline_ms,
        calm_from_s=calm_from_s,
        verified=verified(world),
        expected=expected,
        waited_ms=lambda from_s, to_s: 0.0,
    )
    until(world.is_ready, RECOVERY_LIMIT_S)  # a busy machine may keep one from an answer in time
    after = world.processes()
    until(lambda: not world.half_written(), SETTLED_S)
    return judged(
        Finding(
            answers=scored.answers,
            refused=scored.refused,
            unanswered=scored.unanswered,
            degraded=scored.degraded_reasons,
            lost=scored.lost + action.lost,
            doubled=scored.doubled + action.doubled,
            recovery_s=scored.recovery_s,
            ready_s=None if ready_s is None else round(ready_s, 1),
            restarted=_restarted(before, after),
            hands=sum(p.state != "ready" for p in after.values()) if world.is_up else 1,
            ended=action.ended,
            again=action.again,
            half_written=world.half_written(),
            verified=scored.verified,
            expected=expected,
        )
    )


def _restarted(before: dict[str, ProcessStatus], after: dict[str, ProcessStatus]) -> dict[str, str]:
    return {
        name: process.ended
        for name, process in after.items()
        if name in before and process.restarts > before[name].restarts
    }


def judged(found: Finding) -> Finding:
    """The finding with its broken promises."""
    promises = {
        "payments are answered": found.answers > 0,
        "no request goes unanswered": found.unanswered == 0,
        "no answer is without a record": found.lost == 0,
        "no key has two decisions": found.doubled == 0,
        "the log verifies": found.verified,
        "answers are whole again": found.recovery_s is not None,
        "every process comes back by itself": found.ready_s is not None and found.hands == 0,
        "what was asked for works afterwards": not found.again,
        "no file stays half written": not found.half_written,
    }
    broken = [name for name, holds in promises.items() if not holds]
    return msgspec.structs.replace(found, broken=broken, ok=not broken)


def drill_all(
    names: Sequence[str], size_mb: int, full_s: float, tell: Callable[[str], None]
) -> dict[str, Finding]:
    """Findings by name, of one platform; what a moment broke is broken in those that follow."""
    found: dict[str, Finding] = {}
    with tempfile.TemporaryDirectory(prefix="mlplatform-disk-") as temporary:
        outside = Path(temporary)
        write_history(outside / "payments")
        with small_disk(outside / "disk", size_mb) as disk:
            world = SmallPlatform(disk, outside)
            try:
                world.start()
                if world.await_ready() is None:
                    raise SystemExit(f"drill: the platform did not come up: {_log(world)}")
                for name in names:
                    began_s = time.monotonic()
                    found[name] = (
                        started(world, full_s) if name == START else drilled(name, world, full_s)
                    )
                    tell(f"{name}: {_line(found[name])} ({time.monotonic() - began_s:.0f} s)")
                    if not world.is_up:
                        tell(f"the platform has ended: {_log(world)}")
                        break
            finally:
                world.close()
    return found


def _log(world: SmallPlatform) -> str:
    return (world.home.logs / "up.log").read_text()[-1_000:]


def _line(found: Finding) -> str:
    state = "holds" if found.ok else f"BROKEN: {'; '.join(found.broken)}"
    return (
        f"{found.answers} answers, {sum(found.refused.values())} refused, {found.unanswered}"
        f" unanswered, recovery {found.recovery_s} s, ready {found.ready_s} s; {state}"
    )


def table(findings: dict[str, Finding]) -> Table:
    """A row for each moment."""
    shown = Table(
        "moment", "answers", "refused", "unanswered", "lost", "doubled", "recovery s", "ready s",
        "hands", "restarted", "holds",
    )  # fmt: skip
    for name, f in findings.items():
        shown.add_row(
            name, str(f.answers), str(sum(f.refused.values())), str(f.unanswered), str(f.lost),
            str(f.doubled), str(f.recovery_s), str(f.ready_s), str(f.hands),
            ", ".join(f.restarted), "yes" if f.ok else "; ".join(f.broken),
        )  # fmt: skip
    return shown


def main() -> int:
    """Drills, writes the report, prints a table; 1 if a promise is broken."""
    every = [*MOMENTS, START]
    parser = argparse.ArgumentParser(prog="tests.drills.disk", description=__doc__)
    parser.add_argument("--only", help=f"some of {','.join(every)}, with commas between them")
    parser.add_argument("--size-mb", type=int, default=SIZE_MB, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="without room (%(default)s)")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else every
    if unknown := set(names) - set(every):
        parser.error(f"no moment {', '.join(sorted(unknown))}; there are: {', '.join(every)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # with what it started
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 170)
    began_s = time.monotonic()
    tell = lambda text: console.print(f"drill: {text}", markup=False)  # noqa: E731 -- one word
    findings = drill_all(names, options.size_mb, options.seconds, tell)
    ok = list(findings) == list(names) and all(found.ok for found in findings.values())
    written = {
        "moments": {name: msgspec.to_builtins(found) for name, found in findings.items()},
        "size_mb": options.size_mb,
        "full_s": options.seconds,
        "total_s": round(time.monotonic() - began_s, 1),
        "ok": ok,
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(written, indent=2) + "\n")
    console.print(table(findings))
    passed = sum(found.ok for found in findings.values())
    console.print(f"{passed} passed, {len(names) - passed} failed; written to {OUT}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
