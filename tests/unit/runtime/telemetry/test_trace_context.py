"""W3C trace context: what is taken up, what counts as absent, and what goes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.runtime.telemetry.context import MAX_STATE_BYTES, trace_context

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def parent(version: str = "00", trace: str = TRACE, span: str = SPAN, flags: str = "01") -> bytes:
    return f"{version}-{trace}-{span}-{flags}".encode()


def test_a_trace_is_taken_up_with_a_span_of_our_own() -> None:
    found = trace_context({b"traceparent": parent(), b"tracestate": b"vendor=1"})
    assert found is not None
    assert (found.trace_id, found.parent_id, found.is_sampled) == (TRACE, SPAN, True)
    assert found.span_id != SPAN
    assert found.headers(is_kept=True) == [
        (b"traceparent", f"00-{TRACE}-{found.span_id}-01".encode()),
        (b"tracestate", b"vendor=1"),
    ]


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(parent(trace="0" * 32), id="no trace"),
        pytest.param(parent(span="0" * 16), id="no span"),
        pytest.param(parent(trace=TRACE.upper()), id="upper case"),
        pytest.param(parent(version="ff"), id="forbidden version"),
        pytest.param(parent() + b"-more", id="five parts in version 00"),
        pytest.param(parent() + b"\n", id="a line end"),
        pytest.param(parent(trace=TRACE[:-1]), id="short"),
        pytest.param(parent(trace="z" * 32), id="not hexadecimal"),
        pytest.param(b"", id="empty"),
    ],
)
def test_what_the_standard_forbids_counts_as_absent(header: bytes) -> None:
    assert trace_context({b"traceparent": header}) is None


def test_a_later_version_may_have_more_parts() -> None:
    found = trace_context({b"traceparent": parent(version="cc", flags="00") + b"-what-comes"})
    assert found is not None
    assert (found.trace_id, found.is_sampled) == (TRACE, False)


@pytest.mark.parametrize("state", [b"a=" + b"b" * MAX_STATE_BYTES, b"a=\r\nb", b"a=\xff"])
def test_a_tracestate_that_no_header_may_hold_is_dropped_whole(state: bytes) -> None:
    found = trace_context({b"traceparent": parent(), b"tracestate": state})
    assert found is not None
    assert [name for name, _ in found.headers(is_kept=False)] == [b"traceparent"]


@given(st.binary(max_size=80), st.binary(max_size=600))
def test_no_header_is_too_strange(header: bytes, state: bytes) -> None:
    found = trace_context({b"traceparent": header, b"tracestate": state})
    if found is not None:
        assert trace_context(dict(found.headers(is_kept=True))) is not None
