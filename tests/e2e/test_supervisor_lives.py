"""No process of the platform outlives its supervisor, and none that should run stays down."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mlplatform.operations.supervisor.status import status
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.processes.records import ProcessId, read_processes
from support.platform_process import DEADLINE_S, PlatformProcess, wait


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def platform(home: Home) -> Iterator[PlatformProcess]:
    process = PlatformProcess(home)
    wait(lambda: process.started() and status(home).state == "ready")
    wait(lambda: len(process.tree()) == 4)
    wait(lambda: {p.state for p in status(home).processes} == {"ready"})
    yield process
    process.close()


def gone(processes: list[ProcessId]) -> bool:
    return not any(process.alive() for process in processes)


def freeze(processes: list[ProcessId]) -> None:
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)
    for process in processes:
        wait(lambda pid=process.pid: psutil.Process(pid).status() == psutil.STATUS_STOPPED)


def test_status_names_every_process_with_its_memory(platform: PlatformProcess, home: Home) -> None:
    found = status(home)

    assert [p.name for p in found.processes] == ["supervisor", "first", "second"]
    assert {p.state for p in found.processes} == {"ready"}
    assert all(p.memory_mb > 5 for p in found.processes)
    assert found.processes[0].pid == platform.popen.pid


def test_a_killed_child_is_started_again_without_its_leftovers(
    platform: PlatformProcess, home: Home
) -> None:
    before = platform.tree()
    first = platform.pids()["first"]

    os.kill(first.pid, signal.SIGKILL)
    wait(lambda: platform.pids().get("first", first) != first)
    wait(lambda: status(home).processes[1].state == "ready")

    of_first = [first, before[1]]
    wait(lambda: gone(of_first))
    assert status(home).processes[1].restarts == 1
    assert "its last process was killed (signal 9): " in status(home).processes[1].why
    assert status(home).processes[2].restarts == 0


def test_children_and_their_children_die_with_a_killed_supervisor(
    platform: PlatformProcess, home: Home
) -> None:
    everything = platform.tree()

    platform.kill()
    start = time.monotonic()
    wait(lambda: gone(everything))

    assert time.monotonic() - start < 5
    assert status(home).state == "stopped"


def test_sigterm_stops_all_in_order(platform: PlatformProcess) -> None:
    everything = platform.tree()

    platform.popen.send_signal(signal.SIGTERM)

    assert platform.popen.wait(DEADLINE_S) == 0
    assert gone(everything)
    lines = platform.log.read_text().splitlines()
    stopped = [line for line in lines if line.endswith(("stopping", "stopped"))]
    assert stopped == [
        "first is stopping",
        "first is stopped",
        "second is stopping",
        "second is stopped",
    ]


def test_a_second_signal_kills_at_once(home: Home, tmp_path: Path) -> None:
    stubborn = PlatformProcess(home)
    wait(lambda: stubborn.started() and status(home).state == "ready")
    wait(lambda: len(stubborn.tree()) == 4)
    everything = stubborn.tree()
    freeze(everything)  # SIGTERM will find nobody listening

    stubborn.popen.send_signal(signal.SIGINT)
    wait(lambda: "first is stopping" in stubborn.log.read_text())
    stubborn.popen.send_signal(signal.SIGINT)

    assert stubborn.popen.wait(1.5) == 0
    assert gone(everything)


def test_a_second_supervisor_is_refused_and_told_who_runs(
    platform: PlatformProcess, home: Home
) -> None:
    before = platform.pids()

    second = PlatformProcess(home)

    assert second.popen.wait(DEADLINE_S) == 1
    assert f"already runs under process {platform.popen.pid}" in second.log.read_text()
    assert platform.pids() == before


def test_a_taken_port_is_named_before_anything_starts(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = PlatformProcess(home, port=port)

        assert process.popen.wait(DEADLINE_S) == 1

    assert f"port {port} of gateway can't be used" in process.log.read_text()
    assert "MLPLATFORM_GATEWAY_PORT" in process.log.read_text()
    assert read_processes(home) == []


def test_a_new_supervisor_sweeps_what_no_pipe_ended(platform: PlatformProcess, home: Home) -> None:
    everything = platform.tree()
    freeze(everything)  # nobody sees the pipe end
    platform.kill()
    assert not gone(everything)

    again = PlatformProcess(home)
    try:
        wait(lambda: again.started() and status(home).state == "ready")
        assert gone(everything)
        assert "left: first, second" in again.log.read_text()
    finally:
        again.close()
