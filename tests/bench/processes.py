"""Server processes on a core of their own, with what they cost."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

START_S = 90.0


@contextlib.contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str], port: int, core: int, log: Path
) -> Iterator[int]:
    """The pid of a server that listens; it and its children end with the block."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            env={**os.environ, **environment},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        _await_port(process, port, log)
        yield process.pid
    finally:
        family = [p for p in _family(process.pid)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()


def _await_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                time.sleep(1.0)
                return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    tail = log.read_text(errors="replace")[-2000:]
    raise SystemExit(f"{process.args} did not start; its log ends:\n{tail}")


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def pin(pid: int, core: int) -> None:
    """Keep a running process, all its threads and children, on one core."""
    for member in _family(pid):
        for thread in member.threads():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread.id, {core})


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, of a process and its children so far."""
    total = 0.0
    for member in _family(pid):
        times = member.cpu_times()
        total += times.user + times.system
    return total


def rss_mb(pid: int) -> float:
    return sum(member.memory_info().rss for member in _family(pid)) / 1e6
