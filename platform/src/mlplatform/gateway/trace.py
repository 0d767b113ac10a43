"""W3C trace context: which trace a request belongs to, and what is said of it onwards.

Source: W3C Recommendation, Trace Context level 1, sections 3.2 and 3.3.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

MAX_STATE_BYTES = 512
"""Of tracestate: what every system must pass on; a longer one is dropped whole."""

_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE = re.compile(rb"[\x20-\x7e\t]*")
_ZERO_TRACE, _ZERO_SPAN = b"0" * 32, b"0" * 16
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The caller's place in a trace, and the span that this gateway is in it.

    Args:
        parent_id: the caller's span; None where the trace begins here.
        span_id: this gateway's own.
        state: tracestate as it came, passed on unread.
    """

    trace_id: str
    parent_id: str | None
    span_id: str
    is_sampled: bool
    state: bytes = b""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """traceparent with this gateway's span, and tracestate if there was one."""
        parent = f"00-{self.trace_id}-{self.span_id}-{int(self.is_sampled):02x}".encode()
        headers = [(b"traceparent", parent)]
        if self.state:
            headers.append((b"tracestate", self.state))
        return headers


def trace_context(headers: Mapping[bytes, bytes]) -> TraceContext | None:
    """The trace that the headers name; None where they name none, or not as the standard says."""
    parent = headers.get(b"traceparent")
    if parent is None:
        return None
    found = _PARENT.fullmatch(parent)
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    # 00 has exactly four parts; a later version may have more, and ff is forbidden
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
