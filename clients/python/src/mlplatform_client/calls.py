"""The requests of API v2, as calls that know how to read their answers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, TypeVar, cast

import msgspec

from mlplatform_client.answers import (
    Answer,
    BatchResult,
    Explanation,
    LabelReceipt,
    PendingDecision,
    PushReceipt,
    Ranking,
    VoidReceipt,
)
from mlplatform_client.errors import DeadlineExceeded, Facts, refused, refused_as
from mlplatform_client.exchange import Call, Continuation, Reply, Result
from mlplatform_client.replies import (
    Problem,
    answer_of,
    decoded,
    error_of_problem,
    may_repeat,
    not_understood,
    retry_after_s,
)

MAX_ITEMS: Final = 1000
"""Of a batch of requests or labels, as the API takes them."""
MIN_WITHIN_MS, MAX_WITHIN_MS = 5, 10_000
LATER_S: Final = 0.5
"""After its deadline an answer still waits for its record, and then is on its way."""
EXPLAIN_S: Final = 6.0
"""A gateway answers within 5 s, with an explanation or that it is late."""
PRIORITIES: Final = ("critical", "standard", "background")

AboutOne = TypeVar("AboutOne", VoidReceipt, Explanation)
Priority = Literal["critical", "standard", "background"]
Request = Mapping[str, object] | bytes
"""The fields of a request by name, with `event_time` (datetime with a time zone, or milliseconds
since 1970), a vector as a list of numbers; or its JSON, which is sent as it is."""

_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_VIEW: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_TRACE: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}|[0-9a-f]{64}")
_JSON: Final = ("content-type", "application/json")
ITEMS: Final = "items"
_KEY_FIELD: Final = "idempotency_key"
_KINDS: Final = frozenset("biufU")
"""Kinds of NumPy's types whose scalars are bool, int, float or str in Python."""
_PLAIN: Final = frozenset((type(None), bool, int, float, str, Decimal, datetime))
_encode: Final = msgspec.json.Encoder(decimal_format="number").encode


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """On what terms a request is decided.

    Args:
        within_ms: by when the gateway decides, 5 to 10000 ms; None: by the model's own deadline.
        priority: lowers the class of the key below its own; None: its own.
        traceparent: the caller's trace (W3C Trace Context); None: a trace of the gateway's.
        version: that must answer: its number in the registry, or the digest of its bundle. The key
            needs scope any-version. None: the routes say who answers.
    """

    within_ms: int | None = None
    priority: Priority | None = None
    traceparent: str | None = None
    version: int | str | None = None


