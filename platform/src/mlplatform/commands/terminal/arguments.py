"""Arguments and options of several commands, checked before anything else happens."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Annotated

import typer

from mlplatform.model.folders import check_folders, model_folder
from mlplatform.operations.actions.person_fields import ACTOR, REASON
from mlplatform.runtime.configuration.kinds import Profile
from mlplatform.runtime.errors import ConfigInvalid, ConfigUnusable
from mlplatform.scoring.admission.clients import check_client


def _check_model(model: str | None) -> str | None:
    if model is not None:
        check_folders()
        model_folder(model)
    return model


def _actor(text: str) -> str:
    return ACTOR.checked("--actor", text)


def login_name() -> str:
    """The login name of the operating system's user who gives the command.

    Raises:
        ConfigUnusable: this user has no name, as in a container whose user id is in no list.
    """
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:  # an OSError from Python 3.13 on
        problem = "missing, and the operating system has no name for the user of this process"
        raise ConfigUnusable("--actor", problem, "your name, as in --actor ana") from error


def _approver(text: str | None) -> str | None:
    return None if text is None else check_client(text.strip().casefold(), "--approver")


def analyst_name(text: str) -> str:
    """The name of an analyst, in the form that keys have."""
    return check_client(text.strip().casefold(), "--analyst")


def _reason(text: str | None) -> str | None:
    return None if text is None else REASON.checked("--reason", text)


def moment(text: str) -> datetime:
    """The time in an option, as one of UTC without an offset.

    Raises:
        BadParameter: it is no time.
    """
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError as error:
        wanted = "2026-03-01 or 2026-03-01T09:30:00 (UTC), or one with an offset"
        raise typer.BadParameter(f"{text!r} is not a time; wanted: {wanted}") from error
    return found if found.tzinfo is None else found.astimezone(UTC).replace(tzinfo=None)


def midnight(text: str) -> datetime:
    """The midnight (UTC) in an option.

    Raises:
        BadParameter: it is no time, or one within a day.
    """
    found = moment(text)
    if found.time() != time.min:
        wanted = "a day, as 2026-03-01, or its midnight with an offset"
        raise typer.BadParameter(f"{text!r} is not a midnight in UTC; wanted: {wanted}")
    return found


def column_names(pairs: list[str] | None) -> dict[str, str]:
    """Platform's name of a column → the file's, from --map; empty if the file has none.

    Raises:
        ConfigInvalid: an argument is not a pair NAME=COLUMN, or a name is given twice.
    """
    names: dict[str, str] = {}
    for pair in pairs or []:
        name, separator, column = pair.partition("=")
        if not separator or not name:
            raise ConfigInvalid("--map", pair, "NAME=COLUMN, for example amount=TX_AMOUNT")
        if name in names:
            raise ConfigInvalid("--map", pair, f"{name} once; it is {names[name]} already")
        names[name] = column
    return names


Model = Annotated[
    str, typer.Argument(callback=_check_model, help="A model folder's name, for example: fraud")
]
OnlyModel = Annotated[str | None, typer.Argument(callback=_check_model, help="Only this model.")]
OfModel = Annotated[str | None, typer.Option(callback=_check_model, help="Only this model's.")]
RolloutId = Annotated[str, typer.Argument(help="A rollout's id, for example: fraud-v2-1")]
Actor = Annotated[str, typer.Option(callback=_actor, help="Who you are (self-declared).")]
ActorOrLogin = Annotated[
    str,
    typer.Option(
        callback=_actor,
        default_factory=login_name,
        show_default="your login name",
        help="Who you are (self-declared): the author of the version.",
    ),
]
OptionalApprover = Annotated[
    str | None,
    typer.Option(callback=_approver, help="Your name, as your key has it; not the author's."),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        envvar="MLPLATFORM_KEY_FILE", help="A file with your key. Default: you are asked for it."
    ),
]
Reason = Annotated[str, typer.Option(callback=_reason, help="Why; kept in the journal.")]
LoggedReason = Annotated[str, typer.Option(callback=_reason, help="Why; kept in the log.")]
OptionalReason = Annotated[
    str | None, typer.Option(callback=_reason, help="Why; kept in the journal.")
]
InProfile = Annotated[
    Profile | None,
    typer.Option(
        help="embedded: servers that no setting names are on this machine. cluster: every server "
        "must be named (docs/cluster.md). Default: MLPLATFORM_PROFILE, or embedded."
    ),
]
