"""Makes a home from which processes of a release answered, for the tests of later releases to open.

In a worktree of the commit, in an environment that has its packages installed (confined processes
mind no PYTHONPATH), with this file, `kept_home.py` and `mlflow_process.py` copied into its
`tests/support/`:

    PYTHONPATH=platform/src:.:tests python tests/support/kept_service.py HOME.tar.gz

The options are those of `kept_home.py`; of 04d86ca3 and 0.2.0 `--finding Finding` and
`--passes unit.rollouts.test_rollout_passes`. Before that, in 0.2.0 alone, whose models are in the
package, let idempotency keys outlive the tests:

    sed -i 's/^idempotency_keep_h: .*/idempotency_keep_h: 876000/' \\
        platform/src/mlplatform/models/fraud/model.yaml

The archive has the home (`var`), the model's folder where the release takes folders of teams, and
`kept.json`: what was asked and answered. A release that has no pushes, reviews or imported tables
keeps none. Event time is that of the requests (`MLPLATFORM_CLOCK=replay`), so nothing grows stale.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import httpx

from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.learning.features.feast_values import project_name
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.runtime.units import DAY_MS, HOUR_MS
from support import kept_home, scoring_world
from support.scoring_world import ScoringWorld, wait_for
from support.snapshots import NOBODY, snapshot_row

BEGAN_MS: Final = 20_000 * DAY_MS
"""Event time of the snapshots, and of the times in `support.external_world`."""
CUSTOMERS: Final = (1, 2, 3)
TERMINAL: Final = 3
AMOUNTS: Final = (300.5, 640.25, 950.75)
"""They are approved, reviewed and declined."""
SPILLED: Final = 2
VIEW: Final = "bureau"
TOPIC: Final = "bank.bureau"
KEEPS_KEYS_H: Final = 876_000
APPROVER: Final = "bo"
ANALYST: Final = "ana"
STRANGER: Final = "mallory"
ISSUER, SUBJECT = "https://id.bank.example", "subject-of-ana"
NOTE: Final = "the cardholder says so"
TRIES: Final = 50
PATIENT_S: Final = 180.0
"""A busy machine takes long; nothing here is measured."""


def feature_views(model: str) -> Any:
    """The views of a model, wherever the release has their module."""
    for place in ("mlplatform.model.features.views", "mlplatform.model.feature_views"):
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(place).load_views(model_folder(model))
    raise AssertionError("no module of feature views")


def team_model(root: Path) -> str | None:
    """A folder of a team's with an external view, windows and two analysts a label; its name."""
    try:
        external = importlib.import_module("support.external_world")
        folders = importlib.import_module("tests.support.model_folders")
    except ModuleNotFoundError:
        return None
    name: str = external.NAME
    try:
        folder = external.model_with_table(root, TOPIC)
    except TypeError:  # views had no topics
        folder = external.model_with_table(root)
    model, reasons = folder / "model.yaml", folder / "reasons.yaml"
    last = "  - {name: amount_to_mean_30d, kind: ratio, of: amount, to: customer_mean_30d}\n"
    inputs = [
        f"  - {{name: {n}, kind: window, of: {of}}}\n" for n, of in folders.OF_WINDOWS.items()
    ]
    text = model.read_text().replace(last, last + "".join(inputs)) + folders.WINDOWS
    for before, after in (
        ("idempotency_keep_h: 168", f"idempotency_keep_h: {KEEPS_KEYS_H}"),
        ("four_eyes: false", "four_eyes: true"),
    ):
        assert before in text
        text = text.replace(before, after)
    model.write_text(text)
    codes = (f"{n}: {{code: {n.upper()}, customer: C., analyst: A.}}\n" for n in folders.OF_WINDOWS)
    reasons.write_text(reasons.read_text() + "".join(codes))
    return name


