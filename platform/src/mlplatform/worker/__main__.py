"""`python -m mlplatform.worker`: scores a model's request topic until told to stop."""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
import threading
from pathlib import Path

import msgspec

from mlplatform import settings as settings_module
from mlplatform.errors import PlatformError
from mlplatform.files import write_atomically
from mlplatform.models.definition import load_definition
from mlplatform.settings import Settings
from mlplatform.supervisor.lifeline import follow_parent
from mlplatform.telemetry import logs
from mlplatform.worker.drain import Limits, Worker
from mlplatform.worker.gateway import GatewayScorer
from mlplatform.worker.messages import Names
from mlplatform.worker.metrics import Metrics, listen
from mlplatform.worker.topics import open_topics


def parser() -> argparse.ArgumentParser:
    """The command line, which the supervisor writes too."""
    taken = argparse.ArgumentParser(prog="mlplatform.worker", description=__doc__)
    taken.add_argument("--model", required=True, help="a model folder's name")
    taken.add_argument("--name", default="worker-0", help="one process a name; it keeps partitions")
    taken.add_argument("--key-file", type=Path, help="holds the API key to score with")
    taken.add_argument("--address-file", type=Path, help='gets {"port": ..., "pid": ...}')
    taken.add_argument("--token-file", type=Path, help="holds the bearer token of /metrics")
    taken.add_argument("--batch", type=int, default=Limits().batch, help="messages of a commit")
    return taken


def main() -> None:
    """Runs until SIGTERM or SIGINT; the batch in work is committed first."""
    options = parser().parse_args()
    follow_parent()
    logs.configure("worker", options.name)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        _run(options, settings_module.load(os.environ), stopping)
    except PlatformError as error:
        sys.exit(f"{options.name} ends: {error}")


def _run(options: argparse.Namespace, settings: Settings, stopping: threading.Event) -> None:
    names = Names(load_definition(options.model).name)
    metrics = Metrics(names.model)
    key_file = options.key_file or settings.home.api_key
    scorer = GatewayScorer(
        settings.gateway_url, names.model, lambda: key_file.read_text().strip(), metrics.retried
    )
    topics = open_topics(settings, names.specs())
    subscription = topics.subscribe([names.requests], names.group, options.name)
    token = options.token_file.read_text() if options.token_file else secrets.token_hex(16)
    port = listen(metrics, token.strip())
    if options.address_file is not None:
        address = {"port": port, "pid": os.getpid()}
        write_atomically(options.address_file, msgspec.json.encode(address))
    try:
        Worker(subscription, scorer, names, metrics, Limits(batch=options.batch)).run(stopping)
    finally:
        topics.close()


if __name__ == "__main__":
    main()
