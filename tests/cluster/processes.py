"""The cluster's daemons: in namespaces of their own, so that nothing of them outlives `down`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.cluster.layout import Layout

POLL_S: Final = 0.1
CGROUPS: Final = Path("/sys/fs/cgroup")


class Failed(Exception):
    """The cluster did not come up; says which part and how its log ends."""


class Holder:
    """One process that keeps a network and a mount namespace open, which all daemons enter.

    Routes, firewall rules, overlay mounts and volumes of pods are made in there: the machine
    itself gets one link and two routes.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._file = layout.run / "holder.pid"

    def start(self) -> None:
        resolver = self._layout.run / "resolv.conf"
        resolver.write_text(f"nameserver {self._layout.control_ip}\noptions timeout:1\n")
        script = (
            'mount --make-rshared / && mount --bind "$0" /etc/resolv.conf && exec sleep infinity'
        )
        command = ["unshare", "--net", "--mount", "--propagation", "slave", "sh", "-c", script]
        process = subprocess.Popen(
            [*command, str(resolver)],
            **{
                "stdin": subprocess.DEVNULL,
                "stdout": subprocess.DEVNULL,
                "stderr": subprocess.DEVNULL,
                "start_new_session": True,
            },
        )
        self._file.write_text(str(process.pid))
        until(
            lambda: self.run(
                ["grep", "-q", self._layout.control_ip, "/etc/resolv.conf"], check=False
            ),
            "namespaces of the cluster's own",
            within_s=10,
        )

    @property
    def pid(self) -> int | None:
        """Of the holder that runs; None where there is none."""
        if not self._file.exists():
            return None
        pid = int(self._file.read_text())
        return pid if _alive(pid) and "sleep" in _command(pid) else None

    def enter(self, command: Sequence[str]) -> list[str]:
        """The command line that runs a command in there."""
        return ["nsenter", "--target", str(self.pid), "--net", "--mount", "--", *command]

    def run(self, command: Sequence[str], *, check: bool = True) -> bool:
        """Whether it ended well."""
        done = subprocess.run(self.enter(command), capture_output=True, text=True)
        if check and done.returncode != 0:
            raise Failed(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.returncode == 0

    def daemon(self, name: str, command: Sequence[str | Path], **environment: str) -> None:
        """Start a daemon, with its log in `<run>/log/<name>.log`."""
        with (self._layout.run / "log" / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                self.enter([str(part) for part in command]),
                **{"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log},
                env={**os.environ, **environment},
                start_new_session=True,
            )
        (self._layout.run / "pid" / name).write_text(str(process.pid))

    def end_daemon(self, name: str) -> None:
        """End one that `daemon` started; returns once it is gone."""
        pid = int((self._layout.run / "pid" / name).read_text())
        _kill(pid)
        until(lambda: not _alive(pid), f"the end of {name}", within_s=20)

    def pids(self) -> set[int]:
        """Whatever runs in the namespaces, and every pod: the cluster's own by construction."""
        inside = set() if self.pid is None else set(_sharing(self.pid))
        return inside | _members(self._layout.cgroup)

    def end(self) -> None:
        """Kill all of it; what it mounted goes with it."""
        gone = self.pids()
        for pid in gone:
            _kill(pid)
        if self.pid is not None:
            _kill(self.pid)
        until(lambda: not any(_alive(p) for p in gone), "the end of the cluster", within_s=20)


def until(
    holds: Callable[[], object], what: str, *, within_s: float, log: Path | None = None
) -> None:
    """Returns once it holds.

    Raises:
        Failed: it did not in time; with the last lines of the log.
    """
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            tail = "" if log is None else "\n".join(log.read_text().splitlines()[-5:])
            raise Failed(f"{what}: not within {within_s:g} s\n{tail}")
        time.sleep(POLL_S)


def run_here(command: list[str], *, check: bool = True) -> None:
    """Run a command outside of all namespaces.

    Raises:
        Failed: it did not end well.
    """
    done = subprocess.run(command, capture_output=True, text=True)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(command)}: {done.stderr.strip()}")


def pids_of_pod(layout: Layout, uid: str) -> list[int]:
    """Processes of a pod's containers on this machine; its pause process is one of them."""
    wanted = (f"pod{uid}", f"pod{uid.replace('-', '_')}")
    return sorted(
        {
            pid
            for folder in _cgroups(layout.cgroup)
            if any(part in str(folder) for part in wanted)
            for pid in _pids(folder)
        }
    )


def resident_bytes(pids: set[int]) -> int:
    """What they hold in memory together; pages that several share count for each."""
    total = 0
    for pid in pids:
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf(
                "SC_PAGE_SIZE"
            )
        except (OSError, IndexError):
            continue
    return total


def make_cgroups(name: str) -> None:
    """The group that all pods are put below, in each hierarchy that this machine has."""
    for root in _hierarchies():
        (root / name).mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):  # a new group of cgroup v1 has neither
            if (root / setting).exists() and (root / name / setting).exists():
                (root / name / setting).write_text((root / setting).read_text())


def remove_cgroups(name: str) -> None:
    """Deepest first, once their processes are gone; a group that is still busy is left."""
    for folder in sorted(_cgroups(name), key=lambda path: -len(path.parts)):
        for _ in range(50):
            try:
                folder.rmdir()
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(POLL_S)
            else:
                break


def _hierarchies() -> list[Path]:
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [
        p for p in CGROUPS.iterdir() if p.is_dir() and not p.is_symlink() and p.name != "unified"
    ]


def _cgroups(name: str) -> Iterator[Path]:
    for root in (*_hierarchies(), CGROUPS / "unified"):
        if (root / name).is_dir():
            # os.walk passes over folders that go meanwhile: a pod's does when it ends.
            yield from (Path(folder) for folder, _, _ in os.walk(root / name))


def _members(name: str) -> set[int]:
    return {pid for folder in _cgroups(name) for pid in _pids(folder)}


def _pids(folder: Path) -> list[int]:
    try:
        return [int(line) for line in (folder / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def _sharing(pid: int) -> Iterator[int]:
    """Processes in the same mount namespace."""
    namespace = os.readlink(f"/proc/{pid}/ns/mnt")
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(folder / "ns" / "mnt") == namespace and int(folder.name) != pid:
                yield int(folder.name)
        except OSError:
            continue


def _alive(pid: int) -> bool:
    """A zombie has ended: in a container nobody may be there to reap it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    return not any(line.startswith("State:") and "Z" in line.split()[1] for line in lines)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
