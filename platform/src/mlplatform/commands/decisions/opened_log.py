"""Opening the home's decision log for a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from mlplatform.commands.terminal.exit_codes import exit_code
from mlplatform.commands.terminal.hints import print_with_hint
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.operations import wiring
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import MissingHere, PlatformError
from mlplatform.scoring import wiring as scoring_wiring


def open_log(settings: Settings) -> SqliteDecisionLog:
    """
    Raises:
        NotFound: this home folder has no log.
    """
    if not scoring_wiring.has_log(settings):
        raise MissingHere("decision log", settings.home.decisions)
    return wiring.log_of(settings.home)


@contextmanager
def errors_as_exit_codes() -> Iterator[None]:
    """Print errors of the block with a hint, and end the command with their exit code."""
    try:
        yield
    except PlatformError as error:
        print_with_hint(error)
        raise typer.Exit(exit_code(error)) from error
