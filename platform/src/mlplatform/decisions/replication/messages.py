"""Which topics carry logs, and what the replicator says back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from mlplatform.decisions.topics.messages import HOUR_MS, Message, TopicSpec
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import InputInvalid

KEPT_MS: Final = 7 * 24 * HOUR_MS
"""What is deleted before it was replicated is sent again: a longer retention saves that alone."""


@dataclass(frozen=True, slots=True)
class Names:
    """The topics and groups by which the logs of one installation are carried."""

    prefix: str = "log"

    @property
    def records(self) -> str:
        """The topic of records and offsets, keyed by writer."""
        return f"{self.prefix}.records"

    @property
    def confirmed(self) -> str:
        """The topic of the replicator's confirmations; it keeps its name."""
        return f"{self.prefix}.gathered"

    @property
    def replicators(self) -> str:
        """The group that reads records; it has one member."""
        return f"{self.prefix}.gatherer"

    def of(self, name: str) -> str:
        """The progress of one log's publisher, and the group by which it hears the replicator."""
        return f"{self.prefix}.{name}"

    def specs(self) -> list[TopicSpec]:
        """The topics, as publishers and replicator declare them."""
        return [
            TopicSpec(self.records, retention_ms=KEPT_MS),
            TopicSpec(self.confirmed, partitions=1),
        ]


class ConfirmedOffset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a writer is in the log that passes read: its records up to there are safe.

    Args:
        again: what comes after them has to be sent again.
    """

    writer: str
    seq: Annotated[int, Meta(ge=0)]
    chain: Annotated[bytes, Meta(min_length=32, max_length=32)]
    again: bool


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ConfirmedOffset).decode


def confirmation(names: Names, one: ConfirmedOffset) -> Message:
    """The message that is published."""
    return Message(names.confirmed, one.writer.encode(), _encode(one))


def confirmed(data: bytes, source: str) -> ConfirmedOffset:
    """What `confirmation` made.

    Raises:
        InputInvalid: something else was published there.
    """
    try:
        return _decode(data)
    except NOT_JSON as error:
        raise InputInvalid(source, None, str(error)) from error
