"""`make drill-async`: SIGKILL the async worker at random while it drains a topic of a real Kafka.

Every request has to have exactly one result and one decision. Writes build/drills/async.json as it
goes on; `done` is true in the last state of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.servers import instances
from tests.support.scoring_world import MODEL, ScoringWorld

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import RecordQuery
from mlplatform.decisions.topics.kafka import KafkaTopics
from mlplatform.decisions.topics.messages import Message
from mlplatform.runtime.storage import addresses
from mlplatform.runtime.storage.addresses import Brokers
from mlplatform.scoring.worker.messages import KEY_HEADER, Names

ROOT = Path(__file__).parents[2]
OUT = ROOT / "build" / "drills" / "async.json"
HOME = ROOT / "build" / "drills" / "async"
LIMIT_S = 1800.0
PUBLISHED_AT_ONCE = 10_000
COMMIT_S = 0.3
"""Between a worker's start and its earliest kill: it must be able to get on."""
names = Names(MODEL)


def main() -> int:
    options = _options()
    random.seed(options.seed)
    shutil.rmtree(HOME, ignore_errors=True)
    kafka = instances.kafka()
    world = ScoringWorld(HOME / "platform")
    try:
        world.promote(world.deploy(1))
        # recorded time: the last request may be scored long after the first
        world.start_gateway(MLPLATFORM_CLOCK="replay")
        report = _drill(options, world, kafka.brokers)
    finally:
        world.close()
        if kafka.server:
            kafka.server.close()
    passed = report["results"] == report["inputs"] == report["decisions"] and not report["doubled"]
    print(json.dumps(report, indent=2))
    print(f"{int(passed)} passed, {int(not passed)} failed")
    return 0 if passed else 1


def _drill(options: argparse.Namespace, world: ScoringWorld, brokers: Brokers) -> dict[str, Any]:
    topics = KafkaTopics(brokers, names.specs())
    _publish(topics, options.messages)
    reader = topics.subscribe([names.results, names.dead_letters], "drill", "drill")
    began_s = time.monotonic()
    seen: Counter[str] = Counter()
    report: dict[str, Any] = {"inputs": options.messages, "kills": 0, "done": False}
    worker = _worker(world, brokers)
    due = _kill_points(options)
    started_s = time.monotonic()
    try:
        while len(seen) < options.messages and time.monotonic() - began_s < LIMIT_S:
            for message in reader.consume(2000, 0.05):
                seen[message.headers[KEY_HEADER].decode() + "@" + message.topic] += 1
            reader.commit([])
            alive_s = time.monotonic() - started_s
            if due and len(seen) >= due[0] and alive_s > COMMIT_S + random.random():
                due.pop(0)
                worker.kill()
                worker.wait()
                report["kills"] += 1
                worker, started_s = _worker(world, brokers), time.monotonic()
            elif worker.poll() is not None:
                raise SystemExit(f"drill: the worker ended by itself with {worker.returncode}")
            _write(report, seen, began_s)
        worker.terminate()
        report["drained_with"] = worker.wait(60)
        for message in reader.consume(2000, 3.0):  # what should not be there
            seen[message.headers[KEY_HEADER].decode() + "@" + message.topic] += 1
    finally:
        worker.kill()
        reader.close()
        topics.close()
    report["decisions"], report["decided_twice"] = _decisions(world)
    report["done"] = True
    _write(report, seen, began_s)
    return report


def _publish(topics: KafkaTopics, count: int) -> None:
    event_ms = time.time_ns() // 1_000_000
    for start in range(0, count, PUBLISHED_AT_ONCE):
        topics.publish(
            [
                Message(
                    names.requests,
                    str(n % 997).encode(),
                    json.dumps(
                        {"customer_id": n % 997, "terminal_id": n % 89, "amount": n % 400,
                         "event_time": event_ms}
                    ).encode(),
                    {KEY_HEADER: f"drill-{n}".encode()},
                )
                for n in range(start, min(start + PUBLISHED_AT_ONCE, count))
            ]
        )  # fmt: skip


def _kill_points(options: argparse.Namespace) -> list[int]:
    """After how many results the worker is killed next, at the earliest."""
    return sorted(random.randrange(int(options.messages * 0.95)) for _ in range(options.kills))


def _worker(world: ScoringWorld, brokers: Brokers) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "platform" / "src"),
        "MLPLATFORM_HOME": str(world.home.root),
        "MLPLATFORM_GATEWAY_PORT": str(world.port),
        **addresses.variables("MLPLATFORM_KAFKA", brokers),
    }
    with (HOME / "worker.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "mlplatform.process", "worker", "--model", MODEL],
            env=environment, stdout=log, stderr=log,
        )  # fmt: skip


def _decisions(world: ScoringWorld) -> tuple[int, int]:
    """Decisions that were recorded, and how many of them were for a request that had one."""
    log = SqliteDecisionLog(world.home.decisions)
    try:
        payloads = log.read(RecordQuery(model=MODEL, kinds=("decision",), columns=("payload",)))
    finally:
        log.close()
    keys = [json.loads(p)["idempotency_key"] for p in payloads.column("payload").to_pylist()]
    return len(keys), len(keys) - len(set(keys))


def _write(report: dict[str, Any], seen: Counter[str], began_s: float) -> None:
    report["results"] = sum(count for key, count in seen.items() if key.endswith(names.results))
    report["dead_letters"] = sum(seen.values()) - report["results"]
    report["doubled"] = sum(count - 1 for count in seen.values())
    report["elapsed_s"] = round(time.monotonic() - began_s, 1)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(report, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=4)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
