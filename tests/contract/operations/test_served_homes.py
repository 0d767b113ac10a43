"""A home from which processes of an earlier release answered goes on with those of this one.

`tests/support/kept_service.py` made each of `served_homes/`: real gateways and predictors answered,
took pushes and labels, spilled and were killed. Here today's processes start over it. 04d86ca3 is
the last commit before views were pushed that the repository has, hours before 0.3.0. The last home
is made by this commit, with the stores of pushes taken back to what 0.3.0 had.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from typer.testing import CliRunner

from mlplatform import commands
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.log.verify import VerifyReport
from mlplatform.learning.registry.mlflow import MlflowRegistry
from mlplatform.model.bundle import load_bundle
from mlplatform.operations import wiring
from mlplatform.operations.actions import features, review, rollouts
from mlplatform.operations.review.opinions import Account, Opinion
from mlplatform.rollouts.journal.state import fold
from mlplatform.rollouts.journal.transitions import Answered
from mlplatform.runtime.errors import Refused
from mlplatform.runtime.units import DAY_MS, HOUR_MS
from mlplatform.scoring.admission.clients import Client, parse_scope
from support import scoring_world
from support.external_world import table, written
from support.kept_service import ANALYST, BEGAN_MS, CUSTOMERS, ISSUER, NOTE, SUBJECT, TERMINAL, VIEW
from support.mlflow_process import mlflow_server
from support.model_folders import OF_WINDOWS
from support.page_process import PageProcess
from support.platform_process import PlatformProcess
from support.scoring_world import ScoringWorld, wait_for

pytestmark = pytest.mark.slow
HOMES: Final = Path(__file__).parent / "served_homes"
REPOSITORY: Final = Path(__file__).parents[3]
TODAY: Final = "this commit, with pushes of 0.3.0"
PATIENT_S: Final = 120.0
WINDOWS: Final = {*OF_WINDOWS, "customer_mean_today"}
"""Each payment moves them on."""
KEPT: Final = sorted(path.name.removesuffix(".tar.gz") for path in HOMES.glob("*.tar.gz"))


@dataclass
class ServedHome:
    """The home of a release, with processes of this one.

    Args:
        kept: what the release noted: what it was asked and answered.
        before: the log as it was found.
    """

    release: str
    kept: Mapping[str, Any]
    world: ScoringWorld
    before: VerifyReport

    @property
    def model(self) -> str:
        return str(self.kept["model"])

    def part(self, name: str) -> Any:
        """What the release noted of a part; a release that has no such part is skipped."""
        if name not in self.kept:
            pytest.skip(f"{self.release} keeps no {name}")
        return self.kept[name]

    def ask(self, body: Mapping[str, Any], key: str) -> httpx.Response:
        url = f"{self.world.url}/api/v1/models/{self.model}/score"
        sent = {"Idempotency-Key": key, "X-Request-Timeout-Ms": "5000"}
        return httpx.post(url, json=body, headers=self.world.headers | sent, timeout=20)

    def push(self, body: Mapping[str, Any], key: str) -> httpx.Response:
        url = f"{self.world.url}/api/v2/features/{VIEW}"
        sent = self.world.headers | {"Idempotency-Key": key}
        return httpx.post(url, json=body, headers=sent, timeout=20)

    def command(self, *words: str) -> Any:
        """What a command prints as JSON; it must end well."""
        done = CliRunner().invoke(commands.app, [*words, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def last_of(self, customer: int) -> Mapping[str, Any]:
        """The last payment of a customer that the release had in its log, with its features."""
        own = [one for one in self.kept["scored"] if one["body"]["customer_id"] == customer]
        found: Mapping[str, Any] = [one for one in own if "features" in one][-1]
        return found


@pytest.fixture(scope="module", params=[*KEPT, TODAY])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedHome]:
    root = tmp_path_factory.mktemp("served")
    archive = HOMES / f"{request.param}.tar.gz"
    if request.param == TODAY:
        archive = root / "today.tar.gz"
        make(archive)
    with tarfile.open(archive) as file:
        file.extractall(root, filter="data")
    kept = json.loads((root / "kept.json").read_text())
    if request.param == TODAY:
        take_pushes_back(root / "var")
    with settings(root, kept["model"]):
        home = wiring.settings().home
        home.create()
        with closing(SqliteDecisionLog(home.decisions)) as log:
            before = log.verify(wiring.platform().rollouts.last_anchor())
        wiring.platform.cache_clear()
        with running(root, kept) as world:
            yield ServedHome(request.param, kept, world, before)


def make(archive: Path) -> None:
    """As the script's own documentation says."""
    places = [REPOSITORY / "platform" / "src", REPOSITORY, REPOSITORY / "tests"]
    done = subprocess.run(
        [
            *(sys.executable, str(REPOSITORY / "tests/support/kept_service.py")),
            *(str(archive), "--no-registry"),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))},
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def take_pushes_back(home: Path) -> None:
    """Topics had no ids, and nothing marked which online store has a table's rows (0123)."""
    for name, statements in {
        "pushes.db": (
            "DROP TABLE stream_topics",
            "UPDATE schema_versions SET version = 1 WHERE part = 'pushes'",
        ),
        "online.db": ("DROP TABLE mlplatform_marks",),
    }.items():
        with closing(sqlite3.connect(home / name, isolation_level=None)) as db:
            for statement in statements:
                db.execute(statement)
    for mark in home.glob("offline/*/external/*/online-mark"):
        mark.unlink()


