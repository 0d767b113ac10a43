"""Queues and the disk as the page shows them: a part that can't be read says so beside the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlplatform.decisions.spill import files
from mlplatform.observing.page.queries import system_state
from mlplatform.observing.page.queries.sources import Sources
from mlplatform.observing.page.queries.system_state import HomeDisk, SystemState
from mlplatform.observing.page.rendering import render
from mlplatform.operations.actions import traffic
from mlplatform.operations.wiring import Platform
from mlplatform.rollouts.events.positions import Position, Progress
from mlplatform.rollouts.events.stream import Backlog, Lag
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.storage.disk import DiskSpace
from support.home_world import HomeWorld
from support.review_world import World, person


@pytest.fixture
def world(tmp_path: Path) -> Iterator[HomeWorld]:
    made = HomeWorld(tmp_path / "home")
    made.promote(1)
    yield made
    made.close()


def state(world: HomeWorld, **told: str) -> tuple[SystemState, Platform]:
    platform = Platform(load({"MLPLATFORM_HOME": str(world.home.root), **told}))
    return SystemState(Sources(platform)), platform


def rows(found: SystemState) -> dict[str, system_state.QueueRow]:
    return {row.title: row for row in found.queues()}


def test_records_that_passes_have_not_counted_wait_until_they_have(world: HomeWorld) -> None:
    world.decide(7)
    found, platform = state(world)
    assert rows(found)["fraud: records not counted yet"].waits == "7"
    traffic.count(platform, "fraud")
    world.decide(2)
    assert rows(found)["fraud: records not counted yet"].waits == "2"


def test_the_review_queue_says_how_much_of_the_log_it_has_not_read(world: HomeWorld) -> None:
    world.decide(3)
    found, _ = state(world)
    row = rows(found)["fraud: decisions to review"]
    assert (row.waits, row.path) == ("0", "/models/fraud/review")
    assert row.note == "of the log, 3 records are not read yet"


def test_corrections_that_wait_are_a_queue_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "reviewed")
    world.ask_two(monkeypatch)
    name = world.decide()
    assert world.waiting() == [name]
    for who in ("ana", "bo"):
        world.say(name, person(who), 1)
    found = SystemState(Sources(world.platform))
    title = "fraud: corrections to confirm"
    assert title not in rows(found)
    world.say(name, person("ana"), 0, note="the wrong key", corrects=True)
    row = rows(found)[title]
    assert (row.waits, row.path) == ("1", "/models/fraud/review#corrections")
    assert row.oldest
    world.log.close()


def test_a_queue_that_cannot_be_read_is_no_data_beside_the_others(world: HomeWorld) -> None:
    file = world.home.counted / "fraud" / "review-1.db"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"no database" * 1000)
    found, _ = state(world)
    shown = rows(found)
    assert shown["fraud: decisions to review"].waits is None
    assert "not a database" in shown["fraud: decisions to review"].note
    assert shown["fraud: records not counted yet"].waits == "0"
    assert shown["fraud: requests to score later"].note.startswith("worker-fraud does not run")


def test_recorded_traffic_has_no_workers_and_pods_ask_prometheus(world: HomeWorld) -> None:
    replayed, _ = state(world, MLPLATFORM_CLOCK="replay")
    assert not [title for title in rows(replayed) if "score later" in title]
    pods, _ = state(world, MLPLATFORM_PAGE_URL="https://page.bank.example")
    assert "names no Prometheus" in rows(pods)["fraud: requests to score later"].note


def test_what_waits_beside_the_log_is_shown_by_its_size_and_is_not_read(
    world: HomeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.decide(2)
    found, platform = state(world)
    before = found.log()
    assert before is not None
    assert (before.spilled_bytes, before.writers[0].state) == (0, "live")
    file = world.home.root / world.spill(3)
    monkeypatch.setattr(files, "frames", None)
    spilled = found.log()
    assert spilled is not None
    (writer,) = spilled.writers
    assert (writer.name, writer.state, writer.records) == ("gateway-0", "spilled", 2)
    assert writer.spilled_bytes == spilled.spilled_bytes == file.stat().st_size > 0
    with pytest.raises(TypeError):
        platform.log.watermarks()  # which counts what is spilled


def test_recorded_traffic_is_behind_its_own_newest_record_alone(world: HomeWorld) -> None:
    world.decide(5)
    replayed, _ = state(world, MLPLATFORM_CLOCK="replay")
    found = replayed.log()
    assert found is not None
    assert [(one.name, one.behind_ms, one.tone) for one in found.writers] == [("gateway-0", 0, "")]


def test_a_reader_sees_the_queues_of_their_models(world: HomeWorld) -> None:
    _, platform = state(world)
    blind = SystemState(Sources(platform, lambda model: False))
    assert blind.queues() == []


@pytest.mark.parametrize(
    ("waits", "text", "tone"), [(10, "10", ""), (11, "11", "bad")], ids=["allowed", "too many"]
)
def test_requests_above_the_alerts_limit_are_bad(waits: int, text: str, tone: str) -> None:
    backlog = {("fraud", ""): waits, ("fraud", "bureau"): 500}
    asked, view = system_state.message_rows("fraud", ["bureau"], backlog, 10, takes_async=True)
    assert (asked.waits, asked.tone) == (text, tone)
    assert (view.title, view.waits, view.tone) == ("fraud: values of bureau to store", "500", "")
    unknown, *_ = system_state.message_rows("fraud", [], {}, 10, takes_async=True)
    assert unknown.waits is None


def test_a_receiver_shows_its_oldest_event_and_why_it_stopped() -> None:
    at = Position(0, 0)
    stopped = Progress("risk", at, 1, True, 5, 2, "the address is gone", "410")
    failing = Progress("slack", at, 1, True, 5, 2, "", "timeout")
    first, second = system_state.event_rows(
        [Lag(stopped, Backlog(1000, 0)), Lag(failing, Backlog(0, None))], now_ms=90_000
    )
    assert (first.title, first.waits, first.oldest, first.tone) == (
        "risk: events to deliver", "1,000 or more", "1.5 min", "bad",
    )  # fmt: skip
    assert first.note == "stopped: the address is gone"
    assert (second.waits, second.oldest, second.note) == ("0", "", "the last failed: timeout")


def test_a_disk_that_is_nearly_full_says_what_to_do(world: HomeWorld) -> None:
    folder = Path("/home")
    low = DiskSpace(4_000_000_000, 100_000_000_000)
    text = page(HomeDisk(str(folder), low, low.warning(folder)))
    assert "4.00 % free" in text
    assert "4,000 MB of 100 GB" in text
    assert "make room there" in text
    unknown = DiskSpace(0, 0)
    assert "does not report" in page(HomeDisk("/home", unknown, ""))
    assert state(world)[0].disk().free_share is not None


def test_a_home_that_is_gone_is_said(tmp_path: Path) -> None:
    platform = Platform(load({"MLPLATFORM_HOME": str(tmp_path / "none")}))
    with pytest.raises(Unavailable, match="No such file"):
        SystemState(Sources(platform)).disk()


def test_before_anything_was_written_there_is_no_log_and_no_file(tmp_path: Path) -> None:
    platform = Platform(load({"MLPLATFORM_HOME": str(tmp_path / "none")}))
    found = SystemState(Sources(platform))
    assert found.log() is None
    assert {row.waits for row in found.queues()} <= {"0", None}
    assert not (tmp_path / "none").exists()


def page(disk: object) -> str:
    return render(
        "system.html", here="system", concerns=(),
        alerts=None, disk=disk, lags=None, queues=[],
        schedules=None, prefect="", status=None,
    )  # fmt: skip
