"""The bundles of one machine: its own, and in front of a store those that it has fetched."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from mlplatform.model.bundle import BUNDLE_FILE, appear, load_bundle
from mlplatform.model.weights.load_time import folder_bytes
from mlplatform.rollouts.bundles.fetch import BundleFetch
from mlplatform.rollouts.bundles.plan import (
    CacheEntry,
    FetchSpace,
    bytes_to_fetch,
    evictions,
    fetch_space,
    space_problem,
)
from mlplatform.rollouts.bundles.store import BundleStore, Progress, put_bundle, quiet
from mlplatform.runtime.canonical import DIGEST
from mlplatform.runtime.errors import NotFound, Unavailable
from mlplatform.runtime.storage.disk import says_full

KEPT_FOLDER: Final = ".store"
"""Folder beside the bundles with drafts, locks and times of use."""
AT_ONCE: Final = 2
"""Most bundles that all processes of a machine fetch at once."""
WAIT_S: Final = 0.1
LOG_EVERY_S: Final = 10.0
DRAFT_S: Final = 86_400.0
"""Seconds after which a draft that nobody fetches on is removed."""
MOST_BYTES: Final = 20 * 1024**3

log = logging.getLogger(__name__)


class BundleCache:
    """The folder of bundles of one machine, whose processes share it.

    Args:
        store: where bundles are fetched from and put; None: the folder has all there are, and
            nothing is fetched or removed.
        most_bytes: what the folder may hold, where bundles that something names leave room.
        named: gives the digests that must stay; None: they are not known now, and all stay.
        volume_bytes: what the folder's volume may hold; 0: it has no limit of its own. Fetches into
            one with a limit go one by one, since each counts what the others left.
    """

    def __init__(
        self,
        folder: Path,
        store: BundleStore | None = None,
        most_bytes: int = MOST_BYTES,
        named: Callable[[], Collection[str] | None] = tuple,
        volume_bytes: int = 0,
    ) -> None:
        self.folder, self.store = folder, store
        self._most, self._named, self._volume = most_bytes, named, volume_bytes
        self._own = folder / KEPT_FOLDER

    def get(self, bundle: str, progress: Progress = quiet) -> Path:
        """The folder of a bundle, which is fetched if it is not here; one that is here may have
        been changed since.

        Raises:
            NotFound: the store lacks it, or there is no store.
            Corrupt: the store's bundle was changed.
            Unavailable: the store does not answer, or this machine has no room.
        """
        folder = self.folder / bundle
        if self.store is None or DIGEST.fullmatch(bundle) is None:
            if not folder.is_dir():
                raise NotFound(f"no bundle {folder}")
            return folder
        if not folder.is_dir():
            self._fetch(self.store, bundle, progress)
        self._touch(bundle, only_marked=True)
        return folder

    def fetch(self, bundles: Iterable[str]) -> None:
        """Fetch those of some bundles that are not here, if there is a store.

        Raises as `get`.
        """
        if self.store is not None:
            for bundle in bundles:
                self.get(bundle)

    def put(self, bundle: str, progress: Progress = quiet, *, reads: bool = False) -> list[str]:
        """Put a bundle that is here into the store, if there is one; see `put_bundle`."""
        if self.store is None:
            return []
        put = put_bundle(self.store, self.folder / bundle, bundle, progress, reads=reads)
        self._touch(bundle)
        return put

    def trim(self) -> None:
        """Remove what is too much, as before a fetch."""
        if self.store is not None and self.folder.is_dir():
            self._make_space(0)

    def _fetch(self, store: BundleStore, bundle: str, progress: Progress) -> None:
        draft = self._own / "drafts" / bundle
        fetch_log = _FetchLog(bundle, store.uri, progress)
        try:
            with self._locked(bundle):
                if (self.folder / bundle).is_dir():  # another process has fetched it meanwhile
                    return
                with self._slot():
                    draft.mkdir(mode=0o700, parents=True, exist_ok=True)
                    space = self._check_space(bundle)
                    BundleFetch(store, bundle, draft, self.folder, space, fetch_log).run()
                    load_bundle(draft, bundle, data=False)  # all digests were compared on the way
                    for left in draft.glob(".*"):
                        left.unlink()
                    self._touch(bundle)
                    appear(draft, self.folder / bundle, bundle)
                    shutil.rmtree(draft, ignore_errors=True)
        except OSError as error:
            why = "the disk is full" if says_full(error) else error.strerror or str(error)
            more = "; make room there: it is then fetched on" if says_full(error) else ""
            raise Unavailable(
                f"bundle {bundle} can't be fetched into {self.folder}: {why}{more}"
            ) from error
        fetch_log.end()

    def _check_space(self, bundle: str) -> Callable[[Mapping[str, int], Mapping[str, int]], None]:
        def check(sizes: Mapping[str, int], here: Mapping[str, int]) -> None:
            space = self._make_space(bytes_to_fetch(sizes, here))
            if problem := space_problem(space):
                raise Unavailable(f"bundle {bundle} in {self.folder} {problem}")

        return check

    def _make_space(self, wanted: int) -> FetchSpace:
        """Remove what has to leave for so many bytes; returns the space that there is then."""
        self._sweep()
        space = self._space(wanted)
        cached = list(self._entries())
        if not evictions(cached, (), space, time.time()):  # spares the question what is named
            return space
        named = self._named()
        if named is None:
            return space
        for bundle in evictions(cached, named, space, time.time()):
            self._remove(bundle)
        return self._space(wanted)

    def _sweep(self) -> None:
        """Remove what fetches and removals left that were cut off for good."""
        for left in (*self._own.glob("drafts/*"), *self._own.glob("gone-*")):
            newest_s = max((_modified_s(p) or 0.0 for p in (left, *left.glob("*"))), default=0.0)
            if time.time() - newest_s > DRAFT_S:
                shutil.rmtree(left, ignore_errors=True)

    def _space(self, wanted: int) -> FetchSpace:
        free, held = shutil.disk_usage(self.folder).free, 0
        if self._volume:
            held = _held_bytes(self.folder)
        return fetch_space(wanted, free, held, most=self._most, volume=self._volume)

    def _entries(self) -> Iterator[CacheEntry]:
        for folder in self.folder.glob("[!.]*"):
            if (folder / BUNDLE_FILE).is_file():
                with suppress(FileNotFoundError):  # another process removes it
                    used_s = _modified_s(self._used(folder.name))
                    yield CacheEntry(folder.name, folder_bytes(folder), used_s)

    def _remove(self, bundle: str) -> None:
        gone = self._own / f"gone-{bundle}-{os.getpid()}"
        with suppress(FileNotFoundError):  # another process was faster
            os.rename(self.folder / bundle, gone)
            self._used(bundle).unlink(missing_ok=True)
            log.info("bundle %s is no longer kept here: the store has it", bundle)
        shutil.rmtree(gone, ignore_errors=True)

    def _used(self, bundle: str) -> Path:
        return self._own / "used" / bundle

    def _touch(self, bundle: str, *, only_marked: bool = False) -> None:
        """Note that a bundle is used, and that the store has it."""
        path = self._used(bundle)
        with suppress(OSError):  # on a volume that others write, or a full disk: it is only kept
            if only_marked:
                os.utime(path)
                return
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch()

    @contextmanager
    def _locked(self, bundle: str) -> Iterator[None]:
        """Hold the lock of a bundle, for which other processes of the machine wait."""
        with _lock_file(self._own / "locks" / bundle) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _slot(self) -> Iterator[None]:
        """Hold one of the places of fetches on this machine."""
        while True:
            for number in range(1 if self._volume else AT_ONCE):
                with _lock_file(self._own / "locks" / f"slot-{number}") as descriptor:
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue
                    yield
                    return
            time.sleep(WAIT_S)


class _FetchLog:
    """The progress of a fetch: passed on, and in the log of one that takes long."""

    def __init__(self, bundle: str, uri: str, progress: Progress) -> None:
        self._bundle, self._uri, self._progress = bundle, uri, progress
        self._begun_s = self._logged_s = time.monotonic()
        self._total = 0

    def __call__(self, done: int, total: int) -> None:
        self._progress(done, total)
        self._total, now_s = total, time.monotonic()
        if now_s - self._logged_s >= LOG_EVERY_S:
            self._logged_s = now_s
            log.info("bundle %s: %s fetched from %s", self._bundle, part(done, total), self._uri)

    def end(self) -> None:
        took_s = time.monotonic() - self._begun_s
        size = self._total / 1e6
        log.info("bundle %s: %.0f MB fetched in %.1f s", self._bundle, size, took_s)


def part(done: int, total: int) -> str:
    """How far a fetch has come, in words."""
    return f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB"


def _held_bytes(folder: Path) -> int:
    """Bytes of all files in a folder; weights that bundles share count once."""
    sizes = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # another process removes it
                found = os.lstat(os.path.join(place, name))
                sizes[found.st_ino] = found.st_size
    return sum(sizes.values())


def _modified_s(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


@contextmanager
def _lock_file(path: Path) -> Iterator[int]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
