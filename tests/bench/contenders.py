"""What a contender does in a closed and in an open loop, and what it costs meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from tests.bench import processes, wrk

ROOT = Path(__file__).parents[2]
SERVER_CORE, LOAD_CORE = 0, 1
CONNECTIONS = 32
OPEN_SHARE = 0.7
OPEN_STEPS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
KEPT_UP_MS = 50.0
"""Where a queue grows the median is beyond this; where it does not, far below."""
_ON_LOAD_CORE = ["taskset", "-c", str(LOAD_CORE), sys.executable, "-m"]
CONSOLE = Console(highlight=False, width=None if sys.stdout.isatty() else 150)


@dataclass
class Contender:
    """What is asked, and the processes whose cost counts (role to pid).

    Args:
        grpc: address and token, where bodies are messages of gRPC and not of HTTP.
    """

    url: str
    bodies: list[bytes]
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    keyed: bool = False
    pids: dict[str, int] = field(default_factory=dict)
    grpc: dict[str, str] | None = None


class Bench:
    """Runs contenders one after another and gathers their figures."""

    def __init__(self, seconds: float, folder: Path) -> None:
        self.seconds = seconds
        self.folder = folder
        self.figures: dict[str, dict[str, Any]] = {}

    def measure(self, name: str, contender: Contender, connections: int = CONNECTIONS) -> None:
        """A warm-up, then one measured run."""

        def once(seconds: float) -> dict[str, Any]:
            if contender.grpc is not None:
                return self._over_grpc(contender, connections, seconds)
            return wrk.run(
                contender.url,
                contender.headers,
                contender.bodies,
                keyed=contender.keyed,
                connections=connections,
                seconds=seconds,
                core=LOAD_CORE,
                folder=self.folder,
                prefix=f"{name}-{time.time_ns()}-",
            )

        once(max(2.0, self.seconds / 4))
        before = {role: processes.cpu_s(pid) for role, pid in contender.pids.items()}
        found = once(self.seconds)
        spent = {role: processes.cpu_s(pid) - before[role] for role, pid in contender.pids.items()}
        found["cpu_us_per_request"] = {
            role: round(s / found["requests"] * 1e6, 1) for role, s in spent.items()
        }
        found["rss_mb"] = {r: round(processes.rss_mb(p), 1) for r, p in contender.pids.items()}
        found["connections"] = connections
        if found["errors"] > found["requests"] // 100:
            raise SystemExit(
                f"{name}: {found['errors']} of {found['requests']} failed; see its log"
            )
        self.figures[name] = found
        CONSOLE.print(
            f"  {name:28} {found['rps']:>9.0f} rps  p50 {found['p50_ms']:.2f}  p99"
            f" {found['p99_ms']:.2f} ms  errors {found['errors']}"
        )

    def _over_grpc(self, contender: Contender, callers: int, seconds: float) -> dict[str, Any]:
        spec = self.folder / "grpc.json"
        requests = [body.hex() for body in contender.bodies]
        spec.write_text(json.dumps({**(contender.grpc or {}), "requests": requests}))
        command = [*_ON_LOAD_CORE, "tests.bench.grpc_load", str(spec)]
        command += ["--callers", str(callers), "--seconds", f"{seconds:.0f}"]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def open_loops(self, name: str, contender: Contender, best: float) -> dict[str, Any]:
        """At shares of the closed loop's best rate until it no longer keeps up; then at OPEN_SHARE
        of the highest at which it did: its own maximum."""
        tried: list[dict[str, Any]] = []
        for share in OPEN_STEPS:
            tried.append(self.open_loop(name, contender, best * share, self.seconds))
            if not _keeps_up(tried[-1]):
                break
        kept = [step["rate"] for step in tried if _keeps_up(step)]
        if not kept:
            raise SystemExit(f"{name} keeps up with no open loop; is the machine busy?")
        found = self.open_loop(name, contender, OPEN_SHARE * max(kept), self.seconds * 2)
        return {**found, "maximum_rate": max(kept), "steps": tried}

    def open_loop(
        self, name: str, contender: Contender, rate: float, seconds: float
    ) -> dict[str, Any]:
        """The same at a constant arrival rate."""
        spec = self.folder / "open.json"
        spec.write_text(
            json.dumps(
                {
                    "url": contender.url,
                    "headers": contender.headers,
                    "bodies": [body.decode() for body in contender.bodies],
                    "keyed": contender.keyed,
                }
            )
        )
        command = [*_ON_LOAD_CORE, "tests.bench.open_loop", str(spec)]
        command += ["--rate", f"{rate:.1f}", "--seconds", f"{seconds:.0f}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"the open loop failed:\n{done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(done.stdout)
        CONSOLE.print(
            f"  {name:28} {rate:>9.0f} due a second: p50 {found['p50_ms']:.2f}  p99"
            f" {found['p99_ms']:.2f}  p99.9 {found['p999_ms']:.2f} ms"
        )
        return found


def _keeps_up(step: dict[str, Any]) -> bool:
    answered = step["requests"] > 0 and set(step["statuses"]) == {"200"}
    return answered and step["unanswered"] == 0 and bool(step["p50_ms"] < KEPT_UP_MS)
