"""Logs of several gateways in one: everything once and in order, whatever is killed or lost."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlplatform.decisions.log.pruning import prune
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import Entry, RecordQuery, Watermark
from mlplatform.decisions.records.record import Record
from mlplatform.decisions.replication.continuation import Divergence, Gap
from mlplatform.decisions.replication.messages import Names
from mlplatform.decisions.replication.publisher import Publisher
from mlplatform.decisions.replication.replica_log import ReplicaLog
from mlplatform.decisions.replication.replicated_records import (
    ReplicaOffset,
    ReplicatedRecord,
    ReplicationReader,
)
from mlplatform.decisions.replication.replicator import Replicator
from mlplatform.decisions.topics.messages import Topics
from mlplatform.rollouts.verdicts.completeness import behind
from mlplatform.runtime.errors import NotFound, Refused, StaleFence
from mlplatform.runtime.storage import addresses
from support import replication_process

LIVES = {"local": range(1, 14), "kafka": range(1, 12)}
"""Each life of a process is ended one moment later than the one before."""
KINDS = ("decision", "shadow", "label", "void", "accepted")


@dataclass(frozen=True)
class OwnLog:
    """The log of one gateway."""

    writer: str
    folder: Path
    log: SqliteDecisionLog
    note: str = "ä\u2028\n"

    def append(self, count: int) -> None:
        first = self.end + 1
        entries = [
            Entry(
                Record(
                    kind=KINDS[n % len(KINDS)],  # type: ignore[arg-type]
                    decision_id=f"{self.writer}-{n}",
                    model="fraud",
                    event_ms=1_000 + n,
                    recorded_ms=2_000 + n,
                    score=n / 1_000 if n % 2 else None,
                    payload={"request": {"amount": n * 1.0, "note": self.note}},
                )
            )
            for n in range(first, first + count)
        ]
        self.log.append(self.writer, entries)
        self.log.heartbeat(self.writer, 1_000 + first + count)

    @property
    def end(self) -> int:
        return max((mark.seq for mark in self.log.watermarks()), default=0)

    def records(self) -> list[ReplicatedRecord]:
        return records_of(self.folder, self.log, self.writer)

    def stand(self) -> ReplicaOffset:
        (found,) = ReplicationReader(self.folder, self.log).offsets()
        return found


def records_of(folder: Path, log: SqliteDecisionLog, writer: str) -> list[ReplicatedRecord]:
    reader, found = ReplicationReader(folder, log), []
    while more := reader.records(writer, after=len(found), limit=1_000):
        found += more
    return found


@pytest.fixture
def gateways(tmp_path: Path) -> Iterator[list[OwnLog]]:
    tag = uuid.uuid4().hex[:6]
    made = [
        OwnLog(name, tmp_path / name, SqliteDecisionLog(tmp_path / name))
        for name in (f"gw-a-{tag}", f"gw-b-{tag}")
    ]
    yield made
    for one in made:
        one.log.close()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[SqliteDecisionLog]:
    with closing(SqliteDecisionLog(tmp_path / "home", segment_rows=(10, 40))) as log:
        yield log


@pytest.fixture
def into(tmp_path: Path, home: SqliteDecisionLog) -> Iterator[ReplicaLog]:
    with closing(ReplicaLog(tmp_path / "home")) as log:
        yield log


def marks(home: SqliteDecisionLog) -> dict[str, Watermark]:
    return {mark.writer: mark for mark in home.watermarks()}


def assert_replicated(tmp_path: Path, home: SqliteDecisionLog, gateways: list[OwnLog]) -> None:
    """The home's log is the union of the gateways', records and watermarks."""
    assert {one.writer for one in gateways} == marks(home).keys()
    for one in gateways:
        assert one.records() == records_of(tmp_path / "home", home, one.writer)
        mark, own = marks(home)[one.writer], one.stand()
        assert (own.seq, own.event_ms, own.heartbeat_at_ms) == (
            mark.seq,
            mark.event_ms,
            mark.heartbeat_at_ms,
        )
        assert mark.live
    report = home.verify()
    assert report.ok, report.findings
    assert report.records == sum(one.end for one in gateways)


@pytest.mark.parametrize("adapter", ["local", pytest.param("kafka", marks=pytest.mark.kafka)])
def test_publishers_and_replicator_killed_around_every_write_lose_and_double_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, gateways: list[OwnLog], adapter: str
) -> None:
    """SIGKILL before, within and after each write of messages, records, offsets and answers."""
    brokers = request.getfixturevalue("kafka") if adapter == "kafka" else None
    place = "" if brokers else str(tmp_path / "topics.db")
    environment = {**os.environ, **addresses.variables("KAFKA", brokers)}
    prefix = f"log-{uuid.uuid4().hex[:6]}"

    def live(role: str, folder: Path, name: str, die_at: int) -> int:
        script = [sys.executable, replication_process.__file__]
        given = [role, str(folder), name, place, prefix, str(die_at)]
        return subprocess.run([*script, *given], env=environment, timeout=120).returncode

    killed = 0
    lives = LIVES[adapter]
    for die_at in lives:
        for one in gateways:
            one.append(11)
            killed += live("publisher", one.folder, one.writer, die_at) == -signal.SIGKILL
        killed += live("replicator", tmp_path / "home", "replicator", die_at) == -signal.SIGKILL
    assert killed > 2 * len(lives)
    # A publisher may hear only in its next life that something must be sent again: none must.
    assert [live("publisher", one.folder, one.writer, 0) for one in gateways] == [0, 0]
    assert live("replicator", tmp_path / "home", "replicator", 0) == 0
    with closing(SqliteDecisionLog(tmp_path / "home")) as home:
        assert_replicated(tmp_path, home, gateways)


class World:
    """Publishers and a replicator over the embedded topics, step by step."""

    def __init__(self, tmp_path: Path, gateways: list[OwnLog], into: ReplicaLog) -> None:
        self.names = Names()
        self._place = str(tmp_path / "topics.db")
        self._closing = contextlib.ExitStack()
        self.publishers = {one.writer: self.publisher(one) for one in gateways}
        topics = self._topics()
        self.subscription = topics.subscribe([self.names.records], self.names.replicators, "g")
        self.replicator = Replicator(into, self.subscription, batch=100)
        self._closing.callback(self.replicator.close)

    def _topics(self) -> Topics:
        topics = replication_process.open_topics(self._place, self.names)
        self._closing.callback(topics.close)
        return topics

    def publisher(self, one: OwnLog, *, batch: int = 20) -> Publisher:
        topics = self._topics()
        answers = topics.subscribe([self.names.confirmed], self.names.of(one.writer), one.writer)
        reader = ReplicationReader(one.folder, one.log)
        made = Publisher(reader, topics, answers, one.writer, batch=batch)
        self._closing.callback(made.close)
        return made

    def settle(self, *only: str) -> None:
        """Publish and replicate until nothing is left to do."""
        idle = 0
        for _ in range(100):
            steps = [p.step() for w, p in self.publishers.items() if not only or w in only]
            is_idle = not any(steps) and not self.replicator.step() and self.subscription.lag() == 0
            idle = idle + 1 if is_idle else 0
            if idle == 2:  # what the last step of the replicator said was heard
                return
        raise AssertionError("it does not settle")

    def close(self) -> None:
        self._closing.close()


@pytest.fixture
def world(tmp_path: Path, gateways: list[OwnLog], into: ReplicaLog) -> Iterator[World]:
    made = World(tmp_path, gateways, into)
    yield made
    made.close()


def test_two_logs_are_one_that_is_sealed_and_followed_as_any(
    tmp_path: Path, gateways: list[OwnLog], home: SqliteDecisionLog, world: World
) -> None:
    home.append("flows", [Entry(Record(kind="label", decision_id="d", model="fraud", event_ms=1,
                                       recorded_ms=1, label=1))])  # fmt: skip
    home.close_writer("flows")
    for count in (30, 45, 3):
        for one in gateways:
            one.append(count)
        world.settle()
        home.seal()
    table = home.read(RecordQuery(columns=("writer", "seq", "decision_id")))
    assert len({(row["writer"], row["seq"]) for row in table.to_pylist()}) == 157
    assert [one.records() for one in gateways] == [
        records_of(tmp_path / "home", home, one.writer) for one in gateways
    ]
    report = home.verify(home.seal())
    assert (report.ok, report.records, report.writers) == (True, 157, 3), report.findings


def test_what_the_topic_lost_is_asked_for_and_sent_again(
    tmp_path: Path, gateways: list[OwnLog], home: SqliteDecisionLog, world: World
) -> None:
    first, second = gateways
    for one in gateways:
        one.append(40)
        world.publishers[one.writer].step()
    world.subscription.consume(15, 0.1)
    world.subscription.commit(())  # read, and replicated nowhere
    for one in gateways:
        one.append(5)
    world.settle()
    assert_replicated(tmp_path, home, gateways)
    assert first.end == second.end == 45


def test_a_log_that_began_anew_under_its_name_is_refused_and_its_watermark_stays(
    tmp_path: Path, gateways: list[OwnLog], home: SqliteDecisionLog, into: ReplicaLog, world: World
) -> None:
    """Its volume was lost: what was replicated stands, and every verdict waits for somebody."""
    one, other = gateways
    one.append(20)
    world.settle(one.writer)
    before = marks(home)[one.writer]
    folder = tmp_path / "anew"
    with closing(SqliteDecisionLog(folder)) as log:
        anew = OwnLog(one.writer, folder, log, note="anew")
        for count in (1, 18, 30):
            anew.append(count)
            found = [*anew.records(), anew.stand()]
            (standing,) = into.replicate(found)
            assert isinstance(standing.finding, Divergence)
            assert before == marks(home)[one.writer]
    waiting = behind(home.watermarks(), (), event_ms=5_000, generation=0)
    (reason,) = waiting
    assert reason.startswith(
        f"the log has records of writer {one.writer} up to 1970-01-01T00:00:01"
    )
    assert reason.endswith("; those up to 1970-01-01T00:00:05.000Z are needed")
    other.append(3)
    world.settle(other.writer)  # others are not held up
    assert marks(home)[other.writer].seq == 3
    assert home.verify().ok


def test_a_writer_that_was_not_heard_of_is_waited_for_until_it_closes_or_is_given_up(
    gateways: list[OwnLog], home: SqliteDecisionLog, into: ReplicaLog, world: World
) -> None:
    """A gateway that answers may have records that nobody here has seen."""
    one, other = gateways
    for each in gateways:
        each.append(10)
    world.settle()

    def waits() -> list[str]:
        found = behind(home.watermarks(), (), event_ms=1_500, generation=0)
        return [
            w for each in gateways if any(each.writer in f for f in found) for w in [each.writer]
        ]

    assert [one.writer, other.writer] == waits()
    one.log.close_writer(one.writer)
    world.settle()
    assert [other.writer] == waits()
    into.give_up(other.writer)
    assert waits() == []
    with pytest.raises(Refused):
        into.give_up(other.writer)
    with pytest.raises(NotFound):
        into.give_up("gateway-9")
    for each in gateways:  # they live after all
        each.append(1)
    world.settle()
    assert [one.writer, other.writer] == waits()


def test_what_a_gateway_has_spilled_holds_its_watermark_back(
    gateways: list[OwnLog], home: SqliteDecisionLog, into: ReplicaLog
) -> None:
    one = gateways[0]
    one.append(10)
    own = one.stand()
    told = ReplicaOffset(own.writer, own.seq, own.chain, 1_004, own.heartbeat_at_ms, False, 3)
    into.replicate([*one.records(), told])
    (mark,) = home.watermarks()
    assert (mark.event_ms, mark.spilled, mark.live) == (1_004, 3, True)


def test_a_gateway_that_writes_here_itself_is_not_replicated(
    gateways: list[OwnLog], home: SqliteDecisionLog, into: ReplicaLog
) -> None:
    one = gateways[0]
    one.append(5)
    home.heartbeat(one.writer, 77)
    (standing,) = into.replicate([*one.records(), one.stand()])
    assert isinstance(standing.finding, Divergence)
    assert (marks(home)[one.writer].seq, marks(home)[one.writer].event_ms) == (0, 77)


def test_who_wrote_here_once_is_replicated_from_where_it_is_now_and_fenced_here(
    tmp_path: Path, gateways: list[OwnLog], home: SqliteDecisionLog, into: ReplicaLog
) -> None:
    one = gateways[0]
    home.append(one.writer, [])
    home.close_writer(one.writer)
    stale = SqliteDecisionLog(tmp_path / "home")
    stale.append(one.writer, [])
    with closing(SqliteDecisionLog(tmp_path / "home")) as third:
        third.append(one.writer, [])
        third.close_writer(one.writer)
    one.append(5)
    (standing,) = into.replicate([*one.records(), one.stand()])
    assert (standing.taken, standing.finding) == (5, None)
    with pytest.raises(StaleFence):
        stale.heartbeat(one.writer)
    stale.close()
    home.heartbeat(one.writer, 99)  # a gateway that is started here by mistake
    (standing,) = into.replicate([one.stand()])
    assert isinstance(standing.finding, Divergence)


def test_replication_the_same_again_from_anywhere_changes_nothing(
    tmp_path: Path, gateways: list[OwnLog], home: SqliteDecisionLog, into: ReplicaLog
) -> None:
    one = gateways[0]
    one.append(60)
    items = [*one.records(), one.stand()]
    (standing,) = into.replicate(items)
    assert (standing.taken, standing.repeated) == (60, 0)
    home.seal()  # what comes again is in a segment by now
    for start in (0, 13, 59):
        (standing,) = into.replicate(items[start:])
        assert (0, 60 - start) == (standing.taken, standing.repeated)
    (standing,) = into.replicate(items[:1])
    assert standing.finding is None
    assert_replicated(tmp_path, home, [one])


def test_a_gap_in_what_came_is_left_open(gateways: list[OwnLog], into: ReplicaLog) -> None:
    one = gateways[0]
    one.append(10)
    (standing,) = into.replicate(one.records()[:4] + one.records()[6:])
    assert (4, Gap(5, 6)) == (standing.seq, standing.finding)


def test_a_second_publisher_of_a_log_ends_the_first(gateways: list[OwnLog], world: World) -> None:
    one = gateways[0]
    one.append(3)
    world.publisher(one)
    with pytest.raises(StaleFence):
        world.publishers[one.writer].step()


def test_a_log_drops_what_is_safe_elsewhere_and_old_and_stays_whole(
    tmp_path: Path, gateways: list[OwnLog], home: SqliteDecisionLog, world: World
) -> None:
    one = gateways[0]
    one.append(600)
    world.settle()
    safe = world.publishers[one.writer].safe[one.writer]
    assert safe.seq == 600
    before_ms = 2_000 + 551  # record n was made at 2 000 + n

    def pruned(chain: bytes) -> int:
        return prune(
            one.folder, one.writer, seq=safe.seq, chain=chain, before_ms=before_ms, now_ms=0
        )

    assert pruned(b"x" * 32) == 0  # the other log has other records
    assert pruned(safe.chain) == 550
    assert pruned(safe.chain) == 0
    assert [
        c.seq for c in ReplicationReader(one.folder, one.log).records(one.writer, after=0, limit=99)
    ] == [*range(551, 601)]
    assert one.log.read(RecordQuery()).num_rows == 50
    assert one.log.verify().ok, one.log.verify().findings
    one.append(20)
    with closing(SqliteDecisionLog(one.folder, segment_rows=(1, 40))) as log:
        assert log.seal().count == 0  # it is the home's log that is sealed
    assert one.log.verify().ok
    world.settle()
    assert marks(home)[one.writer].seq == 620
    assert home.verify().records == 620


def test_what_a_home_that_was_restored_lacks_is_sent_again_as_long_as_it_is_kept(
    tmp_path: Path, gateways: list[OwnLog]
) -> None:
    """A backup is older than what was replicated since."""
    one = gateways[0]
    one.append(40)
    for name, kept in (("backup", 30), ("older-backup", 10)):
        into = ReplicaLog(tmp_path / name)
        into.replicate(one.records()[:kept])
        into.close()
    with closing(ReplicaLog(tmp_path / "home-before")) as into:
        world = World(tmp_path, [one], into)
        world.settle()
        world.close()
    safe = one.records()[-1]
    dropped = prune(
        one.folder, one.writer, seq=safe.seq, chain=safe.chain, before_ms=2_000 + 21, now_ms=0
    )
    assert dropped == 20
    for name, seq in (("backup", 45), ("older-backup", 10)):
        one.append(45 - one.end)
        with (
            closing(ReplicaLog(tmp_path / name)) as into,
            closing(SqliteDecisionLog(tmp_path / name)) as log,
        ):
            world = World(tmp_path, [one], into)
            one.log.heartbeat(one.writer, 9_000)
            world.settle()
            assert marks(log)[one.writer].seq == seq
            assert log.verify().ok
            world.close()
