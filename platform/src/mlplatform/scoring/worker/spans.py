"""The spans of a batch of messages, for batches that get any."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from mlplatform.decisions.topics.messages import TRACE_HEADER, ReceivedMessage
from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.context import TraceContext, parent, trace_context
from mlplatform.runtime.telemetry.spans import Attributes, Link, Span, Trace, new_span_id

MAX_LINKS: Final = 128
MAX_CALLS: Final = 64

SamplingReason = Literal["error", "gateway", "share"]


@dataclass
class BatchSpan:
    """A batch in work, and the calls of the gateway for it, from several threads.

    Args:
        is_sampled: whether it is in the share that is always stored; the gateway gets this flag.
    """

    topic: str
    messages: int
    links: tuple[Link, ...]
    started_s: float
    is_sampled: bool
    trace_id: str = field(default_factory=lambda: secrets.token_hex(16))
    span_id: str = field(default_factory=new_span_id)
    is_error: bool = False
    is_kept_there: bool = False
    calls: list[Span] = field(default_factory=list)
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def call(self, span_id: str) -> str:
        """The traceparent of a call."""
        return parent(self.trace_id, span_id, self.is_sampled)

    def record_call(
        self, span_id: str, at_s: tuple[float, float], items: int, result: CallOutcome
    ) -> None:
        """Note the end of a call."""
        kind = signals.ASK_SPAN
        about: Attributes = {
            signals.MESSAGES: items,
            signals.HTTP_STATUS: result.status,
            signals.ERROR_TYPE: result.error,
        }
        is_error = result.error is not None
        span = Span(kind, kind.name, span_id, self.span_id, *at_s, about, is_error)
        with self._mutex:
            self.is_kept_there |= result.is_kept
            if len(self.calls) < MAX_CALLS:
                self.calls.append(span)

    @property
    def sampled_for(self) -> SamplingReason | None:
        """Why the batch gets spans; None if it gets none."""
        if self.is_error:
            return "error"
        if self.is_kept_there:
            return "gateway"
        return "share" if self.is_sampled else None


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """The outcome of a call of the gateway.

    Args:
        status: HTTP status; None if there was no answer.
        error: why the call is repeated, or that it was refused; None if neither.
        is_kept: whether the gateway stored its spans of the call.
    """

    status: int | None = None
    error: str | None = None
    is_kept: bool = False


def outcome(status: int, traceparent: str | None) -> CallOutcome:
    """The outcome of a call, by the answer's status and traceparent."""
    context = trace_context({b"traceparent": (traceparent or "").encode()})
    is_kept = context is not None and context.is_sampled
    return CallOutcome(status, None if status == 200 else f"status-{status}", is_kept)


def parent_links(messages: Sequence[ReceivedMessage]) -> tuple[Link, ...]:
    """The first spans that the messages name in their traceparents, at most MAX_LINKS."""
    found: list[Link] = []
    for message in messages:
        context = context_of(message)
        if context is not None and context.parent_id is not None:
            found.append(Link(context.trace_id, context.parent_id))
            if len(found) == MAX_LINKS:
                break
    return tuple(found)


def context_of(message: ReceivedMessage) -> TraceContext | None:
    """The trace context that a message names; None if it names none."""
    header = message.headers.get(TRACE_HEADER)
    return None if header is None else trace_context({b"traceparent": header})


@dataclass(frozen=True, slots=True)
class FinishedBatch:
    """A batch that is over, with the reason for its spans."""

    batch: BatchSpan
    ended_s: float
    sampled_for: SamplingReason


def build(drained: FinishedBatch) -> Trace:
    """The spans of a batch, with its own first."""
    batch, kind = drained.batch, signals.DRAIN_SPAN
    about: Attributes = {
        signals.TOPIC: batch.topic,
        signals.MESSAGES: batch.messages,
        signals.KEPT_FOR: drained.sampled_for,
    }
    name = kind.name.format(topic=batch.topic)
    at_s = batch.started_s, drained.ended_s
    own = Span(kind, name, batch.span_id, None, *at_s, about, batch.is_error, batch.links)
    return Trace(batch.trace_id, (own, *batch.calls))
