"""`make drill-attack`: what another user of this machine, or a client, comes to.

An embedded platform is started in a folder of its own, with a champion and a challenger that waits
for an approval. Every attack is carried out in a process of another user (where the drill is root;
else with a second token), and is to be refused, and recorded where a person should know of it. The
report is build/drills/attack.json; an attack that succeeded, or left no trace where one is wanted,
fails the drill.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
from rich.console import Console
from rich.table import Table
from tests.drills.attacks import approvals, home_copies
from tests.drills.attacks.attack import Attack, AttackResult, Finding
from tests.drills.attacks.catalogue import ATTACKS
from tests.drills.attacks.others import UID, can_be_another, carried_out
from tests.drills.attacks.wire import without_ids
from tests.drills.attacks.world import AttackWorld, Lost

from mlplatform.runtime.errors import PlatformError
from mlplatform.runtime.telemetry.refusals import Refusal, Refusals

ROOT = Path(__file__).parents[2]
OUT = ROOT / "build" / "drills" / "attack.json"
RECORD_LIMIT_S = 3.0
"""From a refusal to the line that tells of it."""
KILLED_AFTER_S = 1.0
REPEATED_S = 60.0
"""A refusal that was reported is reported again after this time: `refusals.AGAIN_S`."""


def finding(attack: Attack, world: AttackWorld, attacker: Path) -> Finding:
    """Carries the attack out, and looks for its trace and its effect."""
    question = world.question() if attack.asks else None
    target = world.target(attacker)
    if attack.asks_anew:
        code = approvals.issued(target, "bo", "bo", "approve")[1]
        world.ask_anew()
        question = world.question()
        target = dataclasses.replace(world.target(attacker), earlier_code=code)
    counted = world.counted(attack.metric) if attack.metric else 0.0
    if attack.kills:
        killed = next(pid for name, pid in target.pids.items() if name.startswith(attack.kills))
        threading.Timer(KILLED_AFTER_S, os.kill, (killed, signal.SIGKILL)).start()
    since_ms, began_s = int(time.time() * 1000), time.monotonic()
    uid = UID if can_be_another() and not attack.by_operator else None
    got = carried_out(attack.act, target, uid=uid)
    if question is not None and world.is_answered(question):
        got = dataclasses.replace(
            got, refused=False, said=f"{got.said}; an answer stands in the journal"
        )
    wait_s = RECORD_LIMIT_S if got.refused else 0.0
    recorded, where = _trace(attack, world, got, since_ms, counted, wait_s)
    return Finding(
        name=attack.name,
        severity=attack.severity,
        done=attack.does,
        expected=attack.expected,
        got=got.said,
        refused=got.refused,
        recorded=recorded,
        recorded_at=where,
        by="the platform's user" if attack.by_operator else _who(),
        seconds=round(time.monotonic() - began_s, 1),
    )


def broken(attack: Attack, why: str) -> Finding:
    """Of an attack that could not be made any more, as an earlier one had succeeded."""
    return Finding(
        name=attack.name,
        severity=attack.severity,
        done=attack.does,
        expected=attack.expected,
        got=why,
        refused=False,
        recorded=None,
        recorded_at="",
        by=_who(),
        seconds=0.0,
    )


def _trace(
    attack: Attack,
    world: AttackWorld,
    got: AttackResult,
    since_ms: int,
    counted: float,
    wait_s: float,
) -> tuple[bool | None, str]:
    """Whether a person could know of it, and where; waits a moment for what is written later."""
    end_s = time.monotonic() + wait_s
    refusals = Refusals(world.home.audit)
    while attack.recorded_at or attack.metric:
        if attack.metric and world.counted(attack.metric) > counted:
            return True, attack.metric.replace("|", ", ")
        found = [r.door for r in refusals.since(since_ms) if r.door in attack.recorded_at]
        if found:
            return True, f"audit/refusals.jsonl, door {found[0]}: {len(found)}"
        if time.monotonic() > end_s:
            before = _told_before(attack, got, refusals, since_ms)
            if before is not None:
                return True, f"audit/refusals.jsonl, door {before.door}, within the minute before"
            return (
                False,
                attack.metric or f"audit/refusals.jsonl, {' or '.join(attack.recorded_at)}",
            )
        time.sleep(0.2)
    return None, "nobody needs to know"


def _told_before(
    attack: Attack, got: AttackResult, refusals: Refusals, since_ms: int
) -> Refusal | None:
    """The line that tells of the same request, which is kept once in a while."""
    began_ms = since_ms - int(REPEATED_S * 1000)
    told = [r for r in refusals.since(began_ms) if r.door in attack.recorded_at]
    return next((r for r in reversed(told) if without_ids(r.asked) in got.asked), None)


def _who() -> str:
    return f"user {UID}" if can_be_another() else "the same user, with a second token"


def drill(world: AttackWorld, folder: Path, wanted: str) -> tuple[list[Finding], list[str]]:
    """Findings of all attacks, and the names of those that mean nothing here."""
    attacker = folder / "attacker"
    attacker.mkdir()
    if can_be_another():
        os.chown(attacker, UID, UID)
    findings, left_out = [], []
    for attack in ATTACKS:
        if wanted not in attack.name:
            continue
        if attack.by_other_user and not can_be_another():
            left_out.append(f"{attack.name}: the drill is not root, and so can't be another user")
            continue
        try:
            found = finding(attack, world, attacker)
        except (Lost, PlatformError, httpx.HTTPError) as error:
            found = broken(attack, f"the platform did not live on: {error}")
        print(
            f"drill: {'held' if found.holds else 'OPEN'}  {found.name}: {found.got[:150]}",
            flush=True,
        )
        findings.append(found)
    return findings, left_out


def report(findings: list[Finding], left_out: list[str], wall_s: float) -> dict[str, Any]:
    open_doors = [f.name for f in findings if not f.holds]
    return {
        "attacks": len(findings),
        "refused": sum(f.refused for f in findings),
        "succeeded": [f.name for f in findings if not f.refused],
        "unrecorded": [f.name for f in findings if f.refused and f.recorded is False],
        "left_out": left_out,
        "wall_s": round(wall_s, 1),
        "ok": not open_doors and bool(findings),
        "findings": msgspec.to_builtins(findings),
    }


def table(findings: list[Finding]) -> Table:
    """A row for each attack."""
    shown = Table("attack", "severity", "refused", "recorded", "got")
    for f in findings:
        recorded = {True: "yes", False: "NO", None: "-"}[f.recorded]
        shown.add_row(f.name, f.severity, "yes" if f.refused else "NO", recorded, f.got[:90])
    return shown


def main() -> int:
    """Attacks, writes the report, prints what it says; 1 if a door was open."""
    parser = argparse.ArgumentParser(prog="tests.drills.attack", description=__doc__)
    parser.add_argument("--only", default="", help="attacks whose name contains this")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the platform is ended too
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="attack-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # what keeps others out is the home's own mode
        world = AttackWorld(folder)
        try:
            try:
                world.start()
            except Lost as lost:
                sys.exit(f"drill: {lost}")
            findings, left_out = drill(world, folder, options.only)
        finally:
            world.stop()
        findings += home_copies.findings(world, options.only)
    found = report(findings, left_out, time.monotonic() - began_s)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 170)
    console.print(table(findings))
    for line in left_out:
        console.print(f"left out: {line}")
    broken = found["succeeded"] + found["unrecorded"]
    console.print(f"{found['attacks'] - len(broken)} held, {len(broken)} did not; {OUT}")
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
