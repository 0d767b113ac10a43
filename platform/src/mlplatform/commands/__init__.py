"""The `mlplatform` command: one module for each group of commands.

Packages from the ground up: `terminal`, arguments and output; `controls`, what people stop, start
and test, `decisions`, commands of decisions,
`features`, commands of features, `documents`, rendered from code, `authoring`, folders of models,
and `first_hour`, a newcomer's commands. The modules of this folder are above them. Imports every
area below. `generate` is no command: it renders the files that are made from another file.
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from importlib import metadata
from typing import Annotated

import typer

from mlplatform.commands import (
    backup,
    batch,
    cluster,
    events,
    history,
    keys,
    labels,
    log,
    models,
    platform,
    refusals,
    review,
    rollouts,
    runs,
    score,
    skew,
    worker,
)
from mlplatform.commands.authoring.check_model import check_model
from mlplatform.commands.authoring.new_model import new_model
from mlplatform.commands.controls import variants
from mlplatform.commands.decisions import replay, trace
from mlplatform.commands.documents import settings
from mlplatform.commands.features import definitions, external
from mlplatform.commands.first_hour import doctor, quickstart
from mlplatform.commands.terminal.exit_codes import exit_code
from mlplatform.commands.terminal.hints import print_with_hint
from mlplatform.commands.terminal.named_values import CommandGroup
from mlplatform.commands.terminal.output import print_line, say_refusals_once
from mlplatform.operations import wiring
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import PlatformError
from mlplatform.scoring import wiring as scoring_wiring

HELP = """Train, check, roll out, watch and take back the models that score requests.

Exit codes: 0 done, 1 it failed or found something, 2 wrong use or unknown name,
3 a part of the platform does not answer, 4 the platform's rules refuse it.
"""


def _journal(chosen: Settings) -> log.JournalAnchor | None:
    """The log's last head in the rollout journal, and the findings of the journal's own check; None
    if there is no journal."""
    if not scoring_wiring.has_rollouts(chosen):
        return None
    with closing(wiring.Platform(chosen).rollouts) as rollouts:
        return log.JournalAnchor(rollouts.last_anchor(), rollouts.verify())


SETTINGS = """Settings are environment variables: `mlplatform settings` lists them, as does
docs/settings.md."""

app = typer.Typer(
    cls=CommandGroup,
    help=HELP,
    epilog=SETTINGS,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
platform.add_to(app)
quickstart.add_to(app)
doctor.add_to(app)
backup.add_to(app)
runs.add_to(app)
app.command()(batch.batch)
skew.add_to(app)
replay.add_to(app, rollouts.app)
score.add_to(app)
worker.add_to(app)
trace.add_to(app)
refusals.add_to(app)
app.command("settings")(settings.settings)
app.command("new-model")(new_model)
app.command("check-model")(check_model)
app.add_typer(models.app, name="models")
app.add_typer(rollouts.app, name="rollouts")
app.add_typer(variants.app, name="variants")
app.add_typer(events.app, name="events")
app.add_typer(keys.app, name="keys")
app.add_typer(cluster.app, name="cluster")
app.add_typer(history.app, name="history")
app.add_typer(labels.app, name="labels")
definitions.add_to(external.app)
app.add_typer(external.app, name="features")
app.add_typer(review.app, name="review")
app.add_typer(log.commands(_journal), name="log")


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print_line(f"mlplatform {metadata.version('mlplatform')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the release."),
    ] = False,
) -> None:
    """Options of the command itself."""


def main() -> None:
    """Entry point: the platform's own errors become one clear line and an exit code."""
    os.umask(0o077)  # only the owner may read new files
    say_refusals_once()
    try:
        app()
    except PlatformError as error:
        print_with_hint(error)
        sys.exit(exit_code(error))
