"""Reading of the facts that `mlplatform doctor` judges; starts, creates and changes nothing."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

import psutil

from mlplatform.model.folders import check_folders, model_names
from mlplatform.operations import wiring
from mlplatform.operations.backup.schemas import check_home
from mlplatform.operations.supervisor.machine import HomeFacts, MachineFacts, Port
from mlplatform.operations.supervisor.platform import children
from mlplatform.operations.supervisor.probe import NoAnswer, ask
from mlplatform.operations.supervisor.spec import HttpCheck
from mlplatform.operations.supervisor.status import status
from mlplatform.runtime.configuration.settings import Home, Settings
from mlplatform.runtime.errors import ConfigInvalid, Refused, Unavailable
from mlplatform.runtime.processes.port_holders import Holder, holders, port_numbers
from mlplatform.runtime.storage.disk import disk_space
from mlplatform.runtime.storage.private_folder import OTHERS
from mlplatform.runtime.telemetry.kernel_clock import kernel_clock

ADDRESS: Final = "127.0.0.1"
MOST_ENTRIES: Final = 20_000
LATER: Final = 1000
"""Distance above an occupied port at which the search for a free one begins."""
REFUSED_BY_BROWSERS: Final = frozenset(
    {1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6679, 6697, 10080}
) | frozenset(range(6665, 6670))
"""Ports from 1024 on that browsers refuse. Source: WHATWG Fetch, "Port blocking"."""
LOCK: Final = Path(__file__).parents[5] / "requirements" / "flows.txt"
_PIN: Final = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)\s*(?:;\s*([^\\]+))?")


def read(home: Home, settings: Settings | None, problem: str = "") -> MachineFacts:
    """Facts about the machine and a home on it.

    Args:
        settings: the settings; None if they can't be used, for the reason in `problem`.
    """
    clock = kernel_clock()
    return MachineFacts(
        python=sys.version_info[:3],
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _cpus(),
        memory_gb=psutil.virtual_memory().available / 1e9,
        disk=disk_space(next(p for p in (home.root, *home.root.parents) if p.is_dir())),
        uid=os.geteuid(),
        offset_s=None if clock is None else clock.offset_s,
        synchronised=None if clock is None else clock.synchronised,
        locked=_differing(LOCK),
        settings=problem,
        models=_models(),
        left_out=models_without_folder(home),
        home=_home(home),
        ports=tuple(_ports(settings, home)),
        running=status(home).state,
        silent={} if settings is None else dict(_silent(settings)),
        store="" if settings is None else settings.bundle_store,
        store_problem="" if settings is None else _store_problem(settings),
    )


def models_without_folder(home: Home) -> tuple[str, ...]:
    """Models with a history in the home but without a folder that MLPLATFORM_MODELS names."""
    try:
        kept = sorted(one.name for one in home.offline("").iterdir() if one.is_dir())
    except OSError:  # missing, or another user's: the check of the home reports that
        return ()
    named = model_names()
    return tuple(name for name in kept if name not in named)


def _models() -> str:
    """The reason why the model folders can't be used; empty if they can."""
    try:
        check_folders()
    except ConfigInvalid as error:
        return str(error)
    return ""


def _store_problem(settings: Settings) -> str:
    """The reason why the bundle store can't be read; empty if it can, and if there is none."""
    try:
        store = wiring.Platform(settings).bundles.store
        if store is not None:
            store.bundles()
    except Unavailable as error:
        cause = error.__cause__
        return str(error) if cause is None else f"{error}: {cause}"
    return ""


def _cpus() -> int:
    return os.cpu_count() or 1


def _home(home: Home) -> HomeFacts:
    root = home.root
    try:
        owner = root.stat().st_uid
        if owner != os.geteuid():
            return HomeFacts(root, owner)
        if not home.is_made and isinstance(problem := home.absence(), ConfigInvalid):
            return HomeFacts(root, owner, problem=str(problem))
        return HomeFacts(root, owner, tuple(_open(root)), _of_newer_release(root))
    except FileNotFoundError:
        return HomeFacts(root, None)


def _of_newer_release(root: Path) -> str:
    """Why this release can't read the databases of a home; empty if it can."""
    try:
        check_home(root)
    except (Refused, Unavailable) as error:
        return str(error)
    return ""


def _open(root: Path) -> Iterator[Path]:
    """Paths in a home that other users may access, without links and without the folder of bundles,
    whose modes are set apart."""
    if stat.S_IMODE(root.stat().st_mode) & OTHERS:
        yield root
    entries = 0
    for folder, folders, files in os.walk(root):
        if Path(folder) == root and "bundles" in folders:
            folders.remove("bundles")
        for name in (*folders, *files):
            entries += 1
            if entries > MOST_ENTRIES:
                return
            with contextlib.suppress(FileNotFoundError):  # files of databases come and go
                mode = (path := Path(folder, name)).lstat().st_mode
                if not stat.S_ISLNK(mode) and stat.S_IMODE(mode) & OTHERS:
                    yield path


def _ports(settings: Settings | None, home: Home) -> Iterator[Port]:
    numbers = port_numbers({} if settings is None else settings.environment())
    in_use = {number for number in numbers.values() if number and not _is_free(number)}
    held = holders(in_use, home) if in_use else {}
    for variable, number in numbers.items():
        if number in in_use:
            holder = held.get(number, Holder(None, "", None))
            yield Port(variable, number, holder, _free_above(number))
        elif number:
            yield Port(variable, number, None, 0)


def _is_free(port: int) -> bool:
    try:
        socket.create_server((ADDRESS, port)).close()
    except OSError:
        return False
    return True


def _free_above(port: int) -> int:
    """The first free port, from a thousand above, that browsers open; any free port if there is
    none."""
    candidates = range(port + LATER, min(port + 2 * LATER, 65_536))
    usable = (number for number in candidates if number not in REFUSED_BY_BROWSERS)
    found = next((number for number in usable if _is_free(number)), None)
    if found is not None:
        return found
    with socket.create_server((ADDRESS, 0)) as server:
        number: int = server.getsockname()[1]
        return number


def _differing(lock: Path) -> Mapping[str, tuple[str, str | None]] | None:
    """Distribution → wanted and installed version, where they differ from the lock.

    A line with a condition may be meant for another Python or system: its distribution may be
    absent here, or be that of another line.
    """
    try:
        text = lock.read_text()
    except OSError:
        return None
    pins = [pin for line in text.splitlines() if (pin := _PIN.match(line)) is not None]
    wanted: dict[str, set[str]] = {}
    for pin in pins:
        wanted.setdefault(pin[1], set()).add(pin[2])
    optional = {pin[1] for pin in pins if pin[3]}
    found: dict[str, tuple[str, str | None]] = {}
    for name, versions in wanted.items():
        try:
            installed: str | None = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed = None
        is_left_out = installed is None and name in optional
        if installed not in versions and not is_left_out:
            found[name] = (" or ".join(sorted(versions)), installed)
    return found


def _silent(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield each part of a running platform that does not answer as it should, with the reason."""
    if status(settings.home).state == "stopped":
        return
    for spec in children(settings):
        check = spec.check
        if not isinstance(check, HttpCheck) or check.port is None:
            continue
        answer = ask(check.port, check.live or check.ready, check.token_file)
        if isinstance(answer, NoAnswer) or not answer.ok:
            yield spec.name, answer.reason
    gateway = ask(settings.gateway_port, "/readyz")
    if isinstance(gateway, NoAnswer) or not gateway.ok:
        yield "gateway", gateway.reason
