"""A home of an earlier release opens, is whole, and goes on: log, keys, routes, rollouts, drift.

`tests/support/kept_home.py` made each of `homes/`, in a worktree of the commit or the release that
names it: a champion, a canary under way, records sealed, open and spilled, a label, a void, an
idempotency key, an API key, an open incident of drift. Keys in there are made up. The last home is
made by this commit: what keeps the home of the next release works today.
"""

from __future__ import annotations

import re
import shutil
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from tests.unit.rollouts.passes import test_rollout_passes

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import DuplicateKey, Entry, Idempotency, RecordQuery
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.spill.writer import SpillingLog, SpillPolicy
from mlplatform.rollouts.drift.sqlite import SqliteIncidents
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.rollouts.journal.state import fold
from mlplatform.rollouts.passes.replay import ReplayedVerdict, replay_verdict
from mlplatform.runtime.configuration.settings import Home
from mlplatform.scoring.admission.keyring import Keyring
from mlplatform.scoring.admission.secrets import digest
from mlplatform.scoring.admission.sqlite import SqliteAdmission
from rollout_world import StoppedClock, arm, canary_rows, fraud
from support.home_world import CLIENT, MODEL
from support.kept_home import ANSWER, KEY, OPEN_ROWS, SPILLED, WRITER, append, fill, passes_over

HOMES: Final = Path(__file__).parent / "homes"
RECORDED: Final = 80 + 2 + 2 * 140 + OPEN_ROWS
ENDED_MS: Final = 696_000_000
"""Event time after all that a home holds."""
FIRST, SECOND = "fraud-v1-1", "fraud-v2-1"
TODAY: Final = "this commit"
NO_BASIS: Final = ("an earlier release kept no basis of its verdicts",)
BY_EVENTS: Final = (
    "the same records, and another outcome: labels, evidence or code have changed",
    "gates.failures.values.proven: -0.161753051 then, -0.189760427 now",
)
"""Failures are proven by events and by sums since 0.3.0 (decision 0115): the sums have less."""
DIFFERENCES: Final = {
    "3eb50e7f": {NO_BASIS},
    "0.2.0": {NO_BASIS},
    "fc001f24": {(), BY_EVENTS},
    "0.3.0": {()},
    TODAY: {()},
}
"""What a replay says of verdicts that this release did not make: docs/verdicts.md."""


@dataclass
class OpenedHome:
    """A home of that release, as the processes of this one open it."""

    release: str
    home: Home
    log: SqliteDecisionLog
    rollouts: SqliteRollouts
    clock: StoppedClock

    def catch_up(self) -> None:
        """A gateway of the writer's name starts, takes in what was spilled, and ends."""
        spilling = SpillingLog(self.log, WRITER, SpillPolicy(1_000_000))
        deadline_s = time.monotonic() + 20
        while spilling.catch_up():
            assert time.monotonic() < deadline_s, "it never caught up"
            time.sleep(0.005)
        spilling.close_writer(WRITER)

    def verdicts(self, folder: Path) -> list[ReplayedVerdict]:
        facts = [*self.rollouts.read(FIRST), *self.rollouts.read(SECOND)]
        found = []
        for number, fact in enumerate(facts):
            counted = folder / str(number)
            counted.mkdir()
            found.append(replay_verdict(counted, self.log, fact, fraud().rollout))
        return [verdict for verdict in found if verdict is not None]


def test_each_release_of_the_changelog_has_its_home() -> None:
    """0.1.0 was the first, which no earlier release stands before."""
    changelog = (Path(__file__).parents[3] / "CHANGELOG.md").read_text()
    releases = set(re.findall(r"^## (\d+\.\d+\.\d+) ", changelog, re.MULTILINE))
    kept = {path.name.removesuffix(".tar.gz") for path in HOMES.iterdir()}
    assert releases
    assert (releases - {"0.1.0"}) - kept == set()
    assert {*DIFFERENCES} == kept | {TODAY}


