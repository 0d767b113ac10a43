"""The parent's side of a confined process: starts it, asks it, and ends it in time."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from mlplatform.runtime.errors import PlatformError, Unavailable
from mlplatform.runtime.sandbox import protocol
from mlplatform.runtime.sandbox.child import Prepare, Start
from mlplatform.runtime.sandbox.limits import ProcessLimits
from mlplatform.runtime.sandbox.protocol import Arrays, BrokenFrame, Frame
from mlplatform.runtime.units import MIB

START_S: Final = 120.0
"""Longest time in seconds to load libraries, on a fully loaded machine."""
WALL_PER_CPU: Final = 4
WALL_MORE_S: Final = 60.0
"""Seconds beyond its processor time after which a request ends, on a machine that others use."""
MOST_CHARACTERS: Final = 300
WANTED: Final = ("landlock", "seccomp", "RLIMIT_AS")

_PATHS: Final = re.compile(r"(?:[A-Za-z]:)?(?:/[\w.+@~-]+){2,}/?")
_PASSED_ON: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")

log = logging.getLogger(__name__)


class WorkRefused(PlatformError):
    """The confined process did not do what it was asked, because of the file."""


class Sandbox:
    """A confined process for one kind of work; it ends with this object or with this process.

    Args:
        prepare: returns the function that answers requests; a function at the top of a module,
            which the child imports.
        files: descriptors that the process may read; the caller closes them.

    Raises:
        Unavailable: the process does not start.
    """

    def __init__(self, prepare: Prepare, limits: ProcessLimits, files: Sequence[int] = ()) -> None:
        self._limits = limits
        ours, theirs = socket.socketpair()
        watched, held = os.pipe()
        folder = tempfile.mkdtemp(prefix="mlplatform-sandbox-")
        start = Start(
            module=prepare.__module__,
            name=prepare.__qualname__,
            channel=theirs.fileno(),
            parent=watched,
            limits=limits,
            files=tuple(files),
        )
        try:
            self._process = _start(start, folder)
            self._channel = ours
            self._end = weakref.finalize(self, _end, self._process, ours, held)
            theirs.close()
            self.in_force = self._ready()
        finally:
            theirs.close()
            os.close(watched)
            shutil.rmtree(folder, ignore_errors=True)  # its working directory, which is empty

    def _ready(self) -> tuple[str, ...]:
        try:
            frame = self._exchange(None, START_S, 0)
        except WorkRefused as error:
            raise Unavailable(f"the confined process does not start: {error}") from error
        if "refused" in frame.body:
            self.close()
            raise Unavailable(f"the confined process does not start: {frame.body['refused']}")
        found = tuple(str(name) for name in frame.body.get("in_force", ()))
        lacking = [name for name in WANTED if not any(f.startswith(name) for f in found)]
        if lacking:
            log.warning(
                "this system does not support %s; the sandbox runs without it", ", ".join(lacking)
            )
        log.debug("confined by %s", ", ".join(found))
        return found

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process can be asked."""
        return self._end.alive

    def ask(
        self, body: Mapping[str, Any], arrays: Arrays = (), *, cpu_s: float, reply_bytes: int
    ) -> Frame:
        """The answer to a request.

        Args:
            cpu_s: processor seconds after which the process is ended.
            reply_bytes: largest size of the answer's arrays together.

        Raises:
            WorkRefused: the request was refused or the process has ended, with the reason; the text
                holds no path.
        """
        wall_s = WALL_PER_CPU * cpu_s + WALL_MORE_S
        frame = self._exchange(Frame({**body, "cpu_s": cpu_s}, arrays), wall_s, reply_bytes, cpu_s)
        if "refused" in frame.body:
            raise WorkRefused(plain(str(frame.body["refused"])))
        return frame

    def close(self) -> None:
        """End the process, with everything that it holds."""
        self._end()

    def _exchange(
        self, frame: Frame | None, wall_s: float, most_bytes: int, cpu_s: float = math.inf
    ) -> Frame:
        if not self._end.alive:
            raise WorkRefused("its process has ended before")
        until_s = time.monotonic() + wall_s
        try:
            if frame is not None:
                for part in protocol.packed(frame):
                    self._channel.settimeout(_left(until_s))
                    self._channel.sendall(part)
            return protocol.read(lambda size: self._received(size, until_s), most_bytes)
        except TimeoutError:
            self.close()
            raise WorkRefused(f"it was not done within {wall_s:g} s") from None
        except BrokenFrame as error:
            self.close()
            raise WorkRefused(f"the sandbox process sent an invalid response: {error}") from None
        except (EOFError, ConnectionError):
            raise WorkRefused(self._ending(cpu_s)) from None
        except BaseException:
            self.close()  # a part of a frame may have been sent
            raise

    def _received(self, size: int, until_s: float) -> bytearray:
        found = bytearray(size)
        view, at = memoryview(found), 0
        while at < size:
            self._channel.settimeout(_left(until_s))
            got = self._channel.recv_into(view[at:])
            if got == 0:
                raise EOFError
            at += got
        return found

    def _ending(self, cpu_s: float) -> str:
        """How the process ended, in words."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(WALL_MORE_S)
        code = self._process.poll()
        self.close()
        if code == -signal.SIGPROF:
            return f"it took more than {cpu_s:g} s of processor time"
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            return (
                f"it took more than {self._limits.cpu_s} s of processor time in all, or the "
                "machine had no memory left for it"
            )
        if code == -signal.SIGABRT:
            return f"it takes more than {self._limits.memory_bytes // MIB} MiB of memory, or fails"
        if code is not None and code < 0:
            return f"its process crashed ({signal.Signals(-code).name})"
        return f"its process ended ({code})"


def plain(text: str) -> str:
    """A message without paths and control characters, at most `MOST_CHARACTERS` long."""
    without = _PATHS.sub("…", text)
    shown = "".join(c if c.isprintable() else " " for c in without)
    shown = " ".join(shown.split())
    return shown if len(shown) <= MOST_CHARACTERS else f"{shown[:MOST_CHARACTERS]}…"


def _start(start: Start, folder: str) -> subprocess.Popen[bytes]:
    environment = {
        "LC_ALL": "C.UTF-8",
        "ORT_DISABLE_TELEMETRY": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
    }
    # -I: nothing is imported from the working directory or the user's own packages. The process
    # gets no session of its own: Linux would give that session as large a share of the cores as all
    # requests together.
    command = [sys.executable, "-I", "-B", "-m", "mlplatform.runtime.sandbox.child"]
    return subprocess.Popen(
        [*command, msgspec.json.encode(start).decode()],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[start.channel, start.parent, *start.files],
        umask=0o077,
    )


def _end(process: subprocess.Popen[bytes], channel: socket.socket, held: int) -> None:
    channel.close()
    os.close(held)
    process.kill()
    process.wait()


def _left(until_s: float) -> float:
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
