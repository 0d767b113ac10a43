"""A running embedded platform with a champion, and a challenger that waits for an approval."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
from tests.drills.attacks.attack import Key, Question, Target

from mlplatform.model.folders import load_definition
from mlplatform.model.routes import Arm, Routes
from mlplatform.operations import wiring
from mlplatform.operations.prefect_client import names
from mlplatform.operations.prefect_client.prefect import PrefectApi
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.rollouts.journal.state import fold
from mlplatform.rollouts.journal.transitions import (
    ApprovalAsked,
    Opened,
    Promoted,
    RolledBack,
    ShadowStarted,
)
from mlplatform.rollouts.serving.local import LocalPlane
from mlplatform.rollouts.serving.manifest import render
from mlplatform.runtime.configuration import settings as settings_module
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import ConfigInvalid, PlatformError
from mlplatform.runtime.processes.records import read_processes, read_supervisor
from mlplatform.scoring.admission.clients import parse_scope
from mlplatform.scoring.admission.keyring import create_key
from mlplatform.scoring.admission.sqlite import SqliteAdmission
from support.ports import free_ports
from support.scoring_world import payment, write_amount_bundle, write_home_snapshots

MODEL = "fraud"
AUTHOR = "ana"
START_LIMIT_S = 420.0
ASKED_LIMIT_S = 60.0
QUESTIONS = 4
SLOW_S = 60.0
"""How long the drill itself waits for an answer: a machine may be busy with other things."""
STOP_LIMIT_S = 60.0
FORGED_REASON = "from an \x1b]0;owned by a reason\x07 old \x1b[2Jrelease"
"""A reason of a release that let control characters in: what shows it must write them out."""
CLIENTS = {
    "shop": ("score", "read", "labels", "void", "explain"),
    "rival": ("score", "read", "labels", "void", "explain"),
    "reader": ("read",),
}
PEOPLE = {"eve": ("run",), "bo": ("run", "approve"), AUTHOR: ("run", "approve")}


class Lost(Exception):
    """The platform did not start, or does not do any more what it has to for the drill."""


class AttackWorld:
    """A home folder, ports, and `mlplatform up` over them.

    Args:
        folder: that others may look into; the home below it is what keeps them out.
    """

    def __init__(self, folder: Path) -> None:
        gateway, prefect, mlflow, page = free_ports(4)
        self.folder = folder
        self.environment = {
            **os.environ,
            "MLPLATFORM_HOME": str(folder / "home"),
            "MLPLATFORM_GATEWAY_PORT": str(gateway),
            "MLPLATFORM_PREFECT_PORT": str(prefect),
            "MLPLATFORM_MLFLOW_PORT": str(mlflow),
            "MLPLATFORM_PAGE_PORT": str(page),
        }
        self.settings: Settings = settings_module.load(self.environment)
        self.home = self.settings.home
        self.home.create()
        self.rollouts = SqliteRollouts(self.home.rollouts_db)
        self.keys: dict[str, Key] = {}
        self.decision = ""
        self.operations: tuple[tuple[str, str], ...] = ()
        self._attempts = 0
        self._up: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when every process answers, and an approval has been requested."""
        self._seed()
        with (self.folder / "up.log").open("wb") as log:
            self._up = subprocess.Popen(
                self.argv("up"), env=self.environment, stdout=log, stderr=log
            )
        self._until(self._is_ready, START_LIMIT_S, "the platform never became ready")
        self._make_keys()
        self._until(self._has_decided, SLOW_S, "no payment was scored")
        self._operations(self._api())

    def stop(self) -> None:
        if self._up is not None and self._up.poll() is None:
            self._up.send_signal(signal.SIGTERM)
            try:
                self._up.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._up.kill()
                self._up.wait()
        self.rollouts.close()

    def run(self, *arguments: str, limit_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """A command of the platform, as the platform's user."""
        return subprocess.run(
            self.argv(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=limit_s,
        )

    @staticmethod
    def argv(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "mlplatform.commands", *arguments]

    def target(self, attacker: Path) -> Target:
        """What an attacker with a folder of its own can know of it now."""
        api = self._api()
        records = read_processes(self.home)
        supervisor = read_supervisor(self.home)
        assert supervisor is not None
        question = self.question()
        pids = {r.name: r.process.pid for r in records if r.process is not None}
        return Target(
            home=self.home.root,
            prefect_port=self.settings.prefect_port,
            gateway_port=self.settings.gateway_port,
            mlflow_port=self.settings.mlflow_port,
            page_port=self.settings.page_port,
            keys=dict(self.keys),
            ports=self._own_ports(pids),
            unix=_unix_sockets(pids),
            pids={**pids, "supervisor": supervisor.process.pid},
            deployments={
                d["name"]: d["id"] for d in _asked(api, "POST", "/deployments/filter", {})
            },
            automations=tuple(a["id"] for a in _asked(api, "POST", "/automations/filter", {})),
            operations=self._operations(api),
            question=question,
            artifact=self._artifact(api, question),
            decision=self.decision,
            folder=attacker,
        )

    def question(self) -> Question:
        """One that waits for an answer; asked anew where the last was answered or taken back."""
        states = [s for s in self.rollouts.active(MODEL) if s.phase == "awaiting_approval"]
        for _ in range(QUESTIONS):
            states = [s for s in self.rollouts.active(MODEL) if s.phase == "awaiting_approval"]
            if states and states[-1].answer is None:
                state = states[-1]
                if run := self._run_of(state.asked_digest):
                    return Question(state.rollout_id, state.author, str(state.asked_digest), run)
            self.ask_anew()
        raise Lost(f"drill: {QUESTIONS} questions in a row were answered or lost")

    def is_answered(self, question: Question) -> bool:
        """Whether an answer stands in the journal."""
        return fold(self.rollouts.read(question.rollout_id)).answer is not None

    def secrets(self) -> list[bytes]:
        """What nobody else may come to know: keys and tokens."""
        files = [self.home.api_key, self.home.pseudonym_key, *self.home.run.glob("*.token")]
        return [f.read_bytes().strip() for f in files if f.exists()]

    def counted(self, metric: str) -> float:
        """A gateway's counter, added up over the series that have a label.

        Args:
            metric: `name|label="value"`.
        """
        headers = {"Authorization": f"Bearer {self.home.api_key.read_text().strip()}"}
        text = httpx.get(
            f"{self.settings.gateway_url}/metrics", headers=headers, timeout=SLOW_S
        ).text
        name, _, label = metric.partition("|")
        lines = [li for li in text.splitlines() if li.startswith(name) and label in li]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def _seed(self) -> None:
        write_home_snapshots(self.home)
        champion, challenger = self._deploy(1, 0.0), self._deploy(2, 0.01)
        now = self._fact("fraud-v1-1")
        self.rollouts.commit(_opened(now, champion, bootstrap=True), None)
        self._commit(
            Promoted(**now, predecessor=None),
            Routes(MODEL, 1, champion, None, None, "fraud-v1-1", "steady", 0.0),
        )
        self.ask_anew(challenger)

    def _deploy(self, version: int, offset: float) -> Arm:
        draft = self.home.bundles / f"draft-{version}"
        bundle = write_amount_bundle(draft, offset)
        folder = draft.rename(self.home.bundles / bundle)
        uri = wiring.Platform(self.settings).ports(MODEL).storage_uri(folder)
        manifest = render(load_definition(MODEL), version, bundle, uri)
        LocalPlane(self.home.serving).apply(manifest)
        return Arm(version, bundle, manifest["metadata"]["name"])

    def ask_anew(self, challenger: Arm | None = None) -> None:
        """A rollout whose question is in the journal; the next pass puts it into Prefect."""
        self._attempts += 1
        rollout_id = f"fraud-v2-{self._attempts}"
        for state in self.rollouts.active(MODEL):
            if state.ramping:
                self._take_back(state.rollout_id)
                challenger = state.challenger
        assert challenger is not None or self._attempts > 1
        arm = challenger or self.rollouts.read("fraud-v2-1")[0].challenger  # type: ignore[union-attr]
        now, before = self._fact(rollout_id), self.rollouts.routes(MODEL)
        self.rollouts.commit(_opened(now, arm, bootstrap=False), None)
        routes = Routes(
            MODEL, before.generation + 1, before.champion, arm, None, rollout_id, "shadow", 0.0
        )
        self._commit(ShadowStarted(**now, displaced=None), routes)
        evidence = {
            "model": MODEL,
            "rollout_id": rollout_id,
            "version": arm.version,
            "bundle": arm.bundle,
            "author": AUTHOR,
            "alert_band": [0.0, 1.0],
            "validation": {},
        }
        self._commit(ApprovalAsked(**(now | {"evidence": evidence})), None)
        if self._up is not None:
            self.run("rollouts", "pass", MODEL)

    def _take_back(self, rollout_id: str) -> None:
        before = self.rollouts.routes(MODEL)
        routes = Routes(
            MODEL, before.generation + 1, before.champion, None, None, None, "steady", 0.0
        )
        self._commit(RolledBack(**self._fact(rollout_id)), routes)

    def _commit(self, fact: Any, routes: Routes | None) -> None:
        fence = self.rollouts.acquire(MODEL, "drill", 60.0, steal=True)
        assert fence is not None
        self.rollouts.commit(fact, fence, *(() if routes is None else (routes,)))
        self.rollouts.release(fence)

    def _fact(self, rollout_id: str) -> dict[str, Any]:
        now_ms = int(time.time() * 1000)
        return {
            "rollout_id": rollout_id,
            "model": MODEL,
            "event_ms": now_ms,
            "wall_ms": now_ms,
            "actor": AUTHOR,
            "reason": FORGED_REASON,
        }

    def _make_keys(self) -> None:
        """Of clients and of people; those of people only where this release has them."""
        with contextlib.closing(SqliteAdmission(self.home.admission_db)) as store:
            for name, operations in (CLIENTS | PEOPLE).items():
                model = MODEL if name in CLIENTS else "*"
                secret = "mlp_" + secrets.token_urlsafe(32)
                with contextlib.suppress(ConfigInvalid):  # a release without such scopes
                    secret = self._key(store, name, [f"{model}:{o}" for o in operations])
                self.keys[name] = Key(name, secret)
            self.keys["revoked"] = Key("former", self._key(store, "former", ["fraud:score"]))
            store.revoke("former", 2)
        self.keys["stranger"] = Key("stranger", "mlp_" + secrets.token_urlsafe(32))

    @staticmethod
    def _key(store: SqliteAdmission, name: str, scopes: list[str]) -> str:
        parsed = frozenset(map(parse_scope, scopes))
        return create_key(store, name, parsed, priority="standard", limit=None, now_ms=1)[1]

    def _has_decided(self) -> bool:
        headers = {"Authorization": f"Bearer {self.keys['shop'].secret}"}
        url = f"{self.settings.gateway_url}/api/v1/models/{MODEL}/score"
        headers["Idempotency-Key"] = "of-the-shop"
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.post(url, json=payment(), headers=headers, timeout=SLOW_S)
            self.decision = answer.json().get("decision_id", "") if answer.is_success else ""
        return bool(self.decision)

    def _run_of(self, evidence: str | None) -> str:
        """The flow run that asks about this evidence; empty: there is none in time."""
        api = self._api()
        end_s = time.monotonic() + ASKED_LIMIT_S
        while time.monotonic() < end_s:
            with contextlib.suppress(PlatformError):
                for run in api.suspended():
                    if run.parameters.get("evidence_digest") == evidence:
                        return run.id
            time.sleep(0.3)
        return ""

    def _artifact(self, api: PrefectApi, question: Question) -> str:
        key = names.evidence_key(question.rollout_id, question.evidence)
        body = {"artifacts": {"key": {"any_": [key]}}}
        found = _asked(api, "POST", "/artifacts/filter", body)
        return str(found[0]["id"]) if found else "0" * 32

    def _api(self) -> PrefectApi:
        """Of the user who runs the platform."""
        api = wiring.prefect_api(self.settings)
        api._client.timeout = SLOW_S
        return api

    def _operations(self, api: PrefectApi) -> tuple[tuple[str, str], ...]:
        if not self.operations:
            url = f"{self.settings.prefect_url}/openapi.json"
            document = api._client.get(url, timeout=START_LIMIT_S).json()
            self.operations = tuple(
                (method.upper(), path.removeprefix("/api"))
                for path, methods in document["paths"].items()
                for method in methods
            )
        return self.operations

    def _is_ready(self) -> bool:
        if self._up is not None and self._up.poll() is not None:
            raise Lost((self.folder / "up.log").read_text()[-2000:])
        record = read_supervisor(self.home)
        return record is not None and record.state == "ready"

    def _own_ports(self, pids: dict[str, int]) -> dict[str, int]:
        """Every port that a process of the platform listens on, by process and number."""
        found: dict[str, int] = {}
        for name, pid in pids.items():
            with contextlib.suppress(psutil.Error):
                listening = [
                    c.laddr.port
                    for p in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
                    for c in p.connections("inet")
                    if c.status == psutil.CONN_LISTEN
                ]
                for number, port in enumerate(sorted(set(listening))):
                    found[f"{name}:{number}"] = port
        return found

    @staticmethod
    def _until(holds: Callable[[], bool], limit_s: float, otherwise: str) -> None:
        end_s = time.monotonic() + limit_s
        while True:
            with contextlib.suppress(PlatformError):
                if holds():
                    return
            if time.monotonic() > end_s:
                raise Lost(f"drill: {otherwise} within {limit_s:g} s")
            time.sleep(0.3)


def _unix_sockets(pids: dict[str, int]) -> tuple[str, ...]:
    """Those with a name, of every process and its children."""
    found: set[str] = set()
    for pid in pids.values():
        with contextlib.suppress(psutil.Error):
            for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
                found |= {str(c.laddr) for c in process.connections("unix") if c.laddr}
    return tuple(sorted(found))


def _opened(fact: dict[str, Any], arm: Arm, *, bootstrap: bool) -> Opened:
    return Opened(
        **fact,
        challenger=arm,
        author=AUTHOR,
        alert_low=0.0,
        alert_high=1.0,
        bootstrap=bootstrap,
        approval="none",
    )


def _asked(api: PrefectApi, method: str, path: str, body: object) -> Any:
    """What the platform's own client is answered."""
    return api._call(method, path, body)
