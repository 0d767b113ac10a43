"""Whose connection it is: on loopback the kernel says which user's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from mlplatform.runtime.http.peers import Peers

CONNECT = """
import encodings.idna, os, socket, sys
os.setuid(int(sys.argv[2]))
held = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
sys.stdin.read()
"""
NOBODY = 65534


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_our_own_connection_is_ours(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        socket.create_server((address, 0), family=family) as server,
        socket.create_connection(server.getsockname()[:2]),
    ):
        accepted, _ = server.accept()
        with accepted:
            peer = Peers().of(accepted.getsockname(), accepted.getpeername())

    assert peer == f"uid {os.getuid()}"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can open a connection as somebody else")
def test_another_users_connection_is_told_from_ours() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        command = [sys.executable, "-c", CONNECT, str(server.getsockname()[1]), str(NOBODY)]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as other:
            accepted, _ = server.accept()
            with accepted:
                peer = Peers().of(accepted.getsockname(), accepted.getpeername())
            other.communicate()

    assert peer == f"uid {NOBODY}"


def test_an_address_of_another_machine_is_the_peer_itself() -> None:
    assert Peers().of(("10.0.0.1", 80), ("10.0.0.7", 40000)) == "10.0.0.7"


def test_a_connection_that_the_kernel_does_not_know_is_its_address() -> None:
    assert Peers().of(("127.0.0.1", 1), ("127.0.0.1", 2)) == "127.0.0.1"


def test_without_a_kernel_that_tells_a_peer_is_its_address() -> None:
    peers = Peers()
    peers.close()

    assert peers.of(("127.0.0.1", 80), ("127.0.0.1", 40000)) == "127.0.0.1"