class Label(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a decision turned out; names it by its id or by the key that it was asked with.

    Args:
        label: 1 for what the model looks for, else 0; of a model of classes the class; of one of
            numbers the number, which comes with its event_time.
        event_time: when it became known: a datetime with a time zone, or milliseconds since 1970.
            None: when the gateway takes it. With a time it is stored once, however often it is
            sent, so that a lost answer is followed by another attempt; without one it is not.
    """

    label: int | float | str
    decision_id: str | None = None
    idempotency_key: str | None = None
    event_time: datetime | int | None = None


PLAIN: Final = Terms()


def score(model: str, request: Request, key: str, terms: Terms = PLAIN) -> Call[Answer]:
    """Decide one request now.

    Args:
        key: the idempotency key: the same request under it gets the same answer.

    Raises:
        InputRefused: names what is wrong; nothing is to be sent.
    """
    name = f"score {_model(model)}"

    def read(reply: Reply) -> Result[Answer]:
        return Result(answer_of(name, key, reply))

    return Call(
        name=name,
        method="POST",
        path=f"/api/v2/models/{model}/score",
        read=read,
        headers=(_JSON, _keyed(name, key), *_headers(name, terms)),
        body=_body(name, request),
        key=key,
        takes_s=_takes_s(terms),
    )


def rank(
    model: str,
    shared: Mapping[str, object],
    items: Sequence[Mapping[str, object]],
    key: str,
    terms: Terms = PLAIN,
) -> Call[Ranking]:
    """Put the items of one request in order.

    Args:
        shared: the fields that all items have in common, with `event_time`.
        items: for each item, the fields that it has of its own.

    Raises:
        InputRefused: names what is wrong; nothing is to be sent.
    """
    name = f"rank {_model(model)}"
    _count(name, ITEMS, len(items))
    if ITEMS in shared:
        raise refused_as(name, ITEMS, "a field of the request", "the items in `items`")
    own = [_body(f"{name}, {ITEMS}[{number}]", item) for number, item in enumerate(items)]
    whole = {**_plain_fields(name, "", shared), ITEMS: [msgspec.Raw(one) for one in own]}

    def read(reply: Reply) -> Result[Ranking]:
        found = decoded(name, key, reply, Ranking)
        numbers = [item.item for item in found.items]
        if found.of != len(items) or not set(numbers) <= set(range(len(items))):
            raise not_understood(name, key, reply, f"it is not about the {len(items)} items sent")
        is_replayed = reply.headers.get("idempotency-replayed") == "true"
        return Result(msgspec.structs.replace(found, replayed=is_replayed))

    return Call(
        name=name,
        method="POST",
        path=f"/api/v2/models/{model}/rank",
        read=read,
        headers=(_JSON, _keyed(name, key), *_headers(name, terms)),
        body=_encoded(name, whole),
        key=key,
        takes_s=_takes_s(terms),
    )


def score_later(
    model: str, request: Request, key: str, terms: Terms = PLAIN
) -> Call[PendingDecision]:
    """Leave a request to be decided later; it is on record before the answer.

    Raises:
        InputRefused: names what is wrong; nothing is to be sent.
    """
    name = f"score {_model(model)} later"
    if terms.within_ms is not None:
        raise refused(
            name, "within_ms", terms.within_ms, "nothing, as the request is decided later"
        )
    if terms.version is not None:
        raise refused(name, "version", terms.version, "nothing, as the request is decided later")

    def read(reply: Reply) -> Result[PendingDecision]:
        found = decoded(name, key, reply, PendingDecision, 202)
        if _ID.fullmatch(found.decision_id) is None:
            raise not_understood(name, key, reply, "decision_id is not an id")
        return Result(found)

    return Call(
        name=name,
        method="POST",
        path=f"/api/v2/models/{model}/score:async",
        read=read,
        headers=(_JSON, _keyed(name, key), *_headers(name, terms)),
        body=_body(name, request),
        key=key,
    )


def decision(decision_id: str) -> Call[Answer | None]:
    """The decision on a request that was left for later; None while it is to come.

    Raises:
        InputRefused: it can be no id.
    """
    name = f"decision {_id('decision', decision_id)}"

    def read(reply: Reply) -> Result[Answer | None]:
        return Result(_decision(name, decision_id, reply))

    return Call(name=name, method="GET", path=f"/api/v2/decisions/{decision_id}", read=read)


def waiting(decision_id: str) -> Call[Answer]:
    """The same, asked again until it is there.

    Raises:
        InputRefused: it can be no id.
    """
    name = f"decision {_id('decision', decision_id)}"
    facts = Facts(
        call=name,
        message="it is still pending",
        way_out="Ask for the decision again by the same id.",
        status=202,
    )

    def read(reply: Reply) -> Result[Answer] | Continuation[Answer]:
        found = _decision(name, decision_id, reply)
        if found is not None:
            return Result(found)
        asked_s = retry_after_s(reply.headers.get("retry-after"), math.inf)
        return Continuation(call, DeadlineExceeded(facts), is_poll=True, retry_after_s=asked_s)

    call = Call(name=name, method="GET", path=f"/api/v2/decisions/{decision_id}", read=read)
    return call


def labels(model: str, items: Sequence[Label]) -> Call[LabelReceipt]:
    """Report outcomes: all of them are taken, or none where one is wrong.

    Raises:
        InputRefused: names the label and what is wrong; nothing is to be sent.
    """
    name = f"label {_model(model)}"
    _count(name, "labels", len(items))
    sent = []
    for number, item in enumerate(items):
        if not isinstance(item, Label):
            raise refused_as(name, f"labels[{number}]", f"of type {type(item).__name__}", "a Label")
        if (item.decision_id is None) == (item.idempotency_key is None):
            wanted = "either decision_id or idempotency_key"
            raise refused(name, f"labels[{number}]", item, wanted)
        label = _plain(name, f"labels[{number}].label", item.label)
        at = _plain(name, f"labels[{number}].event_time", item.event_time)
        sent.append(msgspec.structs.replace(item, label=label, event_time=at))

    def read(reply: Reply) -> Result[LabelReceipt]:
        receipt = decoded(name, None, reply, LabelReceipt)
        if receipt.stored + receipt.repeated != len(items):
            why = f"{receipt.stored} + {receipt.repeated} are not the {len(items)} labels sent"
            raise not_understood(name, None, reply, why)
        return Result(receipt)

    return Call(
        name=name,
        method="POST",
        path=f"/api/v2/models/{model}/labels",
        read=read,
        headers=(_JSON,),
        body=_encoded(name, {"labels": sent}),
        is_repeatable=all(item.event_time is not None for item in items),
    )


def push(view: str, rows: Sequence[Mapping[str, object]], key: str) -> Call[PushReceipt]:
    """Give values of an external view: all rows are taken, or none where one is wrong.

    Args:
        rows: 1 to 1000; of each the entity's key, the time since when its values hold, and every
            feature of the view, None where it has none.
        key: the idempotency key: the same rows under it are taken once.

    Raises:
        InputRefused: names the row and what is wrong; nothing is to be sent.
    """
    if _VIEW.fullmatch(view) is None:
        raise refused("call", "view", view, "the name of a view")
    name = f"push {view}"
    _count(name, "rows", len(rows))
    sent = [_plain_fields(name, f"rows[{number}].", row) for number, row in enumerate(rows)]

    def read(reply: Reply) -> Result[PushReceipt]:
        receipt = decoded(name, key, reply, PushReceipt)
        if (receipt.view, receipt.rows) != (view, len(rows)):
            raise not_understood(name, key, reply, "it is about another push")
        return Result(receipt)

    return Call(
        name=name,
        method="POST",
        path=f"/api/v2/features/{view}",
        read=read,
        headers=(_JSON, _keyed(name, key)),
        body=_encoded(name, {"rows": sent}),
        key=key,
    )


def void(model: str, decision_id: str, reason: str) -> Call[VoidReceipt]:
    """Take a decision back; the first reason given stays.

    Raises:
        InputRefused: it can be no id.
    """
    name = f"void {_model(model)}"
    _id(name, decision_id)

    return Call(
        name=name,
        method="POST",
        path=f"/api/v2/models/{model}/voids",
        read=_about(name, decision_id, VoidReceipt),
        headers=(_JSON,),
        body=_encoded(name, {"decision_id": decision_id, "reason": reason}),
    )


def explanation(model: str, decision_id: str) -> Call[Explanation]:
    """Why a decision came out as it did.

    Raises:
        InputRefused: it can be no id.
    """
    name = f"explain {_model(model)}"
    _id(name, decision_id)

    return Call(
        name=name,
        method="GET",
        path=f"/api/v2/models/{model}/decisions/{decision_id}/explanation",
        read=_about(name, decision_id, Explanation),
        takes_s=EXPLAIN_S,
    )


def score_batch(
    model: str, requests: Sequence[Mapping[str, object]], keys: Sequence[str], terms: Terms = PLAIN
) -> Call[list[BatchResult]]:
    """Decide many requests, each by itself; items that may be decided later are asked again.

    Args:
        keys: an idempotency key for each request, in their order.

    Raises:
        InputRefused: names the item and what is wrong; nothing is to be sent.
    """
    name = f"score a batch of {_model(model)}"
    _count(name, "requests", len(requests))
    if len(keys) != len(requests):
        wanted = f"one for each of {len(requests)} requests"
        raise refused_as(name, "keys", f"{len(keys)} keys", wanted)
    if len(set(keys)) != len(keys):
        raise refused_as(name, "keys", "a list with one key twice", "another key for each request")
    bodies = []
    for number, (request, key) in enumerate(zip(requests, keys, strict=True)):
        item, _ = f"{name}, requests[{number}]", _keyed(name, key)
        _check_fields(name, f"requests[{number}]", request)
        if _KEY_FIELD in request:
            raise refused(item, _KEY_FIELD, request[_KEY_FIELD], "the key in `keys`")
        bodies.append(_body(item, {**request, _KEY_FIELD: key}))
    headers = (_JSON, *_headers(name, terms))
    path = f"/api/v2/models/{model}/score:batch"
    unasked: list[BatchResult | None] = [None] * len(keys)
    return _Batch(name, path, headers, tuple(keys), tuple(bodies), _takes_s(terms)).call(unasked)


class _Item(msgspec.Struct, frozen=True):
    answer: Answer | None = None
    problem: Problem | None = None
    replayed: bool = False


class _Items(msgspec.Struct, frozen=True):
    results: list[_Item]


@dataclass(frozen=True, slots=True)
class _Batch:
    """What stays the same over all attempts of a batch."""

    name: str
    path: str
    headers: tuple[tuple[str, str], ...]
    keys: tuple[str, ...]
    bodies: tuple[bytes, ...]
    takes_s: float

    def call(self, results: Sequence[BatchResult | None]) -> Call[list[BatchResult]]:
        """Asks for the items that have no result yet, or one that may become another."""
        asked = [n for n, found in enumerate(results) if found is None or _is_open(found)]
        known = [found for found in results if found is not None]

        def read(reply: Reply) -> Result[list[BatchResult]] | Continuation[list[BatchResult]]:
            return self._read(reply, asked, results)

        return Call(
            name=self.name,
            method="POST",
            path=self.path,
            read=read,
            headers=self.headers,
            body=b'{"requests":[%b]}' % b",".join(self.bodies[n] for n in asked),
            partial=known if len(known) == len(results) else None,
            takes_s=self.takes_s,
        )

    def _read(
        self, reply: Reply, asked: Sequence[int], before: Sequence[BatchResult | None]
    ) -> Result[list[BatchResult]] | Continuation[list[BatchResult]]:
        items = decoded(self.name, None, reply, _Items).results
        if len(items) != len(asked):
            why = f"{len(items)} results to {len(asked)} requests"
            raise not_understood(self.name, None, reply, why)
        merged = list(before)
        for number, item in zip(asked, items, strict=True):
            merged[number] = self._result(reply, number, item)
        found = [result for result in merged if result is not None]
        still = next((r.error for r in found if _is_open(r)), None)
        if still is None:
            return Result(found)
        return Continuation(self.call(found), still)

    def _result(self, reply: Reply, number: int, item: _Item) -> BatchResult:
        key, name = self.keys[number], f"{self.name}, requests[{number}]"
        if (item.answer is None) == (item.problem is None):
            raise not_understood(name, key, reply, "it has neither answer nor problem, or both")
        if item.problem is not None:
            return BatchResult(key, None, error_of_problem(name, key, item.problem))
        assert item.answer is not None
        answer = msgspec.structs.replace(item.answer, replayed=item.replayed)
        return BatchResult(key, answer, None)


def _is_open(result: BatchResult) -> bool:
    return result.error is not None and may_repeat(result.error, is_repeatable=True)


def _decision(name: str, decision_id: str, reply: Reply) -> Answer | None:
    if reply.status == 202:
        pending = decoded(name, None, reply, PendingDecision, 202)
        found, decision = None, pending.decision_id
    else:
        found = answer_of(name, None, reply)
        decision = found.decision_id
    if decision != decision_id:
        raise not_understood(name, None, reply, "it is about another decision")
    return found


def _model(model: str) -> str:
    if _MODEL.fullmatch(model) is None:
        raise refused("call", "model", model, "the name of a model")
    return model


def _id(name: str, decision_id: str) -> str:
    if _ID.fullmatch(decision_id) is None:
        raise refused(name, "decision_id", decision_id, "an id as an answer has it")
    return decision_id


def _keyed(name: str, key: str) -> tuple[str, str]:
    if _KEY.fullmatch(key) is None:
        wanted = "1 to 255 printable ASCII characters without spaces"
        raise refused(name, "key", key, wanted)
    return ("idempotency-key", key)


def _headers(name: str, terms: Terms) -> tuple[tuple[str, str], ...]:
    headers = []
    if terms.within_ms is not None:
        is_number = isinstance(terms.within_ms, int | float)
        if not is_number or not MIN_WITHIN_MS <= terms.within_ms <= MAX_WITHIN_MS:
            wanted = f"{MIN_WITHIN_MS} to {MAX_WITHIN_MS} ms"
            raise refused(name, "within_ms", terms.within_ms, wanted)
        headers.append(("x-request-timeout-ms", str(int(terms.within_ms))))
    if terms.priority is not None:
        if terms.priority not in PRIORITIES:
            raise refused(name, "priority", terms.priority, " or ".join(PRIORITIES))
        headers.append(("x-priority", terms.priority))
    if terms.traceparent is not None:
        if _TRACE.fullmatch(terms.traceparent) is None:
            raise refused(name, "traceparent", terms.traceparent, "a W3C trace context")
        headers.append(("traceparent", terms.traceparent))
    if terms.version is not None:
        if _VERSION.fullmatch(str(terms.version)) is None:
            wanted = "a number from 1, or the 64 hexadecimal digits of a bundle"
            raise refused(name, "version", terms.version, wanted)
        headers.append(("mlplatform-version", str(terms.version)))
    return tuple(headers)


def _takes_s(terms: Terms) -> float:
    return 0.0 if terms.within_ms is None else terms.within_ms / 1000 + LATER_S


def _count(name: str, of: str, count: int) -> None:
    if not 1 <= count <= MAX_ITEMS:
        raise refused_as(name, of, f"{count} items", f"1 to {MAX_ITEMS} at once")


def _body(name: str, request: Request) -> bytes:
    if isinstance(request, bytes):
        return request
    return _encoded(name, _plain_fields(name, "", request))


def _plain_fields(name: str, place: str, fields: Mapping[str, object]) -> dict[str, Any]:
    _check_fields(name, place.rstrip(".") or "request", fields)
    return {key: _plain(name, f"{place}{key}", value) for key, value in fields.items()}


def _check_fields(name: str, place: str, fields: object) -> None:
    if not isinstance(fields, Mapping):
        raise refused_as(
            name, place, f"of type {type(fields).__name__}", "a dict of fields by name"
        )


def _plain(name: str, field: str, value: object) -> Any:
    """The value as the encoder writes it. Refuses what the encoder would write as something else,
    or as what is no JSON."""
    if isinstance(value, list | tuple):
        return [_plain(name, f"{field}[{index}]", one) for index, one in enumerate(value)]
    if isinstance(value, set | frozenset):
        raise refused_as(name, field, "a set", "a list, which has an order")
    if isinstance(value, bytes | bytearray | memoryview):  # Base64, to the encoder
        raise refused_as(name, field, "bytes", "a text")
    if hasattr(value, "tolist"):
        value = _of_scalar(name, field, value)
    if isinstance(value, Decimal):
        is_finite = value.is_finite()
    else:
        is_finite = not isinstance(value, float) or math.isfinite(value)
    if not is_finite:
        raise refused(name, field, value, "a finite number")
    if isinstance(value, datetime) and value.tzinfo is None:
        raise refused(name, field, value, "a datetime with a time zone")
    return value if type(value) in _PLAIN else _of_other(name, field, value)


def _of_other(name: str, field: str, value: Any) -> Any:
    """A time of pandas as one of Python, which has microseconds; else a value that the encoder
    knows."""
    if isinstance(value, datetime):
        return datetime.combine(value.date(), value.time(), value.tzinfo)
    try:
        _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        kind = f"of type {type(value).__name__}"
        raise refused_as(name, field, kind, "a value that JSON has") from error
    return value


def _of_scalar(name: str, field: str, value: Any) -> int | float | bool | str:
    """The plain value of a scalar of NumPy or the like. Of its times `item()` may give a number
    without a unit, so those are refused, as arrays are."""
    is_scalar = getattr(value, "shape", None) == ()
    if is_scalar and getattr(getattr(value, "dtype", None), "kind", "f") in _KINDS:
        plain: object = value.item()
        if type(plain) in (int, float, bool, str):
            return cast(int | float | bool | str, plain)
    kind = f"a {type(value).__name__} of NumPy or the like"
    raise refused_as(name, field, kind, "a scalar number, bool or text, or a list of them")


def _encoded(name: str, value: Any) -> bytes:
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise refused(name, "request", str(error), "values that JSON has") from error


def _about(
    name: str, decision_id: str, form: type[AboutOne]
) -> Callable[[Reply], Result[AboutOne]]:
    """The reader of replies that have to be about this decision."""

    def read(reply: Reply) -> Result[AboutOne]:
        found = decoded(name, None, reply, form)
        if found.decision_id != decision_id:
            raise not_understood(name, None, reply, "it is about another decision")
        return Result(found)

    return read
