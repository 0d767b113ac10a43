"""Fetches of bundles on threads of their own, for callers that may not wait for one."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import Final

from mlplatform.rollouts.bundles.cache import BundleCache, part
from mlplatform.runtime.errors import Busy, PlatformError, Unavailable

AGAIN_S: Final = 5.0
"""Seconds between two attempts to fetch a bundle."""

log = logging.getLogger(__name__)


class BeingFetched(Busy):
    """The bundle is being fetched; ask again."""


@dataclass(slots=True)
class _Fetch:
    done: int = 0
    total: int = 0
    error: PlatformError | None = None
    ended_s: float | None = None


class BackgroundFetches:
    """The fetches that one process has begun.

    Args:
        cache: the machine's bundles; one without a store is asked for nothing.
    """

    def __init__(self, cache: BundleCache) -> None:
        self._cache = cache
        self._fetches: dict[str, _Fetch] = {}
        self._lock = threading.Lock()

    def need(self, bundle: str) -> None:
        """Return if a bundle is here, or if there is no store; else its fetch has begun.

        Raises:
            BeingFetched: it is being fetched; the message says how far.
            NotFound, Corrupt, Unavailable: the last attempt failed; the next follows by itself, as
                long as somebody asks.
        """
        if self._cache.store is None:
            return
        if (self._cache.folder / bundle).is_dir():
            self._cache.get(bundle)  # notes that it is used
            with self._lock:
                self._fetches.pop(bundle, None)
            return
        with self._lock:
            fetch = self._fetches.get(bundle)
            failed = None if fetch is None else fetch.error
            if fetch is None or (
                fetch.ended_s is not None and time.monotonic() - fetch.ended_s > AGAIN_S
            ):
                fetch = self._fetches[bundle] = _Fetch()
                name = f"bundle-{bundle[:8]}"
                threading.Thread(
                    target=self._run, args=(bundle, fetch), name=name, daemon=True
                ).start()
        if failed is not None:
            raise failed
        far = f": {part(fetch.done, fetch.total)}" if fetch.total else ""
        raise BeingFetched(f"bundle {bundle} is being fetched{far}")

    def trim(self) -> None:
        """Remove, on a thread, what the machine need not keep."""
        threading.Thread(target=self._trim, name="bundles", daemon=True).start()

    def _run(self, bundle: str, fetch: _Fetch) -> None:
        def progress(done: int, total: int) -> None:
            fetch.done, fetch.total = done, total

        try:
            self._cache.get(bundle, progress)
        except PlatformError as error:
            fetch.error = error
            if isinstance(error, Unavailable) and error.__cause__ is not None:
                fetch.error = Unavailable(f"{error}: {error.__cause__}")
            log.error("%s", fetch.error)
        except Exception:
            log.exception("bundle %s could not be fetched", bundle)
            fetch.error = Busy(f"bundle {bundle} could not be fetched; the log says why")
        fetch.ended_s = time.monotonic()

    def _trim(self) -> None:
        try:
            self._cache.trim()
        except (PlatformError, OSError) as error:
            log.warning("bundles that nothing needs were not removed: %s", error)
