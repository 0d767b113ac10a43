"""A backup is one moment of a platform that goes on, and comes back whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.port import RecordQuery
from mlplatform.decisions.spill.writer import SpillingLog, SpillPolicy
from mlplatform.operations.backup import snapshot as snapshots
from mlplatform.operations.backup.manifest import Manifest
from mlplatform.operations.backup.restore import RestoreReport, check, restore
from mlplatform.operations.backup.take import back_up
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.runtime.configuration.settings import Home, Settings, load
from mlplatform.runtime.errors import Busy, Corrupt, NotFound, Refused
from mlplatform.runtime.processes.records import Lock
from mlplatform.scoring.admission.sqlite import SqliteAdmission
from support.home_world import CLIENT, MANIFEST, MODEL, WRITER, HomeWorld

FORMS = ["backup", "backup.tar"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[HomeWorld]:
    world = HomeWorld(tmp_path / "home")
    world.fill()
    yield world
    world.close()


@pytest.fixture(params=FORMS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a backup goes: a folder, or a tar file."""
    return tmp_path / str(request.param)


@pytest.fixture
def empty(tmp_path: Path) -> Home:
    return Home(tmp_path / "restored")


def settings_of(home: Home) -> Settings:
    return load({"MLPLATFORM_HOME": str(home.root)})


def taken(world: HomeWorld, target: Path, during: Callable[[], None] | None = None) -> Manifest:
    """A backup, while something is done at each step of copying."""
    told = lambda name, count: during() if during else None  # noqa: E731
    return back_up(settings_of(world.home), target, now_ms=7, progress=told)


def restored(target: Path, home: Home, **options: Any) -> RestoreReport:
    return restore(target, settings_of(home), now_ms=7, **options)


def records(home: Home) -> list[dict[str, Any]]:
    with contextlib.closing(SqliteDecisionLog(home.decisions)) as log:
        columns = ("writer", "seq", "decision_id", "generation")
        rows: list[dict[str, Any]] = log.read(RecordQuery(columns=columns)).to_pylist()
    return rows


def test_what_comes_back_is_what_was_there(world: HomeWorld, target: Path, empty: Home) -> None:
    manifest = taken(world, target)
    done = restored(target, empty)
    assert done.findings == ()
    assert done.log is not None
    assert (done.log.records, done.log.segments) == (8, 1)
    assert done.contents is not None
    assert done.contents.champions == {MODEL: 1}
    assert done.contents.rollouts == {"promoted": 1}
    assert done.contents.keys == 1
    assert records(empty) == records(world.home)
    with contextlib.closing(SqliteDecisionLog(empty.decisions)) as log:
        found = log.find(CLIENT, MODEL, "d3")
        assert found is not None
        assert found.answer == b"answer to d3"
    with contextlib.closing(SqliteRollouts(empty.rollouts_db)) as rollouts:
        assert rollouts.routes(MODEL) == world.rollouts.routes(MODEL)
        assert rollouts.active(finished=True) == world.rollouts.active(finished=True)
        assert rollouts.verify() == ()
    assert manifest.log is not None
    assert manifest.log.writers[WRITER].seq == 8
    assert manifest.schemas["rollouts.db"] == {"rollouts": 2}


def test_a_restored_log_is_written_on_where_it_ended(
    world: HomeWorld, target: Path, empty: Home
) -> None:
    taken(world, target)
    restored(target, empty)
    again = HomeWorld(empty.root)
    again.number = world.number
    again.decide(1)
    assert again.log.verify(again.rollouts.last_anchor()).findings == ()
    assert max(row["seq"] for row in records(empty)) == 9
    again.close()


def test_only_its_owner_can_read_a_backup_or_what_comes_of_it(
    world: HomeWorld, target: Path, empty: Home
) -> None:
    before = os.umask(0)
    try:
        taken(world, target)
        restored(target, empty)
    finally:
        os.umask(before)
    for top in (target, empty.root):
        for path in (top, *top.rglob("*")):
            wanted = 0o700 if path.is_dir() else 0o600
            assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_tokens_of_a_start_logs_and_unfinished_files_stay_out(
    world: HomeWorld, tmp_path: Path
) -> None:
    names = {file.name for file in taken(world, tmp_path / "backup").files}
    assert not {name for name in names if name.startswith(("run/", "logs/", "serving/status/"))}
    assert not {name for name in names if ".building" in name or name.endswith((".lock", "-wal"))}
    assert {"secrets/pseudonym.key", "bundles/ab/bundle.json", "reports/drift.html"} < names
    for path in (tmp_path / "backup").rglob("*.db*"):
        assert world.secret.encode() not in path.read_bytes()


