"""An accepted request comes back as it was, or is none."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.scoring.request.accepted_request import AcceptedRequest, is_genuine, sealed

SECRET = b"k" * 32
VALUES = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.booleans(),
)


def accepted(request: dict[str, object]) -> AcceptedRequest:
    return AcceptedRequest(
        decision_id="d", client="shop", event_ms=5, request=request, trace_id=None
    )


@given(st.dictionaries(st.text(max_size=10), VALUES, max_size=5))
def test_what_a_topic_gives_back_is_genuine(request: dict[str, object]) -> None:
    sent = msgspec.json.encode(sealed("fraud", accepted(request), SECRET))
    back = msgspec.json.decode(sent, type=AcceptedRequest)
    assert is_genuine("fraud", back, SECRET)
    assert msgspec.json.encode(back) == sent


@pytest.mark.parametrize(
    "change",
    [
        {"decision_id": "e"},
        {"client": "bank"},
        {"event_ms": 6},
        {"request": {"amount": 2.0}},
        {"trace_id": "t"},
        {"mac": ""},
        {"mac": "\u00fc"},
    ],
    ids=str,
)
def test_what_was_changed_is_not(change: dict[str, object]) -> None:
    genuine = sealed("fraud", accepted({"amount": 1.0}), SECRET)
    assert not is_genuine("fraud", msgspec.structs.replace(genuine, **change), SECRET)


def test_it_is_of_one_model_and_one_installation() -> None:
    genuine = sealed("fraud", accepted({}), SECRET)
    assert not is_genuine("credit", genuine, SECRET)
    assert not is_genuine("fraud", genuine, b"j" * 32)
