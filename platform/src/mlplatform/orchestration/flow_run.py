"""`python -m mlplatform.orchestration.flow_run`: one flow run, whose lines and spans are kept.

It is Prefect's engine, for the run that the environment names (PREFECT__FLOW_RUN_ID).
"""

from __future__ import annotations

import logging
import os
import runpy
import sys
from typing import Final

from mlplatform import backends, settings
from mlplatform.telemetry import flow_spans, logs
from mlplatform.telemetry.spans import Teller

ENGINE: Final = "prefect.engine"
INSTANCE: Final = "runs"
OWN_HANDLERS: Final = ("uvicorn", "fastapi", "prefect._internal")
"""Loggers that Prefect gives handlers of their own, for a terminal."""


def observe() -> None:
    """Lines of this process as JSON with the trace that they belong to, its spans where they go."""
    given = settings.load(os.environ)
    lines_as_json(INSTANCE, given.log_level)
    flow_spans.install(backends.span_sender(given, Teller("flows", INSTANCE)))


def lines_as_json(instance: str, level: logs.Level) -> None:
    """Every line of a process in which Prefect is imported already; our own from a level on."""
    logs.configure("flows", instance)
    root = logging.getLogger()
    root.handlers[0].addFilter(flow_spans.CurrentTrace())
    root.setLevel(logging.WARNING)  # a client of Prefect's API would tell of each of its calls
    logs.set_level(level)
    for name in OWN_HANDLERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def run() -> None:
    """Prefect's engine, in this process."""
    sys.argv = [ENGINE]
    sys.modules.pop(ENGINE, None)
    runpy.run_module(ENGINE, run_name="__main__")


def main() -> None:
    import prefect.main  # noqa: F401 -- it sets up its logging, which is then ours

    observe()
    run()


if __name__ == "__main__":
    main()