@contextmanager
def settings(root: Path, model: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLPLATFORM_HOME", str(root / "var"))
        patch.setenv("MLPLATFORM_CLOCK", "replay")
        patch.setenv("MLPLATFORM_JOB_PROCESSES", "0")
        if (root / "models").is_dir():
            patch.setenv("MLPLATFORM_MODELS", str(root / "models"))
        patch.setattr(scoring_world, "MODEL", model)
        wiring.settings.cache_clear()
        wiring.platform.cache_clear()
        yield
    wiring.settings.cache_clear()
    wiring.platform.cache_clear()


@contextmanager
def running(root: Path, kept: Mapping[str, Any]) -> Iterator[ScoringWorld]:
    """A gateway over the predictors that the home asks for: both are ready."""
    world = ScoringWorld(root, has_snapshots=False)
    supervisor = PlatformProcess(world.home)
    try:
        services = [kept["routes"][arm] for arm in ("champion", "challenger")]
        for service in services:
            wait_for(lambda name=service: world.plane.status(name).ready, PATIENT_S)
        world.start_gateway()
        yield world
    finally:
        world.close()
        supervisor.close()


def test_each_release_of_the_changelog_has_its_home() -> None:
    """Of 0.1.0 there are no upgrades; of 0.3.0 the repository has no commit to make one."""
    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    releases = set(re.findall(r"^## (\d+\.\d+\.\d+) ", changelog, re.MULTILINE))
    assert releases - {"0.1.0", "0.3.0"} - {*KEPT} == set()
    assert {"0.2.0", "04d86ca3"} <= {*KEPT}


@pytest.fixture(scope="module")
def worker(served: ServedHome) -> Iterator[None]:
    served.world.start_worker()
    yield
    served.world.kill_worker()


def test_it_was_whole_and_routes_are_as_they_were(served: ServedHome) -> None:
    assert (served.before.findings, served.before.spilled) == ((), served.kept["spilled"])
    assert wiring.platform().rollouts.verify() == ()
    routes = served.world.rollouts.routes(served.model)
    assert routes.champion is not None
    assert routes.challenger is not None
    assert served.kept["routes"] == {
        "generation": routes.generation,
        "champion": routes.champion.service,
        "challenger": routes.challenger.service,
        "phase": routes.phase,
    }


def test_a_retry_gets_the_answer_that_it_got_then(served: ServedHome) -> None:
    """Of what was spilled too, once today's gateway has taken it in."""
    wait_for(lambda: _report(served).spilled == 0, PATIENT_S)
    for one in served.kept["scored"]:
        again = served.ask(one["body"], one["key"])
        assert (again.status_code, again.text) == (200, one["answer"])
        assert again.headers["Idempotency-Replayed"] == "true"
        other = served.ask(one["body"] | {"amount": 1.5}, one["key"])
        assert other.status_code == 422, other.text


def test_each_decision_is_explained_by_its_bundle(served: ServedHome) -> None:
    wait_for(lambda: _report(served).spilled == 0, PATIENT_S)
    for one in served.kept["scored"]:
        answer = json.loads(one["answer"])
        found = served.command("log", "explain", answer["decision_id"])
        assert found["equal"], found
        assert found["explanations"]


def test_the_next_payment_reads_the_same_features_and_gets_the_same_score(
    served: ServedHome,
) -> None:
    last_ms = max(one["body"]["event_time"] for one in served.kept["scored"])
    for number, customer in enumerate(CUSTOMERS, start=1):
        before = served.last_of(customer)
        body = before["body"] | {"event_time": last_ms + number * 1_000}
        answer = served.ask(body, f"next-{customer}").json()
        assert answer["degraded"] is False, answer
        for same in ("score", "decision", "answered_by"):
            assert answer[same] == json.loads(before["answer"])[same]
        (record,) = (
            one
            for one in served.world.records("decision")
            if one["decision_id"] == answer["decision_id"]
        )
        now, then = record["payload"]["features"], before["features"]
        assert {name: now[name] for name in then if name not in WINDOWS} == {
            name: value for name, value in then.items() if name not in WINDOWS
        }
        if count := then.get("customer_payments_10m"):
            later = [
                one
                for one in served.kept["scored"]
                if one["body"]["customer_id"] == customer
                and one["body"]["event_time"] >= before["body"]["event_time"]
            ]
            assert now["customer_payments_10m"] == count + len(later)


def test_what_an_analyst_said_stands_and_another_one_makes_it_a_label(served: ServedHome) -> None:
    said, platform = served.part("review"), wiring.platform()
    decision = said["decision_id"]
    assert review.advance(platform, served.model)
    (waiting,) = (
        one
        for one in review.review_queue(platform, served.model, 100).rows
        if one.decision_id == decision
    )
    (opinion,) = waiting.opinions
    account = Account(ISSUER, SUBJECT) if said["has_account"] else None
    assert opinion == Opinion(ANALYST, 1, NOTE, account)
    same = _analyst(served, ANALYST if account is None else "renamed")
    with pytest.raises(Refused, match="another person has to confirm"):
        review.record(platform, served.model, decision, 1, analyst=same, account=account)
    done = review.record(platform, served.model, decision, 1, analyst=_analyst(served, "bea"))
    assert (done.is_label, done.agreed) == (True, (ANALYST,))


def test_the_question_that_waits_is_answered(served: ServedHome) -> None:
    asked, platform = served.part("approval"), wiring.platform()
    rollout, approver = asked["rollout_id"], asked["approver"]
    question, evidence = rollouts.question(platform, rollout, "approve")
    assert (question.evidence, bool(evidence)) == (asked["asked"], True)
    secret = (served.world.home.secrets / f"{approver}.key").read_bytes().strip()
    code, _ = rollouts.approval_code(platform, question, approver=approver, secret=secret)
    rollouts.record_approval(platform, question, code=code, reason="the gates are read")
    facts = platform.rollouts.read(rollout)
    answered = fold(facts).answer
    assert isinstance(answered, Answered)
    assert answered == facts[-1]
    assert (answered.approver, answered.bound_to) == (approver, asked["asked"])
    assert platform.rollouts.verify() == ()


def test_what_was_imported_changes_nothing_the_second_time(
    served: ServedHome, tmp_path: Path
) -> None:
    count = served.part("imported")
    rows = [(customer, -60, -60, customer + 0.5) for customer in CUSTOMERS]
    path = written(tmp_path / "bureau.parquet", table(rows))
    found = served.command("features", "import", served.model, VIEW, str(path))
    assert (found["rows"], found["new"]) == (count, 0)


def test_a_push_that_is_sent_again_gets_its_answer_and_is_one_row(served: ServedHome) -> None:
    for one in served.part("pushes"):
        again = served.push(one["body"], one["key"])
        assert (again.status_code, again.text) == (200, one["answer"])
        row = one["body"]["rows"][0] | {"bureau_score": 1.0}
        assert served.push({"rows": [row]}, one["key"]).status_code == 422


def test_a_request_that_was_put_off_is_answered_and_the_other_one_as_before(
    served: ServedHome, worker: None
) -> None:
    deferred = served.part("deferred")

    def found(location: str) -> httpx.Response:
        url = f"{served.world.url}{location}"
        return httpx.get(url, headers=served.world.headers, timeout=20)

    assert found(deferred["decided"]["location"]).text == deferred["decided"]["answer"]
    location = deferred["waiting"]["location"]
    wait_for(lambda: found(location).status_code == 200, PATIENT_S)
    answer, before = found(location).json(), json.loads(deferred["decided"]["answer"])
    assert (answer["score"], answer["decision"]) == (before["score"], before["decision"])


def test_a_topic_is_read_on_from_where_it_was(served: ServedHome, worker: None) -> None:
    streamed = served.part("streamed")
    row = streamed["waiting"]
    last_ms = max(one["body"]["event_time"] for one in served.kept["scored"])
    body = {"customer_id": row["customer_id"], "terminal_id": TERMINAL, "amount": 300.5}

    def read() -> Any:
        key = f"streamed-{time.monotonic_ns()}"
        answer = served.ask(body | {"event_time": last_ms + 10_000}, key).json()
        (record,) = (
            one
            for one in served.world.records("decision")
            if one["decision_id"] == answer["decision_id"]
        )
        return record["payload"]["features"].get("bureau_score") == row["bureau_score"]

    wait_for(read, PATIENT_S)
    query = "SELECT count(*) FROM pushes WHERE client LIKE 'topic:%'"
    with closing(sqlite3.connect(served.world.home.pushes_db)) as db:
        assert db.execute(query).fetchone() == (2,)


def test_the_registered_version_is_there_and_its_bundle_comes_whole(
    served: ServedHome, tmp_path: Path
) -> None:
    registered = served.part("registered")
    variables = {"MLPLATFORM_HOME": str(served.world.home.root)}
    with mlflow_server(variables, "token") as uri:
        registry = MlflowRegistry(uri, "token")
        (version,) = registry.versions(served.model)
        folder = registry.fetch(served.model, version.version, tmp_path / "bundles")
    assert (version.version, version.run_id) == (registered["version"], registered["run_id"])
    assert load_bundle(folder).digest == served.kept["bundle"] == version.digest
    assert version.facts.metrics == {"average_precision": 0.6}


def test_commands_read_it(served: ServedHome) -> None:
    rollout = served.kept["approval"]["rollout_id"]
    for words in (
        ("rollouts", "list"),
        ("rollouts", "show", rollout),
        ("log", "status"),
        ("keys", "list"),
        ("refusals",),
    ):
        assert served.command(*words) is not None
    assert next(wiring.platform().refusals.since(0)).who == "unknown"  # older than a day by now
    incidents = wiring.platform().incidents.list(served.model)
    assert [one.state for one in incidents] == ["open"]


def test_the_page_shows_it(served: ServedHome) -> None:
    decision = json.loads(served.kept["scored"][0]["answer"])["decision_id"]
    rollout = served.kept["approval"]["rollout_id"]
    (incident,) = wiring.platform().incidents.list(served.model)
    page = PageProcess(served.world.home)
    with closing(page):
        for path, shown in {
            "/": served.model,
            f"/models/{served.model}": "champion",
            "/rollouts": rollout,
            f"/rollouts/{rollout}": "approval",
            "/incidents": incident.id,
            f"/incidents/{incident.id}": "amounts rose",
            f"/decisions/{decision}": "300.5",
            "/decisions": "decision",
            "/system": "System",
        }.items():
            found = page.get(path)
            assert (found.status_code, shown in found.text) == (200, True), (path, found.text)


def test_the_next_day_counts_payments_of_both_releases(served: ServedHome) -> None:
    """The offline table goes on from where it was, and the next snapshot with it."""
    body = served.kept["scored"][0]["body"] | {"event_time": BEGAN_MS + DAY_MS + HOUR_MS}
    assert served.ask(body, "next-day").json()["degraded"] is False
    assert features.materialize(wiring.platform(), served.model)["customer_stats"] >= len(CUSTOMERS)
    answer = served.ask(body | {"event_time": body["event_time"] + 1_000}, "then").json()
    records = served.world.records("decision")
    (record,) = (one for one in records if one["decision_id"] == answer["decision_id"])
    until_ms = BEGAN_MS + DAY_MS
    own = [one for one in records if one["unit"] == record["unit"] and one["event_ms"] < until_ms]
    today = [one for one in own if one["event_ms"] >= BEGAN_MS]
    found = record["payload"]["features"]
    assert found["customer_count_1d"] == len(today)
    assert found["customer_count_7d"] == len(own) > len(today)


def test_what_followed_is_sealed_and_whole(served: ServedHome) -> None:
    """Records of this release lie behind those of the other in one chain."""
    body = served.kept["scored"][0]["body"]
    last_ms = max(one["body"]["event_time"] for one in served.kept["scored"])
    assert served.ask(body | {"event_time": last_ms + DAY_MS}, "last").status_code == 200
    wait_for(lambda: _report(served).spilled == 0, PATIENT_S)
    with closing(SqliteDecisionLog(served.world.home.decisions, segment_rows=(4, 4))) as log:
        log.seal()
        served.world.rollouts.anchor(log.seal())
        report = log.verify(served.world.rollouts.last_anchor())
    assert report.findings == ()
    assert report.records > served.before.records + served.kept["spilled"]


def _report(served: ServedHome) -> VerifyReport:
    with closing(SqliteDecisionLog(served.world.home.decisions)) as log:
        return log.verify(served.world.rollouts.last_anchor())


def _analyst(served: ServedHome, name: str) -> Client:
    return Client(name, frozenset({parse_scope(f"{served.model}:review")}), "standard", None)
