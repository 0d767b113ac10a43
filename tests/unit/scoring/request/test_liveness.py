"""When nothing can be recorded any more, the gateway says so and its supervisor starts it again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import cast

import pytest

from mlplatform.decisions.log import commit
from mlplatform.decisions.log.commit import AsyncGroupCommit
from mlplatform.decisions.records.port import AppendReceipt, Entry, Outcome
from mlplatform.operations.supervisor import child as child_module
from mlplatform.operations.supervisor.child import PROBE_S, Child
from mlplatform.operations.supervisor.spec import ChildSpec, HttpCheck
from mlplatform.runtime.clock import SystemClock
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.http.messages import Request
from mlplatform.runtime.processes.parent_death import ParentDeathPipe
from mlplatform.scoring.admission.gate import AdmissionGate
from mlplatform.scoring.api.app import Gateway
from mlplatform.scoring.explanations.explanations import Explanations
from mlplatform.scoring.labels.labels import Labels
from mlplatform.scoring.labels.voids import Voids
from mlplatform.scoring.pushes.pushes import FeaturePushes
from mlplatform.scoring.request.deferred_requests import AsyncAcceptor
from mlplatform.scoring.request.metrics import Metrics
from mlplatform.scoring.request.recording import AnswerStore, Recorder


class BrittleLog:
    """A log that takes everything, until it breaks in a way that nobody has thought of."""

    broken = False

    def append(self, writer: str, entries: Sequence[Entry]) -> list[Outcome]:
        return [AppendReceipt(1) for _ in entries]

    def heartbeat(self, writer: str, event_ms: int | None = None) -> None:
        if self.broken:
            raise RuntimeError("nobody thought of this")

    def close_writer(self, writer: str) -> None: ...

    def checkpoint(self, is_over: Callable[[], bool]) -> None: ...


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


async def test_health_fails_once_nothing_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "HEARTBEAT_S", 0.01)
    log = BrittleLog()
    recorder = Recorder(lambda _: AsyncGroupCommit(log, "gw"), lambda event_ms: None)
    gateway = Gateway(
        cast(AdmissionGate, None),
        cast(Voids, None),
        cast(Explanations, None),
        cast(FeaturePushes, None),
        Metrics(),
        None,
        lambda: recorder.alive,
        lambda: True,
    )
    deferral = AsyncAcceptor({}, cast(AnswerStore, None), recorder, SystemClock(), b"")
    gateway.use({}, gateway.endpoints({}, cast(Labels, None), deferral, {}))
    assert (await gateway.answer(Request("GET", "/healthz", {}))).status == 200
    recorder.start()
    assert (await gateway.answer(Request("GET", "/healthz", {}))).status == 200
    log.broken = True
    await until(lambda: not recorder.alive)
    for path in ("/healthz", "/readyz"):
        answer = await gateway.answer(Request("GET", path, {}))
        assert answer.status == 503
        assert json.loads(answer.body)["type"] == "urn:mlplatform:problem:log-stopped"
    await recorder.stop()


CHILD = """
    import http.server, pathlib, sys
    broken = pathlib.Path(sys.argv[2])
    broken.unlink(missing_ok=True)

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            fine = self.path != "/live" or not broken.exists()
            body = b"{}" if fine else b'{"detail": "nothing is recorded"}'
            self.send_response(200 if fine else 503)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answers).serve_forever()
"""


def answering(broken: Path, live_failure_s: float = 0.5) -> ChildSpec:
    """A child that is alive until that file is there."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    return ChildSpec(
        "answering",
        (sys.executable, "-c", textwrap.dedent(CHILD), str(port), str(broken)),
        HttpCheck("/ready", live="/live", port=port),
        live_failure_s=live_failure_s,
    )


@contextlib.asynccontextmanager
async def kept(spec: ChildSpec, home: Home, reasons: list[str]) -> AsyncIterator[Child]:
    home.create()
    parent_pipe = ParentDeathPipe()
    child = Child(spec, home, parent_pipe, lambda changed: reasons.append(changed.reason))
    keeping = asyncio.create_task(child.keep())
    try:
        yield child
    finally:
        child.stop()
        await keeping
        parent_pipe.close()


async def test_a_child_that_says_it_is_not_alive_is_started_again(tmp_path: Path) -> None:
    """Though it answers, and though it would say that it is ready."""
    broken, reasons = tmp_path / "broken", list[str]()
    async with kept(answering(broken), Home(tmp_path), reasons) as child:
        await until(lambda: child.ready)
        broken.touch()
        await until(lambda: child.restarts == 1 and child.ready)
    assert "nothing is recorded" in reasons
    assert any(reason.startswith("was not alive for") for reason in reasons)


async def test_a_child_that_waits_for_a_core_is_left_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine too busy for its answers is too busy for a new start."""
    broken, reasons = tmp_path / "broken", list[str]()
    async with kept(answering(broken, 3 * PROBE_S), Home(tmp_path), reasons) as child:
        await until(lambda: child.ready)
        with monkeypatch.context() as busy:
            busy.setattr(child_module, "core_wait_s", lambda pid: time.monotonic())
            broken.touch()
            await asyncio.sleep(6 * PROBE_S)
            assert (child.state, child.restarts) == ("not ready", 0)
        await until(lambda: child.restarts == 1)
