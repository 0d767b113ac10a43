"""The messages of requests, and what they become: results or dead letters."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from mlplatform.decisions.topics.messages import (
    TRACE_HEADER,
    DroppedRange,
    Message,
    ReceivedMessage,
    TopicSpec,
    dropped_words,
    requests_topic,
)
from mlplatform.runtime.units import DAY_MS, KIB

KEY_HEADER = "idempotency-key"
ACCEPTED_HEADER = "accepted"
"""Header with the id of a request that a gateway accepted; such a message is sent back to a gateway
unchanged."""
BODY_KEY = "idempotency_key"
MAX_BYTES = 256 * KIB
DEAD_LETTER_KEEP_MS = 14 * DAY_MS

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_text = msgspec.json.Decoder(str).decode


@dataclass(frozen=True, slots=True)
class Names:
    """The topics of a model, and the group that scores them."""

    model: str

    @property
    def requests(self) -> str:
        return requests_topic(self.model)

    @property
    def results(self) -> str:
        return f"{self.model}.results"

    @property
    def dead_letters(self) -> str:
        return f"{self.model}.dead-letters"

    @property
    def group(self) -> str:
        return f"{self.model}.scoring"

    def specs(self) -> list[TopicSpec]:
        return [
            TopicSpec(self.requests),
            TopicSpec(self.results),
            TopicSpec(self.dead_letters, partitions=1, retention_ms=DEAD_LETTER_KEEP_MS),
        ]


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a batch that the gateway is asked to score.

    Args:
        is_accepted: whether a gateway accepted it earlier; then it is scored under the id that it
            got.
    """

    message: ReceivedMessage
    key: str
    body: bytes
    is_accepted: bool = False


@dataclass(frozen=True, slots=True)
class ScoreReply:
    """The gateway's answer, as over HTTP."""

    item: Item
    answer: bytes


@dataclass(frozen=True, slots=True)
class Poison:
    """A message that no retry can score.

    Args:
        reason: name of the problem, which programs can rely on.
        detail: a sentence for a person.
    """

    message: ReceivedMessage
    reason: str
    detail: str


def item_of(message: ReceivedMessage) -> Item | Poison:
    """The message as an item of a batch, or as poison.

    The item's key is the header's, else the body's, else the place of the message. So a redelivery
    is always the same request, and two messages are one request only if their sender says so.
    """
    if len(message.value) > MAX_BYTES:
        return Poison(message, "too-large", f"more than {MAX_BYTES} bytes")
    try:
        fields = _decode(message.value)
        accepted = message.headers.get(ACCEPTED_HEADER)
        if accepted is not None:
            return Item(message, accepted.decode("ascii"), message.value, is_accepted=True)
        sent = fields.get(BODY_KEY)
        header = message.headers.get(KEY_HEADER)
        if header is not None:
            key = header.decode("ascii")
        else:
            key = message.place if sent is None else _text(sent)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return Poison(message, "malformed-json", f"not a JSON object with a key: {error}")
    fields[BODY_KEY] = msgspec.Raw(_encode(key))
    return Item(message, key, _encode(fields))


def result(names: Names, answered: ScoreReply) -> Message:
    """The message for the topic of results, published together with the request's offset."""
    message = answered.item.message
    headers = {KEY_HEADER: answered.item.key.encode(), "request": message.place.encode()}
    if TRACE_HEADER in message.headers:  # the reader of the result has that trace
        headers[TRACE_HEADER] = message.headers[TRACE_HEADER]
    return Message(names.results, message.key, answered.answer, headers)


def dead_letter(names: Names, poison: Poison) -> Message:
    """The dead letter of a request: the request as it came, with its error."""
    return letter_of(names.dead_letters, poison)


def dropped_letter(names: Names, dropped: DroppedRange) -> Message | None:
    """A record of requests that are gone, published together with the offset after them; None if
    nobody can tell which, because the group is new or its offset expired."""
    if dropped.first is None:
        return None
    words = dropped_words(dropped.topic, dropped.partition, dropped.first, dropped.last)
    headers = {
        "dead-letter-reason": b"dropped",
        "dead-letter-detail": words.encode(),
        "dead-letter-topic": dropped.topic.encode(),
        "dead-letter-partition": str(dropped.partition).encode(),
        "dead-letter-offset": str(dropped.first).encode(),
        "dead-letter-last-offset": str(dropped.last).encode(),
    }
    return Message(names.dead_letters, b"", b"", headers)


def letter_of(topic: str, poison: Poison) -> Message:
    """The message byte for byte, with its place and its error."""
    message = poison.message
    headers = {
        **message.headers,
        "dead-letter-reason": poison.reason.encode(),
        "dead-letter-detail": poison.detail.encode(),
        "dead-letter-topic": message.topic.encode(),
        "dead-letter-partition": str(message.partition).encode(),
        "dead-letter-offset": str(message.offset).encode(),
    }
    return Message(topic, message.key, message.value, headers)
