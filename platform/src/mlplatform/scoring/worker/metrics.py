"""The metrics of a worker."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.export import Outcome
from mlplatform.runtime.telemetry.prometheus import MetricRegistry
from mlplatform.scoring.worker.messages import Poison, ScoreReply


class DroppedCounts:
    """Counts of messages that topics dropped before a worker read them."""

    def __init__(self, registry: MetricRegistry) -> None:
        self._messages = registry.counter(signals.TOPIC_DROPPED)
        self._found = registry.gauge(signals.TOPIC_DROPPED_FOUND)
        self._watched: set[tuple[str, str]] = set()

    def watch(self, model: str, topic: str, last_found_ms: int | None = None) -> None:
        """Start the series of a topic; one that has begun goes on.

        Args:
            last_found_ms: wall time at which the latest recorded loss was found; None if there is
                none.
        """
        if last_found_ms is None and (model, topic) in self._watched:
            return
        self._watched.add((model, topic))
        self._messages.labels(model, topic)
        self._found.labels(model, topic).set((last_found_ms or 0) / 1000)

    def add(self, model: str, topic: str, messages: int, found_ms: int) -> None:
        """Count the messages of a loss that was found at this wall time."""
        self._messages.labels(model, topic).inc(messages)
        self._found.labels(model, topic).set(found_ms / 1000)


class Metrics:
    """All metrics of one worker process, in its registry."""

    def __init__(self, model: str, registry: MetricRegistry) -> None:
        self._model = model
        self.dropped = DroppedCounts(registry)
        self._messages = registry.counter(signals.WORKER_MESSAGES)
        # Series begin at 0: a series that begins with its first message shows no increase, so the
        # first dead letter of a worker would raise no alert
        for outcome in signals.WORKER_MESSAGES.labels[1].values:
            self._messages.labels(model, outcome)
        self._given_up = registry.counter(signals.WORKER_GIVEN_UP)
        self._retries = registry.counter(signals.WORKER_RETRIES)
        self._lag = registry.gauge(signals.WORKER_LAG).labels(model)
        self._in_work = registry.gauge(signals.WORKER_IN_WORK).labels(model)
        self._traces = registry.counter(signals.WORKER_TRACES)
        self._batch = registry.histogram(signals.WORKER_BATCH).labels(model)

    def count_batch(self, outcomes: Sequence[ScoreReply | Poison], seconds: float) -> None:
        self._batch.observe(seconds)
        tally = Tally("scored" if isinstance(o, ScoreReply) else "dead_letter" for o in outcomes)
        for outcome, count in tally.items():
            self._messages.labels(self._model, outcome).inc(count)

    def count_given_up(self, reason: str) -> None:
        self._given_up.labels(self._model, reason).inc()

    def count_retry(self, reason: str) -> None:
        self._retries.labels(self._model, reason).inc()

    def count_traces(self, outcome: Outcome, batches: int) -> None:
        self._traces.labels(outcome).inc(batches)

    def lag(self, messages: int) -> None:
        self._lag.set(messages)

    @contextmanager
    def in_work(self, messages: int) -> Iterator[None]:
        self._in_work.set(messages)
        try:
            yield
        finally:
            self._in_work.set(0)
