"""A predictor that misbehaves: a proxy in front of a real one, which changes its answers.

As a script: `faulty_predictor.py UPSTREAM_PORT FOLDER`. It writes its port to `FOLDER/port` and
reads from `FOLDER/behaviour` how to treat the next answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from mlplatform.runtime.storage.files import write_atomically

Behaviour = Literal["well", "slow", "nan", "shapes"]
TIMES_SLOWER = 100
LIMIT_BYTES = 1 << 20
SHAPES = ((0, "FP32"), (1, "FP32"), (2, "BYTES"), (2, "FP32"))
"""How many scores more than rows there are, less one, and of which type."""


class FaultyPredictor:
    """The proxy as a process; it behaves well until told otherwise."""

    def __init__(self, folder: Path, upstream_port: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.behave("well")
        (folder / "port").unlink(missing_ok=True)
        with (folder / "proxy.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(upstream_port), str(folder)], stderr=log
            )

    @property
    def port(self) -> int:
        """Where it listens; 0: it does not yet."""
        path = self._folder / "port"
        return int(path.read_text()) if path.exists() else 0

    def behave(self, behaviour: Behaviour) -> None:
        write_atomically(self._folder / "behaviour", behaviour.encode())

    @contextlib.contextmanager
    def behaving(self, behaviour: Behaviour) -> Iterator[None]:
        self.behave(behaviour)
        try:
            yield
        finally:
            self.behave("well")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


class Proxy:
    """Hands each request on and each answer back, spoilt as the behaviour says."""

    def __init__(self, upstream_port: int, behaviour: Path) -> None:
        self._port = upstream_port
        self._behaviour = behaviour
        self._shapes = itertools.cycle(SHAPES)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a gateway, with one to the predictor."""
        upstream = None
        try:
            upstream_reader, upstream = await asyncio.open_connection(
                "127.0.0.1", self._port, limit=LIMIT_BYTES
            )
            while True:
                upstream.write(b"".join(await _message(reader)))
                began_s = time.monotonic()
                head, body = await _message(upstream_reader)
                writer.write(await self._treated(head, body, time.monotonic() - began_s))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # one of them has gone: the other goes too
        finally:
            writer.close()
            if upstream is not None:
                upstream.close()

    async def _treated(self, head: bytes, body: bytes, took_s: float) -> bytes:
        behaviour = self._behaviour.read_text()
        size = _number(head, b"inference-header-content-length")
        if behaviour == "well" or size is None:
            return head + body
        count = (len(body) - size) // 4
        if behaviour == "slow":
            await asyncio.sleep((TIMES_SLOWER - 1) * took_s)
            return head + body
        if behaviour == "nan":
            return _answer([math.nan] * count, "FP32")
        more, form = next(self._shapes)
        return _answer([0.3] * (count + more - 1), form)


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    return head, await reader.readexactly(_number(head, b"content-length") or 0)


def _number(head: bytes, name: bytes) -> int | None:
    for line in head.split(b"\r\n"):
        found, _, value = line.partition(b":")
        if found.lower() == name:
            return int(value)
    return None


def _answer(values: list[float], form: str) -> bytes:
    raw = struct.pack(f"<{len(values)}f", *values)
    described = (
        f'{{"outputs":[{{"name":"scores","datatype":"{form}","shape":[{len(values)}],'
        f'"parameters":{{"binary_data_size":{len(raw)}}}}}]}}'
    ).encode()
    head = (
        f"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: {len(described)}\r\n"
        f"Content-Length: {len(described) + len(raw)}\r\n\r\n"
    )
    return head.encode() + described + raw


async def _main(upstream_port: int, folder: Path) -> None:
    proxy = Proxy(upstream_port, folder / "behaviour")
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=LIMIT_BYTES)
    write_atomically(folder / "port", str(server.sockets[0].getsockname()[1]).encode())
    parent = os.getppid()
    while os.getppid() == parent:  # a drill that was killed leaves no proxy behind
        await asyncio.sleep(1.0)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_main(int(sys.argv[1]), Path(sys.argv[2])))
