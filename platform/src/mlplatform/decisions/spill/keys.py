"""Idempotency keys in the spills of this folder, this process's own and those of its siblings."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from mlplatform.decisions.records.kept_keys import key_digest
from mlplatform.decisions.records.port import StoredAnswer
from mlplatform.decisions.records.prepared_record import Key, StorableRecord
from mlplatform.decisions.spill import files

SETTLED_NS: Final = 50_000_000
"""Nanoseconds longer than the resolution of any file system's clock."""
KeyDigest = bytes


class SpilledKeys:
    """The place of each spilled key's record; bounded by what the spills may hold.

    Safe for threads. What is found is read from the file, so answers take no memory.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._spills: dict[str, _Spill] = {}
        self._following = threading.Lock()
        self._open = threading.Lock()
        """Held while a descriptor is read or closed: never for longer than a record takes."""
        self._empty_at_ns: int | None = None

    def refresh(self) -> bool:
        """Read what was added to any spill since the last refresh. Returns whether there is any
        spill."""
        changed_ns = _changed_ns(self._folder)
        if changed_ns == self._empty_at_ns and not self._spills:
            return False
        listed_ns = time.time_ns()
        with self._following:
            names = {name for name in _listed(self._folder) if name.endswith(files.SUFFIX)}
            for gone in self._spills.keys() - names:
                self._drop(gone)
            for name in names:
                self._follow(name)
            # a folder that has just changed may change again with the same time
            has_settled = changed_ns < listed_ns - SETTLED_NS
            self._empty_at_ns = changed_ns if has_settled and not names else None
            return bool(names)

    @property
    def are_none(self) -> bool:
        """Whether no spill is known, as of the last refresh."""
        return not self._spills

    def find(self, client: str, model: str, key: str) -> StoredAnswer | None:
        """The answer of a key that was spilled, as of the last refresh or addition."""
        if not self._spills:
            return None
        digest = key_digest(client, model, key)
        with self._open:
            for one in self._spills.values():
                record = one.record(digest)
                if record is not None and record.idempotency is not None:
                    idempotency = record.idempotency
                    return StoredAnswer(
                        idempotency.answer, idempotency.body_digest, record.decision_id
                    )
        return None

    def has_ended(self, key: Key | None) -> bool:
        """Whether a spilled record ended this key's claim, and no later one made it again."""
        if key is None or not self._spills or self.find(*key) is not None:
            return False
        digest = key_digest(*key)
        return any(one.has_ended(digest) for one in self._spills.values())

    def close(self) -> None:
        with self._following:
            for name in list(self._spills):
                self._drop(name)

    def _drop(self, name: str) -> None:
        with self._open:
            self._spills.pop(name).close()

    def _follow(self, name: str) -> None:
        known = self._spills.get(name)
        path = self._folder / name
        try:
            if known is not None and not known.is_at(path):
                self._drop(name)
                known = None
            if known is None:
                known = _Spill(path)
                with self._open:
                    self._spills[name] = known
        except FileNotFoundError:
            return  # it has been moved into the log
        known.follow()


class _Spill:
    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._end = files.START
        self._starts: dict[KeyDigest, int | None] = {}
        """Place of each key's record; None if a record here ended the key's claim, wherever the
        claim is stored."""

    def is_at(self, path: Path) -> bool:
        return os.path.samestat(os.stat(path), os.fstat(self._descriptor))

    def follow(self) -> None:
        if os.fstat(self._descriptor).st_size <= self._end:
            return
        for frame in files.frames(self._descriptor, self._end):
            idempotency = frame.record.idempotency
            if idempotency is not None:
                digest = key_digest(idempotency.client, frame.record.model, idempotency.key)
                if self._starts.get(digest) is None:
                    self._starts[digest] = frame.start
                for ended in frame.record.ended:
                    self._starts[key_digest(*ended)] = None
            self._end = frame.end

    def record(self, digest: KeyDigest) -> StorableRecord | None:
        start = self._starts.get(digest)
        return None if start is None else files.record_at(self._descriptor, start)

    def has_ended(self, digest: KeyDigest) -> bool:
        return self._starts.get(digest, 0) is None

    def close(self) -> None:
        os.close(self._descriptor)


def _changed_ns(folder: Path) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except FileNotFoundError:
        return 0


def _listed(folder: Path) -> Iterable[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return ()
