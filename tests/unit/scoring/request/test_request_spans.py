"""Which requests are worth their spans, and what a predictor says of its time."""

from __future__ import annotations

import random
import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.context import TraceContext
from mlplatform.scoring.request.spans import (
    MAX_DECISIONS,
    AcceptedForLater,
    AnsweredRequest,
    Traces,
    _first_of,
    build,
    timings,
)

SAMPLED = TraceContext("a" * 32, "b" * 16, "c" * 16, is_sampled=True)
NOT_SAMPLED = TraceContext("a" * 32, "b" * 16, "c" * 16, is_sampled=False)


class KeptRequests(list[AnsweredRequest]):
    def offer(self, item: AnsweredRequest, *, is_spare: bool) -> None:
        self.append(item)


@pytest.mark.parametrize(
    ("trace", "status", "chance", "sampled_for"),
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
    trace: TraceContext | None, status: int, chance: float, sampled_for: str | None
) -> None:
    kept = KeptRequests()
    traces = Traces(kept, {}, 0.1, chance=lambda: chance)
    traces.end("models", trace, time.monotonic(), status, (), lambda: {})
    assert [each.sampled_for for each in kept] == ([] if sampled_for is None else [sampled_for])


def test_what_is_kept_of_a_large_batch_is_what_a_trace_shows() -> None:
    kept, batch = (
        KeptRequests(),
        [AcceptedForLater(f"{number:032x}", "fraud", 0.0, 0.1) for number in range(1000)],
    )
    Traces(kept, {}, 1.0).end("batch", None, time.monotonic(), 200, batch, lambda: {})
    (ended,) = kept
    assert len(ended.done) == MAX_DECISIONS
    assert ended.done[0] is batch[0]


class CountingFloat(float):
    """Counts how often its differences are compared."""

    compared = 0

    def __sub__(self, other: float) -> CountingFloat:
        return CountingFloat(float(self) - other)

    def __lt__(self, other: float) -> bool:
        CountingFloat.compared += 1
        return float.__lt__(self, other)


def decision(took_s: float, arm: str = "champion", degraded: str | None = None) -> Any:
    routed = SimpleNamespace(assignment=SimpleNamespace(arm=arm))
    decided = SimpleNamespace(routed=routed, degraded_reason=degraded)
    return SimpleNamespace(
        decided=decided, is_recorded=True, started_s=CountingFloat(0.0), recorded_s=took_s
    )


@given(st.permutations(range(200)), st.sets(st.integers(1, 199), max_size=30))
def test_a_large_batch_shows_what_is_wrong_then_what_was_slow(
    took_ms: list[int], wrong: set[int]
) -> None:
    batch = [
        decision(took / 1000, degraded="deadline" if number in wrong else None)
        for number, took in enumerate(took_ms)
    ]
    first, *others = _first_of(batch)
    assert first is batch[0]
    by_worth = sorted(range(1, 200), key=lambda n: (n not in wrong, -took_ms[n]))
    assert others == [batch[number] for number in by_worth[: MAX_DECISIONS - 1]]


def test_choosing_them_does_not_sort_the_batch() -> None:
    """It is done on the event loop: most are compared once, with the last that is shown."""
    took_ms = random.Random(7).sample(range(1000), 1000)
    batch, CountingFloat.compared = [decision(took / 1000) for took in took_ms], 0
    assert len(_first_of(batch)) == MAX_DECISIONS
    assert 0 < CountingFloat.compared < 2 * len(batch)


def test_attributes_are_made_for_kept_requests_only() -> None:
    def attributes() -> dict[signals.Attribute, str]:
        raise AssertionError("nobody wants them")

    Traces(KeptRequests(), {}, 0.0).end("models", None, 0.0, 200, (), attributes)


def test_a_trace_that_begins_here_without_a_decision_has_an_id_of_its_own() -> None:
    kept = KeptRequests()
    traces = Traces(kept, {}, 1.0)
    for _ in range(2):
        traces.end("models", None, time.monotonic(), 200, (), lambda: {})
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
