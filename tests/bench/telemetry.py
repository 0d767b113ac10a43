"""What spans cost: CPU of a gateway process per request, by the share of requests that have some.

    python tests/bench/telemetry.py --json build/bench/telemetry.json

Real gateways over one predictor, log and collector take turns in short blocks, so that what else
the machine does falls on all alike. `file` keeps its spans on disk, twice: what those two differ
by, processes differ by anyway. The others send theirs, and are named by their
`MLPLATFORM_TRACE_SHARE`. Slow answers have spans whatever the share: `kept` tells how many.
`ended_us` is what the event loop pays at the end of one request, measured alone; `thread_us` is
what the span thread pays for one that is kept, before it is sent or written.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import httpx

from mlplatform.learning.features.online import OnlineRow
from mlplatform.learning.features.policy import NO_GAPS
from mlplatform.model.routes import Arm, Routes
from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.span_files import encoded
from mlplatform.runtime.telemetry.spans import ProcessIdentity
from mlplatform.scoring.arms.fallback import ModelStep
from mlplatform.scoring.arms.live import Live, Target
from mlplatform.scoring.arms.routing import Assignment
from mlplatform.scoring.request.decision import DecidedRequest, FinishedDecision, RoutedRequest
from mlplatform.scoring.request.prediction import Prediction, RequestFacts, Verdict
from mlplatform.scoring.request.spans import AnsweredRequest, Traces, build
from support.otlp_receiver import OtlpReceiver, otlp_receiver
from support.ports import free_port
from support.scoring_world import MODEL, ScoringWorld, payment, wait_for

SHARES: Final = ("file", "file-again", "0", "0.01", "1")
BLOCK: Final = 50
PATH: Final = f"/api/v1/models/{MODEL}/score"
ALONE: Final = 20_000


class Gateway:
    """A gateway process of its own port, and what its requests have cost so far."""

    def __init__(self, world: ScoringWorld, share: str, receiver: OtlpReceiver) -> None:
        self.port = free_port()
        traced = {"MLPLATFORM_OTLP_ENDPOINT": receiver.url, "MLPLATFORM_TRACE_SHARE": share}
        self.process = world._start(
            "gateway",
            "--name",
            f"gateway-{share}",
            MLPLATFORM_GATEWAY_PORT=str(self.port),
            **({} if share.startswith("file") else traced),
        )
        wait_for(self._is_ready)
        self._headers = {**world.headers, "Content-Type": "application/json"}
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port)
        self.cost_us: list[float] = []

    def block(self, requests: int) -> None:
        """So many requests, one after the other; their cost is noted."""
        before_ns = self._cpu_ns()
        for _ in range(requests):
            self._connection.request("POST", PATH, json.dumps(payment()), self._headers)
            response = self._connection.getresponse()
            response.read()
            assert response.status == 200
        self.cost_us.append((self._cpu_ns() - before_ns) / requests / 1000)

    def _is_ready(self) -> bool:
        try:
            url = f"http://127.0.0.1:{self.port}/readyz"
            return httpx.get(url).status_code == 200
        except httpx.TransportError:
            return False

    def _cpu_ns(self) -> int:
        """CPU time of all its threads so far."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def finished() -> FinishedDecision:
    """An ordinary decision of a champion, as fast as the objective wants it."""
    arm = Arm(3, "9f" * 32, "fraud-v3-9f9f9f9f")
    routes = Routes(MODEL, 7, arm, None, None, "fraud-r3", "steady", 0.0)
    live = Live(routes, {}, cast(Any, None), cast(Any, None), "review")
    now_s, step = time.monotonic(), cast(ModelStep, "champion")
    routed = RoutedRequest(
        "0198c2f0a4b7d1e2f3a4b5c6d7e8f901",
        live,
        RequestFacts({}, 0, OnlineRow({}, {})),
        1,
        Assignment("champion", 1, arm, None),
        NO_GAPS,
        read_s=(now_s, now_s + 0.0001),
    )
    target = cast(Target, type("Asked", (), {"arm": arm}))
    timing = b"queue;dur=0.120, compute;dur=0.045"
    prediction = Prediction(step, target, (), 0.1, False, now_s, now_s + 0.001, timing)
    verdict = Verdict("approve", "champion", target, 0.1, 0.1)
    decided = DecidedRequest(routed, verdict, (), prediction, now_s + 0.0011)
    return FinishedDecision(decided, now_s, now_s + 0.002)


class _Nowhere:
    def offer(self, item: AnsweredRequest, *, is_spare: bool) -> None:
        pass


def each_us(work: Callable[[], object], count: int = ALONE) -> float:
    """CPU of one call, the median of five runs."""
    runs = []
    for _ in range(5):
        start_s = time.process_time()
        for _ in range(count):
            work()
        runs.append((time.process_time() - start_s) / count * 1e6)
    return statistics.median(runs)


def alone() -> dict[str, float]:
    """The end of a request by itself."""
    given, slo_s = finished(), {MODEL: 1e9}
    attributes = {signals.HTTP_METHOD: "POST", signals.HTTP_STATUS: 200}

    def end(traces: Traces) -> Callable[[], None]:
        def ended() -> None:
            one = [given]
            traces.end("score", None, given.started_s, 200, one, lambda: attributes)

        return ended

    item = AnsweredRequest(
        "score", attributes, None, given.started_s, given.recorded_s, False, [given], "share"
    )
    identity = ProcessIdentity("gateway", "gateway-0")
    return {
        "ended_us_not_kept": each_us(end(Traces(_Nowhere(), slo_s, 0.0))),
        "ended_us_kept": each_us(end(Traces(_Nowhere(), slo_s, 1.0))),
        "thread_us": each_us(lambda: encoded([build(item)], identity), ALONE // 20),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--blocks", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, otlp_receiver() as receiver:
        world = ScoringWorld(Path(folder))
        gateways: dict[str, Gateway] = {}
        try:
            world.promote(world.deploy(1))
            gateways = {share: Gateway(world, share, receiver) for share in SHARES}
            order, chance = list(SHARES), random.Random(7)
            for _ in range(options.blocks + 2):
                chance.shuffle(order)  # who follows itself finds its caches warm
                for share in order:
                    gateways[share].block(BLOCK)
        finally:
            for gateway in gateways.values():
                gateway.process.terminate()
                gateway.process.wait(20)
            world.close()
    cpu_us = {s: statistics.median(g.cost_us[2:]) for s, g in gateways.items()}
    kept = Counter(
        f"{span.resource['service.instance.id']}: {span.attributes[signals.KEPT_FOR.name]}"
        for span in receiver.roots()
    )
    result = {
        "requests_each": options.blocks * BLOCK,
        "cpu_us_per_request": cpu_us,
        "difference_to_file_us": {share: cpu_us[share] - cpu_us["file"] for share in SHARES},
        "ratio_to_file": {share: cpu_us[share] / cpu_us["file"] for share in SHARES},
        "kept": kept,
        **alone(),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
