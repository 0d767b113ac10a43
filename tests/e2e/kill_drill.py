"""`make drill-kill`: SIGKILL every process of the platform, one by one, while rollouts ramp.

The demo has to end as it should: the loop closed, no request lost, none recorded twice. For the
supervisor the demo says how to continue, and continues. Writes build/drills/kill.json.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from demo.run import CONTINUE_EXIT
from demo.source import MODEL
from mlplatform.operations.supervisor.status import ProcessStatus, status
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.runtime.configuration.settings import Home, load
from mlplatform.runtime.processes.records import read_supervisor

ROOT = Path(__file__).parents[2]
OUT = ROOT / "build" / "drills" / "kill.json"
HOME = ROOT / "build" / "drills" / "home"
PORTS = {"GATEWAY": "18080", "PREFECT": "14200", "MLFLOW": "15000", "PAGE": "18090"}
DEMO_LIMIT_S = 1500.0
RECOVERY_LIMIT_S = 120.0


def main() -> int:
    environment = {
        **os.environ,
        "MLPLATFORM_HOME": str(HOME),
        **{f"MLPLATFORM_{name}_PORT": port for name, port in PORTS.items()},
    }
    home = load(environment).home
    _remove_earlier(home)
    command = [sys.executable, "-m", "demo"]
    demo = subprocess.Popen([*command, "--fresh", *sys.argv[1:]], env=environment)
    try:
        kills = _kill_while_ramping(home, demo)
        code = demo.wait(RECOVERY_LIMIT_S)
        print(f"drill: without its supervisor the demo ended with {code}; wanted {CONTINUE_EXIT}")
        resumed = subprocess.run([*command, "--resume"], env=environment, timeout=DEMO_LIMIT_S)
    finally:
        demo.kill()
    report = json.loads((home.demo / "report.json").read_bytes())
    found: dict[str, Any] = {
        "kills": kills,
        "stopped_with": code,
        "resumed_with": resumed.returncode,
        "closed": report["closed"],
        "problems": report["problems"],
        "totals": report["totals"],
        "log": report["log"],
    }
    OUT.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    whole = report["totals"]["lost"] == 0 and report["totals"]["doubled"] == 0
    passed = code == CONTINUE_EXIT and resumed.returncode == 0 and whole
    for problem in report["problems"]:
        print(f"drill: {problem}")
    print(f"drill: stopped with {code}, resumed with {resumed.returncode}")
    print(f"{int(passed)} passed, {int(not passed)} failed")
    return 0 if passed else 1


def _remove_earlier(home: Home) -> None:
    """Remove what an interrupted drill left, whose rollouts would be taken for this one's."""
    supervisor = read_supervisor(home)
    if supervisor is not None and supervisor.process.alive():
        raise SystemExit(f"drill: a platform runs in {home.root}: stop it first")
    shutil.rmtree(home.root, ignore_errors=True)


def _kill_while_ramping(home: Home, demo: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    kills = []
    for part in ("gateway-0", "the champion", "mlflow", "prefect"):
        phase = _ramping(home, demo)
        before = _process(home, _champion(home) if part == "the champion" else part)
        name, began = before.name, time.monotonic()
        print(f"drill: kill -9 {name} (process {before.pid}) in {phase}", flush=True)
        os.kill(before.pid or 0, signal.SIGKILL)
        _await(_back(home, before), RECOVERY_LIMIT_S, demo, f"{name} comes back")
        seconds = round(time.monotonic() - began, 1)
        kills.append({"process": name, "phase": phase, "recovery_s": seconds})
    supervisor = read_supervisor(home)
    if supervisor is None:
        raise SystemExit("drill: there is no supervisor to kill")
    phase = _ramping(home, demo)
    print(
        f"drill: kill -9 the supervisor (process {supervisor.process.pid}) in {phase}", flush=True
    )
    os.kill(supervisor.process.pid, signal.SIGKILL)
    kills.append({"process": "supervisor", "phase": phase, "recovery_s": None})
    return kills


def _ramping(home: Home, demo: subprocess.Popen[bytes]) -> str:
    """The phase of a rollout that traffic reaches, waited for: of the next where one is through."""
    seen: list[str] = []

    def ramps() -> bool:
        seen.append(_phase(home))
        return seen[-1] in ("shadow", "canary")

    _await(ramps, DEMO_LIMIT_S, demo, "a rollout")
    return seen[-1]


def _back(home: Home, before: ProcessStatus) -> Callable[[], bool]:
    def ready_again() -> bool:
        now = _process(home, before.name)
        return now.state == "ready" and now.pid != before.pid

    return ready_again


def _process(home: Home, name: str) -> ProcessStatus:
    for process in status(home).processes:
        if process.name == name:
            return process
    raise SystemExit(f"drill: no process {name}")


def _phase(home: Home) -> str:
    """The phase of the rollout that ramps beside a champion; empty where none does."""
    if not home.rollouts_db.exists():
        return ""
    rollouts = SqliteRollouts(home.rollouts_db)
    try:
        ramping = [s for s in rollouts.active(MODEL) if s.ramping and not s.bootstrap]
        return ramping[0].phase if ramping else ""
    finally:
        rollouts.close()


def _champion(home: Home) -> str:
    """The champion's service. The challenger's would be its own failure, and so end the canary."""
    rollouts = SqliteRollouts(home.rollouts_db)
    try:
        champion = rollouts.routes(MODEL).champion
    finally:
        rollouts.close()
    if champion is None:
        raise SystemExit("drill: there is no champion")
    return champion.service


def _await(
    holds: Callable[[], bool], limit_s: float, demo: subprocess.Popen[bytes], what: str
) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        if demo.poll() is not None:
            raise SystemExit(f"drill: the demo ended with {demo.returncode} before {what}")
        if time.monotonic() > deadline:
            raise SystemExit(f"drill: {what} did not come within {limit_s:.0f} s")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
