"""Which requests are worth their spans, decided when they are over, and what those spans are.

A request that is not leaves no more than a few clock readings behind.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from mlplatform.gateway.decided import Finished
from mlplatform.gateway.trace import TraceContext
from mlplatform.telemetry import signals
from mlplatform.telemetry.spans import Attributes, Span, Trace, new_span_id

KeptFor = Literal["error", "slow", "degraded", "canary", "caller", "share"]
MAX_DECISIONS: Final = 20
"""Of a batch: what is wrong with one is mostly wrong with all."""

_TIMINGS: Final = {b"queue": signals.QUEUE_MS, b"compute": signals.COMPUTE_MS}


@dataclass(frozen=True, slots=True)
class Ended:
    """A request that is answered.

    Args:
        operation: as in the metrics.
        attributes: of the request itself.
        finished: its decisions, as far as it had some.
    """

    operation: str
    attributes: Attributes
    trace: TraceContext | None
    started_s: float
    ended_s: float
    is_error: bool
    finished: Sequence[Finished]
    kept_for: KeptFor


class Sink(Protocol):
    """Where requests go whose spans are wanted."""

    def offer(self, item: Ended) -> None: ...


class Traces:
    """The end of every request comes by here.

    Args:
        slo_s: model → how long an answer may take and not be slow.
        share: of the requests that nothing speaks for and no caller has decided on, 0 to 1.
    """

    def __init__(
        self,
        sink: Sink,
        slo_s: Mapping[str, float],
        share: float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._sink = sink
        self._slo_s = slo_s
        self._share = share
        self._chance = chance

    def ended(
        self,
        operation: str,
        trace: TraceContext | None,
        started_s: float,
        status: int,
        finished: Sequence[Finished],
        attributes: Callable[[], Attributes],
    ) -> None:
        """Keep the request, if anything speaks for it."""
        kept_for = self._kept_for(trace, started_s, status, finished)
        if kept_for is not None:
            now_s, is_error = time.monotonic(), status >= 500
            about = attributes()
            self._sink.offer(
                Ended(operation, about, trace, started_s, now_s, is_error, finished, kept_for)
            )

    def _kept_for(
        self,
        trace: TraceContext | None,
        started_s: float,
        status: int,
        finished: Sequence[Finished],
    ) -> KeptFor | None:
        if status >= 500:
            return "error"
        for each in finished:
            kept_for = self._of_decision(each)
            if kept_for is not None:
                return kept_for
        if trace is not None:
            return "caller" if trace.is_sampled else None
        return "share" if self._chance() < self._share else None

    def _of_decision(self, finished: Finished) -> KeptFor | None:
        case = finished.decided.case
        if finished.decided.degraded_reason is not None:
            return "degraded"
        if finished.recorded_s - finished.started_s > self._slo_s[case.live.routes.model]:
            return "slow"
        return "canary" if case.assignment.arm == "challenger" else None


def build(ended: Ended) -> Trace:
    """The spans of a request; the first is the request's own."""
    decisions = ended.finished[:MAX_DECISIONS]
    first = decisions[0].decided.case if decisions else None
    trace = ended.trace
    if trace is not None:
        trace_id, span_id, parent_id = trace.trace_id, trace.span_id, trace.parent_id
    else:
        # A decision's id is as long and as rare as a trace's, and in its record already.
        trace_id = first.decision_id if first else new_span_id() + new_span_id()
        span_id, parent_id = new_span_id(), None
    own = {**ended.attributes, signals.KEPT_FOR: ended.kept_for}
    spans: list[Span] = []
    if len(decisions) == 1:
        own |= _decision_attributes(decisions[0])
        spans += _steps(decisions[0], span_id)
    else:
        for finished in decisions:
            spans += _decision(finished, span_id)
    model = first.live.routes.model if first else ""
    kind = signals.REQUEST_SPAN
    name = kind.name.format(operation=ended.operation, model=model).strip()
    request = Span(
        kind, name, span_id, parent_id, ended.started_s, ended.ended_s, own, ended.is_error
    )
    return Trace(trace_id, (request, *spans), has_remote_parent=parent_id is not None)


def _decision(finished: Finished, parent_id: str) -> list[Span]:
    kind, span_id = signals.DECISION_SPAN, new_span_id()
    attributes = _decision_attributes(finished)
    own = Span(
        kind, kind.name, span_id, parent_id, finished.started_s, finished.recorded_s, attributes
    )
    return [own, *_steps(finished, span_id)]


def _decision_attributes(finished: Finished) -> Attributes:
    decided = finished.decided
    routes, arm = decided.case.live.routes, decided.arm
    return {
        signals.MODEL_NAME: routes.model,
        signals.MODEL_VERSION: arm.version if arm else None,
        signals.DECISION_ID: decided.case.decision_id,
        signals.ROUTE_ARM: decided.case.assignment.arm,
        signals.GENERATION_USED: routes.generation,
        signals.ANSWERED_BY: decided.verdict.answered_by,
        signals.DEGRADED_REASON: decided.degraded_reason,
    }


def _steps(finished: Finished, parent_id: str) -> list[Span]:
    """What a decision's time went into, in order."""
    decided = finished.decided
    found = []

    def add(
        kind: signals.SpanKind, name: str, start_s: float, end_s: float, more: Attributes,
        is_error: bool = False,
    ) -> None:  # fmt: skip
        found.append(Span(kind, name, new_span_id(), parent_id, start_s, end_s, more, is_error))

    if decided.case.read_s:
        add(signals.FEATURES_SPAN, signals.FEATURES_SPAN.name, *decided.case.read_s, {})
    predict = signals.PREDICT_SPAN
    for failure in decided.failures:
        if failure.asked_s:  # a breaker that is open, or a full bulkhead, asked nobody
            name = predict.name.format(step=failure.step)
            why = {signals.ERROR_TYPE: failure.reason}
            add(predict, name, failure.asked_s, failure.failed_s, why, is_error=True)
    prediction = decided.prediction
    if prediction is not None and not prediction.cached:
        name = predict.name.format(step=prediction.step)
        add(predict, name, prediction.asked_s, prediction.answered_s, timings(prediction.timing))
    record = signals.RECORD_SPAN
    add(record, record.name, decided.decided_s, finished.recorded_s, {})
    return found


def timings(header: bytes) -> Attributes:
    """What a predictor says of its own time, in its Server-Timing header.

    Source: W3C Server Timing; entries that are not as we write them are passed over.
    """
    found = {}
    for entry in header.split(b","):
        name, _, duration = entry.strip().partition(b";dur=")
        if name in _TIMINGS:
            try:
                found[_TIMINGS[name]] = float(duration)
            except ValueError:
                continue
    return found
