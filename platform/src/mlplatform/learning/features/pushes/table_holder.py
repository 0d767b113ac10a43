"""The home that holds the tables of external views, where several homes share the stores behind
them.

Rows leave the shared journal once one home's table has them, and the shared online store serves
what one home imported. Training of another home would lack both, and nothing would show it.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, Protocol

import msgspec

from mlplatform.runtime.errors import Refused
from mlplatform.runtime.storage.files import create_atomically
from mlplatform.runtime.times import day_text

FILE: Final = "tables.id"
"""Name of the file with the home's id. It lies beside the tables, so that a restored backup is the
same home."""


class Holder(msgspec.Struct, frozen=True):
    """A home that holds the tables.

    Args:
        home: the home's random id.
        place: host and folder of the home, for people.
        since_ms: since when it holds the tables, wall time.
    """

    home: str
    place: str
    since_ms: int


class SharedStore(Protocol):
    """A store that homes may share.

    Args:
        place: the store's address, for people.
    """

    @property
    def place(self) -> str: ...

    def hold(self, own: Holder, *, over: bool = False) -> Holder:
        """The home that holds the tables; the caller's, if nobody held them before.

        Args:
            over: whether to take the tables from another home that holds them.

        Raises:
            Unavailable: the store does not answer.
        """
        ...

    def close(self) -> None: ...


def home_id(offline: Path) -> str:
    """The id of the home whose tables lie in that folder, made at first use."""
    path = offline / FILE
    if not path.exists():
        create_atomically(path, secrets.token_hex(16).encode())
    return path.read_text()


def hold_tables(stores: Sequence[SharedStore], own: Holder, *, over: bool = False) -> None:
    """Record at each store that this home holds the tables; the stores are closed afterwards.

    Raises:
        Refused: another home has them; the message names that home.
        Unavailable: a store does not answer.
    """
    for store in stores:
        with closing(store):
            holder = store.hold(own, over=over)
        if holder.home != own.home:
            since = day_text(holder.since_ms)
            raise Refused(
                f"another home, {holder.place}, has the tables of external views at {store.place}"
                f" since {since}. Training here would lack the rows that it took in. Run this"
                " there, or give this home servers of its own. If that home is lost, put its"
                " backup back, or run `mlplatform features take-over`"
            )
