"""`make drill-soak`: two gateways at full load for ten minutes; memory flat, and the books balance.

A closed loop: each of the connections asks again as soon as it is answered, so the rate is the
highest that the machine sustains. Every answer is copied to a challenger in shadow, and the log is
sealed during the load, as a rollout's passes do. Writes build/drills/soak.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table
from tests.drills.memory import Growth, Sample, growth
from tests.drills.scoring import child_environment

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import RecordQuery, VerifyReport
from mlplatform.runtime.processes.records import read_processes
from support.gateways_world import GatewaysWorld
from support.scoring_world import MODEL, wait_for

ROOT = Path(__file__).parents[2]
OUT = ROOT / "build" / "drills" / "soak.json"
SAMPLES = 600
LEAST_SAMPLE_S = 0.1
SEALS = 20
LEAST_SEAL_S = 2.0
CLIENT_GRACE_S = 30.0
SETTLE_S = 60.0
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')

ScrapedSamples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Books(msgspec.Struct, kw_only=True):
    """What each side says it has done.

    Args:
        statuses: of answers, as the client counted them; `gateway_statuses` as the gateways did.
        decided: by the gateways' metrics; `decisions` are records, `decided_twice` of them for a
            decision that had one.
        log: counts of the gateways' logs, added up.
        copied: shadow records, of which `copies_failed` say that the challenger did not answer.
        dropped: shadow copies that the gateways counted as dropped, by cause.
    """

    statuses: dict[str, int]
    gateway_statuses: dict[str, int]
    cut_off: int
    decided: int
    decisions: int
    decided_twice: int
    log: dict[str, int]
    copied: int
    copies_failed: int
    dropped: dict[str, int]

    def promises(self) -> dict[str, bool]:
        """What has to add up."""
        log, answers = self.log, self.statuses.get("200", 0)
        refused = self.statuses.get("503", 0)
        accepted = log["accepted"] + log["recovered"]
        return {
            "every request got an answer": self.cut_off == 0,
            "the client's answers are the gateways'": self.statuses == self.gateway_statuses,
            "every answer is a decision in the log": answers == self.decided <= self.decisions,
            "every other decision in the log was refused as late": self.decisions - answers
            <= refused,
            "no decision is twice in the log": self.decided_twice == 0,
            "accepted = written + waiting + unlogged": accepted
            == log["written"] + log["waiting"] + log["unlogged"],
            "what was written is in the log": log["written"] == self.decisions + self.copied,
            "every copy is on record or counted as dropped": self.decided
            == self.copied + sum(self.dropped.values()),
        }


def drill(world: GatewaysWorld, seconds: float, connections: int) -> dict[str, Any]:
    """What was found; `promises` says what holds of what has to."""
    world.promote(world.deploy(1))
    world.shadow(world.deploy(2, offset=0.25))
    before = _pids(world)
    samples: dict[str, list[Sample]] = {name: [] for name in before}
    with _sealing(world, max(LEAST_SEAL_S, seconds / SEALS)):
        client = _client(world, seconds, connections)
        told = _watch(client, before, samples, seconds)
    books = _balanced(world, told)
    began_s = time.monotonic()
    report = _verified(world)
    verify_s = time.monotonic() - began_s
    memory = {name: growth(taken, told["sent"]) for name, taken in samples.items()}
    promises = books.promises() | {
        "memory is flat": all(g.is_flat is not False for g in memory.values()),
        "no process was started again": _pids(world) == before,
        "the log verifies": report.ok,
        "segments were sealed": report.segments > 0,
    }
    return {
        "loop": "closed",
        "connections": connections,
        "client": told,
        "books": msgspec.to_builtins(books),
        "log": {
            "records": report.records,
            "segments": report.segments,
            "findings": list(report.findings),
            "verify_s": round(verify_s, 1),
        },
        "memory": {name: msgspec.to_builtins(found) for name, found in memory.items()},
        "promises": promises,
        "ok": all(promises.values()),
    }


def _client(world: GatewaysWorld, seconds: float, connections: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.drills.soak_client", "--port", str(world.port)]
    command += ["--key-file", str(world.home.api_key), "--seconds", str(seconds)]
    command += ["--connections", str(connections)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env=child_environment())


def _watch(
    client: subprocess.Popen[bytes],
    pids: dict[str, int],
    samples: dict[str, list[Sample]],
    seconds: float,
) -> dict[str, Any]:
    """What the client tells when it ends; memory is sampled until then."""
    every_s = max(LEAST_SAMPLE_S, seconds / SAMPLES)
    end_s = time.monotonic() + seconds
    try:
        while client.poll() is None and time.monotonic() < end_s:
            for name, pid in pids.items():
                with contextlib.suppress(psutil.NoSuchProcess):  # it is reported as started again
                    rss_mb = psutil.Process(pid).memory_info().rss / 1e6
                    samples[name].append(Sample(time.monotonic(), rss_mb))
            time.sleep(every_s)
        out, _ = client.communicate(timeout=CLIENT_GRACE_S)
    finally:
        client.kill()
    if client.returncode != 0:
        raise SystemExit(f"the client ended with {client.returncode}")
    told: dict[str, Any] = json.loads(out)
    return told


@contextlib.contextmanager
def _sealing(world: GatewaysWorld, every_s: float) -> Iterator[None]:
    """Seals the log every `every_s`, and again at the end."""
    over = threading.Event()
    failures: list[Exception] = []

    def seal() -> None:
        log = SqliteDecisionLog(world.home.decisions)
        try:
            while not over.wait(every_s):
                log.seal()
            log.seal()
        except Exception as error:  # noqa: BLE001 -- raised where the thread is waited for
            failures.append(error)
        finally:
            log.close()

    thread = threading.Thread(target=seal, name="seal")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if failures:
        raise failures[0]


def _pids(world: GatewaysWorld) -> dict[str, int]:
    """Of every process of the platform, by name."""
    found = {r.name: r.process.pid for r in read_processes(world.home) if r.process is not None}
    return found | {"supervisor": world.supervisor.pid}


def _balanced(world: GatewaysWorld, told: dict[str, Any]) -> Books:
    """The books when nothing is under way any more, or as they are when that takes too long."""
    end_s = time.monotonic() + SETTLE_S
    wait_for(lambda: _is_at_rest(world) or time.monotonic() > end_s, SETTLE_S + 10)
    scraped = [_scrape(world, name) for name in world.names]
    log = SqliteDecisionLog(world.home.decisions)
    try:
        columns = ("kind", "decision_id", "degraded")
        records = log.read(RecordQuery(model=MODEL, kinds=("decision", "shadow"), columns=columns))
    finally:
        log.close()
    is_shadow = pc.equal(records["kind"].cast("string"), "shadow")
    ids = records.filter(pc.invert(is_shadow))["decision_id"]
    copies = records.filter(is_shadow)
    return Books(
        statuses=told["statuses"],
        gateway_statuses=_by(scraped, "mlplatform_gateway_requests_total", "status"),
        cut_off=told["cut_off"],
        decided=sum(_by(scraped, "mlplatform_gateway_decisions_total", "model").values()),
        decisions=len(ids),
        decided_twice=len(ids) - len(pc.unique(ids)),
        log=_log_counts(scraped),
        copied=len(copies),
        copies_failed=pc.sum(copies["degraded"]).as_py() or 0,
        dropped=_by(scraped, "mlplatform_gateway_shadow_dropped_total", "why"),
    )


def _is_at_rest(world: GatewaysWorld) -> bool:
    """Whether every copy was sent or dropped, and nothing waits in a spill."""
    scraped = [_scrape(world, name) for name in world.names]
    log = _log_counts(scraped)
    decided = sum(_by(scraped, "mlplatform_gateway_decisions_total", "model").values())
    dropped = sum(_by(scraped, "mlplatform_gateway_shadow_dropped_total", "why").values())
    return log["waiting"] == 0 and log["written"] + dropped >= 2 * decided


def _scrape(world: GatewaysWorld, name: str) -> ScrapedSamples:
    url = f"http://127.0.0.1:{world.process(name).port}/metrics"
    answer = httpx.get(url, headers=world.headers).raise_for_status()
    found = filter(None, map(_SAMPLE.match, answer.text.splitlines()))
    return {(m[1], tuple(_LABEL.findall(m[2] or ""))): float(m[3]) for m in found}


def _by(scraped: list[ScrapedSamples], metric: str, label: str) -> dict[str, int]:
    """A counter over all gateways, by one label; requests other than to score are left out."""
    counts: Counter[str] = Counter()
    for one in scraped:
        for (name, labels), value in one.items():
            of = dict(labels)
            if name == metric and of.get("operation", "score") == "score":
                counts[of[label]] += int(value)
    return {key: count for key, count in sorted(counts.items()) if count}


def _log_counts(scraped: list[ScrapedSamples]) -> dict[str, int]:
    names = ("accepted", "recovered", "written", "spilled", "waiting", "unlogged", "refused")
    return {name: int(sum(_log_count(one, name) for one in scraped)) for name in names}


def _log_count(scraped: ScrapedSamples, name: str) -> float:
    suffix = "" if name == "waiting" else "_total"
    return scraped[f"mlplatform_log_{name}{suffix}", ()]


def _verified(world: GatewaysWorld) -> VerifyReport:
    log = SqliteDecisionLog(world.home.decisions)
    try:
        return log.verify()
    finally:
        log.close()


def table(memory: dict[str, dict[str, Any]]) -> Table:
    """A row for each process."""
    shown = Table("process", "median MB", "highest MB", "growth MB", "allowed MB", "bytes/request")
    for name, of in memory.items():
        found = msgspec.convert(of, Growth)
        shown.add_row(
            name, f"{found.median_mb:.1f}", f"{found.highest_mb:.1f}", f"{found.growth_mb:.2f}",
            f"{found.allowed_mb:.2f}", f"{found.bytes_per_request:.1f}",
        )  # fmt: skip
    return shown


def main() -> int:
    """Drills, writes the report, prints what it says; 1 if a promise is broken."""
    parser = argparse.ArgumentParser(prog="tests.drills.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="of load (%(default)s)")
    parser.add_argument("--connections", type=int, default=32, help="at once (%(default)s)")
    parser.add_argument("--gateways", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world = GatewaysWorld(Path(folder), options.gateways)
        try:
            found = drill(world, options.seconds, options.connections)
        finally:
            world.close()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(found, indent=2) + "\n")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    console.print_json(data={key: found[key] for key in ("client", "books", "log")})
    console.print(table(found["memory"]))
    broken = [name for name, holds in found["promises"].items() if not holds]
    console.print(f"broken: {'; '.join(broken)}" if broken else "every promise holds")
    console.print(f"{int(found['ok'])} passed, {int(not found['ok'])} failed; written to {OUT}")
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