@pytest.fixture(scope="module")
def of_today(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of this commit, which tests take copies of."""
    root, scratch = tmp_path_factory.mktemp("today") / "home", tmp_path_factory.mktemp("scratch")
    fill(root, scratch, test_rollout_passes)
    return root


@pytest.fixture(params=sorted(DIFFERENCES))
def opened(request: pytest.FixtureRequest, of_today: Path, tmp_path: Path) -> Iterator[OpenedHome]:
    if request.param == TODAY:
        shutil.copytree(of_today, tmp_path / "home")
    else:
        with tarfile.open(HOMES / f"{request.param}.tar.gz") as archive:
            archive.extractall(tmp_path, filter="data")
    home = Home(tmp_path / "home")
    home.create()
    clock = StoppedClock(event=ENDED_MS, wall=6_000_000)
    with (
        closing(SqliteDecisionLog(home.decisions, segment_rows=(64, 256))) as log,
        closing(SqliteRollouts(home.rollouts_db, clock)) as rollouts,
    ):
        yield OpenedHome(request.param, home, log, rollouts, clock)


def test_it_is_whole_and_holds_what_it_held(opened: OpenedHome) -> None:
    report = opened.log.verify(opened.rollouts.last_anchor())
    assert (report.findings, report.records, report.spilled) == ((), RECORDED, SPILLED)
    assert opened.rollouts.verify() == ()
    routes = opened.rollouts.routes(MODEL)
    assert (routes.champion, routes.challenger, routes.phase) == (arm(1), arm(2), "canary")
    assert fold(opened.rollouts.read(FIRST)).phase == "confirmed"
    assert fold(opened.rollouts.read(SECOND)).phase == "canary"
    kinds = opened.log.read(RecordQuery(columns=("kind",)))["kind"].to_pylist()
    assert (kinds.count("label"), kinds.count("void")) == (1, 1)


def test_what_was_spilled_comes_into_the_log(opened: OpenedHome) -> None:
    opened.catch_up()
    report = opened.log.verify(opened.rollouts.last_anchor())
    assert (report.findings, report.records, report.spilled) == ((), RECORDED + SPILLED, 0)


def test_a_retry_gets_the_answer_that_it_got_then(opened: OpenedHome) -> None:
    stored = opened.log.find(CLIENT, MODEL, KEY)
    assert stored is not None
    assert stored.answer == ANSWER
    record = Record(kind="decision", decision_id="again", model=MODEL, event_ms=1, recorded_ms=1)
    again = Entry(record, Idempotency(CLIENT, KEY, "body", b"another answer"))
    assert opened.log.append(WRITER, [again]) == [DuplicateKey(ANSWER, same_body=True)]


def test_its_key_lets_its_client_in(opened: OpenedHome) -> None:
    secret = opened.home.api_key.read_bytes()
    with closing(SqliteAdmission(opened.home.admission_db)) as admission:
        keyring = Keyring(admission, lambda: 10**9, lambda: None)
        keyring.poll()
        client = keyring.client(secret, digest(secret))
    assert client is not None
    assert client.name == CLIENT


def test_its_verdicts_are_computed_again_where_it_kept_what_they_follow_from(
    opened: OpenedHome, tmp_path: Path
) -> None:
    found = opened.verdicts(tmp_path)
    assert [verdict.recorded for verdict in found] == ["HEALTHY"] * len(found)
    assert len(found) == 2
    assert {verdict.differences for verdict in found} == DIFFERENCES[opened.release]


def test_its_canary_goes_on_to_a_promotion(opened: OpenedHome, tmp_path: Path) -> None:
    """Records, seals, anchors and verdicts of this release follow those of the earlier one."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    world = passes_over(test_rollout_passes, scratch, opened.rollouts, opened.log)
    world.clock = opened.clock
    world.plane.manifests = {arm(1).service: {}, arm(2).service: {}}
    opened.catch_up()
    world.settle()
    before = opened.rollouts.last_anchor()
    while world.state(SECOND).phase == "canary":
        world.pass_time()
        generation = world.generation()
        percent = opened.rollouts.routes(MODEL).challenger_percent
        units = int(10_000 / percent)
        append(opened.log, canary_rows(units, percent, generation=generation, version=2))
        waits = world.settle().waits
        assert world.generation() > generation, waits
    world.generation()
    world.settle()
    assert world.state(SECOND).phase == "promoted", world.state(SECOND).reason
    assert opened.rollouts.routes(MODEL).champion == arm(2)
    after = opened.rollouts.last_anchor()
    assert before is not None
    assert after is not None
    assert after.count > before.count
    assert opened.log.verify(after).findings == ()
    assert opened.rollouts.verify() == ()


def test_its_incident_is_open_and_can_be_closed(opened: OpenedHome) -> None:
    incidents = SqliteIncidents(opened.home.rollouts_db)
    (found,) = incidents.list(MODEL)
    assert (found.state, found.found.evidence) == ("open", {"reasons": ["amounts rose"]})
    incidents.close(found.id, "looked at", now_ms=3_000)
    assert incidents.list(MODEL, closed=False) == []
