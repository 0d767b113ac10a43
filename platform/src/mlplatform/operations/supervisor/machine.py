"""The findings of `mlplatform doctor` on a machine and a home."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlplatform.operations.cluster.finding import CheckFinding, State
from mlplatform.runtime.processes.port_holders import Holder, other_home, way_to
from mlplatform.runtime.storage.disk import LOW_SHARE, DiskSpace

LEAST_PYTHON: Final = (3, 11)
LEAST_CORES: Final = 2
LEAST_MEMORY_GB: Final = 4.0
"""Least free memory in GB: a platform with one version takes about 2 GB, and a fit takes as much
again."""
LEAST_FREE_GB: Final = 2.0
LEAST_SHARE: Final = f"{LOW_SHARE:.0%}"
MOST_OFFSET_S: Final = 1.0
MOST_NAMED: Final = 5
LEFT_OUT: Final = "MLPLATFORM_MODELS leads to no folder of {}, and this home holds its history"
NAME_THEM: Final = (
    "to serve it, add to MLPLATFORM_MODELS the folder that holds the model's folder (for an example"
    " model: `examples`)"
)


@dataclass(frozen=True, slots=True)
class Port:
    """A port of the settings.

    Args:
        variable: the setting that names it.
        holder: the process that listens on it; None if the port is free.
        other: a free port that can be used instead.
    """

    variable: str
    number: int
    holder: Holder | None
    other: int


@dataclass(frozen=True, slots=True)
class HomeFacts:
    """Facts about a home folder.

    Args:
        owner: the owner's user id; None if there is no such folder.
        open: paths, the folder included, that the group or others can read or write.
        problem: why the folder is no home, can't become one, or can't be used by this release;
            empty if there is no such reason.
    """

    root: Path
    owner: int | None
    open: tuple[Path, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """Facts about a machine and a home on it.

    Args:
        uid: user id of the user who asks.
        memory_gb: memory in GB that is free or can be freed.
        disk: disk of the home folder, or of the folder in which it would be created.
        offset_s: error of the clock in seconds; None if the kernel does not report it.
        synchronised: whether something keeps the clock correct; None if the kernel does not report
            it.
        locked: distribution → version in the lock and installed version, where they differ; None if
            there is no lock here.
        settings: why the settings can't be used; empty if they can.
        models: why the model folders can't be used; empty if they can.
        left_out: models in the home folder's history that no setting names a folder for.
        running: state of the supervisor; `stopped` if none runs.
        silent: part of a running platform → why it does not answer as it should.
        store: place of the bundle store; empty if there is none.
        store_problem: why the bundle store can't be used; empty if it can.
    """

    python: tuple[int, int, int]
    cores: int
    memory_gb: float
    disk: DiskSpace
    uid: int
    offset_s: float | None
    synchronised: bool | None
    locked: Mapping[str, tuple[str, str | None]] | None
    settings: str
    models: str
    left_out: tuple[str, ...]
    home: HomeFacts
    ports: tuple[Port, ...]
    running: str
    silent: Mapping[str, str]
    store: str = ""
    store_problem: str = ""


def check(facts: MachineFacts) -> list[CheckFinding]:
    """All findings, each with what mends it."""
    return [
        *_machine(facts),
        _clock(facts),
        _packages(facts),
        *_home(facts),
        _settings(facts),
        _models(facts),
        *_store(facts),
        *(_port(port, facts.home.root) for port in facts.ports),
        *_running(facts),
    ]


def start_elsewhere(facts: MachineFacts, command: str = "mlplatform up") -> str:
    """The command that starts the platform on free ports; empty if no other program holds its
    ports."""
    held = [p for p in facts.ports if p.holder is not None and p.holder.home != facts.home.root]
    return " ".join([*(f"{p.variable}={p.other}" for p in held), command]) if held else ""


def _machine(facts: MachineFacts) -> Iterator[CheckFinding]:
    version = ".".join(map(str, facts.python))
    wanted = ".".join(map(str, LEAST_PYTHON))
    yield _finding(
        facts.python >= LEAST_PYTHON,
        "Python",
        version,
        f"install Python {wanted} or newer, then: make setup PYTHON=python{wanted}",
    )
    yield _finding(
        facts.cores >= LEAST_CORES,
        "cores",
        f"{facts.cores}; wanted: {LEAST_CORES}",
        "use a machine or container with more; requests are answered, training is slow",
        else_="optional",
    )
    yield _finding(
        facts.memory_gb >= LEAST_MEMORY_GB,
        "memory",
        f"{facts.memory_gb:.1f} GB are available; wanted: {LEAST_MEMORY_GB:g} GB",
        "end other programs; `mlplatform status` shows what the platform takes",
    )
    free, share = facts.disk.free_bytes / 1e9, facts.disk.wanted_bytes / 1e9
    of_disk = f", and {share:.1f} GB ({LEAST_SHARE} of the disk)" if share else ""
    yield _finding(
        free >= LEAST_FREE_GB and not facts.disk.is_low,
        "disk of the home",
        f"{free:.1f} GB are free; wanted: {LEAST_FREE_GB:g} GB{of_disk}",
        "make room there, or name a folder on another disk: MLPLATFORM_HOME=FOLDER mlplatform up",
    )


def _clock(facts: MachineFacts) -> CheckFinding:
    if facts.synchronised is None:
        return CheckFinding(
            "unknown",
            "clock",
            "the kernel does not say whether anything keeps it on time",
            "compare `date -u` with another machine's",
        )
    if not facts.synchronised:
        seen = "nothing keeps it on time; a request more than 5 minutes off is refused"
        return CheckFinding("optional", "clock", seen, "sudo timedatectl set-ntp true")
    offset_s = facts.offset_s or 0.0
    right = abs(offset_s) <= MOST_OFFSET_S
    seen = f"{offset_s:+.3f} s off"
    return _finding(right, "clock", seen, "timedatectl timesync-status shows why")


def _packages(facts: MachineFacts) -> CheckFinding:
    what = "installed packages"
    if facts.locked is None:
        seen = "no lock is here to compare with: this is not a checkout"
        return CheckFinding("unknown", what, seen, "an image has those of requirements/*.txt")
    if not facts.locked:
        return CheckFinding("ok", what, "as requirements/flows.txt locks them")
    differing = [
        f"{name} is {installed or 'missing'}; wanted: {locked}"
        for name, (locked, installed) in sorted(facts.locked.items())
    ]
    more = f"; and {len(differing) - MOST_NAMED} more" if len(differing) > MOST_NAMED else ""
    return CheckFinding(
        "lacking",
        what,
        "; ".join(differing[:MOST_NAMED]) + more,
        "rm .venv/.flows && make setup",
    )


def _home(facts: MachineFacts) -> Iterator[CheckFinding]:
    home = facts.home
    what = f"home {home.root}"
    if home.owner is None:
        yield CheckFinding("ok", what, "is not there yet; the first start makes it")
        return
    if home.problem:
        yield CheckFinding("lacking", what, home.problem, "MLPLATFORM_HOME=FOLDER mlplatform up")
        return
    if home.owner != facts.uid:
        do = f"sudo chown -R {facts.uid} {home.root}, or MLPLATFORM_HOME=FOLDER"
        yield CheckFinding("lacking", what, f"belongs to uid {home.owner}, not to {facts.uid}", do)
        return
    if home.open:
        named = ", ".join(str(path) for path in home.open[:MOST_NAMED])
        more = f" and {len(home.open) - MOST_NAMED} more" if len(home.open) > MOST_NAMED else ""
        seen = f"others may read or write {named}{more}"
        yield CheckFinding("lacking", what, seen, f"chmod -R go= {home.root}")
        return
    yield CheckFinding("ok", what, "can be read only by its owner")


def _settings(facts: MachineFacts) -> CheckFinding:
    do = "correct that variable (docs/settings.md), or unset it"
    return _finding(not facts.settings, "settings", facts.settings or "can be used", do)


def _models(facts: MachineFacts) -> CheckFinding:
    what = "model folders"
    if facts.models or not facts.left_out:
        do = "correct MLPLATFORM_MODELS (docs/adding-a-model.md), or that folder"
        return _finding(not facts.models, what, facts.models or "can be read", do)
    return CheckFinding("optional", what, LEFT_OUT.format(", ".join(facts.left_out)), NAME_THEM)


def _store(facts: MachineFacts) -> Iterator[CheckFinding]:
    if facts.store:
        do = "correct MLPLATFORM_BUNDLE_STORE, or the variables of AWS's SDK (docs/settings.md)"
        seen = facts.store_problem or "answers"
        yield _finding(not facts.store_problem, f"bundle store {facts.store}", seen, do)


def _port(port: Port, home: Path) -> CheckFinding:
    what = f"port {port.number} ({port.variable})"
    holder = port.holder
    if holder is None:
        return CheckFinding("ok", what, "is free")
    if holder.home == home:
        return CheckFinding("ok", what, "is this platform's")
    other = f"{port.variable}={port.other} mlplatform up"
    if holder.home is not None:
        do = f"{other}, or MLPLATFORM_HOME={holder.home} mlplatform down"
        return CheckFinding("lacking", what, f"is held by the platform of {holder.home}", do)
    if holder.pid is None:
        return CheckFinding("lacking", what, "is held by another user's process", other)
    seen = f"is held by process {holder.pid} ({holder.name})"
    return CheckFinding("lacking", what, seen, f"{other}, or end that process (kill {holder.pid})")


def _running(facts: MachineFacts) -> Iterator[CheckFinding]:
    what = "platform"
    if facts.running == "stopped":
        seen, do = f"none runs in {facts.home.root}", "mlplatform up"
        held = [port.holder for port in facts.ports if port.holder is not None]
        if other := other_home(held, facts.home.root):
            seen, do = (
                f"{seen}; {way_to(other)}",
                f"use that, or start another beside it: {start_elsewhere(facts)}",
            )
        yield CheckFinding("optional", what, seen, do)
        return
    silent = [f"{name}: {why}" for name, why in sorted(facts.silent.items())]
    if silent:
        do = f"mlplatform status; the logs are in {facts.home.root / 'logs'}"
        yield CheckFinding("lacking", what, "; ".join(silent), do)
    elif facts.running == "ready":
        yield CheckFinding("ok", what, "runs, and every part answers")
    else:
        yield CheckFinding("lacking", what, f"is {facts.running}", "wait, then: mlplatform status")


def _finding(right: bool, what: str, seen: str, do: str, else_: State = "lacking") -> CheckFinding:
    return CheckFinding("ok", what, seen) if right else CheckFinding(else_, what, seen, do)
