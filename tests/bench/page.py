"""How long each view of the page takes, and its memory, at a bank's size: `make bench-page`.

    python -m tests.bench.page --decisions 1000000 10000000 --rollouts 500

For each size a home folder is made: 31 days of decisions of two arms and a shadow in sealed files
(by `scale.write_log`, with true digests and chains), the newest `HOT` appended by the log itself,
catalogued and counted as passes do it; a journal of rollouts with the judge's own evidence, and
incidents. Then a page process is started, and asked over HTTP: once cold, then again and again.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import numpy as np
from tests.bench import scale

from mlplatform.decisions.log import segments
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.pseudonym import load_or_create_key, pseudonym
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.model.folders import load_definition
from mlplatform.operations.actions import interim_analyses
from mlplatform.operations.review import queue, queue_file
from mlplatform.operations.traffic import input_windows, projection
from mlplatform.rollouts.drift.incidents import IncidentFinding
from mlplatform.rollouts.drift.sqlite import SqliteIncidents
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.rollouts.journal.transitions import Opened, Transition
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.units import DAY_MS
from rollout_world import arm
from support import kept_windows
from support.journal_steps import commit, give_champion
from support.judged_rollout import JudgedRollout
from support.page_process import PageProcess
from support.registered_versions import OFFSETS, registered_versions
from support.scoring_world import write_amount_bundle

MODEL: Final = "fraud"
DAYS: Final = 31
FILE_ROWS: Final = 50_000
HOT: Final = 20_000
INCIDENTS: Final = 200
INPUTS: Final = 60
"""Inputs of the model in the windows that drift checks keep."""
LOOKS: Final = 100
"""Requests of one view, of which the 99th percentile is the second slowest."""
MOST_S: Final = 20.0
"""Of one view: then it was asked often enough."""
COLD: Final = ("overview, day", "rollout", "decisions", "decisions of a customer", "system",
               "data", "model.yaml", "compare")  # fmt: skip
"""Views whose first answer by a new process is measured."""
COLD_S: Final = 3.0
"""Seconds for which a new process is left alone, so that it can make itself ready."""
CUSTOMER: Final = "42"
REASON: Final = "HOUR"
"""Code of the reason of flagged decisions."""
TOLD: Final = {"MLPLATFORM_CLOCK": "replay", "MALLOC_ARENA_MAX": "2"}
"""Settings of the page: its traffic is recorded, so the newest day is not today. The supervisor
bounds its memory the same way."""


def record(number: int, decisions: int, unit: int, bundle: str) -> Record:
    """Of 31 days: a quarter are the challenger's, a tenth are copies, 2 % are flagged."""
    event_ms = scale.START_MS + number * DAYS * DAY_MS // decisions
    challenger = number % 4 == 0
    is_copy = number % 10 == 3
    is_flagged = number * 31 % 50 == 0
    plain = scale.record(number)
    return msgspec.structs.replace(
        plain,
        kind="shadow" if is_copy else "decision",
        event_ms=event_ms,
        recorded_ms=event_ms + 8,
        arm="challenger" if challenger or is_copy else "champion",
        answered_by="challenger" if challenger or is_copy else "champion",
        version=2 if challenger or is_copy else 1,
        bundle=bundle,
        unit=unit if number % 100_000 == 7 else number * 7919 % 500_000,
        decision="review" if is_flagged else "approve",
        degraded=number % 1000 == 1,
        latency_us=2_000 + number * 7919 % 9_000,
        payload={**plain.payload, "reasons": [REASON] if is_flagged else []},
    )


def made(home: Home, decisions: int, rollouts: int) -> dict[str, float]:
    """Fill a home folder; seconds of each part of it."""
    home.create()
    took: dict[str, float] = {}
    unit = pseudonym(CUSTOMER, load_or_create_key(home.pseudonym_key))
    of = partial(record, decisions=decisions, unit=unit, bundle=put_bundle(home))
    begun = time.perf_counter()
    sealed = (decisions - HOT) // FILE_ROWS
    scale.write_log(home.decisions, sealed, FILE_ROWS, of, segments.write)
    with closing(sqlite.connect(home.decisions / DATABASE)) as db:
        db.execute("UPDATE writers SET event_ms = ?", (of(sealed * FILE_ROWS).event_ms,))
    with closing(SqliteDecisionLog(home.decisions)) as log:
        log.seal()  # catalogued
        for start in range(sealed * FILE_ROWS + 1, decisions + 1, 1_000):
            stop = min(start + 1_000, decisions + 1)
            log.append(scale.WRITER, [Entry(of(number)) for number in range(start, stop)])
        took["log_s"] = time.perf_counter() - begun
        begun = time.perf_counter()
        definition = load_definition(MODEL)
        alerting = definition.decision.scale.alerts
        counted = projection.file_of(home.counted, MODEL)
        projection.advance(counted, log, MODEL, alerting=alerting, budget_s=3600.0)
        took["counted_s"] = time.perf_counter() - begun
        begun = time.perf_counter()
        queue.advance(queue_file.file_of(home.counted, MODEL), log, definition, budget_s=3600.0)
        took["queued_s"] = time.perf_counter() - begun
    begun = time.perf_counter()
    write_journal(home, rollouts)
    took["journal_s"] = time.perf_counter() - begun
    kept = kept_windows.history(input_windows.KEPT, inputs=INPUTS)
    input_windows.keep(home.measured, MODEL, kept)
    return {name: round(seconds, 1) for name, seconds in took.items()}


