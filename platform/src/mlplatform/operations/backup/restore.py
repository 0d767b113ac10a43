"""Restoring a backup into an empty home folder, after every byte has been checked."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import logging
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlplatform.decisions.records.port import VerifyReport
from mlplatform.model.bundle import BUNDLE_FILE
from mlplatform.operations import wiring
from mlplatform.operations.backup import manifest as manifests
from mlplatform.operations.backup import servers
from mlplatform.operations.backup.archive import (
    ArchiveReader,
    Progress,
    copy,
    new_file,
    reading,
    sync_folders,
)
from mlplatform.operations.backup.contents import Contents, contents_of
from mlplatform.operations.backup.manifest import File, Manifest
from mlplatform.operations.backup.schemas import ON_POSTGRES, check_known
from mlplatform.rollouts.bundles.store import put_bundle
from mlplatform.rollouts.serving.local import read_manifest
from mlplatform.runtime.canonical import canonical_json
from mlplatform.runtime.configuration.settings import Home, Settings
from mlplatform.runtime.errors import Busy, Corrupt, Refused, Unavailable
from mlplatform.runtime.processes.records import Lock
from mlplatform.runtime.storage.files import sync, write_atomically

FINDINGS: Final = 100
LOG_AND_JOURNAL: Final = ("decisions/", "rollouts.db")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """The result of a restore or of a check.

    Args:
        findings: one sentence for each problem.
        log: the result of checking the log; None if damaged files prevented that check.
        contents: what was restored; None if nothing was put in place.
    """

    manifest: Manifest
    findings: tuple[str, ...]
    log: VerifyReport | None = None
    contents: Contents | None = None


def restore(
    source: Path,
    settings: Settings,
    *,
    now_ms: int,
    progress: Progress = lambda name, count: None,
    despite_findings: bool = False,
) -> RestoreReport:
    """Restore a backup into a home folder, and into the servers that the settings name.

    Every file is compared with its digest; then the log and the journal are verified. If there is a
    finding, nothing is put in place. The home folder is complete or empty. Servers are filled
    before it, each in one transaction; after a failure, the error says what is left in them.

    Args:
        now_ms: wall time at which keys count as live.
        despite_findings: whether to restore a log or journal that was damaged when the backup was
            taken. A damaged backup is never restored.

    Raises:
        NotFound: there is no backup at `source`.
        Busy: the platform runs in this home folder, or another restore does.
        Refused: the home folder, a database or the place of objects is not empty; the settings lack
            a server whose data the backup has, or name one whose data it lacks; or a newer release
            took the backup.
        Unavailable: a server does not answer.
        Corrupt: the manifest was changed.
    """
    home = settings.home
    with reading(source) as reader, _staging(home) as folder:
        manifest = _manifest(reader)
        servers.check_empty(settings, manifest.servers)
        findings = _staged(reader, manifest, folder, progress)
        if findings:
            return RestoreReport(manifest, findings)
        report, findings = _verified(folder, manifest)
        if findings and not despite_findings:
            return RestoreReport(manifest, findings, report)
        _move_services(folder, Path(manifest.home), home.root)
        servers.fill(settings, folder)
        stored = _fill_store(settings, folder / "bundles")
        contents = contents_of(dataclasses.replace(settings, home=Home(folder)), now_ms)
        _put_in_place(folder, home, stored)
    return RestoreReport(manifest, findings, report, contents)


def check(source: Path, *, progress: Progress = lambda name, count: None) -> RestoreReport:
    """Check a backup against all of its digests; restores nothing.

    Log and journal are copied to the system's folder for temporary files, and removed from there.

    The errors are those of `restore`, without those about a home folder.
    """
    with reading(source) as reader, tempfile.TemporaryDirectory(prefix="mlplatform-") as folder:
        manifest = _manifest(reader)
        findings = _staged(
            reader, manifest, Path(folder), progress, lambda name: name.startswith(LOG_AND_JOURNAL)
        )
        if findings:
            return RestoreReport(manifest, findings)
        report, findings = _verified(Path(folder), manifest)
    return RestoreReport(manifest, findings, report)


def _manifest(reader: ArchiveReader) -> Manifest:
    if manifests.NAME not in reader.names():
        raise Corrupt(f"there is no {manifests.NAME}: this is not a backup, or not a whole one")
    with reader.open(manifests.NAME) as file:
        manifest = manifests.decode(file.read())
    on_servers = {name for name in manifest.schemas if name.startswith(f"{servers.FOLDER}/")}
    check_known({name: manifest.schemas[name] for name in on_servers}, ON_POSTGRES)
    check_known({n: found for n, found in manifest.schemas.items() if n not in on_servers})
    return manifest


@contextmanager
def _staging(home: Home) -> Iterator[Path]:
    """A folder within the home folder; while it exists, the platform does not start."""
    folder, is_new = home.restoring, not home.root.exists()
    _check_empty(home)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.root.chmod(0o700)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise Unavailable(f"{home.root}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for left in folder.iterdir():  # files of a killed restore
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if is_new and not any(home.root.iterdir()):
                home.root.rmdir()
    except BlockingIOError as error:
        raise Busy(f"another process restores into {home.root}") from error
    except OSError as error:
        raise Unavailable(f"{home.root}: {error.strerror or error}") from error
    finally:
        os.close(descriptor)


def _check_empty(home: Home) -> None:
    if not home.root.exists():
        return
    if not home.root.is_dir():
        raise Refused(f"{home.root} is not a folder")
    there = sorted(path.name for path in home.root.iterdir() if path != home.restoring)
    if there and home.run.is_dir():
        lock = Lock(home)
        lock.acquire()
        lock.release()
    if there:
        raise Refused(
            f"{home.root} is not empty ({', '.join(there[:5])}): a backup goes into an empty"
            " folder only; move this one away, or set MLPLATFORM_HOME"
        )


def _staged(
    reader: ArchiveReader,
    manifest: Manifest,
    folder: Path,
    progress: Progress,
    is_wanted: Callable[[str], bool] = lambda name: True,
) -> tuple[str, ...]:
    """Read all files and copy the wanted ones; returns a sentence for each file that is not
    intact."""
    there = reader.names()
    strangers = there - {file.name for file in manifest.files} - {manifests.NAME}
    findings = [f"{name} is not in the manifest" for name in sorted(strangers)]
    for entry in manifest.files:
        place = folder / entry.name if is_wanted(entry.name) else None
        problem = _copy(reader, entry, place, progress) if entry.name in there else "is missing"
        if problem is not None:
            findings.append(f"{entry.name} {problem}")
    return tuple(findings[:FINDINGS])


def _copy(reader: ArchiveReader, entry: File, place: Path | None, progress: Progress) -> str | None:
    """Copy a file, or only read it; what is wrong with it."""
    try:
        with (
            reader.open(entry.name) as source,
            open(os.devnull, "wb") if place is None else new_file(place) as target,
        ):
            size, sha256 = copy(source, target, lambda count: progress(entry.name, count))
    except (tarfile.TarError, FileNotFoundError, IsADirectoryError, PermissionError) as error:
        return f"can't be read: {error}"
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return f"can't be read: {error.strerror}"
    if size != entry.bytes:
        return f"was changed: it has {size} bytes, and had {entry.bytes}"
    return None if sha256 == entry.sha256 else "was changed: it is not what its digest says"


def _verified(folder: Path, manifest: Manifest) -> tuple[VerifyReport, tuple[str, ...]]:
    """Verify the log against the anchor in the journal, and the journal itself; returns the log's
    report and all findings."""
    home = Home(folder)
    anchor = manifest.anchor
    findings: tuple[str, ...] = ()
    if home.rollouts_db.exists():
        rollouts = wiring.journal_of(home)
        anchor, findings = rollouts.last_anchor(), rollouts.verify()
        rollouts.close()
    decisions = wiring.log_of(home)
    report = decisions.verify(anchor)
    decisions.close()
    if report.records and manifest.journal is None:
        findings = (*findings, "the journal that anchors the log is not in the backup")
    return report, (*report.findings, *findings)


def _move_services(folder: Path, before: Path, after: Path) -> None:
    """Rewrite the bundle paths in the manifests of services from the old home folder to the new
    one."""
    old, new = f"{before.as_uri()}/", f"{after.as_uri()}/"
    for path in sorted(Home(folder).serving.glob("desired/*.json")):
        manifest = read_manifest(path)
        model = manifest["spec"]["predictor"]["model"]
        if model["storageUri"].startswith(old):
            model["storageUri"] = new + model["storageUri"].removeprefix(old)
            write_atomically(path, canonical_json(manifest))


def _fill_store(settings: Settings, bundles: Path) -> frozenset[str]:
    """Put the bundles of a backup into the bundle store, if there is one; what it has stays.
    Returns those that the store has then."""
    store, stored = wiring.Platform(settings).bundles.store, set[str]()
    if store is None:
        return frozenset()
    for folder in sorted(bundles.glob("[!.]*")):
        if not (folder / BUNDLE_FILE).is_file():  # a model repository of Triton
            continue
        try:
            put_bundle(store, folder, folder.name)
            stored.add(folder.name)
        except Corrupt as error:  # it was damaged where the backup was taken
            log.warning("%s is not put into the bundle store: %s", folder.name, error)
    return frozenset(stored)


def _put_in_place(folder: Path, home: Home, stored: Collection[str]) -> None:
    if home.shared_bundles is not None:
        _share(folder / "bundles", home.shared_bundles, stored)
    sync_folders(folder)
    for path in sorted(folder.iterdir()):
        path.rename(home.root / path.name)
    sync(home.root)


def _share(staged: Path, shared: Path, stored: Collection[str]) -> None:
    """Move bundles to the volume that predictors read; a bundle that exists there is the same by
    its digest. Those in the bundle store are fetched from there: the folder is then a cache, which
    may have less room than all of them need."""
    shared.mkdir(mode=0o700, parents=True, exist_ok=True)
    for bundle in sorted(staged.glob("[!.]*")):
        if bundle.name not in stored and not (shared / bundle.name).exists():
            draft = shared / f".{bundle.name}.restoring"
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(bundle, draft)
            draft.rename(shared / bundle.name)
    shutil.rmtree(staged, ignore_errors=True)
