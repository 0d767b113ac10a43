"""`python -m mlplatform.process NAME`: processes of the platform start here, in the same way.

A process ends with its supervisor, or with status 0 when it is asked to end. It lowers its priority
where its work may wait, logs JSON lines without personal values and loads the settings. Then it
calls `run` of the module that `ENTRIES` names, whose `parser()` is its command line. `run` takes
the options, the settings, an event that signals set, and the metrics, each where its entry has it.
An error that is expected becomes one line and exit code 1. The few programs that start otherwise
are listed in tests/artifacts/test_programs.py, with what each is.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, cast

from mlplatform.model.folders import personal_fields
from mlplatform.runtime.configuration.settings import load, log_level
from mlplatform.runtime.errors import PlatformError
from mlplatform.runtime.processes.parent_death import follow_parent, lower_priority
from mlplatform.runtime.processes.shutdown_signals import (
    ended_by_signals,
    has_end_signal,
    stopping_at_signals,
)
from mlplatform.runtime.telemetry import logs
from mlplatform.runtime.telemetry.signals import Process

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """How one kind of process starts.

    Args:
        module: has `parser()` and `run()`.
        process: what the lines of its log say that it is.
        instance: which one of them it is, with names of options in braces.
        niceness: how much lower than that of requests its priority is, 1 to 19; 0: not at all.
        has_settings: `run` takes the settings; else its options say all but log level, profile and
            folders of models: a predictor's pod knows nothing of an installation.
        stops: "event": `run` takes an event that a signal sets, finishes what is in work and
            returns. "server": the server handles signals while it serves, and drains. "signal": it
            works through one task and ends; a signal that comes earlier ends it, with the signal's
            status, because the task is not done. In all other cases the status is 0.
        has_metrics: `run` takes a `MetricsListener`; the others have no metrics, or show them on
            the port that they serve, to callers whom that port lets in.
    """

    module: str
    process: Process
    instance: str | None = None
    niceness: int = 0
    has_settings: bool = True
    stops: Literal["event", "server", "signal"] = "server"
    has_metrics: bool = False


_PREFECT: Final = "mlplatform.operations.prefect_server"
BACKGROUND_NICE: Final = 10
FLOWS_NICE: Final = 6
"""Prefect uses an eighth of a core when nothing runs. At 10 it does not answer where requests use
two cores; at 6 it gets more than twice as much of them, and answers were as fast (p99 12 and 15 ms
beside drift checks, 12 and 17 at 10, 27 and 45 at 3)."""
ENTRIES: Final = {
    "gateway": Entry("mlplatform.scoring.gateway.process", "gateway", "{name}"),
    "predictor": Entry(
        "mlplatform.scoring.predictor.process", "predictor", "{model_name}", has_settings=False
    ),
    "explainer": Entry(
        "mlplatform.scoring.gateway.explainer",
        "gateway",
        "explainer",
        niceness=BACKGROUND_NICE,
        has_settings=False,
        stops="signal",
    ),
    "worker": Entry(
        "mlplatform.scoring.worker.process",
        "worker",
        "{name}",
        niceness=BACKGROUND_NICE,
        stops="event",
        has_metrics=True,
    ),
    "outbox": Entry("mlplatform.scoring.worker.outbox", "worker", "outbox-{model}", stops="event"),
    "log-publisher": Entry(
        "mlplatform.decisions.replication.publisher", "worker", "publisher-{name}", stops="event"
    ),
    "log-replicator": Entry(
        "mlplatform.decisions.replication.replicator", "worker", "replicator", stops="event"
    ),
    "exporter": Entry(
        "mlplatform.observing.exporter.process",
        "exporter",
        niceness=BACKGROUND_NICE,
        stops="event",
        has_metrics=True,
    ),
    "events": Entry("mlplatform.observing.events.process", "events", niceness=BACKGROUND_NICE),
    "page": Entry("mlplatform.observing.page.process", "page", niceness=BACKGROUND_NICE),
    "jobs": Entry(
        "mlplatform.operations.compute.pool",
        "jobs",
        niceness=BACKGROUND_NICE,
        has_settings=False,
        stops="event",
    ),
    "job-item": Entry(
        "mlplatform.operations.compute.work",
        "jobs",
        "{item.name}",
        stops="signal",
    ),
    "mlflow": Entry("mlplatform.operations.supervisor.mlflow_server", "mlflow"),
    "flows": Entry(f"{_PREFECT}.local_flows", "flows", "served", niceness=FLOWS_NICE),
    "prefect": Entry(f"{_PREFECT}.server", "flows", "server"),
    "flow-deployments": Entry(f"{_PREFECT}.cluster_flows", "flows", "registered", stops="signal"),
    "flow-run": Entry(f"{_PREFECT}.flow_run", "flows", "runs", stops="signal"),
}


class _Module(Protocol):
    parser: Callable[[], argparse.ArgumentParser]
    run: Callable[..., None]


def main(arguments: Sequence[str] | None = None) -> None:
    """Starts one process, which runs until it is stopped or its work is done."""
    parser = argparse.ArgumentParser(prog="mlplatform.process", description=__doc__)
    parser.add_argument("name", choices=ENTRIES, help="The process to start.")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="The options of that process.")
    options = parser.parse_args(arguments)
    start(options.name, options.arguments)


def start(name: str, arguments: Sequence[str]) -> None:
    """The process of that name, with this command line."""
    entry = ENTRIES[name]
    follow_parent()
    with nullcontext() if entry.stops == "signal" else ended_by_signals():
        _run(name, entry, arguments)


def _run(name: str, entry: Entry, arguments: Sequence[str]) -> None:
    module = cast(_Module, importlib.import_module(entry.module))
    parser = module.parser()
    parser.prog = f"mlplatform.process {name}"
    options = parser.parse_args(arguments)
    if entry.niceness:
        lower_priority(entry.niceness)
    os.umask(0o077)
    instance = None if entry.instance is None else entry.instance.format(**vars(options))
    try:
        logs.configure(entry.process, personal_fields(), instance)
        parts: list[Any] = [options]
        if entry.has_settings:
            parts.append(load(os.environ))
        logs.set_level(parts[1].log_level if entry.has_settings else log_level(os.environ))
        if entry.stops == "event":
            parts.append(stopping_at_signals())
        if entry.has_metrics:
            # other processes do not load a server for this
            from mlplatform.runtime.http.listener import MetricsListener

            parts.append(MetricsListener(name, options))
        module.run(*parts)
    except PlatformError as error:
        if has_end_signal():
            log.warning("%s ends as requested; an error came meanwhile: %s", name, error)
            return
        if error.__cause__ is not None:  # otherwise the line below says everything
            log.error("%s ends", name, exc_info=error)
        sys.exit(f"{name} {instance or ''}".strip() + f" ends: {error}")


if __name__ == "__main__":
    main()
