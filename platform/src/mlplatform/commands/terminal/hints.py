"""Hints at the command that helps when a part of the platform does not answer."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mlplatform.commands.terminal.output import ERR, print_error
from mlplatform.runtime.configuration.declarations import PREFIX
from mlplatform.runtime.configuration.settings import home_of
from mlplatform.runtime.errors import PlatformError, Unavailable
from mlplatform.runtime.processes.records import read_supervisor
from mlplatform.runtime.text import shown


def print_with_hint(error: PlatformError) -> None:
    """Print an error, and after one of a connection the command that helps."""
    print_error(error)
    if isinstance(error, Unavailable):
        ERR.print(f"  {shown(hint(os.environ))}", soft_wrap=True, markup=False)


def hint(environment: Mapping[str, str]) -> str:
    """A hint that fits whether the platform runs on this machine, and whether it runs now."""
    if url := environment.get(f"{PREFIX}GATEWAY_URL"):
        return elsewhere(url)
    home = home_of(environment)
    record = read_supervisor(home)
    if record is not None and record.process.alive():
        return (
            f"the platform in {home.root} runs: `mlplatform status` shows which part is not ready,"
            " `mlplatform doctor` what is wrong"
        )
    return (
        f"nothing runs in {home.root}: `mlplatform up` starts it; for a platform elsewhere name"
        " its home, MLPLATFORM_HOME=FOLDER"
    )


def elsewhere(url: str) -> str:
    """Where to look for a platform whose gateway is not on this machine."""
    return (
        f"the platform runs elsewhere (its gateway is {url}): `mlplatform status` asks whether it"
        " is ready; where it runs in pods, `kubectl get pods` shows them"
    )
