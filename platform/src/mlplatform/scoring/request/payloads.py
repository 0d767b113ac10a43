"""The bodies that applications may send, built from the model's definition; errors name the
field."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mlplatform.model.definition import EVENT_TIME, ModelDefinition, RequestField, dns_name
from mlplatform.model.tensors.vectors import FLOAT32_MOST
from mlplatform.runtime.clock import LAST_MS
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.request.body_errors import body_problem
from mlplatform.scoring.request.duplicate_keys import (
    BACKSLASH,
    QUOTE,
    refuse_repeats,
    refuse_repeats_of,
)

BATCH_KEY = "idempotency_key"
MAX_ITEMS = 1000
MAX_TEXT = 1024
MAX_KEY = 255
MAX_LISTED = 20
INT64 = 2**63
EventTime = Annotated[int, Meta(ge=0, le=LAST_MS)] | Annotated[datetime, Meta(tz=True)]
Key = Annotated[str, Meta(min_length=1, max_length=MAX_KEY, pattern=r"^[\x21-\x7e]*$")]

_KEY = re.compile(rb"[\x21-\x7e]{1,%d}" % MAX_KEY)


class LabelItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The outcome of one decision, named by its id or by the key that it was asked with."""

    label: Annotated[int, Meta(ge=0, le=1)]
    decision_id: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    idempotency_key: Key | None = None
    event_time: EventTime | None = None


class ClassLabelItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The class that one decision should have been, of a model of classes; named as of
    `LabelItem`."""

    label: Annotated[str, Meta(min_length=1, max_length=64)]
    decision_id: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    idempotency_key: Key | None = None
    event_time: EventTime | None = None


class NumberLabelItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The number that one decision should have had, of a model of numbers, and when it was known;
    named as of `LabelItem`."""

    label: float
    event_time: EventTime
    decision_id: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    idempotency_key: Key | None = None


class LabelsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    labels: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=MAX_ITEMS)]


class VoidBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The decision that is taken back, and why."""

    decision_id: Annotated[str, Meta(min_length=1, max_length=64)]
    reason: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]


class BatchBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    requests: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=MAX_ITEMS)]


_batch = msgspec.json.Decoder(BatchBody)
_labels = msgspec.json.Decoder(LabelsBody)


class ScoreRequest(msgspec.Struct, frozen=True, gc=False):
    """One request as it was sent, validated.

    Args:
        fields: request field → value, not pseudonymised; None for an optional field that was left
            out.
        sent: those fields without the ones declared as optional that were left out, so that
            declaring such a field changes no earlier request.
        event_ms: event time of the request.
        body: `sent` in one canonical form, whatever its spelling in JSON.
        key: the idempotency key of an item in a batch; None without one.
    """

    fields: dict[str, Any]
    sent: dict[str, Any]
    event_ms: int
    body: bytes
    key: str | None


class Payloads:
    """Parses the bodies of one model."""

    def __init__(self, definition: ModelDefinition) -> None:
        self._optional = {
            name: 2 + 2 * (field.type == "string")
            for name, field in definition.request.items()
            if name in definition.optional
        }
        self._added = definition.declared_optional
        unit = definition.assignment_unit
        types = {n: field_type(f, is_unit=n == unit) for n, f in definition.request.items()}
        fields: list[Any] = [
            (name, kind | None, None) if name in self._optional else (name, kind)
            for name, kind in types.items()
        ]
        shape: list[Any] = [*fields, (EVENT_TIME, EventTime)]
        self.request: type[msgspec.Struct] = body_struct(definition.name, "Request", shape)
        item = [*shape, (BATCH_KEY, Key | None, None)]
        self.item: type[msgspec.Struct] = body_struct(definition.name, "BatchItem", item)
        self._request = msgspec.json.Decoder(self.request)
        self._item = msgspec.json.Decoder(self.item)
        self._encoder = msgspec.json.Encoder()
        texts = sum(field.type == "string" for field in definition.request.values())
        self._closed = {
            name: frozenset(field.values)
            for name, field in definition.request.items()
            if field.values is not None
        }
        self._quotes = 2 * (len(shape) + texts)

    def score(self, body: bytes) -> ScoreRequest:
        """The request in a body. Raises Problem 400 (not JSON) or 422 (names the field, also a
        repeated one)."""
        return self._parsed(self._request, body)

    def batch_item(self, body: bytes) -> ScoreRequest:
        return self._parsed(self._item, body)

    def _parsed(self, decoder: msgspec.json.Decoder[Any], body: bytes) -> ScoreRequest:
        fields = msgspec.structs.asdict(decoded(decoder, body))
        key = fields.pop(BATCH_KEY, None)
        event_time = fields.pop(EVENT_TIME)
        for name, allowed in self._closed.items():
            if fields[name] not in allowed and fields[name] is not None:
                raise not_listed(name, allowed)
        # Every member needs its quotes once: if there are no more quotes, no member stands twice.
        quotes = self._quotes + 2 * (type(event_time) is not int) + 4 * (key is not None)
        sent = fields
        if self._optional and (absent := [n for n in self._optional if fields[n] is None]):
            quotes -= sum(map(self._optional.__getitem__, absent))
            if left_out := self._added.intersection(absent):
                sent = {name: value for name, value in fields.items() if name not in left_out}
        if body.count(QUOTE) != quotes or BACKSLASH in body:
            refuse_repeats(body)
        event_ms = epoch_ms(event_time)
        return ScoreRequest(fields, sent, event_ms, self._encoder.encode((sent, event_ms)), key)


def decoded(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """The decoded body.

    Raises:
        Problem: 400 for a body that is not JSON; 422 for a field that does not fit, with its name.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise body_problem(str(error), decoder.type) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, "malformed-json", f"the body is not JSON: {error}") from error


