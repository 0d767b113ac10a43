"""The port behind pushes: what was pushed, by whom and when, until training's table has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

from mlplatform.decisions.topics.messages import DroppedRange
from mlplatform.learning.features.online import FeatureRow
from mlplatform.learning.features.pushes.gaps import StreamGap
from mlplatform.model.features.views import FeatureView

MICROS = 1_000_000
KEEP_MS = 7 * 24 * 3_600_000
"""A push with an idempotency key is known for that long of event time, as a decision is."""
PROMPT_MS = 1_000
"""A push that the online store has so soon counts in training from its arrival; a later one from
when it had it."""


@dataclass(frozen=True, slots=True)
class PushedRow:
    """One row of a push, as it is stored.

    Args:
        key: of the entity, a pseudonym where the request field is pseudonymous.
        event_s: from when on the values hold, whole seconds of the epoch.
        values: in the order of the push's names.
    """

    key: int | str
    event_s: int
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Push:
    """Rows of one view that came together.

    Args:
        client: who sent them.
        idempotency: the client's key; None: it names none, and sent again it is another push.
        digest: of what was sent; the same content has the same one.
        names: of the features, as the view had them.
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
        number: of the journal; greater ones came later.
        arrived_ms: event time of its arrival, later than that of any other push of the view.
        served_ms: event time at which the online store had all of its rows; None: not known yet.
    """

    number: int
    push: Push
    arrived_ms: int
    served_ms: int | None

    def features(self, view: FeatureView) -> list[FeatureRow]:
        """The rows as an online store takes them: known since the push arrived, and without a value
        where a feature was declared later."""
        made_us, place = self.arrived_ms * 1000, {n: p for p, n in enumerate(self.push.names)}
        places = [place.get(name) for name in view.feature_names]
        return [
            (
                row.key,
                row.event_s * MICROS,
                made_us,
                tuple(None if at is None else row.values[at] for at in places),
            )
            for row in self.push.rows
        ]

    @property
    def counts_ms(self) -> int:
        """The time from which training joins a push that is served."""
        assert self.served_ms is not None
        is_prompt = self.served_ms - self.arrived_ms <= PROMPT_MS
        return self.arrived_ms if is_prompt else self.served_ms


@dataclass(frozen=True, slots=True)
class DurablePush:
    """The push is durable. It may have been there before, and been served at `served_ms`."""

    number: int
    arrived_ms: int
    is_new: bool
    served_ms: int | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row lay in a stream.

    Args:
        published_ms: of its message, wall time as the topic says.
        topic_id: that brokers gave the topic when it was made; empty: they tell none.
    """

    topic: str
    partition: int
    offset: int
    published_ms: int
    topic_id: str = ""


@dataclass(frozen=True, slots=True)
class ReusedKey:
    """Its idempotency key belongs to other content; nothing was added."""


class Pushes(Protocol):
    """All pushes of an installation. Every method may raise Unavailable."""

    def add(self, pushes: Sequence[Push], now_ms: int) -> Sequence[DurablePush] | ReusedKey:
        """Keep all of these pushes or none; durable when this returns.

        Args:
            now_ms: event time. A push arrives after every other one of its view.
        """
        ...

    def add_read(self, push: Push, places: Sequence[Place], now_ms: int) -> KeptPush | None:
        """Keep the rows of a push that were not read before, of one key and event time the last
        one; None: all were. Durable with how far each partition was read.

        A row is known by the place of its message. A topic that was made anew begins at 0 again:
        it has another id, and where there are none, later messages.

        Args:
            places: of the rows, in their order.
        """
        ...

    def begin_reading(self, model: str, view: str, places: Sequence[Place]) -> None:
        """Remember of which topic each partition is read, by its id; of a topic that was made anew
        nothing counts as read. Again changes nothing."""
        ...

    def topics_read(self, model: str, view: str) -> Mapping[tuple[str, int], str]:
        """Topic and partition → the id of the topic that was read there; empty: it is not known."""
        ...

    def add_gaps(
        self,
        model: str,
        view: str,
        dropped: Sequence[DroppedRange],
        topic_ids: Mapping[str, str],
        found_ms: int,
    ) -> Sequence[StreamGap]:
        """Remember what a topic dropped before it was read; those that were not known, durable.

        What `add_read` had before is not missing. A range that was found before, by a reader that
        died, is one with that.
        """
        ...

    def gaps(self, model: str, view: str) -> Sequence[StreamGap]:
        """All that were found, in the order in which they were."""
        ...

    def mark_served(self, number: int, at_ms: int) -> None:
        """The online store has it; a second time changes nothing."""
        ...

    def waiting(
        self, model: str, view: str, *, after: int = 0, most: int, unserved: bool = False
    ) -> Sequence[KeptPush]:
        """The pushes whose rows training's table does not have, the oldest first.

        Args:
            after: the number that they are behind.
            unserved: only those that the online store is not known to have.
        """
        ...

    def last(self, model: str, view: str) -> int:
        """The number of the newest push of a view; 0 where none was kept."""
        ...

    def mark_taken(self, model: str, view: str, numbers: Sequence[int], now_ms: int) -> None:
        """Training's table has the rows of these: they go, and so do idempotency keys that are too
        old by now."""
        ...

    def erase(self, model: str, view: str, keys: Set[int | str]) -> int:
        """Take the rows of these entities out of what is kept, for good; how many they were.

        What else a push holds stays, and so does its idempotency key.
        """
        ...

    def close(self) -> None: ...
