"""`python -m mlplatform.process flow-run`: one flow run, with its log lines and spans.

It is Prefect's engine, for the run that the environment names (PREFECT__FLOW_RUN_ID). Which file it
executes is not asked of the server: on one machine the runner pins it, in a pod it is the flow of
that name in the image.
"""

from __future__ import annotations

import argparse
import logging
import os
import runpy
import sys
from pathlib import Path
from typing import Final
from uuid import UUID

from mlplatform.model.folders import personal_fields
from mlplatform.operations import wiring
from mlplatform.operations.prefect_server import pins
from mlplatform.operations.prefect_server.pins import Pin
from mlplatform.runtime.configuration.kinds import Level
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.telemetry import flow_spans, logs
from mlplatform.runtime.telemetry.spans import ProcessIdentity
from mlplatform.scoring import wiring as scoring_wiring

ENGINE: Final = "prefect.engine"
INSTANCE: Final = "runs"
RUN_ID: Final = "PREFECT__FLOW_RUN_ID"
OWN_HANDLERS: Final = ("uvicorn", "fastapi", "prefect._internal")
"""Loggers to which Prefect gives handlers of their own, for a terminal."""


def prepare(settings: Settings) -> None:
    """Make these the settings of the flow, write this process's log lines as JSON with their trace,
    and send its spans, which may be files of the home."""
    wiring.enter(settings)
    settings.home.create()
    lines_as_json(INSTANCE, settings.log_level)
    flow_spans.install(scoring_wiring.span_sender(settings, ProcessIdentity("flows", INSTANCE)))


def lines_as_json(instance: str, level: Level) -> None:
    """Write every log line of a process that has imported Prefect as JSON; the platform's own from
    `level` on, others from WARNING on."""
    logs.configure("flows", personal_fields(), instance)
    root = logging.getLogger()
    root.handlers[0].addFilter(flow_spans.CurrentTrace())
    root.setLevel(logging.WARNING)  # a client of Prefect's API logs every call
    logs.set_level(level)
    for name in OWN_HANDLERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def execute(pin: Pin) -> None:
    """Run Prefect's engine in this process for the pinned flow.

    Raises:
        Refused: the flow's file has changed.
    """
    os.environ[pins.ENTRYPOINT] = pin.checked_entrypoint()
    sys.argv = [ENGINE]
    sys.modules.pop(ENGINE, None)
    runpy.run_module(ENGINE, run_name="__main__")


def pinned_here() -> Pin:
    """The pin of the run that the environment names, in `flows/` of the working folder.

    Raises:
        Refused: no flow of this platform has the name of the run's flow.
    """
    # Prefect reads its environment when it is imported
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import load_flow_run

    with get_client(sync_client=True) as client:
        found = client.read_flow(load_flow_run(UUID(os.environ[RUN_ID])).flow_id)
    return pins.pin_of_flow(found.name, Path("flows"))


def parser() -> argparse.ArgumentParser:
    """The parser of the command line; the environment names the run."""
    return argparse.ArgumentParser(description=__doc__)


def run(options: argparse.Namespace, settings: Settings) -> None:
    """Execute the run to its end."""
    import prefect.main  # noqa: F401 -- it sets up its logging, which is then ours

    prepare(settings)
    execute(pinned_here())
