"""`python -m mlplatform.exporter`: /metrics of the platform's state, until told to stop."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from mlplatform import backends
from mlplatform import settings as settings_module
from mlplatform.clock import Clock, ReplayClock, SystemClock
from mlplatform.decisions.sqlite import SqliteDecisionLog
from mlplatform.errors import PlatformError
from mlplatform.exporter import targets
from mlplatform.exporter.state import StateCollector
from mlplatform.http.ended_connections import EndedConnections
from mlplatform.models.definition import model_names
from mlplatform.models.personal import personal_fields
from mlplatform.rate_limit_filter import RateLimitFilter
from mlplatform.refusals import Refusals
from mlplatform.settings import Settings
from mlplatform.supervisor.parent_death import follow_parent, lower_priority
from mlplatform.telemetry import logs
from mlplatform.telemetry.listener import listen, tell
from mlplatform.telemetry.prometheus import Registry

TARGETS_S = 2.0

log = logging.getLogger(__name__)
log.addFilter(RateLimitFilter())


def parser() -> argparse.ArgumentParser:
    """The command line, which the supervisor writes too."""
    parser = argparse.ArgumentParser(prog="mlplatform.exporter", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="where who scrapes calls")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--address-file", type=Path, help='gets {"port": ..., "pid": ...}')
    parser.add_argument(
        "--token-file", type=Path, required=True, help="holds the bearer token of /metrics"
    )
    return parser


def main() -> None:
    """Runs until SIGTERM or SIGINT."""
    options = parser().parse_args()
    follow_parent()
    lower_priority()
    logs.configure("exporter", personal_fields())
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        settings = settings_module.load(os.environ)
        logs.set_level(settings.log_level)
        registry = Registry()
        registry.register(collector(settings))
        token = options.token_file.read_text().strip()
        ended = EndedConnections("exporter", Refusals(settings.home.audit))
        port = listen(registry, token, port=options.port, host=options.host, ended=ended)
    except (PlatformError, OSError) as error:
        sys.exit(f"the exporter cannot start: {error}")
    if options.address_file is not None:
        tell(options.address_file, port)
    while not stopping.wait(TARGETS_S):
        try:
            targets.keep(settings.home)
        except OSError as error:  # a full disk; the next look tries again
            log.warning("who scrapes is not told of new addresses: %s", error.strerror)


def collector(settings: Settings) -> StateCollector:
    """Over the backends that these settings name."""
    settings.home.create()
    log = SqliteDecisionLog(settings.home.decisions)
    return StateCollector(
        model_names(),
        backends.rollouts(settings),
        backends.incidents(settings),
        log.watermarks,
        _clock(settings, log),
        settings.home.measured,
        settings.home,
    )


def _clock(settings: Settings, log: SqliteDecisionLog) -> Clock:
    return SystemClock() if settings.clock == "system" else ReplayClock(log.latest_event_ms)


if __name__ == "__main__":
    main()
