"""`python -m mlplatform.process worker`: scores a model's request topic until it is stopped."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import msgspec

from mlplatform.decisions.records.pseudonym import key_of
from mlplatform.decisions.topics.messages import Topics
from mlplatform.decisions.topics.wiring import open_topics
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.features.views import external, load_views
from mlplatform.model.folders import load_definition, model_folder
from mlplatform.model.policies.serving import MAX_BATCH, AsyncPolicy, BatchSize
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.http.listener import MetricsListener, add_options
from mlplatform.runtime.telemetry.export import SpanExport
from mlplatform.runtime.telemetry.refusals import Refusals
from mlplatform.runtime.telemetry.spans import ProcessIdentity
from mlplatform.scoring import wiring as scoring_wiring
from mlplatform.scoring.pushes.pushes import PushTarget
from mlplatform.scoring.worker import outbox
from mlplatform.scoring.worker.drain import DrainLimits, Worker
from mlplatform.scoring.worker.feature_stream import (
    FeatureStream,
    group_of,
    specs_of,
    topic_of,
)
from mlplatform.scoring.worker.gateway import GatewayScorer
from mlplatform.scoring.worker.messages import Names
from mlplatform.scoring.worker.metrics import DroppedCounts, Metrics
from mlplatform.scoring.worker.spans import build
from mlplatform.scoring.worker.stream_lag import StreamLag, StreamLags


def parser() -> argparse.ArgumentParser:
    """The command line, which the supervisor writes too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="The name of a model's folder.")
    parser.add_argument(
        "--name",
        default="worker-0",
        help="A name that no other process has. A restart with it keeps its partitions.",
    )
    parser.add_argument("--key-file", type=Path, help="A file with the API key to score with.")
    add_options(parser, must_be_read=False)
    parser.add_argument(
        "--batch", type=_batch_size, help="Messages of a commit, instead of model.yaml's."
    )
    parser.add_argument(
        "--outbox",
        action="store_true",
        help="Publish the decision log too; only one process of a model may.",
    )
    return parser


def _batch_size(text: str) -> int:
    try:
        return msgspec.convert(text, BatchSize, strict=False)
    except msgspec.ValidationError:
        wanted = f"it is '{text}'; wanted: 1 to {MAX_BATCH:,} messages"
        raise argparse.ArgumentTypeError(wanted) from None


def limits_of(policy: AsyncPolicy | None, batch: int | None) -> DrainLimits:
    """Limits of what is in work at once: those of the command line, else of model.yaml."""
    limits = (
        DrainLimits(policy.batch, policy.chunk, policy.connections) if policy else DrainLimits()
    )
    return DrainLimits(batch, limits.chunk, limits.connections) if batch else limits


def run(
    options: argparse.Namespace,
    settings: Settings,
    stopping: threading.Event,
    listener: MetricsListener,
) -> None:
    """Runs until `stopping` is set; the batch in work is committed first."""
    settings.home.create()  # in a pod it may start before the gateway
    definition = load_definition(options.model)
    names = Names(definition.name)
    metrics = Metrics(names.model, listener.registry)
    key_file = options.key_file or settings.home.api_key
    scorer = GatewayScorer(
        settings.gateway_url, names.model, lambda: key_file.read_text().strip(), metrics.count_retry
    )
    targets = _streamed(definition, settings)
    read = [spec for target in targets for spec in specs_of(topic_of(target.view) or "")]
    topics = open_topics(settings, [*names.specs(), *read])
    # before the outbox publishes, so that its messages are kept for the group
    subscription = topics.subscribe([names.requests], names.group, options.name)
    lags = StreamLags()
    listener.registry.register(lags)
    listener.begin(Refusals(settings.home.audit))
    limits = limits_of(definition.asynchronous, options.batch)
    sender = scoring_wiring.span_sender(settings, ProcessIdentity("worker", options.name))
    spans = SpanExport(sender, build, metrics.count_traces)
    worker = Worker(
        subscription,
        scorer,
        names,
        metrics,
        limits,
        spans,
        settings.trace_share,
        SystemClock().wall_ms,
    )
    spans.start()
    try:
        with ExitStack() as beside:
            if options.outbox:
                publish = partial(outbox.publish, names.model, settings, stopping)
                beside.enter_context(_beside("outbox", publish, stopping))
            for target in targets:
                lag = StreamLag(target.model, target.view.name, SystemClock().wall_ms)
                lags.add(lag)
                stream = _stream(target, settings, topics, options.name, lag, metrics.dropped)
                beside.enter_context(_beside("features", partial(stream.run, stopping), stopping))
            worker.run(stopping)
    finally:
        spans.stop()
        topics.close()


def _streamed(definition: ModelDefinition, settings: Settings) -> list[PushTarget]:
    """The model's views that have a topic."""
    views = external(load_views(model_folder(definition.name)))
    if not any(topic_of(view) for view in views):
        return []
    key = key_of(settings.home)
    targets = scoring_wiring.push_targets(settings, [definition], key)
    return [target for target in targets if topic_of(target.view)]


def _stream(
    target: PushTarget,
    settings: Settings,
    topics: Topics,
    member: str,
    lag: StreamLag,
    dropped: DroppedCounts,
) -> FeatureStream:
    group = group_of(target.model, target.view.name)
    subscription = topics.subscribe([topic_of(target.view) or ""], group, member)
    entry = scoring_wiring.push_entry(settings, [target], SystemClock().event_ms)
    return FeatureStream(subscription, target, entry, lag, dropped)


@contextmanager
def _beside(name: str, work: Callable[[], None], stopping: threading.Event) -> Iterator[None]:
    """Runs work in a thread beside the worker; each ends when the other does.

    Raises:
        PlatformError: the error that ended the work.
    """
    ended_by: list[Exception] = []

    def follow() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 -- raised in the main thread, which ends with it
            ended_by.append(error)
        finally:
            stopping.set()

    thread = threading.Thread(target=follow, name=name)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
    for error in ended_by:
        raise error
