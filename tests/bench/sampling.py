"""Which traces a gateway under load keeps: all that matter, and how much of the rest.

    PYTHONPATH=tests python -m tests.bench.sampling --rate 1000 --json build/bench/sampling.json

Payments and raw calls at a constant rate (an open loop), a challenger with a share of customers,
and a champion's predictor that stands still for a moment each second: so that requests are slow,
degraded and failed among many that are neither. What happened is taken from the decision log, the
callers' answers and the gateway's counters; what was kept, from the spans on disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import uvloop
from tests.bench.open_loop import Load, head_and_tail

from mlplatform.model.folders import load_definition
from mlplatform.model.routes import Arm
from mlplatform.runtime.telemetry import signals, span_files
from mlplatform.runtime.telemetry.span_files import StoredSpan
from support.scoring_world import MODEL, ScoringWorld, payment

CANARY_PERCENT: Final = 5.0
RAW_EVERY: Final = 10
RAW_DEADLINE: Final = {"X-Request-Timeout-Ms": "20"}
"""One request in so many is a raw call: without a score in time it fails, having no fallback."""
FREEZE_S, FREEZE_EVERY_S = 0.07, 1.0
"""Longer than the deadline, and so short that the breaker stays closed."""
SETTLE_S: Final = 3.0
_SAMPLE: Final = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


class SampleReport(msgspec.Struct, kw_only=True):
    """What happened under load, and what was kept of it.

    Args:
        happened: failed (status 500 and more, by the callers), degraded and canary (records of the
            log), slow (by the gateway's histogram), which may be of the others too.
        unkept: decision ids of degraded ones and of canaries whose trace was not kept.
        kept: traces on disk by what they were kept for.
        kept_slow: those that took longer than the model's objective, whatever they were kept for.
        dropped: requests whose spans were wanted, and not taken, by the gateway's counter.
        rest: answered requests that nothing spoke for.
    """

    rate: float
    seconds: float
    answers: dict[int, int]
    unanswered: int
    happened: dict[str, int]
    unkept: list[str]
    kept: dict[str, int]
    kept_slow: int
    dropped: int
    rest: int

    @property
    def rest_share(self) -> float:
        """Of the requests that nothing spoke for, the part that was kept all the same."""
        return self.kept.get("share", 0) / max(self.rest, 1)


def sampled(root: Path, *, rate: float, seconds: float, connections: int = 64) -> SampleReport:
    """One gateway under such a load, in a folder of its own."""
    world = ScoringWorld(root)
    try:
        champion = world.deploy(1)
        world.promote(champion)
        world.start_gateway()
        world.shadow(world.deploy(2, offset=0.01))
        world.canary(CANARY_PERCENT)
        before = _counters(world)
        load = Load(world.url, _requests(world), rate, connections)
        with _freezing(world, champion):
            uvloop.run(load.run(seconds, warm_up_s=0.0))
        after = _counted_all(world, load)
        return _found(world, load, _difference(after, before), rate, seconds)
    finally:
        world.close()


def _requests(world: ScoringWorld) -> Any:
    """Number → request; customers in turn, so that the challenger has its share of them."""
    headers = world.headers | {"Content-Type": "application/json"}
    raw_url = f"{world.url}/v2/models/{MODEL}/infer"
    raw = head_and_tail(raw_url, headers | RAW_DEADLINE, _raw_body())

    def request(number: int) -> bytes:
        if number % RAW_EVERY == 0:
            return b"".join(raw)
        body = json.dumps(payment(float(number % 400), customer=number % 9973)).encode()
        url = f"{world.url}/api/v1/models/{MODEL}/score"
        return b"".join(head_and_tail(url, headers, body))

    return request


def _raw_body() -> bytes:
    width = len(load_definition(MODEL).inputs)
    row = [40.0] + [0.0] * (width - 1)
    tensor = {"name": "inputs", "shape": [1, width], "datatype": "FP32", "data": [row]}
    return json.dumps({"inputs": [tensor]}).encode()


@contextlib.contextmanager
def _freezing(world: ScoringWorld, arm: Arm) -> Iterator[None]:
    """Meanwhile the arm's predictor stands still for a moment, again and again."""
    over = threading.Event()

    def freeze() -> None:
        while not over.wait(FREEZE_EVERY_S - FREEZE_S):
            with world.frozen_predictor(arm):
                time.sleep(FREEZE_S)

    thread = threading.Thread(target=freeze)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _counters(world: ScoringWorld) -> Counter[str]:
    """The gateway's: what was answered, counted into buckets, and asked for as spans."""
    text = httpx.get(f"{world.url}/metrics", headers=world.headers).raise_for_status().text
    slo_s = load_definition(MODEL).latency_slo_ms / 1000
    found: Counter[str] = Counter()
    for name, labels, value in _SAMPLE.findall(text):
        if name == f"{signals.LATENCY.name}_count":
            found["decided"] += int(float(value))
        elif name == f"{signals.LATENCY.name}_bucket" and f'le="{slo_s:g}"' in labels:
            found["in time"] += int(float(value))
        elif name == f"{signals.TRACES.name}_total":
            found[labels.split('"')[1]] += int(float(value))
    return found


def _counted_all(world: ScoringWorld, load: Load) -> Counter[str]:
    """The counters once the span thread has nothing left to do."""
    time.sleep(SETTLE_S)
    end_s, last = time.monotonic() + 60, _counters(world)
    while time.monotonic() < end_s:
        time.sleep(SETTLE_S)
        now = _counters(world)
        if now == last:
            return now
        last = now
    raise AssertionError(f"spans are still being written, {load.unanswered} requests under way")


def _difference(after: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in after.items()}


def _found(
    world: ScoringWorld, load: Load, counted: dict[str, int], rate: float, seconds: float
) -> SampleReport:
    records = world.records("decision", "inference")
    degraded = {r["decision_id"] for r in records if r["degraded"]}
    canary = {r["decision_id"] for r in records if r["arm"] == "challenger"}
    roots = list(_roots(world))
    kept_ids = {str(span.attributes.get(signals.DECISION_ID.name)) for span in roots}
    kept = Counter(str(span.attributes[signals.KEPT_FOR.name]) for span in roots)
    dropped = counted.get("dropped", 0) + counted.get("failed", 0)
    answered = sum(load.statuses.values())
    return SampleReport(
        rate=rate,
        seconds=seconds,
        answers=dict(sorted(load.statuses.items())),
        unanswered=load.unanswered,
        happened={
            "failed": sum(n for status, n in load.statuses.items() if status >= 500),
            "degraded": len(degraded),
            "canary": len(canary),
            "slow": counted["decided"] - counted["in time"],
        },
        unkept=sorted((degraded | canary) - kept_ids),
        kept=dict(kept),
        kept_slow=sum(map(_is_slow, _traces(world))),
        dropped=dropped,
        rest=answered - (kept.total() - kept["share"]) - dropped,
    )


def _traces(world: ScoringWorld) -> list[list[StoredSpan]]:
    """The spans on disk by trace."""
    found: dict[str, list[StoredSpan]] = {}
    for span in span_files.find(world.home.traces, ['"traceId"']):
        found.setdefault(span.trace_id, []).append(span)
    return list(found.values())


def _roots(world: ScoringWorld) -> Iterator[StoredSpan]:
    for spans in _traces(world):
        yield from (s for s in spans if s.kind == "SERVER" and s.parent_id is None)


def _is_slow(spans: list[StoredSpan]) -> bool:
    """Whether its decision was durable later than the model's objective says."""
    (begin_ns,) = (s.start_ns for s in spans if s.kind == "SERVER" and s.parent_id is None)
    durable_ns = [s.end_ns for s in spans if s.name == "record"]
    slo_ns = load_definition(MODEL).latency_slo_ms * 1_000_000
    return any(at_ns - begin_ns > slo_ns for at_ns in durable_ns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=1000.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = sampled(Path(folder), rate=options.rate, seconds=options.seconds)
    text = json.dumps(msgspec.to_builtins(found) | {"rest_share": found.rest_share}, indent=2)
    print(text)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
