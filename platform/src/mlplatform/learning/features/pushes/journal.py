"""The port of the journal of pushes: each push with its client and time, until training's table has
it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

from mlplatform.decisions.topics.messages import DroppedRange
from mlplatform.learning.features.online import FeatureRow
from mlplatform.learning.features.pushes.gaps import StreamGap
from mlplatform.model.features.views import FeatureView
from mlplatform.runtime.units import SECOND_US

PROMPT_MS = 1_000
"""Milliseconds within which a served push counts in training from its arrival; a later one counts
from when the online store had it."""


@dataclass(frozen=True, slots=True)
class PushedRow:
    """One row of a push in stored form.

    Args:
        key: the entity's key; a pseudonym where the request field is pseudonymous.
        event_s: event time from which on the values hold, in whole epoch seconds.
        values: the features' values, in the order of the push's names; None is a missing value.
    """

    key: int | str
    event_s: int
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Push:
    """Rows of one view that were sent together.

    Args:
        client: name of the client that sent the rows.
        idempotency: the client's idempotency key; None if there is none. Sent again without a key,
            the content is another push.
        digest: digest of the content; equal content has an equal digest.
        names: the features' names, as the view declared them then.
    """

    model: str
    view: str
    client: str
    idempotency: str | None
    digest: str
    names: tuple[str, ...]
    rows: tuple[PushedRow, ...]


@dataclass(frozen=True, slots=True)
class KeptPush:
    """A push in the journal.

    Args:
        number: the number in the journal; later pushes have greater numbers.
        arrived_ms: event time of its arrival, later than that of any other push of the view.
        served_ms: event time at which the online store had all of its rows; None while that is not
            known.
    """

    number: int
    push: Push
    arrived_ms: int
    served_ms: int | None

    def features(self, view: FeatureView) -> list[FeatureRow]:
        """The rows for an online store: known since the push arrived, and without values of
        features that were declared later."""
        made_us, place = self.arrived_ms * 1000, {n: p for p, n in enumerate(self.push.names)}
        places = [place.get(name) for name in view.feature_names]
        return [
            (
                row.key,
                row.event_s * SECOND_US,
                made_us,
                tuple(None if at is None else row.values[at] for at in places),
            )
            for row in self.push.rows
        ]

    @property
    def counts_ms(self) -> int:
        """The time from which training joins a served push."""
        assert self.served_ms is not None
        is_prompt = self.served_ms - self.arrived_ms <= PROMPT_MS
        return self.arrived_ms if is_prompt else self.served_ms


@dataclass(frozen=True, slots=True)
class DurablePush:
    """The push is durable; it may have been there before, and served at `served_ms`."""

    number: int
    arrived_ms: int
    is_new: bool
    served_ms: int | None


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a row in a stream.

    Args:
        published_ms: publication time of the row's message, wall time as the topic states it.
        topic_id: the id that brokers gave the topic when it was created; empty if they give none.
    """

    topic: str
    partition: int
    offset: int
    published_ms: int
    topic_id: str = ""


@dataclass(frozen=True, slots=True)
class ReusedKey:
    """The idempotency key belongs to other content; nothing was added."""


class Pushes(Protocol):
    """The journal of an installation's pushes. Every method may raise Unavailable."""

    def add(self, pushes: Sequence[Push], now_ms: int) -> Sequence[DurablePush] | ReusedKey:
        """Store all of these pushes or none, durably.

        Args:
            now_ms: the present event time. A push always gets a later arrival time than earlier
                pushes of its view.
        """
        ...

    def add_read(self, push: Push, places: Sequence[Place], now_ms: int) -> KeptPush | None:
        """Store those rows of a push that were not read before; of rows with one key and event time
        only the last. Returns None if all were read before. Stored durably with the read offsets.

        The place of its message identifies a row. A topic that was made anew starts at offset 0
        again; it is recognised by another id or, where topics have no ids, by later messages.

        Args:
            places: the place of each row, in the order of the rows.
        """
        ...

    def begin_reading(self, model: str, view: str, places: Sequence[Place]) -> None:
        """Record the id of the topic from which each partition is read. Nothing of a topic that was
        made anew counts as read. Repeating it changes nothing."""
        ...

    def topics_read(self, model: str, view: str) -> Mapping[tuple[str, int], str]:
        """Topic and partition → the id of the topic that was read there; empty if it is unknown."""
        ...

    def add_gaps(
        self,
        model: str,
        view: str,
        dropped: Sequence[DroppedRange],
        topic_ids: Mapping[str, str],
        found_ms: int,
    ) -> Sequence[StreamGap]:
        """Record what a topic dropped before it was read. Returns the gaps that were not known,
        once they are durable.

        Messages that `add_read` had before are not missing. A range that was found before, by a
        reader that died, counts as the same gap.
        """
        ...

    def gaps(self, model: str, view: str) -> Sequence[StreamGap]:
        """All gaps of a view, in the order in which they were found."""
        ...

    def mark_served(self, number: int, at_ms: int) -> None:
        """Record that the online store has a push; repeating it changes nothing."""
        ...

    def waiting(
        self, model: str, view: str, *, after: int = 0, most: int, unserved: bool = False
    ) -> Sequence[KeptPush]:
        """The pushes whose rows training's table does not have, oldest first.

        Args:
            after: only pushes with a greater number.
            unserved: only pushes that the online store is not known to have.
        """
        ...

    def last(self, model: str, view: str) -> int:
        """The number of a view's newest push; 0 if there is none."""
        ...

    def mark_taken(self, model: str, view: str, numbers: Sequence[int], now_ms: int) -> None:
        """Delete the rows of these pushes, which training's table now has, and expired idempotency
        keys."""
        ...

    def erase(self, model: str, view: str, keys: Set[int | str]) -> int:
        """Remove the rows of these entities from the journal for good. Returns their number.

        Other rows of a push and its idempotency key stay.
        """
        ...

    def close(self) -> None: ...
