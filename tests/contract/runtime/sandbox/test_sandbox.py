"""What a confined process can't do, on the kernel that runs the tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlplatform.runtime.sandbox import landlock, seccomp
from mlplatform.runtime.sandbox.limits import ProcessLimits
from mlplatform.runtime.sandbox.probe_work import prepare
from mlplatform.runtime.sandbox.process import Sandbox, WorkRefused
from mlplatform.runtime.units import MIB

LIMITS = ProcessLimits(memory_bytes=256 * MIB, cpu_s=30)
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Landlock and seccomp are Linux's")
TEST_HOME = "MLPLATFORM_HOME"


@pytest.fixture(scope="module")
def shared() -> Iterator[Sandbox]:
    sandbox = Sandbox(prepare, LIMITS)
    yield sandbox
    sandbox.close()


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox(prepare, LIMITS)
    yield made
    made.close()


def tried(sandbox: Sandbox, deed: str, to: object = "", cpu_s: float = 5) -> dict[str, str]:
    return dict(sandbox.ask({"deed": deed, "to": str(to)}, cpu_s=cpu_s, reply_bytes=0).body)


def test_it_answers(shared):
    assert tried(shared, "echo", "hello") == {"done": "hello"}


@ON_LINUX
def test_all_that_this_kernel_has_is_in_force(shared):
    assert {"no_new_privs", "RLIMIT_CPU", "RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_NOFILE"} <= set(
        shared.in_force
    )
    assert ("seccomp" in shared.in_force) == seccomp.has_calls()
    abi = landlock.version()
    assert (f"landlock {abi}" in shared.in_force) == (abi > 0)


@ON_LINUX
@pytest.mark.parametrize(
    ("deed", "to"),
    [
        pytest.param("read", "/etc/passwd", id="reads a system file"),
        pytest.param("read", "/proc/self/environ", id="reads its environment"),
        pytest.param("list", "/", id="lists the root"),
        pytest.param("list", str(Path.home()), id="lists the user's folder"),
        pytest.param("write", "left-behind", id="writes to its own folder"),
        pytest.param("socket", "", id="makes a socket"),
        pytest.param("fork", "", id="forks"),
        pytest.param("exec", "/bin/true", id="starts a program"),
        pytest.param("kill", str(os.getpid()), id="signals its parent"),
        pytest.param("thread", "", id="starts a thread"),
        pytest.param("run", "", id="maps memory to run code from"),
    ],
)
def test_it_can_not_reach_out(shared, deed, to):
    assert "failed" in tried(shared, deed, to)


@ON_LINUX
def test_it_does_not_see_a_home(shared, tmp_path):
    (tmp_path / "api.key").write_text("mlp_secret")
    assert "failed" in tried(shared, "read", tmp_path / "api.key")
    assert "failed" in tried(shared, "list", tmp_path)


def test_a_listening_socket_of_the_platform_is_out_of_reach(shared):
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert "failed" in tried(shared, "connect", server.getsockname()[1])


def test_its_environment_holds_nothing_of_the_parents(monkeypatch):
    monkeypatch.setenv("MLPLATFORM_SECRET_FILE", "/somewhere")
    made = Sandbox(prepare, LIMITS)
    names = tried(made, "environment")["done"]
    made.close()
    assert "MLPLATFORM" not in names
    assert "HOME" not in names
    assert "PATH'" not in names


@ON_LINUX
def test_three_gigabytes_are_refused_and_it_lives_on(shared):
    with pytest.raises(WorkRefused, match="more than 256 MiB of memory"):
        tried(shared, "allocate", 3_000_000_000)
    assert tried(shared, "allocate", 100 * MIB) == {"done": str(100 * MIB)}


def test_a_loop_is_ended_after_its_processor_time(sandbox):
    with pytest.raises(WorkRefused, match=r"more than 0\.5 s of processor time"):
        tried(sandbox, "spin", cpu_s=0.5)
    with pytest.raises(WorkRefused, match="has ended before"):
        tried(sandbox, "echo")


def test_a_crash_is_told_and_stays_its_own(sandbox):
    with pytest.raises(WorkRefused, match="crashed"):
        tried(sandbox, "crash")


def test_an_answer_that_is_larger_than_agreed_ends_it(sandbox):
    with pytest.raises(WorkRefused, match="invalid response"):
        tried(sandbox, "flood", 300_000)


def test_it_ends_with_its_object():
    made = Sandbox(prepare, LIMITS)
    pid = made.pid
    del made
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


PARENT = """
import sys, time
from mlplatform.runtime.sandbox.limits import ProcessLimits
from mlplatform.runtime.sandbox.probe_work import prepare
from mlplatform.runtime.sandbox.process import Sandbox
made = Sandbox(prepare, ProcessLimits(memory_bytes=1 << 28, cpu_s=60))
print(made.pid, flush=True)
made.ask({"deed": "spin"}, cpu_s=60, reply_bytes=0)
"""


@ON_LINUX
def test_it_dies_with_a_parent_that_is_killed_while_it_computes():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 10
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < until
        time.sleep(0.02)


ALONE = """
import pathlib, socket, sys
from mlplatform.runtime.sandbox import landlock
server = socket.create_server(("127.0.0.1", 0))
print(landlock.restrict_to([pathlib.Path(sys.argv[1])]))
print(pathlib.Path(sys.argv[1], "seen").read_text())
deeds = {
    "connect": lambda: socket.socket().connect(server.getsockname()),
    "bind": lambda: socket.socket().bind(("127.0.0.1", 0)),
    "read": lambda: pathlib.Path(sys.argv[2]).read_text(),
    "write": lambda: pathlib.Path(sys.argv[1], "seen").write_text("x"),
}
for name, deed in deeds.items():
    try:
        deed()
    except PermissionError:
        print(name, "is refused")
"""


@pytest.mark.skipif(landlock.version() < 4, reason="this kernel's Landlock knows no TCP")
def test_landlock_holds_alone_where_a_system_call_were_let_through(tmp_path):
    seen, hidden = tmp_path / "seen", tmp_path / "hidden"
    seen.mkdir()
    (seen / "seen").write_text("text")
    hidden.write_text("secret")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(seen), str(hidden)], capture_output=True, text=True
    )
    refused = [f"{name} is refused" for name in ("connect", "bind", "read", "write")]
    assert done.stdout.splitlines() == [str(landlock.version()), "text", *refused]


def test_the_filter_lets_the_listed_calls_through_and_no_other():
    calls = {"read": 0, "mmap": 9, "mprotect": 10, "exit_group": 231}
    steps = seccomp.program(0xC000003E, calls)

    def verdict(number: int, third: int = 0, audit: int = 0xC000003E) -> int:
        words = {0: number, 4: audit, 32: third}
        at = loaded = 0
        while True:
            code, if_true, if_not, value = steps[at]
            if code == 0x06:
                return value
            if code == 0x20:
                loaded, jump = words[value], 0
            else:
                holds = {0x15: loaded == value, 0x35: loaded >= value, 0x45: loaded & value}[code]
                jump = if_true if holds else if_not
            at += 1 + jump

    allowed, refused = 0x7FFF0000, 0x00050001
    assert [verdict(n) for n in calls.values()] == [allowed] * 4
    assert {verdict(n) for n in range(500) if n not in calls.values()} == {refused}
    assert verdict(9, third=4) == verdict(10, third=7) == refused
    assert verdict(0x40000000) == refused
    assert verdict(0, audit=1) == 0x80000000
