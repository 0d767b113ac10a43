"""The topics of replication, and the replicator's confirmations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from mlplatform.decisions.topics.messages import Message, TopicSpec
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.units import DAY_MS

KEPT_MS: Final = 7 * DAY_MS
"""Retention of the topics in milliseconds. What is deleted before it was replicated is sent again,
so a longer retention only saves that."""


@dataclass(frozen=True, slots=True)
class Names:
    """The topics and groups for the replication of one installation's logs."""

    prefix: str = "log"

    @property
    def records(self) -> str:
        """The topic of records and offsets, keyed by writer."""
        return f"{self.prefix}.records"

    @property
    def confirmed(self) -> str:
        """The topic of the replicator's confirmations. The name is of an earlier release, and
        stays."""
        return f"{self.prefix}.gathered"

    @property
    def replicators(self) -> str:
        """The group that reads records; it has one member."""
        return f"{self.prefix}.gatherer"

    def of(self, name: str) -> str:
        """The name of one log's publisher: of its progress, and of the group in which it reads
        confirmations."""
        return f"{self.prefix}.{name}"

    def specs(self) -> list[TopicSpec]:
        """The topics, as publishers and replicator declare them."""
        return [
            TopicSpec(self.records, retention_ms=KEPT_MS),
            TopicSpec(self.confirmed, partitions=1),
        ]


class ConfirmedOffset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A writer's progress in the log that passes read: its records up to there are safe.

    Args:
        again: the records after `seq` must be sent again.
    """

    writer: str
    seq: Annotated[int, Meta(ge=0)]
    chain: Annotated[bytes, Meta(min_length=32, max_length=32)]
    again: bool


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ConfirmedOffset).decode


def confirmation(names: Names, one: ConfirmedOffset) -> Message:
    """The message of a confirmation."""
    return Message(names.confirmed, one.writer.encode(), _encode(one))


def confirmed(data: bytes, source: str) -> ConfirmedOffset:
    """The confirmation in a message that `confirmation` made.

    Raises:
        InputInvalid: the message is not a confirmation.
    """
    try:
        return _decode(data)
    except NOT_JSON as error:
        raise InputInvalid(source, None, str(error)) from error
