"""What writers leave, and go on with, where a disk takes nothing: faults are injected."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlplatform.decisions.log import segments
from mlplatform.model.folders import personal_fields
from mlplatform.observing.page.rendering import render
from mlplatform.operations.compute import pool as pool_module
from mlplatform.operations.compute.jobs import Job
from mlplatform.operations.compute.local import LocalJobs
from mlplatform.operations.compute.pool import Pool
from mlplatform.operations.supervisor.listeners import Listeners
from mlplatform.operations.supervisor.retried_writes import RetriedWrites
from mlplatform.operations.supervisor.spec import ChildSpec
from mlplatform.operations.supervisor.start import when_there_is_room
from mlplatform.operations.supervisor.status import PlatformStatus, ProcessStatus, status
from mlplatform.operations.supervisor.supervisor import Change, Supervisor
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import ConfigInvalid
from mlplatform.runtime.processes.records import (
    ProcessId,
    ProcessRecord,
    SupervisorRecord,
    read_processes,
    read_supervisor,
    write_processes,
    write_supervisor,
)
from mlplatform.runtime.storage import files
from mlplatform.runtime.storage.disk import DiskSpace, says_full
from mlplatform.runtime.storage.files import append_lines, sweep_drafts, write_atomically
from mlplatform.runtime.telemetry import retention
from mlplatform.runtime.telemetry.logs import handler
from mlplatform.runtime.telemetry.retention import Retention
from mlplatform.runtime.telemetry.whole_lines import WholeLines
from support.home_world import HomeWorld


def no_room(*_: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Disk:
    """Writes files while it has room."""

    def __init__(self) -> None:
        self.is_full = False

    def write(self, path: Path, data: bytes) -> None:
        if self.is_full:
            no_room()
        write_atomically(path, data)


class PartialWrite:
    """`os.write` that takes a number of bytes in all, and then none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
        self.left = left
        self._write = os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, descriptor: int, data: bytes) -> int:
        if not self.left:
            no_room()
        written = self._write(descriptor, data[: self.left])
        self.left -= written
        return written


class CutFile(io.FileIO):
    """A file of which the first bytes are written."""

    def write(self, data: Any) -> int:
        super().write(bytes(data)[:4])
        no_room()
        return 0


def test_a_file_that_has_no_room_is_written_when_there_is(tmp_path: Path) -> None:
    disk, path = Disk(), tmp_path / "run" / "processes.json"
    written = RetriedWrites(disk.write)
    written.put(path, b"1")
    disk.is_full = True
    written.put(path, b"2")
    written.put(path, b"3")
    written.retry()
    assert path.read_bytes() == b"1"
    assert written.waiting == {path}
    disk.is_full = False
    written.retry()
    assert path.read_bytes() == b"3"
    assert written.waiting == frozenset()


def test_what_is_written_later_is_never_overwritten_by_what_waited(tmp_path: Path) -> None:
    disk, path = Disk(), tmp_path / "status.json"
    written = RetriedWrites(disk.write)
    disk.is_full = True
    written.put(path, b"old")
    disk.is_full = False
    written.put(path, b"new")
    written.retry()
    assert path.read_bytes() == b"new"


def test_one_file_that_can_never_be_written_keeps_no_other_from_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    never, other = tmp_path / "file" / "below", tmp_path / "other"
    disk = Disk()
    written = RetriedWrites(disk.write)
    disk.is_full = True
    written.put(never, b"1")
    written.put(other, b"2")
    disk.is_full = False
    written.retry()
    assert written.waiting == {never}
    assert other.read_bytes() == b"2"


