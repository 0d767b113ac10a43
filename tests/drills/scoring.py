"""`make drill-scoring`: what an application gets while a part of the scoring path is broken.

Payments come at a constant rate, with idempotency keys and retries, while one fault after another
is made on real processes; then every answer is compared with the decision log. The report is
build/drills/scoring.json. A request without an answer, an answer without a record, a key with two
decisions or a path that does not recover fails the drill; lateness is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from tests.drills.cores import Waits
from tests.drills.scoring_client import SentRequest
from tests.drills.scoring_faults import DRILLS, Drill
from tests.drills.scoring_findings import ALLOWANCE_MS, Finding, Window, calm, finding, judged

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.model.folders import load_definition
from support.scoring_world import MODEL, ScoringWorld, wait_for

ROOT = Path(__file__).parents[2]
OUT = ROOT / "build" / "drills" / "scoring.json"
BEFORE_S = 2.0
CALM_S = 1.5
RECOVERY_LIMIT_S = 75.0
KEPT_SHARE = 0.999
"""Of all drills' answers, those within their deadline but for what client and machine explain."""
"""More than a breaker stays open (30 s), twice: on a busy machine a probe may fail."""
CLIENT_END_S = 20.0
POLL_S = 0.05
_decoder = msgspec.json.Decoder(SentRequest)


