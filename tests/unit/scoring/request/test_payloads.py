"""What is wrong with a body is refused by name, whatever is sent."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.model.definition import MAX_DEADLINE_MS, MIN_DEADLINE_MS
from mlplatform.model.folders import load_definition
from mlplatform.runtime.clock import LAST_MS
from mlplatform.runtime.http.problems import Problem
from mlplatform.scoring.admission.clients import EVERYTHING, Client
from mlplatform.scoring.api.terms import terms
from mlplatform.scoring.request.payloads import (
    MAX_KEY,
    LabelItem,
    Payloads,
    decoded,
    decoded_batch,
    decoded_labels,
    decoded_once,
    idempotency_key,
)

GOOD = {"customer_id": 7, "terminal_id": 3, "amount": 12.5, "event_time": 1_700_000_000_000}
PAYLOADS = Payloads(load_definition("fraud"))
CLIENT = Client("app", EVERYTHING, "standard", None)


def body(**changes: Any) -> bytes:
    return json.dumps({k: v for k, v in (GOOD | changes).items() if v is not ...}).encode()


@pytest.mark.parametrize(
    ("sent", "status", "name", "field"),
    [
        pytest.param(b"{", 400, "malformed-json", None, id="cut off"),
        pytest.param(b"\xff", 400, "malformed-json", None, id="no text"),
        pytest.param(b"", 400, "malformed-json", None, id="empty"),
        pytest.param(b"[]", 422, "invalid-field", None, id="a list"),
        pytest.param(body(amount="12"), 422, "invalid-field", "amount", id="text for a number"),
        pytest.param(body(amount=-1), 422, "invalid-field", "amount", id="below its range"),
        pytest.param(body(amount=1e7), 422, "invalid-field", "amount", id="above its range"),
        pytest.param(body(customer_id=1.5), 422, "invalid-field", "customer_id", id="a fraction"),
        pytest.param(body(customer_id=2**63), 422, "invalid-field", "customer_id", id="65 bits"),
        pytest.param(body(customer_id=None), 422, "invalid-field", "customer_id", id="null"),
        pytest.param(body(amount=...), 422, "missing-field", "amount", id="missing"),
        pytest.param(body(colour="red"), 422, "unknown-field", "colour", id="unknown"),
        pytest.param(body(event_time=...), 422, "missing-field", "event_time", id="no time"),
        pytest.param(
            body(event_time="2026-01-01T00:00:00"), 422, "invalid-field", "event_time", id="no zone"
        ),
    ],
)
def test_a_wrong_body_names_its_field(
    sent: bytes, status: int, name: str, field: str | None
) -> None:
    with pytest.raises(Problem) as caught:
        PAYLOADS.score(sent)
    assert (caught.value.status, caught.value.name) == (status, name)
    assert caught.value.details.field == field


def test_both_forms_of_a_time_mean_the_same() -> None:
    written = PAYLOADS.score(body(event_time="2026-01-01T01:00:00.500+01:00"))
    counted = PAYLOADS.score(body(event_time=1_767_225_600_500))
    assert written == counted


def test_the_body_of_a_retry_may_be_spelled_otherwise() -> None:
    spaced = json.dumps(dict(reversed(GOOD.items())), indent=3).encode()
    assert PAYLOADS.score(spaced).body == PAYLOADS.score(body()).body
    assert PAYLOADS.score(body(amount=13)).body != PAYLOADS.score(body()).body


def test_only_an_item_of_a_batch_may_hold_its_key() -> None:
    assert PAYLOADS.batch_item(body(idempotency_key="k")).key == "k"
    assert PAYLOADS.batch_item(body()).key is None
    with pytest.raises(Problem):
        PAYLOADS.score(body(idempotency_key="k"))


@pytest.mark.parametrize("header", [b"", b"a b", b"a\x00", "é".encode(), b"x" * (MAX_KEY + 1)])
def test_a_key_that_cannot_be_kept_is_refused(header: bytes) -> None:
    with pytest.raises(Problem) as caught:
        idempotency_key(header)
    assert caught.value.details.field == "Idempotency-Key"


def test_a_key_of_the_greatest_length_is_taken() -> None:
    assert idempotency_key(b"x" * MAX_KEY) == "x" * MAX_KEY
    assert idempotency_key(None) is None


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_problem(sent: bytes) -> None:
    with pytest.raises(Problem):
        PAYLOADS.score(sent)


ZONES = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
NUMBERS = st.integers(-(2**70), 2**70) | st.floats()
TEXT = st.text(st.characters(codec=None), max_size=12)  # with lone surrogates, escaped
TIMES = st.datetimes(timezones=ZONES).map(datetime.isoformat)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXT | TIMES
VALUES = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(TEXT, SCALARS, max_size=2)


def near(good: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Bodies that are right but for a few fields, as JSON (and as what Python takes for JSON)."""
    times = st.fixed_dictionaries({"event_time": TIMES})
    odd = st.dictionaries(st.sampled_from([*good, "colour"]), VALUES | st.just(...), max_size=2)
    changes = odd | times
    return changes.map(
        lambda changed: json.dumps(
            {name: value for name, value in (good | changed).items() if value is not ...}
        ).encode()
    )


