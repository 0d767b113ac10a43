"""`python -m mlplatform.process worker`: scores a model's request topic until told to stop."""

from __future__ import annotations

import argparse
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlplatform.decisions.topics.choice import open_topics
from mlplatform.model.folders import load_definition
from mlplatform.model.policies.serving import AsyncPolicy
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.http.listener import listen, read_token, tell
from mlplatform.runtime.processes.shutdown_signals import stopping_at_signals
from mlplatform.runtime.telemetry.export import SpanExport
from mlplatform.runtime.telemetry.spans import ProcessIdentity
from mlplatform.scoring import backends
from mlplatform.scoring.worker import outbox
from mlplatform.scoring.worker.drain import Limits, Worker
from mlplatform.scoring.worker.gateway import GatewayScorer
from mlplatform.scoring.worker.messages import Names
from mlplatform.scoring.worker.metrics import Metrics
from mlplatform.scoring.worker.spans import build


def parser() -> argparse.ArgumentParser:
    """The command line, which the supervisor writes too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a model folder's name")
    parser.add_argument(
        "--name", default="worker-0", help="one process a name; it keeps partitions"
    )
    parser.add_argument("--key-file", type=Path, help="holds the API key to score with")
    parser.add_argument("--host", default="127.0.0.1", help="where who scrapes calls")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--address-file", type=Path, help='gets {"port": ..., "pid": ...}')
    parser.add_argument("--token-file", type=Path, help="holds the bearer token of /metrics")
    parser.add_argument("--batch", type=int, help="messages of a commit, instead of model.yaml's")
    parser.add_argument(
        "--outbox", action="store_true", help="publish the decision log too: one process a model"
    )
    return parser


def limits_of(policy: AsyncPolicy | None, batch: int | None) -> Limits:
    """How much is in work at once: as model.yaml says, unless the command line does."""
    limits = Limits(policy.batch, policy.chunk, policy.connections) if policy else Limits()
    return Limits(batch, limits.chunk, limits.connections) if batch else limits


def run(options: argparse.Namespace, settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT; the batch in work is committed first."""
    stopping = stopping_at_signals()
    settings.home.create()  # in a pod it may be here before the gateway
    definition = load_definition(options.model)
    names = Names(definition.name)
    metrics = Metrics(names.model)
    key_file = options.key_file or settings.home.api_key
    scorer = GatewayScorer(
        settings.gateway_url, names.model, lambda: key_file.read_text().strip(), metrics.retried
    )
    topics = open_topics(settings, names.specs())
    # before the outbox publishes: what a group has not read is kept for it
    subscription = topics.subscribe([names.requests], names.group, options.name)
    _listen(options, metrics)
    limits = limits_of(definition.asynchronous, options.batch)
    sender = backends.span_sender(settings, ProcessIdentity("worker", options.name))
    spans = SpanExport(sender, build, metrics.traced)
    worker = Worker(subscription, scorer, names, metrics, limits, spans, settings.trace_share)
    spans.start()
    try:
        if options.outbox:
            with _outbox(names.model, settings, stopping):
                worker.run(stopping)
        else:
            worker.run(stopping)
    finally:
        spans.stop()
        topics.close()


def _listen(options: argparse.Namespace, metrics: Metrics) -> None:
    token = read_token(options.token_file) if options.token_file else secrets.token_hex(16)
    port = listen(metrics.registry, token.strip(), port=options.port, host=options.host)
    if options.address_file is not None:
        tell(options.address_file, port)


@contextmanager
def _outbox(model: str, settings: Settings, stopping: threading.Event) -> Iterator[None]:
    """The outbox in a thread beside the worker; each ends when the other does.

    Raises:
        PlatformError: what ended the outbox.
    """
    ended_by: list[Exception] = []

    def follow() -> None:
        try:
            outbox.publish(model, settings, stopping)
        except Exception as error:  # noqa: BLE001 -- raised in the main thread, which ends with it
            ended_by.append(error)
        finally:
            stopping.set()

    thread = threading.Thread(target=follow, name="outbox")
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
    for error in ended_by:
        raise error
