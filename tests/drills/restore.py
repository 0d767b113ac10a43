"""`make drill-restore`: a platform under traffic is backed up, killed, wiped and restored.

What was answered before the backup began has to be in the restored log, retries by key have to get
the same answers, routes and rollouts have to be as they were, and the platform has to go on: score,
retrain. Writes build/drills/restore.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.processes.records import read_processes, read_supervisor
from mlplatform.runtime.units import DAY_MS
from models.fraud.generator import Population
from support.handbook_payments import write_payments
from support.ports import free_port

OUT = Path(__file__).parents[2] / "build" / "drills" / "restore.json"
MODEL = "fraud"
START_MS = 1_772_323_200_000
DAYS = 63
POPULATION = Population(customers=2_000, payments_per_day=3_500)
SENDERS = 2
PAUSE_S = 0.01
STAGES = ("before", "during", "after")
AGAIN_S = 0.5
BEFORE_S = 3.0
"""Of traffic, before the backup begins and after it has ended."""
LIMIT_S = 240.0
REFUSED = 4
"""The exit code of what the platform's rules refuse."""
VERDICTS = ("COMPLETED", "inconclusive")
"""Of a retrain. So small a bank may show a gate too little; the history that it reads is whole."""


@dataclass(frozen=True, slots=True)
class SentPayment:
    """A payment that was answered; times are of the monotonic clock."""

    key: str
    body: bytes
    answer: bytes
    answered_s: float
    took_s: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """A payment that was not answered at first; 0: the connection broke."""

    status: int
    at_s: float


@dataclass
class Traffic:
    """Senders that each wait for an answer before the next payment; all have keys, and what is
    refused is sent a second time, as docs/faults.md asks of clients."""

    url: str
    headers: dict[str, str]
    sent: list[SentPayment] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    unanswered: int = 0

    def __post_init__(self) -> None:
        # No TLS on loopback, and reading certificates takes 30 ms a client.
        self._again = httpx.Client(timeout=5.0, verify=False)
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._send, args=(number,)) for number in range(SENDERS)
        ]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _send(self, sender: int) -> None:
        number = 0
        with httpx.Client(timeout=5.0) as client:
            while not self._stopping.wait(PAUSE_S):
                number += 1
                body = json.dumps(_payment(sender, number)).encode()
                key = f"sender-{sender}-{number}"
                if not self._answered(client, key, body):
                    time.sleep(AGAIN_S)
                    self.unanswered += not self._answered(client, key, body)

    def _answered(self, client: httpx.Client, key: str, body: bytes) -> bool:
        began_s, status = time.monotonic(), 0
        with contextlib.suppress(httpx.HTTPError):
            response = client.post(self.url, content=body, headers=self._keyed(key))
            status = response.status_code
        now_s = time.monotonic()
        if status == 200:
            self.sent.append(SentPayment(key, body, response.content, now_s, now_s - began_s))
        else:
            self.refused.append(Refusal(status, now_s))
        return status == 200

    def again(self, sent: SentPayment) -> bytes:
        """What the same payment by the same key is answered now."""
        response = self._again.post(self.url, content=sent.body, headers=self._keyed(sent.key))
        return response.content

    def _keyed(self, key: str) -> dict[str, str]:
        return {**self.headers, "Idempotency-Key": key, "Content-Type": "application/json"}