def asked_with(options: argparse.Namespace) -> Mapping[str, Any]:
    """The evidence with which a pass of this release asks a person."""
    journal = importlib.import_module("mlplatform.rollouts.journal.sqlite")
    transitions = importlib.import_module("mlplatform.rollouts.journal.transitions")
    passes = importlib.import_module(options.passes)
    with tempfile.TemporaryDirectory() as folder:
        root, scratch = Path(folder, "home"), Path(folder, "scratch")
        scratch.mkdir()
        kept_home.fill(root, scratch, passes, options.incidents, options.finding)
        with contextlib.closing(journal.SqliteRollouts(root / "rollouts.db")) as rollouts:
            facts = rollouts.read("fraud-v2-1")
    (asked,) = (one for one in facts if isinstance(one, transitions.ApprovalAsked))
    evidence: Mapping[str, Any] = asked.evidence
    return evidence


class OpenedWorld(ScoringWorld):
    """Rollouts say what model.yaml asks for, as those of every release do."""

    def _opened(self, arm: Any, *, bootstrap: bool, emergency: bool = False) -> str:
        assert not emergency, "a home has one champion"
        transitions = importlib.import_module("mlplatform.rollouts.journal.transitions")
        rollout_id = f"{scoring_world.MODEL}-v{arm.version}-1"
        opened = transitions.Opened(
            **self._fact(rollout_id), challenger=arm, author="carl", alert_low=0.0, alert_high=1.0,
            bootstrap=bootstrap, approval="none" if bootstrap else "required",
        )  # fmt: skip
        self.rollouts.commit(opened, None)
        return rollout_id


