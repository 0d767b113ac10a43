"""The keys of this installation as a gateway knows them: a thread polls them, any thread reads
them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from mlplatform.runtime.errors import PlatformError, Refused
from mlplatform.runtime.storage.files import create_atomically
from mlplatform.scoring.admission.clients import (
    EVERYTHING,
    Client,
    Key,
    RateLimit,
    Scope,
    directory,
)
from mlplatform.scoring.admission.priorities import Priority
from mlplatform.scoring.admission.secrets import digest, key_id, new_secret
from mlplatform.scoring.admission.store import Keys

FIRST_CLIENT = "default"
POLL_S = 0.5

log = logging.getLogger(__name__)


class Keyring:
    """Live keys by digest. A key that was made or revoked counts within a poll, without a restart.

    While the store does not answer, the last keys that were read stay.

    Args:
        store: the store of keys; after `start`, only the thread uses it.
        failed: called for each poll that the store did not answer.
    """

    def __init__(self, store: Keys, now_ms: Callable[[], int], failed: Callable[[], None]) -> None:
        self._store = store
        self._now_ms = now_ms
        self._failed = failed
        self._version = -1
        self._clients: Mapping[bytes, Client] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.poll()

    def client(self, secret: bytes, digest: bytes) -> Client | None:
        # The only step whose time depends on the content is a look-up by digest. Whoever measures
        # that time learns something about a digest, which reveals no secret.
        return self._clients.get(digest)

    def names(self) -> frozenset[str]:
        """The names of all clients with a live key."""
        return frozenset(client.name for client in self._clients.values())

    def poll(self) -> None:
        """Read the keys if they changed.

        Raises:
            Unavailable: the store does not answer.
        """
        version = self._store.version()
        if version != self._version:
            # One reference is replaced: the event loop sees the old mapping or the new one.
            self._clients = directory(self._store.all_keys(), self._now_ms())
            self._version = version

    def start(self) -> None:
        self._thread = threading.Thread(target=self._follow, name="keys", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(2.0)

    def _follow(self) -> None:
        while not self._stopping.wait(POLL_S):
            try:
                self.poll()
            except PlatformError as error:
                self._failed()
                log.warning("changes of keys were not read, and are asked for again: %s", error)
            except Exception:
                self._failed()
                log.exception("changes of keys were not read, and are asked for again")


def create_key(
    store: Keys,
    client: str,
    scopes: frozenset[Scope],
    *,
    priority: Priority,
    limit: RateLimit | None,
    now_ms: int,
    expires_ms: int | None = None,
) -> tuple[Key, str]:
    """Create a key in the store. Returns it with its secret, which is stored nowhere."""
    secret = new_secret()
    key = _key(secret.encode(), client, scopes, priority, limit, now_ms, expires_ms)
    store.add(key)
    return key, secret


def ensure_first_key(store: Keys, path: Path, now_ms: int) -> None:
    """Create the key of this installation's own commands, with every scope, in a file for its
    owner.

    A key that was revoked stays revoked, and a file that was removed is not made again.
    """
    if not path.exists():
        if store.all_keys():
            return
        create_atomically(path, new_secret().encode())  # only one of several processes creates it
    secret = path.read_bytes().strip()
    key = _key(secret, FIRST_CLIENT, EVERYTHING, "standard", None, now_ms, None)
    if any(known.id == key.id for known in store.all_keys()):
        return
    try:
        store.add(key)
    except Refused:
        log.info("another process stored the first key")


def _key(
    secret: bytes,
    client: str,
    scopes: frozenset[Scope],
    priority: Priority,
    limit: RateLimit | None,
    now_ms: int,
    expires_ms: int | None,
) -> Key:
    hashed = digest(secret)
    return Key(
        id=key_id(hashed),
        digest=hashed.hex(),
        client=client,
        scopes=scopes,
        priority=priority,
        limit=limit,
        created_ms=now_ms,
        expires_ms=expires_ms,
    )
