"""The platform's processes, as another user of the machine sees them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
from pathlib import Path
from typing import Final

import psutil
from tests.drills.attacks.attack import Attack, AttackResult, Target, all_of

PTRACE_ATTACH, PTRACE_SEIZE = 16, 0x4206
PIDFD_GETFD: Final = 438
PRIVATE: Final = ("environ", "mem", "maps", "fd", "cwd", "root", "io", "auxv", "stack", "syscall")


def attacks() -> tuple[Attack, ...]:
    return (
        Attack(
            "processes, what /proc tells of them",
            "high",
            f"/proc/PID/{{{','.join(PRIVATE)}}} of every process of the platform",
            "permission denied",
            proc,
            by_other_user=True,
        ),
        Attack(
            "processes, secrets in command lines",
            "high",
            "/proc/PID/cmdline of each process and its children, compared with keys and tokens",
            "none holds a secret",
            command_lines,
            by_operator=True,
        ),
        Attack(
            "processes, traced, read or changed",
            "critical",
            "ptrace attach and seize, process_vm_readv, pidfd_getfd, prlimit, a priority",
            "EPERM",
            traced,
            by_other_user=True,
        ),
        Attack(
            "processes, signals",
            "high",
            "SIGTERM, SIGKILL, SIGSTOP and SIGUSR1 to every process",
            "EPERM",
            signalled,
            by_other_user=True,
        ),
        Attack(
            "processes, Unix sockets that they listen on",
            "high",
            "connect to every abstract socket and every socket below /tmp and the home "
            "(Python's fork server takes commands on one)",
            "permission denied, or none is there",
            unix_sockets,
            by_other_user=True,
        ),
        Attack(
            "processes, shared memory",
            "medium",
            "files in /dev/shm that the platform's user has made, read and written",
            "permission denied",
            shared_memory,
            by_other_user=True,
        ),
        Attack(
            "processes, files that they have open outside of the home",
            "medium",
            "mode and owner of each file and folder below a temporary folder that is open",
            "none that others may read, write or replace",
            temporary_files,
            by_operator=True,
        ),
        Attack(
            "processes, listeners beyond this machine",
            "high",
            "the address of every listening socket of every process",
            "127.0.0.1 alone",
            addresses,
            by_operator=True,
        ),
    )


def proc(target: Target) -> AttackResult:
    results = []
    for name, pid in target.pids.items():
        for part in PRIVATE:
            path = Path(f"/proc/{pid}/{part}")
            try:
                if part in ("cwd", "root"):
                    os.readlink(path)
                elif part == "fd":
                    os.listdir(path)
                elif not path.read_bytes()[:1] and part == "mem":
                    continue
                results.append(AttackResult(False, f"{part} of {name} was read"))
            except FileNotFoundError:
                continue
            except OSError as error:
                results.append(AttackResult(True, f"{error.strerror}"))
    return all_of(results)


def command_lines(target: Target) -> AttackResult:
    secrets = {f.name: f.read_text().strip() for f in (target.home / "run").glob("*.token")}
    secrets["api.key"] = (target.home / "secrets" / "api.key").read_text().strip()
    secrets |= {f"key of {n}": k.secret for n, k in target.keys.items()}
    results = []
    for name, pid in target.pids.items():
        with contextlib.suppress(psutil.Error):
            tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
            lines = [" ".join(p.cmdline()) for p in tree]
            shown = [of for of, secret in secrets.items() if any(secret in line for line in lines)]
            results.append(AttackResult(not shown, f"{name}: {shown}" if shown else "none"))
    return all_of(results)


def traced(target: Target) -> AttackResult:
    libc = ctypes.CDLL(None, use_errno=True)
    pids = {n: target.pids[n] for n in ("supervisor", "prefect", "gateway-0") if n in target.pids}
    results = []
    for name, pid in pids.items():
        for asked in (PTRACE_ATTACH, PTRACE_SEIZE):
            attached = libc.ptrace(asked, pid, None, None) == 0
            results.append(AttackResult(not attached, f"{name} attached" if attached else "EPERM"))
        room = ctypes.create_string_buffer(8)
        vector = (ctypes.c_void_p * 2)(ctypes.addressof(room), 8)
        read = libc.process_vm_readv(pid, vector, 1, vector, 1, 0)
        results.append(AttackResult(read < 0, f"{name}: memory read" if read >= 0 else "EPERM"))
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(pid)
            taken = libc.syscall(PIDFD_GETFD, descriptor, 0, 0)
            results.append(
                AttackResult(taken < 0, f"{name}: descriptor taken" if taken >= 0 else "EPERM")
            )
        try:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (8, 8))
            results.append(AttackResult(False, f"{name}: limits changed"))
        except PermissionError:
            results.append(AttackResult(True, "EPERM"))
        try:
            os.setpriority(os.PRIO_PROCESS, pid, 19)
            results.append(AttackResult(False, f"{name}: priority changed"))
        except PermissionError:
            results.append(AttackResult(True, "EPERM"))
    return all_of(results)


def signalled(target: Target) -> AttackResult:
    results = []
    for name, pid in target.pids.items():
        for number in (0, signal.SIGUSR1, signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
            try:
                os.kill(pid, number)
                results.append(AttackResult(False, f"{name} took signal {number}"))
            except PermissionError:
                results.append(AttackResult(True, "EPERM"))
    return all_of(results)


def unix_sockets(target: Target) -> AttackResult:
    results = [AttackResult(True, "none is there")]
    for name in target.unix:
        address = "\0" + name[1:] if name.startswith("@") else name
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(2)
            try:
                connection.connect(address)
                results.append(AttackResult(False, f"connected to {name}"))
            except OSError as error:
                results.append(AttackResult(True, f"{error.strerror}"))
    return all_of(results)


def shared_memory(target: Target) -> AttackResult:
    results = [AttackResult(True, "none is there")]
    owner = Path(f"/proc/{target.pids['supervisor']}").stat().st_uid
    for path in Path("/dev/shm").rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and path.lstat().st_uid == owner:
                opened = os.access(path, os.R_OK) or os.access(path, os.W_OK)
                results.append(AttackResult(not opened, f"{path} opened" if opened else "denied"))
    return all_of(results)


def temporary_files(target: Target) -> AttackResult:
    results = [AttackResult(True, "none is there")]
    for name, pid in target.pids.items():
        for path in _open_outside(pid, target.home):
            with contextlib.suppress(OSError):
                mode, folder = path.stat().st_mode, path.parent.stat()
                replaceable = folder.st_mode & 0o022 and not folder.st_mode & 0o1000
                loose = mode & 0o077 and folder.st_mode & 0o077
                held = not loose and not replaceable
                results.append(
                    AttackResult(held, f"{name}: {path} {oct(mode)}" if not held else "private")
                )
    return all_of(results)


def addresses(target: Target) -> AttackResult:
    results = []
    for name, pid in target.pids.items():
        with contextlib.suppress(psutil.Error):
            for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
                for found in process.connections("inet"):
                    if found.status == psutil.CONN_LISTEN:
                        here = found.laddr.ip.removeprefix("::ffff:") == "127.0.0.1"
                        said = f"{name} listens on {found.laddr.ip}:{found.laddr.port}"
                        results.append(AttackResult(here, "127.0.0.1" if here else said))
    return all_of(results)


def _open_outside(pid: int, home: Path) -> list[Path]:
    found = []
    with contextlib.suppress(psutil.Error):
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            found += [Path(f.path) for f in process.open_files()]
    temporary = ("/tmp/", "/var/tmp/", "/dev/shm/")
    return [p for p in found if str(p).startswith(temporary) and home.parent not in p.parents]