def put_bundle(home: Home) -> str:
    """Put version 2's bundle in the home folder, so that decisions can be explained; its digest."""
    made_at = home.bundles / "made"
    digest = write_amount_bundle(made_at, OFFSETS[2])
    made_at.rename(home.bundles / digest)
    return digest


def write_journal(home: Home, rollouts: int) -> None:
    """Rollouts with the judge's evidence, all but the newest rolled back, and incidents."""
    world = JudgedRollout(analyses=5)
    for history in world.histories:
        renamed = msgspec.structs.replace(history, rollout_id=f"{MODEL}-v{rollouts}-1")
        interim_analyses.keep(home.interim_analyses, MODEL, renamed)
    under_way = tuple(world.facts)
    finished = world.stopped()
    with closing(SqliteRollouts(home.rollouts_db, durable=False)) as journal:
        give_champion(journal, MODEL, arm(1))
        fence = journal.acquire(MODEL, "bench", 3600.0)
        for number in range(1, rollouts + 1):
            for fact in finished if number < rollouts else under_way:
                commit(journal, _of_version(fact, number), fence)
    incidents = SqliteIncidents(home.rollouts_db)
    for number in range(INCIDENTS):
        moved = IncidentFinding(MODEL, "drift", number, 1, 1, {"reasons": ["moved"]})
        opened = incidents.open(moved, now_ms=number)
        if number < INCIDENTS - 1:
            incidents.close(opened.id, "looked at", now_ms=number + 1)


def _of_version(fact: Transition, number: int) -> Transition:
    """The transition, of the rollout of a version of its own: the first one is of version 2."""
    own: dict[str, Any] = {"rollout_id": f"{MODEL}-v{number}-1"}
    if isinstance(fact, Opened):
        own["challenger"] = dataclasses.replace(fact.challenger, version=number + 1)
    return msgspec.structs.replace(fact, **own)


def views(home: Home, decisions: int, rollouts: int) -> dict[str, str]:
    """The paths that are measured, by name."""
    with closing(SqliteRollouts(home.rollouts_db)) as journal:
        oldest = journal.read(f"{MODEL}-v1-1")
    digests = [fact.evidence_digest for fact in oldest if fact.evidence]
    unit = pseudonym(CUSTOMER, load_or_create_key(home.pseudonym_key))
    newest = scale.START_MS + DAYS * DAY_MS
    return {
        "overview, day": "/",
        "overview, week": "/?period=week",
        "overview, month": "/?period=month",
        "model": f"/models/{MODEL}",
        "model, month": f"/models/{MODEL}?period=month",
        "data": f"/models/{MODEL}/data",
        "model.yaml": f"/models/{MODEL}/source",
        "compare": f"/models/{MODEL}/compare?first=1&second=2",
        "card": f"/models/{MODEL}/versions/2",
        "review": f"/models/{MODEL}/review",
        "review, of a reason": f"/models/{MODEL}/review?reason={REASON}",
        "review, by score": f"/models/{MODEL}/review?sort=highest+score",
        "rollouts": "/rollouts",
        "rollouts, the last page": f"/rollouts?from={rollouts // 50 * 50 - 50}",
        "rollout": f"/rollouts/{MODEL}-v{rollouts}-1",
        "evidence of the oldest": f"/evidence/{digests[-1]}",
        "system": "/system",
        "incidents": "/incidents",
        "incident": f"/incidents/{MODEL}-drift-{INCIDENTS}",
        "decisions": "/decisions",
        "decisions, flagged": f"/decisions?model={MODEL}&outcome=review",
        "decisions of a customer": f"/decisions?unit={unit}",
        "decisions of a reason": f"/decisions?model={MODEL}&reason={REASON}",
        "decisions of a day": f"/decisions?to_ms={newest - 15 * DAY_MS}",
        "decision, newest": f"/decisions/{scale.decision_id(decisions)}",
        "decision, oldest": f"/decisions/{scale.decision_id(5)}",
        "decision, what drove it": f"/decisions/{scale.decision_id(decisions)}?why=yes",
        "decisions as a file": f"/decisions.csv?model={MODEL}",
    }


