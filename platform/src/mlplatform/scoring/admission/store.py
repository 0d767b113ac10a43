"""The state that all gateway processes share: keys, and the levels of token buckets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from mlplatform.scoring.admission.bucket import Take, TokenGrant
from mlplatform.scoring.admission.clients import MAX_REFILL_S, Key

FORGET_AFTER_MS: Final = 2 * MAX_REFILL_S * 1000
"""Life of a bucket without requests in milliseconds. It is full long before, and a missing bucket
counts as full."""


class Keys(Protocol):
    """The keys of an installation. Every method may raise `Unavailable`."""

    def add(self, key: Key) -> None:
        """Store a key.

        Raises:
            Refused: a key with this id exists.
        """
        ...

    def revoke(self, name: str, now_ms: int) -> list[Key]:
        """Revoke a key by its id, or all keys of a client. Returns the keys that were still live.

        A second call changes nothing: the time of the first one stays.

        Raises:
            NotFound: there is no such key or client.
        """
        ...

    def all_keys(self) -> list[Key]:
        """All keys ever created, in the order of creation."""
        ...

    def version(self) -> int:
        """A number that grows with every change of keys; cheap to ask for."""
        ...


class Buckets(Protocol):
    """The token buckets of an installation; a bucket whose level is lost is full again."""

    def take(self, takes: Sequence[Take], now_ms: int) -> list[TokenGrant]:
        """Take tokens from several buckets in one step. Returns grants in their order; an unknown
        bucket is full.

        Raises:
            Unavailable: the store does not answer.
        """
        ...


class Admission(Keys, Buckets, Protocol):
    """Keys and token buckets of an installation together."""


class KeysAndBuckets:
    """Keys in one store, and buckets in another."""

    def __init__(self, keys: Keys, buckets: Buckets) -> None:
        self.add = keys.add
        self.revoke = keys.revoke
        self.all_keys = keys.all_keys
        self.version = keys.version
        self.take = buckets.take
