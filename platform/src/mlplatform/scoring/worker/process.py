"""`python -m mlplatform.process worker`: scores a model's request topic until it is stopped."""

from __future__ import annotations

import argparse
import logging
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from mlplatform.decisions.records.pseudonym import key_of
from mlplatform.decisions.topics.messages import Topics
from mlplatform.decisions.topics.wiring import open_topics
from mlplatform.model.declarations import POLL_S, Declaration, Declarations
from mlplatform.model.definition import RequestField
from mlplatform.model.features.views import FeatureView, external, load_views
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
from mlplatform.scoring.worker.metrics import Metrics
from mlplatform.scoring.worker.spans import build
from mlplatform.scoring.worker.stream_lag import StreamLag, StreamLags

log = logging.getLogger(__name__)


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
        "--batch", type=_batch_size, help="Messages in one commit, instead of model.yaml's number."
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


@dataclass(frozen=True, slots=True)
class _Work:
    """The part of a declaration that a worker uses; another one needs other readers.

    Args:
        streamed: the views that have a topic, each with the request field of its key.
        refused: the names of views that other folders do not let the model use as it would.
    """

    asynchronous: AsyncPolicy | None
    streamed: tuple[tuple[FeatureView, RequestField], ...]
    refused: frozenset[str]

    @classmethod
    def of(cls, declarations: Declarations, model: str) -> _Work:
        declaration = declarations.present[model]
        fields = declaration.definition.request
        streamed = (v for v in external(declaration.views) if topic_of(v))
        keyed = tuple((view, fields[view.join_key]) for view in streamed)
        refused = frozenset(one.view for one in declarations.refused_views)
        return cls(declaration.definition.asynchronous, keyed, refused)


class _Process:
    """The parts of a worker that stay while its model's declaration changes."""

    def __init__(
        self, options: argparse.Namespace, settings: Settings, listener: MetricsListener
    ) -> None:
        self._options, self._settings, self._listener = options, settings, listener
        self._names = Names(load_definition(options.model).name)
        load_views(model_folder(options.model))
        self._declarations = Declarations(options.model)
        self._metrics = Metrics(self._names.model, listener.registry)
        self._lags = StreamLags()
        listener.registry.register(self._lags)
        self._listens = False
        key_file = options.key_file or settings.home.api_key
        self._scorer = GatewayScorer(
            settings.gateway_url,
            self._names.model,
            lambda: key_file.read_text().strip(),
            self._metrics.count_retry,
        )
        sender = scoring_wiring.span_sender(settings, ProcessIdentity("worker", options.name))
        self._spans = SpanExport(sender, build, self._metrics.count_traces)

    def run(self, stopping: threading.Event) -> None:
        """Work until `stopping` is set: by the declaration of the moment, and again by the next."""
        self._spans.start()
        try:
            while not stopping.is_set():
                declaration = self._declarations.present[self._names.model]
                work = _Work.of(self._declarations, self._names.model)
                ending = threading.Event()
                look = partial(self._until_changed, work, ending, stopping)
                with _beside("folder", look, ending):
                    self._work(declaration, work.refused, ending)
        finally:
            self._spans.stop()

    def _until_changed(
        self, work: _Work, ending: threading.Event, stopping: threading.Event
    ) -> None:
        """Return when the work ends, or is to end: it is to stop, or is declared otherwise."""
        while not ending.is_set() and not stopping.wait(POLL_S):
            self._declarations.poll()
            if _Work.of(self._declarations, self._names.model) != work:
                log.info("%s is read and scored as its folder says now", self._names.model)
                return

    def _work(
        self, declaration: Declaration, refused: Collection[str], ending: threading.Event
    ) -> None:
        settings, names, metrics = self._settings, self._names, self._metrics
        targets = [one for one in _streamed(declaration, settings) if self._is_read(one, refused)]
        read = [spec for target in targets for spec in specs_of(topic_of(target.view) or "")]
        topics = open_topics(settings, [*names.specs(), *read])
        try:
            # before the outbox publishes, so that its messages are kept for the group
            subscription = topics.subscribe([names.requests], names.group, self._options.name)
            if not self._listens:
                self._listener.begin(Refusals(settings.home.audit))
                self._listens = True
            worker = Worker(
                subscription,
                self._scorer,
                names,
                metrics,
                limits_of(declaration.definition.asynchronous, self._options.batch),
                self._spans,
                settings.trace_share,
                SystemClock().wall_ms,
            )
            with ExitStack() as beside:
                if self._options.outbox:
                    publish = partial(outbox.publish, names.model, settings, ending)
                    beside.enter_context(_beside("outbox", publish, ending))
                lags = [StreamLag(t.model, t.view.name, SystemClock().wall_ms) for t in targets]
                self._lags.show(lags)
                for target, lag in zip(targets, lags, strict=True):
                    stream = self._stream(target, topics, lag)
                    beside.enter_context(_beside("features", partial(stream.run, ending), ending))
                worker.run(ending)
        finally:
            topics.close()

    def _is_read(self, target: PushTarget, refused: Collection[str]) -> bool:
        """Whether a topic is read. For a refused view it is if it was read before: what goes on
        stays as it is."""
        if target.view.name not in refused:
            return True
        with closing(scoring_wiring.pushes(self._settings)) as journal:
            read = journal.topics_read(target.model, target.view.name)
        return topic_of(target.view) in {topic for topic, _ in read}

    def _stream(self, target: PushTarget, topics: Topics, lag: StreamLag) -> FeatureStream:
        group = group_of(target.model, target.view.name)
        topic = topic_of(target.view) or ""
        subscription = topics.subscribe([topic], group, self._options.name)
        entry = scoring_wiring.push_entry(self._settings, [target], SystemClock().event_ms)
        return FeatureStream(subscription, target, entry, lag, self._metrics.dropped)


def run(
    options: argparse.Namespace,
    settings: Settings,
    stopping: threading.Event,
    listener: MetricsListener,
) -> None:
    """Runs until `stopping` is set; the batch in work is committed first."""
    settings.home.create()  # in a pod it may start before the gateway
    _Process(options, settings, listener).run(stopping)


def _streamed(declaration: Declaration, settings: Settings) -> list[PushTarget]:
    """The model's views that have a topic."""
    if not any(topic_of(view) for view in external(declaration.views)):
        return []
    key = key_of(settings.home)
    targets = scoring_wiring.push_targets(settings, [declaration], key)
    return [target for target in targets if topic_of(target.view)]


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