def decoded_once(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """The decoded body without repeated members; for bodies that are not on a score request's path.

    Raises:
        Problem: for the same reasons as in `decoded`, or 422 for a member that stands twice.
    """
    value = decoded(decoder, body)
    refuse_repeats(body)
    return value


def decoded_batch(body: bytes) -> BatchBody:
    """A batch of requests, each as it was sent.

    Raises:
        Problem: as `decoded`, or 422 for two lists.
    """
    batch: BatchBody = decoded(_batch, body)
    refuse_repeats_of("requests", body, [bytes(item) for item in batch.requests])
    return batch


def decoded_labels(body: bytes) -> LabelsBody:
    """A batch of labels, each as it was sent.

    Raises:
        Problem: as `decoded`, or 422 for two lists.
    """
    batch: LabelsBody = decoded(_labels, body)
    refuse_repeats_of("labels", body, [bytes(item) for item in batch.labels])
    return batch


def epoch_ms(value: int | datetime) -> int:
    """An event time in milliseconds, in whichever form it was sent.

    Raises:
        Problem: 422 if a time in text form is before 1970 or after 9999.
    """
    if isinstance(value, int):
        return value
    event_ms = round(value.timestamp() * 1000)
    if not 0 <= event_ms <= LAST_MS:
        detail = f"{EVENT_TIME} must be from 1970 to 9999, in UTC"
        raise Problem(422, "invalid-field", detail, field=EVENT_TIME)
    return event_ms


def idempotency_key(header: bytes | None) -> str | None:
    """The value of an Idempotency-Key header.

    Raises:
        Problem: 422 unless it is 1 to 255 printable ASCII characters without spaces.
    """
    if header is None:
        return None
    if _KEY.fullmatch(header) is None:
        detail = f"Idempotency-Key must be 1 to {MAX_KEY} printable ASCII characters"
        raise Problem(422, "invalid-header", detail, field="Idempotency-Key")
    return header.decode("ascii")


def not_listed(name: str, allowed: Collection[str]) -> Problem:
    shown = ", ".join(word or "an empty text" for word in sorted(allowed)[:MAX_LISTED])
    more = ", …" if len(allowed) > MAX_LISTED else ""
    return Problem(422, "invalid-field", f"{name} must be one of {shown}{more}", field=name)


def body_struct(model: str, name: str, fields: list[Any]) -> type[msgspec.Struct]:
    title = "".join(part.capitalize() for part in dns_name(model).split("-")) + name
    return msgspec.defstruct(title, fields, frozen=True, kw_only=True, forbid_unknown_fields=True)


def field_type(field: RequestField, *, is_unit: bool = False) -> Any:
    """The type as which msgspec decodes a field.

    Args:
        is_unit: whether it is the model's unit of assignment.
    """
    match field.type:
        case "int64":
            low = -INT64 if field.minimum is None else int(field.minimum)
            high = INT64 - 1 if field.maximum is None else int(field.maximum)
            return Annotated[int, Meta(ge=low, le=high)]
        case "float64":
            return Annotated[float, Meta(ge=field.minimum, le=field.maximum)]
        case "string":
            listed = None if field.values is None else {"enum": list(field.values)}
            longest = field.max_length or MAX_TEXT
            shortest = 1 if is_unit or field.identifies else None
            return Annotated[
                str, Meta(min_length=shortest, max_length=longest, extra_json_schema=listed)
            ]
        case "bool":
            return bool
        case "vector":
            least = -FLOAT32_MOST if field.minimum is None else field.minimum
            most = FLOAT32_MOST if field.maximum is None else field.maximum
            number = Annotated[float, Meta(ge=least, le=most)]
            return Annotated[list[number], Meta(min_length=field.length, max_length=field.length)]