class Load:
    """The client's process, and what it has reported so far.

    Args:
        folder: of what it writes; None: the home's logs.
    """

    def __init__(
        self, world: ScoringWorld, prefix: str, rate: float, folder: Path | None = None
    ) -> None:
        self.rate = rate
        self.requests: list[SentRequest] = []
        folder = folder or world.home.logs
        self._out = folder / f"{prefix}.jsonl"
        self._read = 0
        command = [sys.executable, "-m", "tests.drills.scoring_client", "--prefix", prefix]
        command += ["--port", str(world.port), "--key-file", str(world.home.api_key)]
        command += ["--rate", str(rate), "--out", str(self._out)]
        with (folder / "client.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, env=child_environment()
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def await_calm(self, since_s: float, for_s: float, within_s: float) -> float | None:
        """When a calm of that length began, if it came in time."""
        end_s = time.monotonic() + within_s
        while time.monotonic() < end_s:
            time.sleep(POLL_S)
            self._refresh()
            from_s = calm(self.requests, since_s, for_s, self.rate)
            if from_s is not None:
                return from_s
            if self._process.poll() is not None:
                raise SystemExit(f"the client ended by itself; see {self._out.parent}/client.log")
        return None

    def stop(self) -> None:
        """Waits for the answers that are still to come."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(CLIENT_END_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._refresh()

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _refresh(self) -> None:
        if not self._out.exists():
            return
        with self._out.open("rb") as file:
            file.seek(self._read)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read += len(whole)
        self.requests += [_decoder.decode(line) for line in whole.splitlines()]


def child_environment() -> dict[str, str]:
    """Of a process that runs a module of these tests."""
    paths = (ROOT / "platform" / "src", ROOT / "tests", ROOT)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}


def drilled(name: str, drill: Drill, world: ScoringWorld, rate: float, seconds: float) -> Finding:
    """The finding of one fault: load before, during and after it."""
    drill.prepare(world)
    load = Load(world, name, rate)
    with Waits(lambda: [load.pid, *world.pids()]) as waits:
        try:
            load.await_calm(time.monotonic(), BEFORE_S, RECOVERY_LIMIT_S)
            from_s = time.monotonic()
            with drill.fault(world):
                _wait_until(from_s + seconds)
                over_s = time.monotonic()
            fault = Window(from_s, over_s)
            calm_from_s = load.await_calm(fault.to_s, CALM_S, RECOVERY_LIMIT_S)
        finally:
            load.stop()
    found = finding(
        load.requests,
        fault,
        decisions(world, name),
        deadline_ms=load_definition(MODEL).deadline_ms,
        calm_from_s=calm_from_s,
        verified=verified(world),
        expected=drill.expected,
        waited_ms=waits.longest_ms,
    )
    return judged(found, drill.shows)


def _wait_until(end_s: float) -> None:
    while (left_s := end_s - time.monotonic()) > 0:
        time.sleep(min(left_s, POLL_S))


def decisions(world: ScoringWorld, prefix: str) -> list[dict[str, Any]]:
    """Decisions of one drill, once nothing waits in a spill."""
    wait_for(lambda: not list((world.home.decisions / "spill").glob("*.spill")))
    rows = [
        {"decision_id": row["decision_id"], "key": row["payload"].get("idempotency_key", "")}
        for row in world.records("decision")
    ]
    return [row for row in rows if row["key"].startswith(f"{prefix}-")]


def verified(world: ScoringWorld) -> bool:
    log = SqliteDecisionLog(world.home.decisions)
    try:
        return log.verify().ok
    finally:
        log.close()


def drill_all(
    names: Sequence[str], rate: float, seconds: float, tell: Callable[[str], None]
) -> dict[str, Finding]:
    """Findings by name; drills of one kind of world share one."""
    found: dict[str, Finding] = {}
    for kind in dict.fromkeys(DRILLS[name].world for name in names):
        with tempfile.TemporaryDirectory() as folder:
            world = kind(Path(folder))
            try:
                for name in (n for n in names if DRILLS[n].world is kind):
                    began_s = time.monotonic()
                    found[name] = drilled(name, DRILLS[name], world, rate, seconds)
                    tell(f"{name}: {_line(found[name])} ({time.monotonic() - began_s:.0f} s)")
            finally:
                world.close()
    return found


def _line(found: Finding) -> str:
    state = "holds" if found.ok else f"BROKEN: {'; '.join(found.broken)}"
    return (
        f"{found.answers} answers, {found.unanswered} unanswered,"
        f" {found.late} late ({found.path_late} by the path),"
        f" degraded {found.degraded_share:.0%}, recovery {found.recovery_s} s; {state}"
    )


def table(findings: dict[str, Finding]) -> Table:
    """A row for each drill."""
    shown = Table(
        "drill", "answers", "refused", "unanswered", "late", "by the path", "p99 ms", "degraded",
        "recovery s", "lost", "doubled", "holds",
    )  # fmt: skip
    for name, f in findings.items():
        recovery = "never" if f.recovery_s is None else f"{f.recovery_s:.1f}"
        late = f"{f.late} ({f.late_share:.2%})"
        path_late = str(f.path_late)
        shown.add_row(
            name, str(f.answers), str(sum(f.refused.values())), str(f.unanswered), late, path_late,
            f"{f.p99_ms:.1f}", f"{f.degraded_share:.0%}", recovery, str(f.lost), str(f.doubled),
            "yes" if f.ok else "; ".join(f.broken),
        )  # fmt: skip
    return shown


def report(findings: dict[str, Finding], options: argparse.Namespace) -> dict[str, Any]:
    """What is written: the drills, and what they were made with."""
    requests = sum(f.answers + f.unanswered + sum(f.refused.values()) for f in findings.values())
    late = sum(f.late for f in findings.values())
    path_late = sum(f.path_late for f in findings.values())
    return {
        "drills": {name: msgspec.to_builtins(found) for name, found in findings.items()},
        "rate_per_s": options.rate,
        "fault_s": options.seconds,
        "deadline_ms": load_definition(MODEL).deadline_ms,
        "client_allowance_ms": ALLOWANCE_MS,
        "deadline_kept_share": round(1 - late / max(1, requests), 5),
        "deadline_kept_by_the_path_share": round(1 - path_late / max(1, requests), 5),
        "ok": all(found.ok for found in findings.values())
        and path_late <= (1 - KEPT_SHARE) * requests,
    }


def main() -> int:
    """Drills, writes the report, prints a table; 1 if a promise is broken."""
    parser = argparse.ArgumentParser(prog="tests.drills.scoring", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(DRILLS), help="may be repeated")
    parser.add_argument("--rate", type=float, default=200.0, help="requests/s (%(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each fault (%(default)s)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # with what it started
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 170)
    tell = lambda text: console.print(f"drill: {text}")  # noqa: E731 -- one word for one line
    findings = drill_all(options.only or list(DRILLS), options.rate, options.seconds, tell)
    written = report(findings, options)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(written, indent=2) + "\n")
    console.print(table(findings))
    kept, allowance = written["deadline_kept_share"], ALLOWANCE_MS
    by_path = written["deadline_kept_by_the_path_share"]
    console.print(f"deadline (and {allowance} ms of the client's) kept in {kept:.2%}")
    console.print(f"without what the client sent late and what waited for a core: {by_path:.2%}")
    if by_path < KEPT_SHARE:
        console.print(f"[red]that is less than {KEPT_SHARE:.1%}[/]")
    passed = sum(found.ok for found in findings.values())
    console.print(f"{passed} passed, {len(findings) - passed} failed; written to {OUT}")
    return 0 if written["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