def test_a_draft_goes_with_the_error_that_cut_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"whole")
    monkeypatch.setattr(os, "replace", no_room)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"half")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_drafts_of_killed_processes_are_swept_and_those_of_now_are_not(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    old, new, other = (tmp_path / "below" / name for name in (".a.x.draft", ".b.y.draft", ".c"))
    for path in (old, new, other):
        path.write_bytes(b"")
    os.utime(old, (1_000, 1_000))
    os.utime(new, (2_000, 2_000))
    os.utime(other, (1_000, 1_000))
    assert sweep_drafts(tmp_path, now_s=2_000 + files.FORGOTTEN_S / 2) == 1
    assert not old.exists()
    assert new.exists()
    assert other.exists()
    assert sweep_drafts(tmp_path / "nothing") == 0


def test_a_line_after_one_that_was_cut_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lines"
    append_lines(path, b"first\n")
    disk = PartialWrite(monkeypatch, 3)
    with pytest.raises(OSError, match="No space"):
        append_lines(path, b"second\n")
    disk.left = 100
    append_lines(path, b"third\n")
    assert path.read_bytes().splitlines() == [b"first", b"sec", b"third"]


def test_a_log_line_after_one_that_was_cut_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    stream = WholeLines(descriptor)
    stream.write("first\n")
    disk = PartialWrite(monkeypatch, 3)
    for line in ("second\n", "third\n"):
        with pytest.raises(OSError, match="No space"):
            stream.write(line)
    disk.left = 100
    stream.write("fourth\n")
    stream.close()
    assert path.read_bytes().splitlines() == [b"first", b"sec", b"fourth"]


def test_a_log_file_refused_by_the_disk_says_nothing_to_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "supervisor.log"
    made = handler("supervisor", personal_fields(), to=path)
    record = logging.LogRecord("mlplatform", logging.WARNING, "", 0, "said", (), None)
    disk = PartialWrite(monkeypatch, 0)
    made.emit(record)
    disk.left = 1_000
    made.emit(record)
    made.close()
    assert [json.loads(line)["message"] for line in path.read_text().splitlines()] == ["said"]
    assert capsys.readouterr().err == ""


def test_a_log_is_turned_when_it_is_full_and_old_ones_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "supervisor.log"
    made = handler("supervisor", personal_fields(), to=path)
    assert path.stat().st_mode & 0o777 == 0o600
    made.maxBytes = 200  # type: ignore[attr-defined]
    for number in range(6):
        made.emit(logging.LogRecord("mlplatform", logging.INFO, "", 0, f"line {number}", (), None))
    made.close()
    kept = [path, *(tmp_path / f"supervisor.log.{n}" for n in (1, 2, 3))]
    texts = [line for each in kept for line in each.read_text().splitlines()]
    assert "line 5" in texts[0] + texts[1]
    assert all(json.loads(line) for line in texts)


def test_a_log_that_has_no_room_for_its_copy_stays_and_so_do_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, kept = tmp_path / "child.log", Retention(file_bytes=4, files=3)
    path.write_bytes(b"newest\n")
    (tmp_path / "child.log.1").write_bytes(b"older\n")
    (tmp_path / "child.log.2").write_bytes(b"oldest\n")
    with monkeypatch.context() as patched:
        patched.setattr(retention.shutil, "copyfileobj", no_room)
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                retention.rotate_in_place(path, kept)
    texts = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert texts == {
        "child.log": b"newest\n",
        "child.log.1": b"older\n",
        "child.log.2": b"oldest\n",
    }
    retention.rotate_in_place(path, kept)
    assert path.read_bytes() == b""
    assert (tmp_path / "child.log.1").read_bytes() == b"newest\n"
    assert (tmp_path / "child.log.2").read_bytes() == b"older\n"


def test_a_segment_that_has_no_room_leaves_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = HomeWorld(tmp_path / "home")
    world.decide(6)

    def cut(path: Path, mode: str, **how: Any) -> CutFile:
        return CutFile(path, mode, **how)

    with monkeypatch.context() as patched:
        patched.setattr(segments, "open", cut, raising=False)
        with pytest.raises(OSError, match="No space"):
            world.log.seal()
    folder = world.home.decisions / segments.SEGMENTS
    assert list(folder.glob("*/*")) == []
    assert world.log.seal().count == 1
    assert world.log.verify().ok
    world.close()


def test_the_end_of_a_job_waits_for_room_and_its_item_is_not_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, disk = LocalJobs(tmp_path / "jobs"), Disk()
    jobs.submit(Job("one", "score", "fraud", tmp_path / "inputs", ("a",), 60))
    begun = tmp_path / "begun"
    item = f"open({str(begun)!r}, 'a').write('x'); raise SystemExit(3)"
    pool = Pool(tmp_path / "jobs", 1, python=(sys.executable, "-c", item))
    monkeypatch.setattr(pool_module, "write_atomically", disk.write)
    try:
        pool.step()
        disk.is_full = True
        with pytest.raises(OSError, match="No space"):
            _step_until(pool, lambda: False)
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                pool.step()
        disk.is_full = False
        pool.step()
    finally:
        pool.close()
    status = jobs.status("one")
    assert (status.state, status.reason) == ("failed", "a ended with status 3")
    assert begun.read_text() == "x"


def _step_until(pool: Pool, holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 20
    while not holds() and time.monotonic() < end_s:
        pool.step()
        time.sleep(0.02)


def test_a_start_waits_for_room_and_for_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    full = ConfigInvalid("MLPLATFORM_HOME", str(tmp_path), "a folder")
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    answers: list[Exception | None] = [OSError(errno.EDQUOT, "Quota exceeded"), full, full, None]
    pauses: list[float] = []

    def do() -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    when_there_is_room(Home(tmp_path), do, pauses.append)
    assert len(pauses) == 3
    assert [
        r.message for r in caplog.records if "the start goes on when there is room" in r.message
    ] == [caplog.records[0].message]
    answers = [PermissionError(errno.EACCES, "Permission denied")]
    with pytest.raises(PermissionError):
        when_there_is_room(Home(tmp_path), do, pauses.append)


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        pytest.param(OSError(errno.ENOSPC, ""), True, id="the disk"),
        pytest.param(OSError(errno.EDQUOT, ""), True, id="a quota"),
        pytest.param(OSError(errno.EFBIG, ""), True, id="a limit of files"),
        pytest.param(OSError(errno.EACCES, ""), False, id="rights"),
        pytest.param(ValueError(), False, id="no error of a file"),
        pytest.param(None, False, id="nothing"),
    ],
)
def test_which_errors_say_that_there_is_no_room(error: BaseException | None, is_full: bool) -> None:
    assert says_full(error) == is_full