def measured(page: PageProcess, path: str) -> dict[str, Any]:
    """Milliseconds of one view over HTTP, on a connection that is kept: the first, and the rest.

    `cpu_ms` is of the page's process alone, a request: what other work on the machine adds to the
    times is not in it.
    """
    took: list[float] = []
    worked_s = cpu_s(page.process.pid)
    with httpx.Client(auth=("anybody", page.token), timeout=120.0) as client:
        begun_s = time.monotonic()
        while len(took) < LOOKS and (time.monotonic() - begun_s < MOST_S or len(took) < 3):
            begun = time.perf_counter()
            answer = client.get(f"{page.url}{path}")
            took.append(1000 * (time.perf_counter() - begun))
            assert answer.status_code == 200, (path, answer.status_code, answer.text[:500])
    warm = took[1:]
    return {
        "first_ms": round(took[0], 1),
        "p50_ms": round(float(np.percentile(warm, 50)), 1),
        "p99_ms": round(float(np.percentile(warm, 99)), 1),
        "cpu_ms": round(1000 * (cpu_s(page.process.pid) - worked_s) / len(took), 1),
        "looks": len(took),
        "kb": len(answer.content) // 1000,
    }


def busy() -> dict[str, float]:
    """How long 20 ms of computing take: other work on the machine lengthens the views' times so."""
    took: list[float] = []
    for _ in range(40):
        begun, worked = time.perf_counter(), time.process_time()
        while time.process_time() - worked < 0.02:
            pass
        took.append(1000 * (time.perf_counter() - begun))
        time.sleep(0.05)
    return {"p50_ms": round(float(np.median(took)), 1), "max_ms": round(max(took), 1)}


def cpu_s(pid: int) -> float:
    """Seconds that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int) -> int:
    """What a process has held at most in memory."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) // 1024


def of_size(home: Home, paths: Mapping[str, str], registry: Mapping[str, str]) -> dict[str, Any]:
    """Each view in turn, by one process.

    Args:
        paths: view → its path.
        registry: the settings by which the page finds its registry.
    """
    page, found = PageProcess(home, **TOLD, **registry), {}
    try:
        found["started_mb"] = peak_mb(page.process.pid)
        found["views"] = {}
        for name, path in paths.items():
            seen = measured(page, path) | {"peak_mb": peak_mb(page.process.pid)}
            found["views"][name] = seen
            print(f"{name:26} {seen}", file=sys.stderr, flush=True)
    finally:
        page.close()
    return found


def cold(home: Home, paths: Mapping[str, str], registry: Mapping[str, str]) -> dict[str, Any]:
    """The first answer of a process that has just started, in milliseconds: at once, and `COLD_S`
    later."""
    found: dict[str, Any] = {}
    for name, waits_s in itertools.product((v for v in COLD if v in paths), (0.0, COLD_S)):
        page = PageProcess(home, **TOLD, **registry)
        time.sleep(waits_s)
        try:
            begun = time.perf_counter()
            assert page.get(paths[name]).status_code == 200
            took = round(1000 * (time.perf_counter() - begun), 1)
            found.setdefault(name, {})["later" if waits_s else "at once"] = took
        finally:
            page.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--rollouts", type=int, default=500)
    parser.add_argument("--folder", type=Path, help="keeps the homes there, and takes those there")
    parser.add_argument("--only", nargs="+", default=[""], help="views, by parts of their names")
    parser.add_argument("--out", type=Path, default=Path("build/bench/page.json"))
    given = parser.parse_args()
    results = []
    folder = given.folder or Path(tempfile.mkdtemp(prefix="bench-page."))
    try:
        for count in given.decisions:
            home = Home(folder / f"{count}-{given.rollouts}")
            found: dict[str, Any] = {"decisions": count, "rollouts": given.rollouts}
            if not (home.root / "made.json").exists():
                shutil.rmtree(home.root, ignore_errors=True)
                took = made(home, count, given.rollouts)
                (home.root / "made.json").write_text(json.dumps(took))
            found["made"] = json.loads((home.root / "made.json").read_text())
            every = views(home, count, given.rollouts)
            paths = {v: path for v, path in every.items() if any(of in v for of in given.only)}
            found["20 ms of computing"] = busy()
            with registered_versions(home) as registry:
                found["cold_ms"] = cold(home, paths, registry)
                results.append(found | of_size(home, paths, registry))
    finally:
        if given.folder is None:
            shutil.rmtree(folder)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(results, indent=2) + "\n")
    print(given.out.read_text())


if __name__ == "__main__":
    main()
