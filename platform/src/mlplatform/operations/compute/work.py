"""`python -m mlplatform.process job-item`: works on one item of a job, in this process.

The same command runs in the pool and in a pod: everything it reads and writes is a local file. It
ends with status 0 once its result is written, and else says why in the last line of its output.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args

from mlplatform.model.folders import load_definition
from mlplatform.operations.compute.jobs import RESULT, TRACEPARENT, Work
from mlplatform.runtime.canonical import canonical_json
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import PlatformError
from mlplatform.runtime.storage.files import write_atomically
from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.context import trace_context
from mlplatform.runtime.telemetry.spans import ProcessIdentity, Span, Trace
from mlplatform.scoring import wiring as scoring_wiring

Result = Mapping[str, Any]
Program = Callable[[argparse.Namespace], Result]

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The parser of the command line, which pools and templates write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", choices=get_args(Work), help="The kind of work.")
    parser.add_argument("--model", required=True, help="The name of a model's folder.")
    parser.add_argument(
        "--shared", type=Path, required=True, help="The folder that every item reads."
    )
    parser.add_argument("--item", type=Path, required=True, help="The item's own file or folder.")
    parser.add_argument(
        "--output", type=Path, required=True, help="The folder that gets the results."
    )
    return parser


def run(options: argparse.Namespace, settings: Settings) -> None:
    """Run one item to its end."""
    with traced(options.work, settings, os.environ.get(TRACEPARENT, "")):
        try:
            result = PROGRAMS[options.work](options)
        except PlatformError as error:
            sys.exit(f"{type(error).__name__}: {error}")
    write_atomically(options.output / RESULT, canonical_json(result))


@contextlib.contextmanager
def traced(work: str, settings: Settings, traceparent: str) -> Iterator[None]:
    """Open a span around the work on an item, below that of the traceparent; none if it is
    empty."""
    parent = trace_context({b"traceparent": traceparent.encode()})
    began_s, is_error = time.monotonic(), True
    try:
        yield
        is_error = False
    finally:
        if parent is not None:
            kind, at_s = signals.ITEM_SPAN, (began_s, time.monotonic())
            name = kind.name.format(work=work)
            span = Span(kind, name, parent.span_id, parent.parent_id, *at_s, is_error=is_error)
            try:
                sender = scoring_wiring.span_sender(settings, ProcessIdentity("jobs", "items"))
                sender.send([Trace(parent.trace_id, (span,), has_remote_parent=True)])
                sender.close()
            except (PlatformError, OSError):  # the result of the work does not depend on spans
                log.exception("the span of %s could not be kept", name)


def _score(options: argparse.Namespace) -> Result:
    from mlplatform.operations.compute.scoring import score  # each kind of work imports its own

    accelerator = load_definition(options.model).accelerator
    return score(options.shared, options.item, options.output, accelerator)


def _fit(options: argparse.Namespace) -> Result:
    from mlplatform.operations.compute.fitting import fit  # each kind of work imports its own

    return fit(options.shared, options.item, options.output, options.model)


PROGRAMS: Final[Mapping[Work, Program]] = {"score": _score, "fit": _fit}