def outcome(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What the call returns, or the problem that it raises; anything else goes on."""
    try:
        return call(*arguments, **options)
    except Problem as problem:
        return problem


@given(near(GOOD))
def test_what_is_taken_is_of_its_type_and_within_its_range(sent: bytes) -> None:
    taken = outcome(PAYLOADS.score, sent)
    if isinstance(taken, Problem):
        assert taken.status in (400, 422)
        return
    assert 0 <= taken.event_ms <= LAST_MS
    assert {type(taken.fields[name]) for name in ("customer_id", "terminal_id")} == {int}
    assert math.isfinite(taken.fields["amount"])
    again = {**taken.fields, "event_time": taken.event_ms}
    assert PAYLOADS.score(json.dumps(again).encode()) == taken


LABEL = {"label": 1, "decision_id": "d", "event_time": 5, "idempotency_key": "k"}


SPELLED = st.sampled_from(["{0}", "\\u{1:04x}{2}"])
MEMBERS = {**GOOD, "idempotency_key": "k"}


@given(
    names=st.lists(st.sampled_from([*MEMBERS]), max_size=3),
    spelled=SPELLED,
    event_time=st.sampled_from(["2026-01-01T01:00:00+01:00", 5]),
    key=st.sampled_from([None, "k", 'a"b', ...]),
)
def test_a_member_that_stands_twice_is_refused_however_it_is_spelled(
    names: list[str], spelled: str, event_time: Any, key: Any
) -> None:
    values = MEMBERS | {"event_time": event_time, "idempotency_key": key}
    once = {name: value for name, value in values.items() if value is not ...}
    texts = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in once.items()]
    again = [name for name in names if name in once]
    for name in again:
        text = spelled.format(name, ord(name[0]), name[1:])
        texts.append(f'"{text}": {json.dumps(once[name])}')
    taken = outcome(PAYLOADS.batch_item, f"{{{', '.join(texts)}}}".encode())
    if again:
        assert (taken.status, taken.name) == (422, "repeated-field")
        assert taken.details.field in again
    else:
        assert taken.key == (None if key is ... else key)


@pytest.mark.parametrize("name", ["labels", "requests"])
def test_a_list_that_stands_twice_is_refused(name: str) -> None:
    decode = {"labels": decoded_labels, "requests": decoded_batch}[name]
    items = b'[{"a": "\\"", "labels": 1}, {"requests": 1}]'
    assert len(getattr(decode(b'{"%s": %s}' % (name.encode(), items)), name)) == 2
    for again in (name.encode(), b"\\u%04x%s" % (ord(name[0]), name[1:].encode())):
        with pytest.raises(Problem) as caught:
            decode(b'{"%s": %s, "%s": [1]}' % (name.encode(), items, again))
        assert (caught.value.name, caught.value.details.field) == ("repeated-field", name)


def test_a_label_that_says_two_things_is_refused() -> None:
    decoder, sent = msgspec.json.Decoder(LabelItem), b'{"decision_id": "d", "label": 0}'
    assert decoded_once(decoder, sent).label == 0
    with pytest.raises(Problem) as caught:
        decoded_once(decoder, sent.replace(b'"d"', b'"d", "label": 1'))
    assert (caught.value.name, caught.value.details.field) == ("repeated-field", "label")


@given(near(LABEL) | st.binary(max_size=60))
def test_a_label_is_taken_or_refused_by_name(sent: bytes) -> None:
    item = outcome(decoded, msgspec.json.Decoder(LabelItem), sent)
    if isinstance(item, Problem):
        assert item.status in (400, 422)
        return
    assert item.label in (0, 1)
    assert msgspec.json.encode(item)


@given(
    timeout=st.none() | st.binary(max_size=8) | st.integers(-1, 20_000).map(lambda n: b"%d" % n),
    key=st.none() | st.binary(max_size=MAX_KEY + 1),
)
def test_terms_are_within_their_bounds_or_a_header_is_named(
    timeout: bytes | None, key: bytes | None
) -> None:
    headers = {b"x-request-timeout-ms": timeout, b"idempotency-key": key}
    sent = {name: value for name, value in headers.items() if value is not None}
    caller = outcome(terms, sent, CLIENT, "fraud", started_s=10.0, deadline_ms=50.0, trace=None)
    if isinstance(caller, Problem):
        assert caller.status == 422
        assert caller.details.field in ("X-Request-Timeout-Ms", "Idempotency-Key")
        return
    given_ms = round((caller.deadline_s - 10.0) * 1000)
    assert given_ms == (50 if timeout is None else int(timeout))
    assert MIN_DEADLINE_MS <= given_ms <= MAX_DEADLINE_MS
    assert caller.key == (None if key is None else key.decode("ascii"))


@pytest.mark.parametrize(
    "event_time", ["1969-12-31T23:59:59Z", "9999-12-31T23:59:59-05:00", "0001-01-01T00:00:00Z"]
)
def test_a_written_time_has_the_range_of_a_counted_one(event_time: str) -> None:
    with pytest.raises(Problem) as caught:
        PAYLOADS.score(body(event_time=event_time))
    assert (caught.value.status, caught.value.details.field) == (422, "event_time")
