"""Servers of somebody else's that answer without an end: asking them has one."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path

import msgspec
import pytest
from tests.support.onnx_bundles import sigmoid_bundle

from mlplatform.model.bundle import load_bundle
from mlplatform.model.policies.model_server import ModelServer
from mlplatform.rollouts.serving import golden
from mlplatform.runtime.errors import Unavailable

HELD_S = 3.0
"""How long the servers here go on, so that a test that fails ends."""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
Parts = Callable[[bytes], Iterator[bytes]]


def at_once(whole: bytes) -> Parts:
    return lambda request: iter((whole,))


def drip(request: bytes) -> Iterator[bytes]:
    for byte in chain(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n", repeat(ord("7"))):
        yield bytes([byte])
        time.sleep(0.02)


def continues(request: bytes) -> Iterator[bytes]:
    return repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


def endless_chunks(request: bytes) -> Iterator[bytes]:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return chain((head,), repeat(b"1\r\n7\r\n" * 1000))


@contextmanager
def serving(parts: Parts) -> Iterator[str]:
    """Where a server listens that sends these parts on each connection, for HELD_S."""

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            ends_s = time.monotonic() + HELD_S
            for part in parts(connection.recv(1 << 16)):
                if time.monotonic() > ends_s:
                    return
                connection.sendall(part)

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("parts", [drip, continues, endless_chunks])
def test_one_call_ends_in_its_time(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden, "TIMEOUT_S", 0.5)
    with serving(parts) as url:
        began_s = time.monotonic()
        with pytest.raises(Unavailable, match="says nothing of limits"):
            golden.metadata(url, "limits")
        assert time.monotonic() - began_s < HELD_S / 2


@pytest.mark.parametrize("slow", [b"GET", b"POST"], ids=["its tensors", "its scores"])
def test_all_calls_about_a_service_have_one_end(
    slow: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golden, "TIMEOUT_S", 60.0)
    monkeypatch.setattr(golden, "WITHIN_S", 0.5)
    sigmoid_bundle(tmp_path)
    server = ModelServer(runtime="r", served_as="limits", tolerance=0.0)
    bundle = msgspec.structs.replace(load_bundle(tmp_path), server=server)

    def parts(request: bytes) -> Iterator[bytes]:
        return drip(request) if request.startswith(slow) else iter((OK,))

    with serving(parts) as url:
        began_s = time.monotonic()
        with pytest.raises(Unavailable, match=r"timed out|no whole answer in time"):
            golden.problem_of(bundle, url, "limits-v1-0123abcd")
        assert time.monotonic() - began_s < HELD_S / 2


def test_the_reason_of_a_bad_status_line_is_short() -> None:
    with serving(at_once(b"Z" * 65_000 + b"\r\n")) as url:
        with pytest.raises(Unavailable, match="ZZZ") as metadata:
            golden.metadata(url, "limits")
        with pytest.raises(Unavailable, match="ZZZ") as scores:
            golden.ask(url, "limits", [(0.0,)])
    assert max(len(str(metadata.value)), len(str(scores.value))) < 600


def test_an_answer_is_read_whole_after_a_100_continue() -> None:
    with serving(at_once(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)) as url:
        assert golden.metadata(url, "limits").inputs is None
