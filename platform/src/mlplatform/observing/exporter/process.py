"""`python -m mlplatform.process exporter`: /metrics of the platform's state, until told to stop."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.model.folders import readable_names
from mlplatform.observing.exporter import targets
from mlplatform.observing.exporter.state import StateCollector
from mlplatform.runtime.clock import Clock, ReplayClock, SystemClock
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.http.ended_connections import EndedConnections
from mlplatform.runtime.http.listener import listen, read_token, tell
from mlplatform.runtime.processes.shutdown_signals import stopping_at_signals
from mlplatform.runtime.telemetry.prometheus import Registry
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter
from mlplatform.runtime.telemetry.refusals import Refusals
from mlplatform.scoring import backends

TARGETS_S = 2.0

log = logging.getLogger(__name__)
log.addFilter(RateLimitFilter())


def parser() -> argparse.ArgumentParser:
    """The command line, which the supervisor writes too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="where who scrapes calls")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--address-file", type=Path, help='gets {"port": ..., "pid": ...}')
    parser.add_argument(
        "--token-file", type=Path, required=True, help="holds the bearer token of /metrics"
    )
    return parser


def run(options: argparse.Namespace, settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT."""
    stopping = stopping_at_signals()
    registry = Registry()
    registry.register(collector(settings))
    token = read_token(options.token_file)
    ended = EndedConnections("exporter", Refusals(settings.home.audit))
    port = listen(registry, token, port=options.port, host=options.host, ended=ended)
    if options.address_file is not None:
        tell(options.address_file, port)
    while not stopping.wait(TARGETS_S):
        try:
            targets.keep(settings.home)
        except OSError as error:  # a full disk; the next look tries again
            log.warning("the file of scrape targets could not be written: %s", error.strerror)


def collector(settings: Settings) -> StateCollector:
    """Over the backends that these settings name."""
    settings.home.create()
    log = SqliteDecisionLog(settings.home.decisions)
    outbox = backends.outbox(settings)
    return StateCollector(
        readable_names(),
        backends.rollouts(settings),
        backends.incidents(settings),
        log.watermarks,
        _clock(settings, log),
        settings.home.measured,
        settings.home,
        outbox.lags,
    )


def _clock(settings: Settings, log: SqliteDecisionLog) -> Clock:
    return SystemClock() if settings.clock == "system" else ReplayClock(log.latest_event_ms)
