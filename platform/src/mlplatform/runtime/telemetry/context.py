"""W3C trace context: the trace of a request, and the headers that pass it on.

Source: W3C Recommendation, Trace Context level 1, sections 3.2 and 3.3.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

MAX_STATE_BYTES = 512
"""Most bytes of tracestate: as many as every system must pass on; a longer one is dropped whole."""

_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE = re.compile(rb"[\x20-\x7e\t]*")
_ZERO_TRACE, _ZERO_SPAN = b"0" * 32, b"0" * 16
_SAMPLED = 1
_STEPS = {"champion": 1, "challenger": 2, "previous": 3, "shadow": 4, "variant": 6}
ACCEPTED = 5
"""Place of the span under which a request was accepted for later."""


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The caller's place in a trace, and this gateway's span in it.

    Args:
        parent_id: the caller's span; None if the trace begins here.
        span_id: this gateway's span.
        state: the tracestate header as it came, which is passed on without being read.
    """

    trace_id: str
    parent_id: str | None
    span_id: str
    is_sampled: bool
    state: bytes = b""

    def headers(self, *, is_kept: bool) -> list[tuple[bytes, bytes]]:
        """traceparent with this gateway's span, and tracestate if there was one.

        Args:
            is_kept: whether this gateway's span is stored, which the header states as sampled.
        """
        headers = [(b"traceparent", parent(self.trace_id, self.span_id, is_kept).encode())]
        if self.state:
            headers.append((b"tracestate", self.state))
        return headers


class Origin(msgspec.Struct, frozen=True):
    """The decision on whose behalf a predictor is asked.

    Args:
        trace: the caller's trace; None if the decision begins its own.
    """

    decision_id: str
    trace: TraceContext | None
    step: str = "champion"

    @property
    def header_lines(self) -> str:
        """The headers of the call, each with its line's end.

        Nobody knows yet whether the spans will be sampled, so the flag is the caller's.
        """
        span_id = derived_span_id(self.decision_id, step_place(self.step))
        trace = self.trace
        if trace is None:
            return f"traceparent: {parent(trace_id_of(self.decision_id), span_id, False)}\r\n"
        line = f"traceparent: {parent(trace.trace_id, span_id, trace.is_sampled)}\r\n"
        return f"{line}tracestate: {trace.state.decode()}\r\n" if trace.state else line


def parent(trace_id: str, span_id: str, is_sampled: bool) -> str:
    """A traceparent."""
    return f"00-{trace_id}-{span_id}-{int(is_sampled):02x}"


def trace_id_of(decision_id: str) -> str:
    """The trace that begins with a decision: the first digits of its id, as long and as rare, and
    in its record."""
    return decision_id[:32]


def derived_span_id(decision_id: str, place: int = 0) -> str:
    """The id of a span of a decision, known before anybody knows whether the span is sampled.

    Args:
        place: number of the span within the decision; 0 is the request's span.
    """
    return f"{(int(decision_id[6:22], 16) + place) % (1 << 64) or 1:016x}"


def step_place(step: str) -> int:
    """The place of a predictor's call among the spans of a decision."""
    return _STEPS[step]


def new_trace() -> TraceContext:
    """A new trace, for a request whose caller names none and of which several records must name
    one."""
    return TraceContext(secrets.token_hex(16), None, secrets.token_hex(8), False)


def trace_context(headers: Mapping[bytes, bytes]) -> TraceContext | None:
    """The trace that the headers name; None if they name none, or not in the standard's form."""
    parent = headers.get(b"traceparent")
    if parent is None:
        return None
    found = _PARENT.fullmatch(parent)
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    # version 00 has exactly four parts; a later version may have more; ff is forbidden
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    if trace_id == _ZERO_TRACE or parent_id == _ZERO_SPAN:
        return None
    state = headers.get(b"tracestate", b"")
    if len(state) > MAX_STATE_BYTES or _STATE.fullmatch(state) is None:
        state = b""
    return TraceContext(
        trace_id.decode(),
        parent_id.decode(),
        secrets.token_hex(8),
        bool(int(flags, 16) & _SAMPLED),
        state,
    )