class Installation:
    """`mlplatform` in a home folder and on ports of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, Home(folder / "home")
        ports = {
            f"MLPLATFORM_{name}_PORT": free_port()
            for name in ("GATEWAY", "PREFECT", "MLFLOW", "PAGE")
        }
        self.gateway = f"http://127.0.0.1:{ports['MLPLATFORM_GATEWAY_PORT']}"
        self.environment = {
            **os.environ,
            **{name: str(port) for name, port in ports.items()},
            "MLPLATFORM_HOME": str(self.home.root),
            "MLPLATFORM_CLOCK": "replay",
        }

    @contextlib.contextmanager
    def up(self) -> Iterator[subprocess.Popen[bytes]]:
        """The platform, ready; its processes are gone afterwards, however they end."""
        log = self.folder / "up.log"
        with log.open("ab") as file:
            process = subprocess.Popen(_argv("up"), env=self.environment, stdout=file, stderr=file)
        try:
            _await(lambda: process.poll() is not None or self._is_ready(), f"`up`: see {log}")
            if process.poll() is not None:
                raise SystemExit(f"drill: up ended: {log.read_text()}")
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)

    def json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        if done.returncode != 0:
            raise SystemExit(f"drill: {arguments}: {done.returncode} {done.stdout} {done.stderr}")
        return json.loads(done.stdout)

    def verdict(self, *arguments: str) -> str:
        """What a flow run came to: its state, or that too few customers show what a gate asks."""
        done = self.run(*arguments, "--json")
        if done.returncode not in (0, REFUSED):
            raise SystemExit(f"drill: {arguments}: {done.returncode} {done.stdout} {done.stderr}")
        found = json.loads(done.stdout)
        report = "".join(found["reports"].values())
        not_shown = " inconclusive: **" in report and " failed: **" not in report
        return "inconclusive" if not_shown else str(found["state"])

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            _argv(*arguments), env=self.environment, capture_output=True, text=True, timeout=LIMIT_S
        )

    def traffic(self) -> Traffic:
        key = self.home.api_key.read_text()
        url = f"{self.gateway}/api/v1/models/{MODEL}/score"
        return Traffic(url, {"Authorization": f"Bearer {key}"})

    def state(self) -> dict[str, Any]:
        """Routes, rollouts and versions, as commands show them."""
        models = self.json("status")["models"]
        rollouts = self.json("rollouts", "list", "--all")
        versions = self.json("models", "show", MODEL)
        return {"models": models, "rollouts": rollouts, "versions": versions}

    def _is_ready(self) -> bool:
        record = read_supervisor(self.home)
        return record is not None and record.process.alive() and record.state == "ready"


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.drills.restore", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the folder for a look")
    keep = parser.parse_args().keep
    folder = Path(tempfile.mkdtemp(prefix="mlplatform-restore-"))
    began_s = time.monotonic()
    try:
        found = _drill(Installation(folder))
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    found["total_s"] = round(time.monotonic() - began_s, 1)
    found["problems"] = problems = _problems(found)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    print(f"{int(not problems)} passed, {int(bool(problems))} failed")
    return int(bool(problems))


@dataclass(frozen=True, slots=True)
class Before:
    """What there was when the platform was killed; times are of the monotonic clock."""

    state: dict[str, Any]
    sent: list[SentPayment]
    refused: list[Refusal]
    unanswered: int
    backup: dict[str, Any]
    began_s: float
    ended_s: float

    @property
    def promised(self) -> list[SentPayment]:
        """What was answered before the backup began."""
        return [one for one in self.sent if one.answered_s < self.began_s]

    def slowest_ms(self) -> dict[str, float | None]:
        took: dict[str, float | None] = dict.fromkeys(STAGES)
        for one in self.sent:
            stage = self._stage(one.answered_s)
            took[stage] = max(took[stage] or 0.0, round(one.took_s * 1000, 1))
        return took

    def refusals(self) -> dict[str, dict[str, int]]:
        """By stage, how often each status came."""
        found: dict[str, Counter[str]] = {stage: Counter() for stage in STAGES}
        for one in self.refused:
            found[self._stage(one.at_s)][str(one.status)] += 1
        return {stage: dict(counts) for stage, counts in found.items()}

    def _stage(self, at_s: float) -> str:
        return STAGES[(at_s >= self.began_s) + (at_s >= self.ended_s)]


def _drill(here: Installation) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    with _timed(seconds, "history_s"):
        _history(here)
    before = _backed_up(here, seconds)
    shutil.rmtree(here.home.root)
    with _timed(seconds, "restore_s"):
        restored = here.json("restore", str(here.folder / "backup.tar"))
    after = _gone_on(here, seconds, before)
    verified = restored["verified"]
    return {
        **seconds,
        "backup_s": round(before.ended_s - before.began_s, 1),
        "backup_bytes": before.backup["bytes"],
        "backup_files": before.backup["files"],
        "answered": len(before.sent),
        "refused": before.refusals(),
        "unanswered": before.unanswered,
        "slowest_ms": before.slowest_ms(),
        "answered_before_backup": len(before.promised),
        "restored_records": verified["records"] + verified["spilled"],
        **after,
    }


def _backed_up(here: Installation, seconds: dict[str, float]) -> Before:
    """A platform under traffic, backed up in the middle of it and killed."""
    with contextlib.ExitStack() as running:
        with _timed(seconds, "first_up_s"):
            platform = running.enter_context(here.up())
        with _timed(seconds, "first_version_s"):
            _first_version(here)
        with here.traffic() as traffic:
            time.sleep(BEFORE_S)
            state, began_s = here.state(), time.monotonic()
            backup = here.json("backup", str(here.folder / "backup.tar"))
            ended_s = time.monotonic()
            time.sleep(BEFORE_S)
        _say("the backup is there; kill -9 the supervisor, and wipe the home folder")
        records = read_processes(here.home)
        platform.kill()
        platform.wait()
        left = [p for r in records for p in (r.process, *r.descendants) if p is not None]
        _await(lambda: not any(process.alive() for process in left), "the children's end")
    return Before(
        state, traffic.sent, traffic.refused, traffic.unanswered, backup, began_s, ended_s
    )


def _gone_on(here: Installation, seconds: dict[str, float], before: Before) -> dict[str, Any]:
    """What the restored platform does."""
    with contextlib.ExitStack() as running:
        with _timed(seconds, "up_s"):
            running.enter_context(here.up())
            traffic = here.traffic()
            _await(lambda: _scores(traffic), "a score")
        with _timed(seconds, "retries_s"):
            changed = sum(traffic.again(one) != one.answer for one in before.promised)
        as_before = here.state() == before.state
        with _timed(seconds, "retrain_s"):
            retrained = here.verdict("retrain", MODEL, "--actor", "ana", "--reason", "restored")
        return {
            "changed_answers": changed,
            "as_before": as_before,
            "log_findings": here.json("log", "verify")["findings"],
            "retrained": retrained,
        }


def _problems(found: dict[str, Any]) -> list[str]:
    wrong = {
        "no payment was answered before the backup": found["answered_before_backup"] == 0,
        "answers changed": found["changed_answers"] > 0,
        "decisions are missing": found["restored_records"] < found["answered_before_backup"],
        "routes, rollouts or versions are not as before": not found["as_before"],
        "the log has findings": bool(found["log_findings"]),
        "payments were refused twice": found["unanswered"] > 0,
        "the retrain came to no verdict": found["retrained"] not in VERDICTS,
    }
    return [what for what, is_so in wrong.items() if is_so]


def _history(here: Installation) -> None:
    folder = here.folder / "payments"
    folder.mkdir()
    write_payments(folder, start_ms=START_MS, days=DAYS, population=POPULATION)
    here.json("history", "import", MODEL, str(folder))


def _first_version(here: Installation) -> None:
    _say("training and promoting a first version")
    here.json("retrain", MODEL, "--actor", "ana", "--reason", "first version", "--rollout")

    def phase() -> str:
        here.run("rollouts", "pass", MODEL)
        states = here.json("rollouts", "list", "--all")
        return str(states[0]["phase"]) if states else ""

    _await(lambda: phase() == "awaiting_approval", "a rollout that awaits approval")
    key = here.folder / "bo.key"
    who = ("--name", "bo", "--model", MODEL, "--scope", "approve")
    key.write_text(here.json("keys", "create", *who)["secret"])
    answer = ("--decision", "approve", "--approver", "bo", "--key-file", str(key))
    answer += ("--reason", "the evidence was read")
    _await(
        lambda: here.run("rollouts", "approve", f"{MODEL}-v1-1", *answer).returncode == 0,
        "an approval that is taken",
    )
    _await(lambda: phase() == "promoted", "a promoted version")
    traffic = here.traffic()
    _await(lambda: _scores(traffic), "a score")


def _payment(sender: int, number: int) -> dict[str, Any]:
    return {
        "customer_id": 1 + (sender + number * SENDERS) % 1_000,
        "terminal_id": 9,
        "amount": 10.0 + number % 900,
        "event_time": START_MS + DAYS * DAY_MS + number * 1_000,
    }


def _scores(traffic: Traffic) -> bool:
    probe = SentPayment("probe", json.dumps(_payment(0, 0)).encode(), b"", 0.0, 0.0)
    try:
        return b"model_version" in traffic.again(probe)
    except httpx.HTTPError:
        return False


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=1.0).status_code == 200
    except httpx.HTTPError:
        return False


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    began_s = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - began_s, 1)
    _say(f"{name}: {seconds[name]}")


def _argv(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mlplatform.commands", *arguments]


def _say(what: str) -> None:
    print(f"drill: {what}", flush=True)


def _await(holds: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not holds():
        if time.monotonic() > deadline_s:
            raise SystemExit(f"drill: {what} did not come within {LIMIT_S:.0f} s")
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
