"""The process that explains for one gateway: started when it is needed, ended when it is late.

An explanation loads a model and runs it, which takes memory and the interpreter lock. A process of
a lower priority takes neither from the gateway, and can be ended.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

import msgspec

from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.processes.commands import command
from mlplatform.runtime.processes.parent_death import ParentDeathPipe
from mlplatform.runtime.units import MIB
from mlplatform.scoring.explanations.answer import ExplanationReply, ExplanationRequest

READY: Final = b"ready"
"""The first line of the process, once its libraries are loaded."""
START_S: Final = 60.0
"""Longest start in seconds, on a machine whose cores requests use."""
WORK_S: Final = 30.0
"""Seconds after which an explanation is given up with its process: long, because a process that is
started anew has to check and load the bundle again, on cores that requests use."""
MOST_BYTES: Final = 4 * MIB
_CHUNK: Final = 65_536

_encode = msgspec.json.Encoder().encode
_reply = msgspec.json.Decoder(ExplanationReply)


class ExplainerProcess:
    """The process that explains, as its gateway sees it; for one thread.

    Args:
        decisions: the folder of the decision log.
        bundles: the folder of bundles.
    """

    def __init__(self, decisions: Path, bundles: Path) -> None:
        self._options = (f"--decisions={decisions}", f"--bundles={bundles}")
        self._running: _RunningExplainer | None = None

    def explain(self, request: ExplanationRequest) -> ExplanationReply:
        """The reply to a request, by a process that is started if none runs.

        Raises:
            Unavailable: the process does not start, has ended, or was late and is ended.
        """
        try:
            if self._running is None or not self._running.is_alive:
                self.close()
                self._running = _RunningExplainer(self._options)
                self._running.line(START_S)
            self._running.send(_encode(request) + b"\n")
            return _reply.decode(self._running.line(WORK_S))
        except (OSError, EOFError, msgspec.MsgspecError) as error:  # TimeoutError is an OSError
            self.close()
            raise Unavailable("the process that explains did not answer") from error

    def close(self) -> None:
        """End the process, if it runs."""
        running, self._running = self._running, None
        if running is not None:
            running.end()


class _RunningExplainer:
    def __init__(self, options: tuple[str, ...]) -> None:
        self._channel, theirs = socket.socketpair()
        self._parent = ParentDeathPipe()
        try:
            # no session of its own: Linux would give that as large a share of the cores as the
            # gateway's
            self._process = subprocess.Popen(
                command("explainer", *options),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={**os.environ, **self._parent.environment},
                pass_fds=[self._parent.read_fd],
            )
        except BaseException:
            self._channel.close()
            self._parent.close()
            raise
        finally:
            theirs.close()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def send(self, line: bytes) -> None:
        self._channel.settimeout(WORK_S)
        self._channel.sendall(line)

    def line(self, within_s: float) -> bytes:
        """The next line of the process, which writes no other before the next request.

        Raises:
            OSError, EOFError: there is none in time, it has ended, or it sends too much.
        """
        until_s, found = time.monotonic() + within_s, bytearray()
        while not found.endswith(b"\n"):
            self._channel.settimeout(max(until_s - time.monotonic(), 0.001))
            chunk = self._channel.recv(_CHUNK)
            found += chunk
            if not chunk or len(found) > MOST_BYTES:
                raise EOFError("it has ended" if not chunk else f"more than {MOST_BYTES} bytes")
        return bytes(found)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._channel.close()
        self._parent.close()
