"""Ports that tests give to their servers."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support import ports
from support.ports import PORTS, free_port, free_ports


def test_none_comes_twice_and_none_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        found = free_ports(50)

    assert len(set(found)) == 50
    assert taken not in found
    assert set(found) <= set(PORTS)


def test_a_port_on_which_somebody_listens_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = free_ports(2)
    monkeypatch.setattr(ports, "_OFFERED", iter([first, second]))

    with socket.create_server(("127.0.0.1", first)):
        assert free_port() == second


def test_two_processes_of_one_run_offer_different_ones() -> None:
    ask = "from support.ports import free_ports; print(*free_ports(200))"
    found = []
    for worker in ("gw0", "gw1"):
        environment = {"PYTEST_XDIST_WORKER": worker, "PYTEST_XDIST_WORKER_COUNT": "2"}
        done = subprocess.run(
            [sys.executable, "-c", ask],
            **{"env": environment | {"PYTHONPATH": str(Path(__file__).parents[2])}},
            **{"capture_output": True, "text": True, "check": True},
        )
        found.append(set(done.stdout.split()))

    assert not found[0] & found[1]
