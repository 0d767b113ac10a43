"""The settings of the last start of a home's platform, by which any shell finds it."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from mlplatform.runtime.configuration.declarations import CONSTANTS, PORTS, PREFIX, SETTINGS
from mlplatform.runtime.configuration.settings import Home, Settings, home_of, load
from mlplatform.runtime.errors import ConfigInvalid, ConfigUnusable
from mlplatform.runtime.processes.records import is_running
from mlplatform.runtime.storage.files import write_atomically
from mlplatform.runtime.units import KIB

FILE: Final = "settings.json"
MOST_BYTES: Final = 64 * KIB
LASTING: Final = (*(port.variable for port in PORTS), f"{PREFIX}PROFILE", f"{PREFIX}CLOCK")
"""Settings that the next start takes over too. They say where the platform is and which clock it
has: a command with others would speak to another platform than the running one."""


class _Start(msgspec.Struct, forbid_unknown_fields=True):
    home: str
    variables: dict[str, str]


def remember(settings: Settings) -> None:
    """Store the settings with which a platform starts; none is a secret, and the file has mode
    0600."""
    home = settings.home
    start = _Start(str(home.root), settings.environment())
    write_atomically(home.run / FILE, msgspec.json.encode(start))


def for_start(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a platform that is to start: ports, profile and clock of its last start,
    unless a variable says otherwise.

    Raises:
        ConfigInvalid: the stored settings of the home can't be used; the message names the file,
            and what to do.
    """
    return {**_lasting(_remembered(home_of(environment))), **environment}


def for_command(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a command about a home: the settings of the platform that runs there, or
    else those of its next start.

    Raises:
        ConfigInvalid: a variable contradicts the platform that runs, or the stored settings of the
            home can't be used.
    """
    home = home_of(environment)
    known = _remembered(home)
    if not is_running(home):
        return {**_lasting(known), **environment}
    for name, value in _lasting(known).items():
        if environment.get(name, value) != value:
            wanted = (
                f"{value}, the value of the platform that runs in {home.root}: unset the variable,"
                " or `mlplatform down` and start it again with this one"
            )
            raise ConfigInvalid(name, environment[name], wanted)
    return {**known, **environment}


def _lasting(known: Mapping[str, str]) -> dict[str, str]:
    return {name: known[name] for name in LASTING if name in known}


def _remembered(home: Home) -> dict[str, str]:
    """The stored settings; empty if no platform was started here, and in a home that was moved or
    copied."""
    path = home.run / FILE
    text = _content(path)
    if text is None:
        return {}
    try:
        start = msgspec.json.decode(text, type=_Start)
    except msgspec.DecodeError as error:
        raise _unusable(path, str(error)) from error
    if os.path.realpath(start.home) != os.path.realpath(home.root):
        return {}
    for name in CONSTANTS:  # from a start by an earlier release
        start.variables.pop(PREFIX + name, None)
    if strange := sorted(set(start.variables) - {s.variable for s in SETTINGS}):
        raise _unusable(path, f"it has {strange[0]}, which is not a setting of this release")
    try:
        load(start.variables)
    except ConfigInvalid as error:
        raise _unusable(path, str(error)) from error
    return start.variables


def _content(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _unusable(path, "it is not a plain file")
        if status.st_uid != os.geteuid():
            raise _unusable(path, f"it belongs to uid {status.st_uid}")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise _unusable(path, f"others may write it (mode {stat.S_IMODE(status.st_mode):o})")
        text = os.read(descriptor, MOST_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(text) > MOST_BYTES:
        raise _unusable(path, f"it has more than {MOST_BYTES} bytes")
    return text


def _unusable(path: Path, why: str) -> ConfigUnusable:
    wanted = (
        f"the file that `mlplatform up` wrote; remove it (rm {path}), and the next start writes it"
    )
    return ConfigUnusable(str(path), why, wanted)
