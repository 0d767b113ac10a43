"""Values that a view's topic dropped before they were read, and the decisions that they concern."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mlplatform.decisions.topics.messages import dropped_words
from mlplatform.runtime.times import utc_minute_text


class StreamGap(msgspec.Struct, frozen=True):
    """Messages of a view's topic that were gone before they were read: neither requests nor
    training have their values.

    Args:
        topic_id: the topic's id, as in `Place`.
        first_offset, last_offset: the first and the last lost message, both inclusive.
        since_ms: when the last message that was read before the gap was published; None if none was
            read, or if the time is not known.
        found_ms: event time at which a reader found the gap.
    """

    topic: str
    partition: int
    topic_id: str
    first_offset: int
    last_offset: int
    since_ms: int | None
    found_ms: int

    @property
    def most_messages(self) -> int:
        """Upper bound on the messages in the gap."""
        return self.last_offset - self.first_offset + 1

    @property
    def summary(self) -> str:
        """A sentence for people on what was lost."""
        return dropped_words(self.topic, self.partition, self.first_offset, self.last_offset)


class StreamLoss(msgspec.Struct, frozen=True):
    """The losses of a view that can concern some decisions.

    Args:
        messages: upper bound on the number of lost messages.
        since_ms: when the last message before the first loss was published; None if it is not
            known.
        found_ms: event time at which the latest loss was found.
    """

    view: str
    topic: str
    messages: int
    since_ms: int | None
    found_ms: int

    @property
    def summary(self) -> str:
        """A sentence for people, in lower case and without a full stop."""
        many = "1 message" if self.messages == 1 else f"up to {self.messages:,} messages"
        since = (
            "" if self.since_ms is None else f" published since {utc_minute_text(self.since_ms)}"
        )
        return (
            f"{self.view} lacks {many} of {self.topic}{since}, which the topic dropped unread"
            f" (found on {utc_minute_text(self.found_ms)})"
        )


def lost_values(
    view: str, gaps: Sequence[StreamGap], *, ttl_ms: int, from_ms: int | None, to_ms: int | None
) -> StreamLoss | None:
    """The loss that concerns decisions in a span of event time; None if there is none.

    Args:
        ttl_ms: how long a row of the view is valid.
        from_ms, to_ms: event times of the first and the last decision; None: no bound on that side.
    """
    found = [
        gap
        for gap in gaps
        if (from_ms is None or gap.found_ms + ttl_ms >= from_ms)
        and (to_ms is None or (gap.since_ms or 0) <= to_ms)
    ]
    if not found:
        return None
    times = [gap.since_ms for gap in found if gap.since_ms is not None]
    return StreamLoss(
        view=view,
        topic=found[-1].topic,
        messages=sum(gap.most_messages for gap in found),
        since_ms=min(times) if len(times) == len(found) else None,
        found_ms=max(gap.found_ms for gap in found),
    )
