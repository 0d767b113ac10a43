"""A supervisor in a process of its own, with children that do next to nothing, for tests.

As a script: `platform_process.py supervise HOME [PORT]` or `platform_process.py child READY_FILE`.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mlplatform.operations.supervisor.spec import ChildSpec, HttpCheck
from mlplatform.operations.supervisor.supervisor import Supervisor
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.processes.parent_death import follow_parent
from mlplatform.runtime.processes.records import ProcessId, read_processes, read_supervisor

DEADLINE_S = 40


def wait(answer: Callable[[], object], what: str = "", *, within_s: float = DEADLINE_S) -> None:
    """Returns once the answer is true.

    Raises:
        AssertionError: it was not in time.
    """
    deadline = time.monotonic() + within_s
    while not answer():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what or answer}"
        time.sleep(0.05)


class PlatformProcess:
    """`Supervisor.run` in a subprocess; its log is at `log`."""

    def __init__(self, home: Home, *, port: int | None = None) -> None:
        self.home = home
        self.log = home.root.parent / "supervisor.log"
        arguments = [str(home.root), *([] if port is None else [str(port)])]
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                [sys.executable, __file__, "supervise", *arguments], stdout=log, stderr=log
            )

    def started(self) -> bool:
        record = read_supervisor(self.home)
        return (
            record is not None
            and record.process.pid == self.popen.pid
            and record.state in ("starting", "ready")
        )

    def pids(self) -> dict[str, ProcessId]:
        """Running children by name."""
        return {r.name: r.process for r in read_processes(self.home) if r.process is not None}

    def tree(self) -> list[ProcessId]:
        """All running children with their recorded descendants."""
        records = [r for r in read_processes(self.home) if r.process is not None]
        return [p for r in records for p in (r.process, *r.descendants) if p is not None]

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def close(self) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.kill()


def supervise(home: Home, port: int | None) -> None:
    helper = (sys.executable, __file__, "child")
    specs = [
        ChildSpec(
            name,
            (*helper, str(home.run / f"{name}.ready")),
            home.run / f"{name}.ready",
            stop_order=order,
            stop_grace_s=2,
        )
        for order, name in enumerate(("first", "second"))
    ]
    if port is not None:
        check = HttpCheck("/", port=port)
        specs.append(ChildSpec("gateway", helper, check, port_setting="MLPLATFORM_GATEWAY_PORT"))
    Supervisor(home, specs).run()


def child(ready: Path) -> None:
    """Says that it is ready, has a child of its own, and waits."""
    follow_parent()
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    ready.write_text(str(os.getpid()))
    time.sleep(600)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if sys.argv[1] == "child":
        child(Path(sys.argv[2]))
    else:
        supervise(Home(Path(sys.argv[2])), int(sys.argv[3]) if len(sys.argv) > 3 else None)
