"""Taking a backup of a home folder, whether its platform runs or not."""

from __future__ import annotations

import io
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Final

from mlplatform.decisions.log.segments import SEGMENTS
from mlplatform.model.bundle import BUNDLE_FILE
from mlplatform.operations import wiring
from mlplatform.operations.backup import manifest as manifests
from mlplatform.operations.backup import servers
from mlplatform.operations.backup.archive import ArchiveWriter, Progress, writing
from mlplatform.operations.backup.manifest import File, Manifest
from mlplatform.operations.backup.snapshot import (
    LAST,
    LOG,
    PAGES,
    SPILLS,
    Snapshot,
    Spill,
    database_errors,
    database_snapshot,
    held_snapshot,
    postgres_schemas,
    schemas,
)
from mlplatform.rollouts.bundles.store import is_complete, stored_files
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import Busy, MissingHere, Refused
from mlplatform.runtime.storage.objects import Objects

LEFT_OUT: Final = (
    *("run", "logs", "jobs", "staging", "counted", "serving/status"),
    f"decisions/{SEGMENTS}",
)
"""Folders that a backup leaves out: they belong to one start (tokens, addresses) or to work that
its caller repeats. Segments are copied by the log's list of them."""
PREFECTS: Final = "prefect/storage"
"""The only copied part of Prefect's folder, results of runs, beside its database; the rest is notes
of its clients."""
UNFINISHED: Final = (".tmp", ".lock", "-wal", "-shm", "-journal")
SQLITE: Final = b"SQLite format 3\0"


def back_up(
    settings: Settings, target: Path, *, now_ms: int, progress: Progress = lambda name, count: None
) -> Manifest:
    """Write the whole state of an installation to a new folder, or a `.tar` file.

    Other processes keep writing. What was answered before this began is in the backup.

    Args:
        now_ms: wall time, for the manifest.
        progress: called for each file as it is copied.

    Raises:
        NotFound: there is no home folder, no folder to write to, or no `pg_dump` for a PostgreSQL.
        Refused: `target` exists, or is within the home folder.
        Busy: rollouts changed all the time, or a file was removed meanwhile.
        Unavailable: a database is locked for long, a server does not answer, or the disk is full.
        Corrupt: a database is damaged.
    """
    home = settings.home
    if not (home.root / LOG).exists():
        raise MissingHere("decision log", home.root)
    if target.parent.resolve().is_relative_to(home.root.resolve()):
        raise Refused(f"{target} is within the home folder")
    with writing(target) as writer:
        with held_snapshot(home, settings.postgres) as at:
            taken = _BackupRun(settings, at, writer, progress)
            taken.everything()
        manifest = taken.manifest(now_ms)
        writer.add(manifests.NAME, io.BytesIO(manifests.encode(manifest)), progress)
    return manifest


