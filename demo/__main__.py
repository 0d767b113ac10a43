"""`python -m demo`: the whole loop on one machine, as a command."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from demo.locks import check_libraries
from demo.source import MODEL
from demo.team import name_folder
from mlplatform.commands.terminal.arguments import InProfile
from mlplatform.commands.terminal.exit_codes import exit_code
from mlplatform.commands.terminal.output import print_error
from mlplatform.operations import wiring
from mlplatform.runtime.configuration.declarations import PREFIX
from mlplatform.runtime.errors import Busy, ConfigInvalid, PlatformError
from mlplatform.runtime.processes.records import read_supervisor

HOME = "var-demo"
"""Of demos, where `MLPLATFORM_HOME` names no other: what they leave is in no user's way."""


def demo(
    model: Annotated[
        str, typer.Option(help="Whose story: fraud's, or the short one of any that makes up data.")
    ] = MODEL,
    transactions: Annotated[
        Path | None,
        typer.Option(help="Parquet files in the handbook's schema; default: generated payments."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the generated payments.")] = 1,
    keep: Annotated[bool, typer.Option(help="Leave the platform up at the end.")] = False,
    resume: Annotated[bool, typer.Option(help="Go on with a demo that was stopped.")] = False,
    fresh: Annotated[
        bool, typer.Option(help="Delete what an earlier demo left in the home folder.")
    ] = False,
    profile: InProfile = None,
    pace: Annotated[
        float,
        typer.Option(min=0.01, max=1.0, help="Of the payments: a busy machine needs a slower one."),
    ] = 1.0,
    json: Annotated[
        bool, typer.Option("--json", help="Tell the story beside, and print the report as JSON.")
    ] = False,
) -> None:
    """Close the loop on recorded time: train, promote, drift, retrain, shadow, canary, roll back.

    Exit codes: 0 the loop closed, 1 it did not, 75 it was stopped and --resume goes on.

    Example: make demo TRANSACTIONS=payments/ DEMO_FLAGS=--keep
    """
    from demo.run import Options, run

    if model != MODEL:
        if transactions is not None:
            raise ConfigInvalid("--transactions", str(transactions), f"payments, for {MODEL} only")
        name_folder(model)
        check_libraries(model)
    os.environ.setdefault(f"{PREFIX}HOME", HOME if model == MODEL else f"{HOME}-{model}")
    settings = wiring.settings_to_start(profile)
    if fresh:
        record = read_supervisor(settings.home)
        if record is not None and record.process.alive():
            home = settings.home.root
            raise Busy(
                f"a platform runs in {home}: `MLPLATFORM_HOME={home} mlplatform down` stops it"
            )
        if (settings.home.demo / "state.json").exists():
            shutil.rmtree(settings.home.root)
    options = Options(transactions, seed, keep, resume, pace, json, model)
    raise typer.Exit(asyncio.run(run(settings, options)))


def main() -> None:
    """Entry point: errors that are raised on purpose become one clear line and an exit code."""
    os.umask(0o077)
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(demo)
    try:
        app()
    except PlatformError as error:
        print_error(error)
        sys.exit(exit_code(error))


if __name__ == "__main__":
    main()