class ServingHome:
    """A home whose processes answer, and a note of what they were asked and answered."""

    def __init__(
        self, root: Path, options: argparse.Namespace, evidence: Mapping[str, Any]
    ) -> None:
        self.root, self.options, self.evidence = root, options, evidence
        self.world = OpenedWorld(root, has_snapshots=False)
        self.model = scoring_world.MODEL
        self.now_ms = BEGAN_MS - HOUR_MS
        self.scored: list[dict[str, Any]] = []
        self.kept: dict[str, Any] = {"model": self.model, "scored": self.scored}

    def fill(self) -> None:
        self._write_snapshots()
        world = self.world
        champion = world.deploy(1)
        world.promote(champion)
        world.start_gateway()
        self.kept["bundle"] = champion.bundle
        for customer in CUSTOMERS:
            self.score(customer, AMOUNTS[customer - 1])
        self.now_ms = BEGAN_MS + HOUR_MS
        self.score(CUSTOMERS[0], AMOUNTS[0])
        self._materialize()
        self._import_table()
        self._push()
        self._work()
        for customer in CUSTOMERS:
            self.score(customer, AMOUNTS[customer - 1])
        self._label()
        self._review()
        self._ask_for_approval()
        self._refuse()
        self._open_incident()
        self._seal()
        if not self.options.no_registry:
            self._register(champion.bundle)
        self._spill()
        self._note()

    def score(self, customer: int, amount: float, **about: bool) -> None:
        """A payment that a model decides about, with every feature; its record and answer."""
        url = f"{self.world.url}/api/v1/models/{self.model}/score"
        for _ in range(TRIES):
            self.now_ms += 1_000
            body = {
                "customer_id": customer,
                "terminal_id": TERMINAL,
                "amount": amount,
                "event_time": self.now_ms,
            }
            key = f"payment-{self.now_ms}"
            sent = {"Idempotency-Key": key, "X-Request-Timeout-Ms": "5000"}
            found = httpx.post(url, json=body, headers=self.world.headers | sent, timeout=20)
            assert found.status_code == 200, found.text
            answer = found.json()
            if not answer["degraded"] and not (answer.get("feature_gaps") or {}).get("unavailable"):
                self.scored.append(about | {"key": key, "body": body, "answer": found.text})
                return
        raise AssertionError(f"no model decided: {found.text}")

    def _write_snapshots(self) -> None:
        """Of the day before: nobody who pays is in them."""
        views = feature_views(self.model)
        online = FeastSqlite(self.world.home.online_db, project_name(self.model), views)
        with contextlib.closing(online):
            for view in views:
                online.write(view.name, snapshot_row(view, NOBODY, BEGAN_MS - DAY_MS))

    def _materialize(self) -> None:
        """The snapshot of the first day, by the platform's own job."""
        wiring = importlib.import_module("mlplatform.operations.wiring")
        job = importlib.import_module("mlplatform.operations.actions.features")
        rows = job.materialize(wiring.platform(), self.model)
        assert rows["customer_stats"] == len(CUSTOMERS), rows

    def _import_table(self) -> None:
        if "support.external_world" not in sys.modules:
            return
        world = sys.modules["support.external_world"]
        rows = [(customer, -60, -60, customer + 0.5) for customer in CUSTOMERS]
        path = world.written(self.root / "bureau.parquet", world.table(rows))
        self._command("features", "import", self.model, VIEW, str(path))
        self.kept["imported"] = len(rows)

    def _push(self) -> None:
        """Two pushes that gateways serve: of one customer, and of another by a key."""
        url = f"{self.world.url}/api/v2/features/{VIEW}"
        pushes = []
        for customer in CUSTOMERS[:2]:
            body = {"rows": [self._bureau_row(customer, 10.0 + customer)]}
            headers = self.world.headers | {"Idempotency-Key": f"push-{customer}"}
            found = httpx.post(url, json=body, headers=headers, timeout=20)
            if found.status_code == 404:
                return
            assert found.status_code == 200, found.text
            pushes.append({"key": f"push-{customer}", "body": body, "answer": found.text})
        self.kept["pushes"] = pushes

    def _work(self) -> None:
        """A worker answers a deferred request and takes a row of a topic; then it is killed, and
        one of each waits."""
        publish = self._topic()
        self.world.start_worker()
        first = self._deferred("later-1")
        decided = wait_for(lambda: self._decided(first["location"]), PATIENT_S)
        if publish is not None:
            publish(CUSTOMERS[2])
            wait_for(lambda: self._streamed_rows() == 1, PATIENT_S)
        self.world.kill_worker()
        waiting = self._deferred("later-2")
        if publish is not None:
            publish(CUSTOMERS[1])
        self.kept["deferred"] = {"decided": first | {"answer": decided}, "waiting": waiting}

    def _deferred(self, key: str) -> dict[str, Any]:
        url = f"{self.world.url}/api/v1/models/{self.model}/score:async"
        self.now_ms += 1_000
        body = {
            "customer_id": CUSTOMERS[0],
            "terminal_id": TERMINAL,
            "amount": AMOUNTS[1],
            "event_time": self.now_ms,
        }
        headers = self.world.headers | {"Idempotency-Key": key}

        def accepted() -> str:
            found = httpx.post(url, json=body, headers=headers, timeout=20)
            assert found.status_code in (202, 503), found.text  # a busy machine: once more
            return str(found.headers.get("Location", ""))

        return {"key": key, "body": body, "location": wait_for(accepted, PATIENT_S)}

    def _decided(self, location: str) -> str:
        """The answer; empty while there is none."""
        found = httpx.get(f"{self.world.url}{location}", headers=self.world.headers, timeout=20)
        assert found.status_code in (200, 202), found.text
        return found.text if found.status_code == 200 else ""

    def _topic(self) -> Callable[[int], None] | None:
        """Publishes a customer's row; None where views have no topics."""
        if "pushes" not in self.kept:
            return None
        topics = importlib.import_module("mlplatform.decisions.topics.local")
        stream = importlib.import_module("mlplatform.scoring.worker.feature_stream")
        messages = importlib.import_module("mlplatform.decisions.topics.messages")
        rows = {customer: self._bureau_row(customer, 20.0 + customer) for customer in CUSTOMERS[1:]}
        self.kept["streamed"] = {"read": rows[CUSTOMERS[2]], "waiting": rows[CUSTOMERS[1]]}

        def publish(customer: int) -> None:
            value = json.dumps(rows[customer]).encode()
            with contextlib.closing(
                topics.LocalTopics(self.world.home.topics_db, stream.specs_of(TOPIC))
            ) as opened:
                opened.publish([messages.Message(TOPIC, str(customer).encode(), value)])

        return publish

    def _streamed_rows(self) -> int:
        query = "SELECT count(*) FROM pushes WHERE client LIKE 'topic:%' AND served_ms >= 0"
        with contextlib.closing(sqlite3.connect(self.world.home.pushes_db)) as db:
            return int(db.execute(query).fetchone()[0])

    def _bureau_row(self, customer: int, score: float) -> dict[str, Any]:
        return {
            "customer_id": customer,
            "as_of": self.now_ms - 10_000,
            "bureau_score": score,
            "open_loans": int(score),
            "is_listed": score > 5,
        }

    def _decision_of(self, outcome: str) -> str:
        answers = (json.loads(one["answer"]) for one in self.scored)
        return next(str(one["decision_id"]) for one in answers if one["decision"] == outcome)

    def _label(self) -> None:
        """Of the payment that was approved."""
        decision = self._decision_of("approve")
        url = f"{self.world.url}/api/v1/models/{self.model}/labels"
        self.now_ms += 1_000
        item = {"decision_id": decision, "label": 1, "event_time": self.now_ms}
        found = httpx.post(url, json={"labels": [item]}, headers=self.world.headers)
        assert found.is_success, found.text

    def _review(self) -> None:
        """One analyst's word on the payment that was reviewed, of the two that a label takes."""
        try:
            job = importlib.import_module("mlplatform.operations.actions.review")
        except ModuleNotFoundError:
            return
        wiring = importlib.import_module("mlplatform.operations.wiring")
        opinions = importlib.import_module("mlplatform.operations.review.opinions")
        clients = importlib.import_module("mlplatform.scoring.admission.clients")
        scopes = frozenset({clients.parse_scope(f"{self.model}:review")})
        person = clients.Client(ANALYST, scopes, "standard", None)
        decision = self._decision_of("review")
        assert job.advance(wiring.platform(), self.model)
        proven = {}
        if hasattr(opinions, "Account"):  # people sign in
            proven["account"] = opinions.Account(ISSUER, SUBJECT)
        done = job.record(
            wiring.platform(), self.model, decision, 1, analyst=person, note=NOTE, **proven
        )
        assert not done.is_label
        self.kept["review"] = {"decision_id": decision, "has_account": bool(proven)}

    def _ask_for_approval(self) -> None:
        """A challenger in shadow about which a pass asked a person, as `kept_home` has it."""
        transitions = importlib.import_module("mlplatform.rollouts.journal.transitions")
        challenger = self.world.deploy(2, offset=0.01)
        self.world.shadow(challenger)
        self.score(CUSTOMERS[0], AMOUNTS[0])
        wait_for(lambda: len(self.world.records("shadow")) == 1, PATIENT_S)
        rollout_id = f"{self.model}-v2-1"
        asked = transitions.ApprovalAsked(
            **self.world._fact(rollout_id) | {"event_ms": self.now_ms}, evidence=self.evidence
        )
        fence = self.world.rollouts.acquire(self.model, "test", 60.0)
        self.world.rollouts.commit(asked, fence)
        secret = self.world.home.secrets / f"{APPROVER}.key"
        self._command(
            "keys", "create", "--name", APPROVER, "--model", self.model, "--scope", "approve",
            "--to", str(secret),
        )  # fmt: skip
        self.kept["approval"] = {
            "rollout_id": rollout_id, "asked": asked.evidence_digest, "approver": APPROVER
        }  # fmt: skip

    def _refuse(self) -> None:
        """A stranger's answer to the question, as the audit keeps it."""
        wiring = importlib.import_module("mlplatform.operations.wiring")
        job = importlib.import_module("mlplatform.operations.actions.rollouts")
        errors = importlib.import_module("mlplatform.runtime.errors")
        question, _ = job.question(wiring.platform(), f"{self.model}-v2-1", "approve")
        with contextlib.suppress(errors.Refused):
            job.approval_code(wiring.platform(), question, approver=STRANGER, secret=b"none")

    def _open_incident(self) -> None:
        home, options = self.world.home, self.options
        kept_home.open_an_incident(home, options.incidents, options.finding, self.model)

    def _seal(self) -> None:
        """What is recorded so far goes into segments, as the journal then says."""
        log = importlib.import_module("mlplatform.decisions.log.sqlite")
        with contextlib.closing(
            log.SqliteDecisionLog(self.world.home.decisions, segment_rows=(4, 4))
        ) as opened:
            opened.seal()
            self.world.rollouts.anchor(opened.seal())

    def _register(self, bundle: str) -> None:
        """The champion's bundle as version 1 of MLflow."""
        try:
            process = importlib.import_module("support.mlflow_process")
        except ModuleNotFoundError:
            return
        mlflow = importlib.import_module("mlplatform.learning.registry.mlflow")
        versions = importlib.import_module("mlplatform.learning.registry.versions")
        rollout_world = importlib.import_module("rollout_world")
        facts = versions.VersionFacts(
            bundle=bundle, data_from_ms=0, data_to_ms=21 * DAY_MS, data_digest="d" * 64,
            code_version="1.4.0", metrics={"average_precision": 0.6},
            report=rollout_world.gate_report(bundle), author="ana", validated=True,
            alert_low=0.005, alert_high=0.02, seed=7,
        )  # fmt: skip
        home = self.world.home
        variables = {"MLPLATFORM_HOME": str(home.root)}
        with process.mlflow_server(variables, "token") as uri:
            registry = mlflow.MlflowRegistry(uri, "token")
            found = registry.register(home.bundles / bundle, facts)
            if hasattr(registry, "show"):
                registry.show(self.model, "champion", found.version)
        self.kept["registered"] = {"version": found.version, "run_id": found.run_id}

    def _spill(self) -> None:
        """Payments while the decision log takes nothing; then the gateway is killed."""
        database = self.world.home.decisions / "decisions.db"
        with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as db:
            db.execute("PRAGMA busy_timeout=10000")
            db.execute("BEGIN IMMEDIATE")
            for customer in CUSTOMERS[:SPILLED]:
                self.score(customer, AMOUNTS[0], is_spilled=True)
            self.world.kill_gateway()
            db.execute("ROLLBACK")

    def _note(self) -> None:
        """Beside the answers, what the log says of each, and where routes and records stand."""
        records = {one["decision_id"]: one for one in self.world.records("decision")}
        for one in self.scored:
            answer = json.loads(one["answer"])
            record = records.get(answer["decision_id"])
            assert (record is None) == bool(one.get("is_spilled"))
            if record is not None:
                one["features"] = record["payload"]["features"]
        routes = self.world.rollouts.routes(self.model)
        self.kept["routes"] = {
            "generation": routes.generation,
            "champion": routes.champion.service,
            "challenger": routes.challenger.service,
            "phase": routes.phase,
        }
        log = importlib.import_module("mlplatform.decisions.log.sqlite")
        with contextlib.closing(log.SqliteDecisionLog(self.world.home.decisions)) as opened:
            self.kept["spilled"] = opened.verify(None).spilled

    def _command(self, *words: str) -> None:
        found = subprocess.run(
            [sys.executable, "-m", "mlplatform.commands", *words],
            env={**os.environ, "MLPLATFORM_HOME": str(self.world.home.root)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert found.returncode == 0, found.stdout + found.stderr


def set_environment(root: Path) -> None:
    """Settings of this process and of those that it starts."""
    variables = {
        "MLPLATFORM_HOME": str(root / "var"),
        "MLPLATFORM_CLOCK": "replay",
        "MLPLATFORM_JOB_PROCESSES": "0",
    }
    os.environ.update(variables)
    name = team_model(root / "models")
    if name is not None:
        os.environ["MLPLATFORM_MODELS"] = str(root / "models")
        scoring_world.MODEL = name
    else:
        assert load_definition(scoring_world.MODEL).idempotency_keep_h == KEEPS_KEYS_H


def archived(root: Path, kept: Mapping[str, Any], path: Path) -> None:
    """The home without what only its processes' logs and addresses are."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if entry.name.startswith(("var/logs/", "var/run/", "var/traces/", "var/server.log")):
            return None
        return kept_home.plain(entry)

    (root / "kept.json").write_text(json.dumps(kept, indent=1))
    with tarfile.open(path, "w:gz") as archive:
        for name in ("var", "models", "kept.json"):
            if (root / name).exists():
                archive.add(root / name, name, filter=plain)


def main() -> None:
    parser = kept_home.options_of(__doc__ or "")
    parser.add_argument("--no-registry", action="store_true", help="start no MLflow")
    options = parser.parse_args()
    evidence = asked_with(options)
    with tempfile.TemporaryDirectory() as folder:
        set_environment(Path(folder))
        made = ServingHome(Path(folder), options, evidence)
        try:
            made.fill()
        finally:
            made.world.close()
        archived(Path(folder), made.kept, options.archive)


if __name__ == "__main__":
    main()
