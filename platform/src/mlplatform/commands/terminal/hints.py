"""Hints at the command that helps when a part of the platform does not answer, or is not there."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mlplatform.commands.terminal.output import ERR, print_error
from mlplatform.runtime.configuration.declarations import PREFIX
from mlplatform.runtime.configuration.settings import home_of, load
from mlplatform.runtime.errors import (
    ConfigInvalid,
    MissingHere,
    PlatformError,
    ServerUnavailable,
    Unavailable,
)
from mlplatform.runtime.processes import last_settings
from mlplatform.runtime.processes.port_holders import running_elsewhere, way_to
from mlplatform.runtime.processes.records import is_running
from mlplatform.runtime.text import shown


def print_with_hint(error: PlatformError) -> None:
    """Print an error, and the help after one of a connection or of a wrong home."""
    print_error(error)
    if way := hint(error, os.environ):
        ERR.print(f"  {shown(way)}", soft_wrap=True, markup=False)


def hint(error: PlatformError, environment: Mapping[str, str]) -> str:
    """The help after an error: whether the platform runs on this machine, now, and in which home;
    empty if nothing of that helps."""
    if isinstance(error, MissingHere):
        return _other(environment)
    if isinstance(error, ServerUnavailable):
        return error.way
    return _unanswered(environment) if isinstance(error, Unavailable) else ""


def _unanswered(environment: Mapping[str, str]) -> str:
    if url := environment.get(f"{PREFIX}GATEWAY_URL"):
        return elsewhere(url)
    home = home_of(environment)
    if is_running(home):
        return (
            f"the platform in {home.root} runs: `mlplatform status` shows which part is not ready,"
            " `mlplatform doctor` what is wrong"
        )
    if other := _other(environment):
        beside = "`mlplatform doctor` shows last the command that starts it on free ports"
        return f"{other}; if you mean the platform of {home.root}, {beside}"
    return (
        f"nothing runs in {home.root}: `mlplatform up` starts it; for a platform elsewhere name"
        " its home, MLPLATFORM_HOME=FOLDER"
    )


def _other(environment: Mapping[str, str]) -> str:
    """The way to a platform that runs on this home's ports and is another home's; empty if none
    does."""
    try:
        settings = load(last_settings.for_command(environment))
    except ConfigInvalid:
        return ""
    other = running_elsewhere(settings)
    return "" if other is None else way_to(other)


def elsewhere(url: str) -> str:
    """Where to look for a platform whose gateway is not on this machine."""
    return (
        f"the platform runs elsewhere (its gateway is {url}): `mlplatform status` asks whether it"
        " is ready; where it runs in pods, `kubectl get pods` shows them"
    )