def test_a_file_that_nobody_thought_of_is_in_the_backup(
    world: HomeWorld, target: Path, empty: Home
) -> None:
    world.write("later/part.json", "{}")
    (SqliteAdmission(world.home.root / "later" / "part.db")).close()
    taken(world, target)
    restored(target, empty)
    assert (empty.root / "later" / "part.json").read_text() == "{}"
    with contextlib.closing(SqliteAdmission(empty.root / "later" / "part.db")) as store:
        assert store.all_keys() == []


def test_bundles_on_a_volume_of_their_own_go_back_to_one(
    world: HomeWorld, target: Path, empty: Home, tmp_path: Path
) -> None:
    old, new = tmp_path / "old volume", tmp_path / "new volume"
    (world.home.root / "bundles").rename(old)
    here, there = (
        load({"MLPLATFORM_HOME": str(root), "MLPLATFORM_BUNDLES": str(bundles)})
        for root, bundles in ((world.home.root, old), (empty.root, new))
    )
    back_up(here, target, now_ms=7)
    assert restore(target, there, now_ms=7).findings == ()
    assert (new / "ab" / "bundle.json").read_text() == "{}"
    assert not (empty.root / "bundles").exists()


def test_services_read_their_bundles_in_the_new_home(
    world: HomeWorld, target: Path, empty: Home
) -> None:
    taken(world, target)
    restored(target, empty)
    manifest = json.loads((empty.serving / "desired" / f"{MANIFEST}.json").read_bytes())
    uri = manifest["spec"]["predictor"]["model"]["storageUri"]
    assert uri == (empty.bundles / "ab").as_uri()


def test_whoever_writes_meanwhile_changes_nothing_of_the_moment(
    world: HomeWorld, target: Path, empty: Home
) -> None:
    def goes_on() -> None:
        if world.number < 60:
            world.decide(3)
            world.promote(world.rollouts.routes(MODEL).generation + 1)
            world.rollouts.anchor(world.log.seal())

    manifest = taken(world, target, goes_on)
    assert world.number > 8
    done = restored(target, empty)
    assert done.findings == ()
    assert len(records(empty)) == 8
    assert manifest.journal is not None
    assert manifest.journal.generations == {MODEL: 1}


def test_files_that_are_merged_meanwhile_are_in_the_backup_as_they_were(
    world: HomeWorld, target: Path, empty: Home
) -> None:
    place = world.home.decisions / "segments"
    with contextlib.closing(SqliteDecisionLog(world.home.decisions, segment_rows=(1, 900))) as log:

        def sealed(count: int) -> None:
            for _ in range(count):
                world.decide(1)
                log.seal()

        sealed(3)
        names = {path.name for path in place.glob("*/*")}
        calls = iter((9,))
        taken(world, target, lambda: sealed(next(calls, 0)))
        assert names < {path.name for path in place.glob("*/*")}
        log.seal()
        assert not names & {path.name for path in place.glob("*/*")}
        assert log.verify().findings == ()
    assert restored(target, empty).findings == ()
    assert names == {path.name for path in (empty.decisions / "segments").glob("*/*")}


