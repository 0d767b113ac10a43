"""A whole platform whose home is a small file system of its own, which can be filled."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mlplatform.model.routes import Arm
from mlplatform.operations.supervisor.status import ProcessStatus, status
from mlplatform.rollouts.journal.transitions import Confirmed
from mlplatform.runtime.processes.records import PROCESSES_FILE, read_supervisor
from mlplatform.runtime.storage.files import DRAFT
from support.ports import free_port
from support.scoring_world import MODEL, SOURCE, ScoringWorld

CHUNK_BYTES = 1 << 20
REFILL_S = 0.02
POLL_S = 0.1
STEADY_S = 2.0
START_LIMIT_S = 480.0
STOP_LIMIT_S = 60.0
COMMAND_LIMIT_S = 300.0
PORTS = ("PREFECT", "MLFLOW", "PAGE")
HALF_WRITTEN = (DRAFT, ".tmp", ".building", ".partial")
"""How names of files end, or folders of them begin to say, that are not whole."""


@contextlib.contextmanager
def small_disk(folder: Path, size_mb: int) -> Iterator[Path]:
    """A file system in memory at a folder, gone afterwards.

    Raises:
        SystemExit: this process may not mount one.
    """
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=0700", "tmpfs", str(folder)]
    if os.geteuid() != 0:
        raise SystemExit("drill: the disk is a tmpfs, and only root may mount one")
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"drill: no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Filler:
    """Takes all room of a disk, and what others free of it, until `free`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "filler"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_full, name="filler")

    def __enter__(self) -> Filler:
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        self._fill()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        os.close(self._descriptor)
        self._path.unlink()

    def _keep_full(self) -> None:
        while not self._stopping.wait(REFILL_S):
            self._fill()

    def _fill(self) -> None:
        size = CHUNK_BYTES
        while size:
            try:
                os.write(self._descriptor, bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size //= 2


class SmallPlatform(ScoringWorld):
    """`mlplatform up` over a home with a champion and its predecessor.

    Args:
        folder: the small disk.
        outside: another disk, for what the drill itself writes.
    """

    def __init__(self, folder: Path, outside: Path) -> None:
        super().__init__(folder)
        self.folder, self.outside = folder, outside
        ports = {f"MLPLATFORM_{name}_PORT": str(free_port()) for name in PORTS}
        self.environment = {
            **os.environ,
            **ports,
            "PYTHONPATH": str(SOURCE),
            "MLPLATFORM_HOME": str(self.home.root),
            "MLPLATFORM_GATEWAY_PORT": str(self.port),
        }
        self.previous, self.champion = self.deploy(1), self.deploy(2, offset=0.01)
        for arm in (self.previous, self.champion):
            routes = self.promote(arm)
            self._confirm(routes.rollout_id or "")
        self._up: subprocess.Popen[bytes] | None = None

    def _confirm(self, rollout_id: str) -> None:
        """So that no pass judges the promotion by what the drill does to its answers."""
        fence = self.rollouts.acquire(MODEL, "test", 60.0)  # as the world does
        assert fence is not None
        self.rollouts.commit(Confirmed(**self._fact(rollout_id)), fence)

    def start_predictor(self, arm: Arm) -> None:
        """The supervisor does, as its manifest is there."""

    def start(self) -> None:
        """`mlplatform up`, whose lines go to the small disk as those of a service would."""
        with (self.home.logs / "up.log").open("ab") as log:
            self._up = subprocess.Popen(
                self.command("up"), env=self.environment, stdout=log, stderr=log
            )

    @property
    def is_up(self) -> bool:
        """Whether the supervisor runs."""
        return self._up is not None and self._up.poll() is None

    def is_ready(self) -> bool:
        """Whether every process is."""
        record = read_supervisor(self.home)
        own = record is not None and record.process.alive() and record.state == "ready"
        return own and all(p.state == "ready" for p in self.processes().values())

    def processes(self) -> Mapping[str, ProcessStatus]:
        """Of the platform as `mlplatform status` tells of them."""
        return {process.name: process for process in status(self.home).processes}

    def pids(self) -> list[int]:
        return [p.pid for p in self.processes().values() if p.pid is not None]

    def await_ready(self, within_s: float = START_LIMIT_S) -> float | None:
        """After how many seconds every process was ready, and was so for a while; None: not in
        time. What was recorded before does not count."""
        began_s, began_wall_s, since_s = time.monotonic(), time.time(), None
        while self.is_up and time.monotonic() - began_s < within_s:
            is_new = _changed_s(self.home.run / PROCESSES_FILE) > began_wall_s
            since_s = (since_s or time.monotonic()) if is_new and self.is_ready() else None
            if since_s is not None and time.monotonic() - since_s > STEADY_S:
                return since_s - began_s
            time.sleep(POLL_S)
        return None

    def run(self, *arguments: str) -> tuple[int, str]:
        """A command of `mlplatform`: exit status, and the end of what it said."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment, capture_output=True, text=True, timeout=COMMAND_LIMIT_S,
        )  # fmt: skip
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        return done.returncode, said[-1] if said else ""

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """A command that runs beside what follows."""
        return subprocess.Popen(
            self.command(*arguments),
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def half_written(self) -> list[str]:
        """Files that a process has begun and no process will finish."""
        found = [path for path in self.home.root.rglob("*") if _is_half(path)]
        return sorted(str(path.relative_to(self.home.root)) for path in found)

    def stop(self) -> None:
        """SIGTERM; SIGKILL if the platform does not end."""
        if self._up is None:
            return
        if self._up.poll() is None:
            self._up.send_signal(signal.SIGTERM)
        try:
            self._up.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._up.kill()
            self._up.wait()
        self._up = None

    def close(self) -> None:
        self.stop()
        super().close()

    @staticmethod
    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "mlplatform.commands", *arguments]


def until(holds: Callable[[], bool], within_s: float) -> bool:
    """Whether it held in time."""
    end_s = time.monotonic() + within_s
    while not (held := holds()) and time.monotonic() < end_s:
        time.sleep(POLL_S)
    return held


def _is_half(path: Path) -> bool:
    return path.name.endswith(HALF_WRITTEN) or ".partial-" in path.name


def _changed_s(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0