@pytest.mark.parametrize(
    ("free", "size", "said"),
    [
        pytest.param(50_000_000, 1_000_000_000, "", id="exactly five in a hundred"),
        pytest.param(49_999_999, 1_000_000_000, "is nearly full: 50 of 1,000 MB", id="less"),
        pytest.param(0, 1_000_000_000, "is full: 0 of 1,000 MB", id="none"),
        pytest.param(0, 0, "", id="a system that does not say"),
    ],
)
def test_what_a_person_is_told_of_a_disk(free: int, size: int, said: str) -> None:
    warning = DiskSpace(free, size).warning(Path("var"))
    assert said in warning
    assert bool(warning) == bool(said)


def test_status_tells_of_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    monkeypatch.setattr(
        "mlplatform.operations.supervisor.status.disk_space",
        lambda folder: DiskSpace(0, 400_000_000),
    )
    assert status(home).disk.startswith(f"the disk of {tmp_path} is full")


def test_the_page_tells_of_a_full_disk_and_of_what_was_killed() -> None:
    killed = ProcessStatus(
        "mlflow", 7, "ready", "", 1, 9.0, 3.0, 5000, "was killed (signal 9): out of memory", 1_000
    )
    full = DiskSpace(0, 400_000_000).warning(Path("/home <of> the platform"))
    shown = render(
        "overview.html",
        waiting=[],
        reviews=[],
        here="overview",
        refused={},
        status=PlatformStatus("ready", (killed,), full),
        models=[],
        rollouts=[],
        incidents=[],
        tones={},
        links={},
    )
    assert "The disk of /home &lt;of&gt; the platform is full: 0 of 400 MB" in shown
    assert "its last process was killed (signal 9): out of memory" in shown


def test_what_ended_a_process_last_is_told_once_it_is_ready_again(tmp_path: Path) -> None:
    home = Home(tmp_path)
    own = ProcessId.of(os.getpid())
    assert own is not None
    write_supervisor(home, SupervisorRecord(own, "ready"))
    ended = "was killed (signal 9): out of memory"
    again = ProcessRecord("mlflow", "ready", "", 1, ended=ended, ended_ms=1_795_000_000_000)
    never = ProcessRecord("page", "ready", "", 0)
    waits = msgspec.structs.replace(again, state="restarting", reason="starts again in 0.2 s")
    write_processes(home, [again, never, waits])
    whys = [process.why for process in status(home).processes[1:]]
    assert whys == [
        "its last process was killed (signal 9): out of memory (11-18 11:06 UTC)",
        "",
        "starts again in 0.2 s",
    ]


def test_a_supervisor_whose_disk_is_full_goes_on_and_writes_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child dies and comes back meanwhile, nobody hears of changes, and it stops in order."""
    home = Home(tmp_path / "home")
    home.create()
    full = Disk()
    full.is_full = True
    told: list[Change] = []

    def tell(change: Change) -> None:
        told.append(change)
        no_room()

    spec = ChildSpec("short", ("sh", "-c", "sleep 0.3; exit 3"), stop_grace_s=1)
    platform = Supervisor(home, [spec], on_change=tell)
    monkeypatch.setattr(platform, "_files", RetriedWrites(full.write))

    async def run() -> None:
        running = asyncio.create_task(platform._run(Listeners([spec])))
        await _until(lambda: sum(change.state == "restarting" for change in told) >= 2)
        assert not running.done()
        assert read_supervisor(home) is None
        full.is_full = False
        await _until(lambda: bool(read_processes(home)) and read_supervisor(home) is not None)
        assert read_processes(home)[0].ended == "ended with status 3"
        platform.stop()
        await running

    asyncio.run(run())
    last = read_supervisor(home)
    assert last is not None
    assert last.state == "stopped"


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.05)
