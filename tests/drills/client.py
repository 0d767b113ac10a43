"""`make drill-client`: what an application gets by the client library while parts fail.

Payments go through `Client`, `AsyncClient` and batches while one fault of `make drill-scoring`
after another is made; those that failed are sent again with the same keys. Every answer is compared
with the decision log. The report is build/drills/client.json. A wrong answer, an error without a
type, or a payment that has no answer in the end fails the drill.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from tests.drills.scoring_faults import DRILLS, Drill

from mlplatform_client import Retries, Settings
from support.library_calls import (
    CallResults,
    SentPayments,
    asked,
    asked_again,
    kinds,
    payments,
    wrong,
)
from support.scoring_world import ScoringWorld

ROOT = Path(__file__).parents[2]
OUT = ROOT / "build" / "drills" / "client.json"
ROUND = 60
BRIEF = Settings(deadline_s=1.0, retries=Retries(attempt_s=0.5))


def asked_until(
    world: ScoringWorld, name: str, over: threading.Event
) -> tuple[SentPayments, CallResults]:
    """Payments of a fault, round after round, and what came of them."""
    sent: SentPayments = {}
    found: CallResults = {}
    secret = world.home.api_key.read_text()
    while not over.is_set():
        fresh = payments(f"{name}-{len(sent)}", ROUND)
        sent |= fresh
        found |= asked(world.url, secret, fresh, BRIEF)
    return sent, found


def drilled(name: str, drill: Drill, world: ScoringWorld, seconds: float) -> dict[str, Any]:
    """What came of the payments of one fault.

    They are under way before it: some faults wait for one.
    """
    drill.prepare(world)
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(asked_until, world, name, over)
        try:
            with drill.fault(world):
                wait([load], timeout=seconds)
                over.set()
                sent, found = load.result()
        finally:
            over.set()
    problems = wrong(world, sent, found)
    again = asked_again(world, sent, found)
    problems += wrong(world, sent, again)
    without = len(sent) - kinds(again)["Answer"]
    degraded = Counter(
        result.degraded.reason
        for result in found.values()
        if not isinstance(result, Exception) and result.degraded is not None
    )
    return {
        "payments": len(sent),
        "came": kinds(found),
        "degraded": degraded,
        "wrong": problems,
        "without_answer_in_the_end": without,
        "ok": not problems and not without,
    }


def main() -> int:
    """Drills and writes the report; 1 if a promise is broken."""
    parser = argparse.ArgumentParser(prog="tests.drills.client", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(DRILLS), help="may be repeated")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each fault (%(default)s)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    found: dict[str, dict[str, Any]] = {}
    names = options.only or list(DRILLS)
    for kind in dict.fromkeys(DRILLS[name].world for name in names):
        with tempfile.TemporaryDirectory() as folder:
            world = kind(Path(folder))
            try:
                for name in (n for n in names if DRILLS[n].world is kind):
                    found[name] = drilled(name, DRILLS[name], world, options.seconds)
                    print(name, json.dumps(found[name]), flush=True)
            finally:
                world.close()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(found, indent=2) + "\n")
    passed = sum(finding["ok"] for finding in found.values())
    print(f"{passed} passed, {len(found) - passed} failed; written to {OUT}")
    return 0 if passed == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
