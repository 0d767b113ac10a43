"""The port of the online store: the newest features of the entities of one request."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:  # a gateway starts without pyarrow
    import pyarrow as pa

EVENT_TIMESTAMP = "event_timestamp"
CREATED = "created"
FeatureRow = tuple[int | str, int, int, tuple[float | None, ...]]
"""Key, event time and time of creation in microseconds of the epoch, and a view's values in its
order."""


class OnlineRow(msgspec.Struct, frozen=True):
    """Features by name, and the event time of each view's row; None if there is no valid row.

    Args:
        stale: views that have only a row older than their ttl: because no snapshot contains the
            entity any more, or because no new snapshots are made.
        position: per writer of the decision log, the number of the last record that the windows
            include; None where no window was read.
    """

    values: dict[str, float | None]
    times: dict[str, int | None]
    stale: Collection[str] = ()
    position: Mapping[str, int] | None = None


class OnlineFeatures(Protocol):
    """One model's features by entity key.

    Args:
        is_remote: whether reads wait for another process; then do not call them from an event loop.
    """

    is_remote: bool

    def read(self, keys: Mapping[str, int | str], event_ms: int) -> OnlineRow:
        """Features of the entities (entity name → key) that are valid at `event_ms`.

        Every feature of every view is in the answer. A row is valid for the view's ttl, bound
        included, as in the training join. A row newer than the event, which a late request can
        read, is valid too; `times` shows that.
        """
        ...

    def is_held_up(self) -> bool:
        """Whether a read would have to wait for another process now; costs next to nothing."""
        ...

    def newest(self) -> Mapping[str, int | None]:
        """Event time of each view's newest row; None if it is unknown.

        The call may wait, as `write` may; do not call it on an event loop.
        """
        ...

    def write(self, view: str, rows: pa.Table) -> int:
        """Store rows of a view. Returns how many are now the newest of their entity.

        A row never replaces one with a later event time, or an equal one made later.

        Args:
            rows: the join key, `event_timestamp` and `created` (timestamps, UTC), and every
                feature.
        """
        ...

    def close(self) -> None: ...


class OnlineWriter(OnlineFeatures, Protocol):
    """An online store to which a process without pyarrow writes a few rows at once."""

    def put(self, view: str, rows: Sequence[FeatureRow], *, fence: str | None = None) -> int:
        """Store rows of a view as `write` does. Returns how many are now the newest of their
        entity.

        Args:
            fence: the value of `fence` from before the rows were read; None if nobody can have
                erased them since.

        Raises:
            StaleFence: rows of the view were removed since. Some of these may be stored.
        """
        ...

    def fence(self, view: str) -> str:
        """A word that changes with each `remove` of the view."""
        ...

    def remove(self, view: str, keys: Collection[int | str]) -> int:
        """Remove the rows of these entities from a view for good. Returns their number.

        From then on no `put` with an older fence stores a row, however long it takes.
        """
        ...

    def mark(self, view: str) -> str | None:
        """The last mark that a view was given; None if the store never had one, or lost it with its
        rows."""
        ...

    def set_mark(self, view: str, before: str | None, mark: str) -> bool:
        """Replace a view's mark if it is still `before`. Returns whether it was."""
        ...
