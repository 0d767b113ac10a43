"""Whose connection it is: on loopback the kernel says which user's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mlplatform.runtime.http.peers import Peers
from mlplatform.runtime.http.subordinate_ids import SubordinateIds

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


def test_a_connection_that_was_closed_at_once_is_no_users() -> None:
    """Root's, as the kernel tells it, would be kept out by who closes connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
        accepted, _ = server.accept()
        with accepted:
            assert accepted.recv(1) == b""
            peer = Peers().of(accepted.getsockname(), accepted.getpeername())

    assert peer == "127.0.0.1"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can open a connection as somebody else")
def test_the_ids_that_a_user_was_given_are_one_peer(tmp_path: Path) -> None:
    """Else a user with 65 536 ids ends an operator's connection before it says who it is."""
    (tmp_path / "subuid").write_text(f"{NOBODY}:100000:65536\n")
    peers, found = Peers(SubordinateIds(tmp_path / "subuid")), []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        for uid in ("100000", "165535", "165536"):
            command = [sys.executable, "-c", CONNECT, str(server.getsockname()[1]), uid]
            with subprocess.Popen(command, stdin=subprocess.PIPE) as other:
                accepted, _ = server.accept()
                with accepted:
                    found.append(peers.of(accepted.getsockname(), accepted.getpeername()))
                other.communicate()

    assert found == [f"uid {NOBODY}", f"uid {NOBODY}", "uid 165536"]


def test_what_is_no_range_of_ids_is_left_out_and_a_changed_file_is_read_again(
    tmp_path: Path,
) -> None:
    file = tmp_path / "subuid"
    given = SubordinateIds(file)
    assert given.owner(100000) == 100000
    file.write_bytes(b"\xff\n\nno-such-login:1:9\n7:100000\n7:a:b\n7:100000:-1\nroot:200000:2\n")
    assert [given.owner(uid) for uid in (1, 100000, 200000, 200001, 200002)] == [
        *(1, 100000, 0, 0, 200002)
    ]
    file.write_text("8:100000:10\n")
    assert given.owner(100000) == 8
    file.unlink()
    assert given.owner(100000) == 100000


def test_an_address_of_another_machine_is_the_peer_itself() -> None:
    assert Peers().of(("10.0.0.1", 80), ("10.0.0.7", 40000)) == "10.0.0.7"


def test_a_connection_that_the_kernel_does_not_know_is_its_address() -> None:
    assert Peers().of(("127.0.0.1", 1), ("127.0.0.1", 2)) == "127.0.0.1"


def test_without_a_kernel_that_tells_a_peer_is_its_address() -> None:
    peers = Peers()
    peers.close()

    assert peers.of(("127.0.0.1", 80), ("127.0.0.1", 40000)) == "127.0.0.1"