def test_a_promotion_while_the_databases_are_looked_at_makes_them_be_looked_at_again(
    world: HomeWorld, target: Path, empty: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens, real = [], snapshots.database_snapshot

    def promoted_in_between(path: Path) -> Any:
        if path == world.home.decisions / "decisions.db" and len(opens) < 2:
            opens.append(path)
            world.promote(world.rollouts.routes(MODEL).generation + 1)
            world.decide(1)
        return real(path)

    monkeypatch.setattr(snapshots, "database_snapshot", promoted_in_between)
    manifest = taken(world, target)
    assert manifest.journal is not None
    assert manifest.journal.generations == {MODEL: 3}
    assert restored(target, empty).findings == ()
    assert max(row["generation"] for row in records(empty)) == 3


def test_rollouts_that_never_stand_still_are_no_moment(
    world: HomeWorld, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = snapshots.database_snapshot

    def promoted_in_between(path: Path) -> Any:
        if path == world.home.decisions / "decisions.db":
            world.promote(world.rollouts.routes(MODEL).generation + 1)
        return real(path)

    monkeypatch.setattr(snapshots, "database_snapshot", promoted_in_between)
    with pytest.raises(Busy, match="try again"):
        taken(world, target)
    assert not target.exists()


def spilling(log: SqliteDecisionLog) -> SpillingLog:
    return SpillingLog(log, WRITER, SpillPolicy(maximum_bytes=1_000_000))


def caught_up(log: SqliteDecisionLog) -> None:
    mover = spilling(log)
    while mover.catch_up():
        pass
    mover.close_writer(WRITER)


def test_records_that_wait_outside_of_the_log_are_in_it_once_after_a_restore(
    world: HomeWorld, target: Path, empty: Home
) -> None:
    name = world.spill(3)
    manifest = taken(world, target, lambda: caught_up(world.log))
    assert set(manifest.spilled) == {name}
    done = restored(target, empty)
    assert done.log is not None
    assert (done.log.records, done.log.spilled) == (8, 3)
    with contextlib.closing(SqliteDecisionLog(empty.decisions)) as log:
        caught_up(log)
        assert log.verify().findings == ()
    assert sorted(r["decision_id"] for r in records(empty)) == sorted(f"d{n}" for n in range(1, 12))


@pytest.mark.parametrize("when", ["before", "after"])
def test_records_that_are_moved_while_the_log_is_looked_at_are_there_once(
    world: HomeWorld, target: Path, empty: Home, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    world.spill(3)
    real = snapshots.database_snapshot

    @contextlib.contextmanager
    def moved(path: Path) -> Iterator[Any]:
        is_log = path == world.home.decisions / "decisions.db"
        if is_log and when == "before":
            caught_up(world.log)
        with real(path) as db:
            if is_log and when == "after":
                caught_up(world.log)
            yield db

    monkeypatch.setattr(snapshots, "database_snapshot", moved)
    taken(world, target)
    restored(target, empty)
    with contextlib.closing(SqliteDecisionLog(empty.decisions)) as log:
        caught_up(log)
        assert log.verify().findings == ()
    assert sorted(r["decision_id"] for r in records(empty)) == sorted(f"d{n}" for n in range(1, 12))


def files_of(target: Path) -> list[Path]:
    return sorted(path for path in target.rglob("*") if path.is_file())


def test_each_changed_byte_and_each_missing_file_is_named(world: HomeWorld, tmp_path: Path) -> None:
    world.spill(1)
    target = tmp_path / "backup"
    taken(world, target)
    for path in files_of(target):
        whole, name = path.read_bytes(), path.relative_to(target).as_posix()
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 1
        for data in (bytes(changed), whole[:-1], whole + b" ", None):
            path.unlink()
            if data is not None:
                path.write_bytes(data)
            assert named(target) == name, (name, data and len(data))
        path.write_bytes(whole)
    (target / "run").mkdir()
    (target / "run" / "more").write_text("")
    assert named(target) == "run/more"


def named(target: Path) -> str:
    """The one file that the check of a backup finds something about."""
    try:
        (finding,) = check(target).findings
    except Corrupt as error:
        finding = str(error).removeprefix("there is no ").replace(":", " ")
    return finding.split()[0]


def is_put_in_place(target: Path, home: Home) -> bool:
    try:
        return restored(target, home).contents is not None
    except Corrupt:
        return False


def test_a_changed_tar_file_is_never_put_in_place(
    world: HomeWorld, tmp_path: Path, empty: Home
) -> None:
    target = tmp_path / "backup.tar"
    taken(world, target)
    whole = target.read_bytes()
    for data in (whole.replace(b"answer to d7", b"answer to d8"), whole[: len(whole) // 2], b""):
        assert data != whole
        target.write_bytes(data)
        assert not is_put_in_place(target, empty)
        assert not empty.root.exists()


def test_a_log_that_was_damaged_before_is_put_in_place_only_where_that_is_asked_for(
    world: HomeWorld, target: Path, empty: Home
) -> None:
    (segment,) = world.home.decisions.glob("segments/*/*.parquet")
    segment.write_bytes(b"?" + segment.read_bytes()[1:])
    taken(world, target)
    done = restored(target, empty)
    assert any(segment.stem in finding for finding in done.findings)
    assert done.contents is None
    assert not empty.root.exists()
    assert restored(target, empty, despite_findings=True).contents is not None


def test_a_log_without_the_journal_that_anchors_it_is_not_called_whole(
    world: HomeWorld, tmp_path: Path, empty: Home
) -> None:
    for path in world.home.root.glob("rollouts.db*"):
        path.unlink()
    taken(world, tmp_path / "backup")
    (finding,) = restored(tmp_path / "backup", empty).findings
    assert "journal" in finding
    assert not empty.root.exists()


def test_a_backup_of_a_newer_release_is_refused(
    world: HomeWorld, target: Path, empty: Home
) -> None:
    with snapshots.database_snapshot(world.home.rollouts_db):
        pass
    with world.rollouts._database.write_transaction() as session:
        session.change("UPDATE schema_versions SET version = 99")
    taken(world, target)
    with pytest.raises(Refused, match=r"rollouts in rollouts\.db is at schema version 99"):
        restored(target, empty)
    assert not empty.root.exists()


@pytest.mark.parametrize("name", ["online.db", "rollouts.db", "mlflow/mlflow.db"])
def test_a_damaged_database_is_named(world: HomeWorld, target: Path, name: str) -> None:
    """Those that are held and those that are copied at once: no error of SQLite comes through."""
    path = world.home.root / name
    path.parent.mkdir(exist_ok=True)
    for old in path.parent.glob(f"{path.name}*"):
        old.unlink()
    path.write_bytes(b"this is no database " * 500)
    with pytest.raises(Corrupt, match=rf"{name} is damaged: file is not a database"):
        taken(world, target)
    assert not target.exists()


def test_pages_that_are_damaged_are_named_as_their_database(world: HomeWorld, target: Path) -> None:
    """The file opens, and what is wrong shows once it is copied or read."""
    path = world.home.root / "pushes.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE journal_of_pushes (body TEXT)")
        db.execute("CREATE TABLE schema_versions (part TEXT, version INTEGER)")
        db.commit()
    pages = bytearray(path.read_bytes())
    pages[-4096:] = b"x" * 4096
    path.write_bytes(pages)
    with pytest.raises(Corrupt, match=r"pushes\.db is damaged"):
        taken(world, target)


def test_nothing_is_overwritten(world: HomeWorld, target: Path, empty: Home) -> None:
    taken(world, target)
    with pytest.raises(Refused, match="already"):
        taken(world, target)
    with pytest.raises(Refused, match="within the home"):
        taken(world, world.home.root / "backup")
    with pytest.raises(NotFound, match="folder"):
        taken(world, target.parent / "nowhere" / "backup")
    with pytest.raises(Refused, match="not empty"):
        restored(target, world.home)
    empty.run.mkdir(parents=True)
    lock = Lock(empty)
    lock.acquire()
    with pytest.raises(Busy, match="already runs"):
        restored(target, empty)
    lock.release()
    with pytest.raises(NotFound):
        restored(target.parent / "nothing", Home(target.parent / "elsewhere"))
    elsewhere = settings_of(Home(target.parent / "elsewhere"))
    with pytest.raises(NotFound, match="no decision log"):
        back_up(elsewhere, target.parent / "other", now_ms=1)


def test_a_backup_that_fails_leaves_nothing(world: HomeWorld, target: Path) -> None:
    before = sorted(target.parent.iterdir())

    def fails() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(Exception, match="No space left"):
        taken(world, target, fails)
    assert sorted(target.parent.iterdir()) == before


KILLED_AT_A_STEP = """
import os, signal, sys
from pathlib import Path
from mlplatform.operations.backup.restore import restore
from mlplatform.operations.backup.take import back_up
from mlplatform.runtime.configuration.settings import load
left = int(sys.argv[3])
def step(call):
    def made(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return made
"""
KILLED = f"""{KILLED_AT_A_STEP}
Path.rename = step(Path.rename)
os.open = step(os.open)
restore(Path(sys.argv[1]), load({{"MLPLATFORM_HOME": sys.argv[2]}}), now_ms=7)
"""
KILLED_BACKUP = f"""{KILLED_AT_A_STEP}
os.fsync, os.rename = step(os.fsync), step(os.rename)
back_up(load({{"MLPLATFORM_HOME": sys.argv[1]}}), Path(sys.argv[2]), now_ms=7)
"""


@pytest.mark.parametrize("steps", [1, 5, 15, 25])
def test_a_backup_that_is_killed_is_not_there(
    world: HomeWorld, tmp_path: Path, empty: Home, steps: int
) -> None:
    target = tmp_path / "backup"
    argv = [sys.executable, "-c", KILLED_BACKUP, str(world.home.root), str(target), str(steps)]
    assert subprocess.run(argv).returncode == -signal.SIGKILL
    assert not target.exists()
    taken(world, target)
    assert restored(target, empty).findings == ()


def test_a_restore_that_is_killed_at_any_step_leaves_no_home_that_would_start(
    world: HomeWorld, tmp_path: Path, empty: Home
) -> None:
    taken(world, tmp_path / "backup")
    argv = [sys.executable, "-c", KILLED, str(tmp_path / "backup"), str(empty.root)]
    in_place = set()
    for steps in (1, 2, 9, 17, 25, 30, 33, 36, 39, 42, 45, 60):
        ended = subprocess.run([*argv, str(steps)], capture_output=True)
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        if not empty.root.exists():
            continue
        with pytest.raises(Busy, match="restore again"):
            empty.create()
        in_place = {path.name for path in empty.root.iterdir()} - {".restoring"}
        if in_place:
            with pytest.raises(Refused, match="not empty"):
                restored(tmp_path / "backup", empty)
            shutil.rmtree(empty.root)
    assert in_place  # it was killed between two of the last steps, too
    shutil.rmtree(empty.root, ignore_errors=True)
    assert restored(tmp_path / "backup", empty).contents is not None
    empty.create()


def test_the_commands_say_what_they_did_in_words_and_in_json(
    world: HomeWorld, tmp_path: Path, empty: Home
) -> None:
    world.spill(2)
    target = str(tmp_path / "backup")

    def run(home: Home, *words: str) -> tuple[int, str]:
        given = {**os.environ, "MLPLATFORM_HOME": str(home.root)}
        done = subprocess.run(
            [sys.executable, "-m", "mlplatform.commands", *words],
            env=given,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout

    code, said = run(world.home, "backup", target, "--json")
    assert code == 0
    assert json.loads(said)["log"]["writers"][WRITER]["seq"] == 8
    assert run(world.home, "backup", target)[0] == 4
    code, said = run(empty, "restore", target, "--check")
    assert code == 0
    assert "8 records" in said
    assert not empty.root.exists()
    code, said = run(empty, "restore", target, "--json")
    assert code == 0
    assert json.loads(said)["contents"]["rollouts"] == {"promoted": 1}
    assert json.loads(said)["verified"]["spilled"] == 2
    (tmp_path / "backup" / "rollouts.db").unlink()
    shutil.rmtree(empty.root)
    code, said = run(empty, "restore", target)
    assert code == 1
    assert said.splitlines()[0] == "rollouts.db is missing"


def scheduled(world: HomeWorld, folder: Path, keep: int) -> Any:
    """`mlplatform backup FOLDER --keep N`, as the CronJob runs it."""
    command = [sys.executable, "-m", "mlplatform.commands", "backup", str(folder), f"--keep={keep}"]
    home = {"MLPLATFORM_HOME": str(world.home.root)}
    return subprocess.run(
        [*command, "--json"], capture_output=True, text=True, env=os.environ | home
    )


def test_a_scheduled_backup_is_checked_and_the_oldest_goes(
    world: HomeWorld, tmp_path: Path
) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    old = [folder / f"mlplatform-2020010{day}T000000Z.tar" for day in (1, 2)]
    for file in old:
        file.touch()

    done = scheduled(world, folder, keep=2)

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["removed"] == [old[0].name]
    assert {p.name for p in folder.iterdir()} == {old[1].name, Path(told["backup"]).name}
    assert check(Path(told["backup"])).findings == ()


def test_while_the_log_does_not_hold_no_older_backup_is_removed(
    world: HomeWorld, tmp_path: Path
) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    (folder / "mlplatform-20200101T000000Z.tar").touch()
    (segment,) = world.home.decisions.glob("segments/*/*.parquet")
    segment.write_bytes(b"?" + segment.read_bytes()[1:])

    done = scheduled(world, folder, keep=1)

    names = {p.name.partition("-")[0] for p in folder.iterdir()}
    assert (done.returncode, names) == (1, {"mlplatform", "damaged"})
    assert "no older one was removed" in done.stderr
