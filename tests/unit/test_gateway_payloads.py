"""What is wrong with a body is refused by name, whatever is sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.gateway.payloads import MAX_KEY, Payloads, idempotency_key
from mlplatform.gateway.problems import Problem
from mlplatform.models.definition import load_definition

GOOD = {"customer_id": 7, "terminal_id": 3, "amount": 12.5, "event_time": 1_700_000_000_000}
PAYLOADS = Payloads(load_definition("fraud"))


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
