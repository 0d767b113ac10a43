"""Which requests are worth their spans, and what a predictor says of its time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.gateway.spans import MAX_DECISIONS, Ended, Taken, Traces, build, timings
from mlplatform.telemetry import signals
from mlplatform.telemetry.context import TraceContext

SAMPLED = TraceContext("a" * 32, "b" * 16, "c" * 16, is_sampled=True)
NOT_SAMPLED = TraceContext("a" * 32, "b" * 16, "c" * 16, is_sampled=False)


class Kept(list[Ended]):
    def offer(self, item: Ended, *, is_spare: bool) -> None:
        self.append(item)


@pytest.mark.parametrize(
    ("trace", "status", "chance", "kept_for"),
    [
        (None, 200, 0.5, None),
        (None, 200, 0.0999, "share"),
        (None, 200, 0.1, None),
        (SAMPLED, 200, 0.5, "caller"),
        (NOT_SAMPLED, 200, 0.0, None),
        (None, 422, 0.5, None),
        (None, 500, 0.5, "error"),
        (NOT_SAMPLED, 503, 0.5, "error"),
        (SAMPLED, 503, 0.5, "error"),
    ],
)
def test_a_request_without_a_decision_is_kept(
    trace: TraceContext | None, status: int, chance: float, kept_for: str | None
) -> None:
    kept = Kept()
    traces = Traces(kept, {}, 0.1, chance=lambda: chance)
    traces.ended("models", trace, time.monotonic(), status, (), lambda: {})
    assert [each.kept_for for each in kept] == ([] if kept_for is None else [kept_for])


def test_what_is_kept_of_a_large_batch_is_what_a_trace_shows() -> None:
    kept, batch = Kept(), [Taken(f"{number:032x}", "fraud", 0.0, 0.1) for number in range(1000)]
    Traces(kept, {}, 1.0).ended("batch", None, time.monotonic(), 200, batch, lambda: {})
    (ended,) = kept
    assert len(ended.done) == MAX_DECISIONS
    assert ended.done[0] is batch[0]


def test_attributes_are_made_for_kept_requests_only() -> None:
    def attributes() -> dict[signals.Attribute, str]:
        raise AssertionError("nobody wants them")

    Traces(Kept(), {}, 0.0).ended("models", None, 0.0, 200, (), attributes)


def test_a_trace_that_begins_here_without_a_decision_has_an_id_of_its_own() -> None:
    kept = Kept()
    traces = Traces(kept, {}, 1.0)
    for _ in range(2):
        traces.ended("models", None, time.monotonic(), 200, (), lambda: {})
    first, second = map(build, kept)
    assert first.trace_id != second.trace_id
    assert len(first.trace_id) == 32
    assert int(first.trace_id, 16) > 0
    (span,) = first.spans
    assert (span.name, span.parent_id, first.has_remote_parent) == ("models", None, False)


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (b"queue;dur=0.125, compute;dur=1.5", (0.125, 1.5)),
        (b"compute;dur=1.5", (None, 1.5)),
        (b"queue;dur=x, compute", (None, None)),
        (b"other;dur=3", (None, None)),
        (b"", (None, None)),
    ],
)
def test_a_predictors_timing_is_read(
    header: bytes, found: tuple[float | None, float | None]
) -> None:
    read = timings(header)
    assert (read.get(signals.QUEUE_MS), read.get(signals.COMPUTE_MS)) == found


@given(st.binary())
def test_any_header_at_all_is_read_without_an_error(header: bytes) -> None:
    assert set(timings(header)) <= {signals.QUEUE_MS, signals.COMPUTE_MS}
