"""`python -m mlplatform.process exporter`: serves /metrics of the platform's state until it is
stopped."""

from __future__ import annotations

import argparse
import logging
import threading

from mlplatform.model.folders import model_names
from mlplatform.observing.exporter import targets
from mlplatform.observing.exporter.state import StateCollector
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.http.listener import MetricsListener, add_options
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter
from mlplatform.runtime.telemetry.refusals import Refusals
from mlplatform.scoring import wiring as scoring_wiring

TARGETS_S = 2.0

log = logging.getLogger(__name__)
log.addFilter(RateLimitFilter())


def parser() -> argparse.ArgumentParser:
    """The command line, which the supervisor writes too."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, must_be_read=True)
    return parser


def run(
    options: argparse.Namespace,
    settings: Settings,
    stopping: threading.Event,
    metrics: MetricsListener,
) -> None:
    """Runs until `stopping` is set."""
    metrics.registry.register(collector(settings))
    metrics.begin(Refusals(settings.home.audit))
    while not stopping.wait(TARGETS_S):
        try:
            targets.keep(settings.home)
        except OSError as error:  # a full disk; the next round tries again
            log.warning("the file of scrape targets could not be written: %s", error.strerror)


def collector(settings: Settings) -> StateCollector:
    """The collector over the adapters that these settings name."""
    settings.home.create()
    log = scoring_wiring.log_of(settings.home)
    stream = scoring_wiring.journal_stream(settings)
    return StateCollector(
        model_names,
        scoring_wiring.rollouts(settings),
        scoring_wiring.incidents(settings),
        log.watermarks,
        scoring_wiring.clock(settings, log.latest_event_ms),
        settings.home.measured,
        settings.home,
        stream.lags,
    )