class _BackupRun:
    def __init__(
        self, settings: Settings, at: Snapshot, writer: ArchiveWriter, progress: Progress
    ) -> None:
        self._settings = settings
        self._root = settings.home.root
        self._at = at
        self._writer = writer
        self._progress = progress
        self._files: list[File] = []
        self._schemas: dict[str, dict[str, int | str]] = {}

    def everything(self) -> None:
        self._log()
        for name in LAST:
            if (self._root / name).exists():
                with database_snapshot(self._root / name) as db:
                    self._database(name, db)
        self._servers()
        for name, db in self._at.held.items():
            if name != LOG:
                self._database(name, db)
        for spill in self._at.spills:
            self._spill(spill)
        for name in self._at.segments:
            self._file(f"decisions/{SEGMENTS}/{name}")
        for name in self._at.offline:
            self._file(name)
        for name in self._rest():
            self._database_or_file(name)
        self._copy_shared_bundles()
        self._copy_stored_bundles()

    def manifest(self, now_ms: int) -> Manifest:
        return Manifest(
            format=manifests.FORMAT,
            platform=metadata.version("mlplatform"),
            taken_ms=now_ms,
            home=str(self._root),
            schemas=self._schemas,
            log=self._at.head,
            anchor=self._at.anchor,
            spilled={spill.name: spill.bytes for spill in self._at.spills},
            journal=self._at.journal,
            servers=servers.server_settings(self._settings),
            files=sorted(self._files, key=lambda file: file.name),
        )

    def _log(self) -> None:
        """Copy the log first and release its snapshot: its write-ahead log grows while the snapshot
        is held."""
        db = self._at.held[LOG]
        self._database(LOG, db)
        db.execute("ROLLBACK")

    def _servers(self) -> None:
        """Copy the registry's database before its objects, so that it names only objects that
        exist."""
        if self._at.postgres is not None:
            self._dump(servers.PLATFORM, self._at.postgres)
        if self._settings.mlflow_postgres is not None:
            with servers.hold_database(self._settings.mlflow_postgres) as database:
                self._dump(servers.MLFLOW, database)
        if self._settings.mlflow_artifacts:
            objects = Objects(self._settings.mlflow_artifacts)
            for key in objects.names():
                with objects.open(key) as source:
                    name = f"{servers.ARTIFACTS}/{key}"
                    self._files.append(self._writer.add(name, source, self._progress))

    def _dump(self, name: str, database: servers.HeldDatabase) -> None:
        self._schemas[name] = postgres_schemas(database)
        self._files.append(self._writer.write(name, database.dump))

    def _database(self, name: str, db: sqlite3.Connection) -> None:
        with database_errors(self._root / name):
            self._copy(name, db)

    def _copy(self, name: str, db: sqlite3.Connection) -> None:
        page_bytes: int = db.execute("PRAGMA page_size").fetchone()[0]
        done = 0

        def on_copied(status: int, remaining: int, total: int) -> None:
            nonlocal done
            self._progress(name, (total - remaining - done) * page_bytes)
            done = total - remaining

        def make(path: Path) -> None:
            with closing(sqlite3.connect(path)) as copy:
                db.backup(copy, pages=PAGES, progress=on_copied, sleep=0)

        self._schemas[name] = schemas(db)
        self._files.append(self._writer.write(name, make))

    def _spill(self, spill: Spill) -> None:
        with os.fdopen(os.dup(spill.descriptor), "rb") as file:
            file.seek(0)
            source: Any = _FileStart(file, spill.bytes)
            self._files.append(self._writer.add(spill.name, source, self._progress))

    def _copy_shared_bundles(self) -> None:
        """Copy bundles on a volume outside of the home folder, under the names that they have
        inside it."""
        shared = self._settings.home.shared_bundles
        if shared is None or shared.is_relative_to(self._root):
            return
        for path in sorted(shared.rglob("*")):
            name = f"bundles/{path.relative_to(shared).as_posix()}"
            if path.is_file() and _is_kept(name):
                self._file(name, path)

    def _copy_stored_bundles(self) -> None:
        """Copy bundles of the store that this machine does not hold, as if it held them."""
        store = wiring.Platform(self._settings).bundles.store
        copied = {file.name for file in self._files}
        if store is None:
            return
        for bundle in store.bundles():
            if f"bundles/{bundle}/{BUNDLE_FILE}" in copied or not is_complete(store, bundle):
                continue
            for name in stored_files(store, bundle):
                with store.open(bundle, name) as source:
                    place = f"bundles/{bundle}/{name}"
                    self._files.append(self._writer.add(place, source, self._progress))

    def _file(self, name: str, path: Path | None = None) -> None:
        try:
            with (path or self._root / name).open("rb") as file:
                self._files.append(self._writer.add(name, file, self._progress))
        except FileNotFoundError as error:
            raise Busy(f"{name} was removed while the backup was taken; try again") from error

    def _database_or_file(self, name: str) -> None:
        with (self._root / name).open("rb") as file:
            is_database = file.read(len(SQLITE)) == SQLITE
        if is_database:
            with database_snapshot(self._root / name) as db:
                self._database(name, db)
        else:
            self._file(name)

    def _rest(self) -> Iterator[str]:
        """Yield all files not copied yet: keys, bundles, artifacts, services to run, results, and
        what a later release adds."""
        done = {file.name for file in self._files}
        for path in sorted(self._root.rglob("*")):
            name = path.relative_to(self._root).as_posix()
            if path.is_file() and name not in done and _is_kept(name):
                yield name


class _FileStart:
    """The first `count` bytes of a file to which other processes may keep appending."""

    def __init__(self, file: IO[bytes], count: int) -> None:
        self._file = file
        self._left = count

    def read(self, size: int) -> bytes:
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data


def _is_kept(name: str) -> bool:
    if name.startswith("prefect/"):
        return name.startswith(f"{PREFECTS}/")
    if name.startswith("offline/") or (name.startswith(SPILLS) and name.endswith(".spill")):
        return False
    is_left_out = any(name.startswith(f"{folder}/") for folder in LEFT_OUT)
    is_draft = name.endswith(UNFINISHED) or any(part.startswith(".") for part in name.split("/"))
    return not is_left_out and not is_draft
