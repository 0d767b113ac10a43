"""Every process that serves ends with status 0 when it is told to, at whatever it is then."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest

from mlplatform.process import ENTRIES
from mlplatform.runtime.configuration.home_marks import FOLDERS
from mlplatform.runtime.processes.commands import command
from support.scoring_world import wait_for, write_amount_bundle

BOUND_S: Final = 90.0
TERM: Final = 1 << (signal.SIGTERM - 1)
WORDS: Final = {
    "predictor": ("--model-dir={home}/bundle", "--model-name=fraud", "--address-file={home}/at"),
    "worker": ("--model=fraud",),
    "outbox": ("--model=fraud",),
    "log-publisher": ("--name=gateway-0",),
    "exporter": ("--token-file={home}/token", "--address-file={home}/at"),
    "jobs": ("--folder={home}/jobs",),
}
SERVES: Final = sorted(name for name, entry in ENTRIES.items() if entry.stops != "signal")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    (tmp_path / "token").write_text("t" * 32)
    for name in FOLDERS:
        (tmp_path / name).mkdir(mode=0o700)
    for name in ("page", "mlflow", "prefect"):
        (tmp_path / "run" / f"{name}.token").write_text("t" * 32)
    return tmp_path


@contextmanager
def started(name: str, home: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    words = [word.format(home=home) for word in WORDS.get(name, ())]
    environment = {
        **os.environ,
        "MLPLATFORM_HOME": str(home),
        "MLPLATFORM_KAFKA": "127.0.0.1:1" if name.startswith("log-") else "",
        "PREFECT_API_AUTH_STRING": f"platform:{'t' * 32}",
        **variables,
    }
    argv = command(name, *words)
    with subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[str]) -> tuple[int, str]:
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=BOUND_S)
    return process.returncode, errors


def catches_the_signal(process: subprocess.Popen[str]) -> bool:
    status = Path(f"/proc/{process.pid}/status").read_text()
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask, 16) & TERM)


@pytest.mark.skipif(sys.platform != "linux", reason="what a process catches is read from /proc")
@pytest.mark.parametrize("name", SERVES)
def test_while_it_starts(name: str, home: Path) -> None:
    with started(name, home) as process:
        wait_for(lambda: catches_the_signal(process))
        status, errors = told(process)
    assert (status, "Traceback" in errors) == (0, False), errors


LOST = {
    "in a callback of a weak reference": (
        "one = threading.Event()\n"
        "kept = weakref.ref(one, lambda _: signal.raise_signal(signal.SIGTERM))\n"
        "del one\n"
    ),
    "where constants are folded": (
        "many = '98765432109876 * 12345678901234,' * 50_000\n"
        "signal.signal(signal.SIGVTALRM, lambda *_: signal.raise_signal(signal.SIGTERM))\n"
        "signal.setitimer(signal.ITIMER_VIRTUAL, 0.02)\n"
        "compile(many, 'many', 'exec')\n"
    ),
    "by an extension that raises its own error": (
        "try:\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "finally:\n"
        "    raise TypeError('expected a message argument')\n"
    ),
}


@pytest.mark.parametrize("place", LOST)
def test_told_where_python_loses_what_is_raised_it_ends_all_the_same(place: str) -> None:
    code = (
        "import signal, sys, threading, time, weakref\n"
        "from mlplatform.runtime.processes.shutdown_signals import ended_by_signals\n"
        "with ended_by_signals():\n"
        + "".join(f"    {line}\n" for line in LOST[place].splitlines())
        + "    time.sleep(30)\n"
        "    sys.exit(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_what_is_cleaned_up_at_the_end_is_not_cut_short() -> None:
    code = (
        "import signal, time\n"
        "from mlplatform.runtime.processes.shutdown_signals import ended_by_signals\n"
        "with ended_by_signals():\n"
        "    try:\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "    finally:\n"
        "        try:\n"
        "            raise OSError\n"
        "        except OSError:\n"
        "            time.sleep(1)\n"
        "        time.sleep(1)\n"
        "        print('cleaned up')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "cleaned up\n", "")


def test_told_while_it_holds_the_lock_of_its_event_it_stops_all_the_same() -> None:
    """As in the steps of `wait` before and after it sleeps."""
    code = (
        "import signal, sys\n"
        "from mlplatform.runtime.processes.shutdown_signals import stopping_at_signals\n"
        "stopping = stopping_at_signals()\n"
        "with stopping._cond:\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "sys.exit(0 if stopping.wait(30) else 3)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def listens(port: int) -> Callable[[], bool]:
    def asked() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
        except httpx.TransportError:
            return False

    return asked


def test_while_a_page_is_served(home: Path) -> None:
    port = free_port()
    with started("page", home, MLPLATFORM_PAGE_PORT=str(port)) as process:
        wait_for(listens(port), BOUND_S)
        assert told(process) == (0, "")


@pytest.mark.parametrize("name", ["predictor", "exporter"])
def test_while_it_tells_its_address(name: str, home: Path) -> None:
    write_amount_bundle(home / "bundle")
    with started(name, home) as process:
        wait_for((home / "at").exists, BOUND_S)
        assert told(process)[0] == 0


@pytest.mark.parametrize(("name", "sign"), [("jobs", "jobs/pool.lock"), ("outbox", "topics.db")])
def test_while_it_works(name: str, sign: str, home: Path) -> None:
    with started(name, home) as process:
        wait_for((home / sign).exists, BOUND_S)
        assert told(process)[0] == 0


def test_one_that_cannot_end_is_ended_and_says_where_it_was() -> None:
    code = (
        "import threading, time\n"
        "from mlplatform.runtime.processes import shutdown_signals\n"
        "shutdown_signals.LIMIT_S = 0.5\n"
        "stopping = shutdown_signals.stopping_at_signals()\n"
        "def endless():\n"
        "    while True: time.sleep(1)\n"
        "threading.Thread(target=endless).start()\n"
        "print('here', flush=True)\n"
        "stopping.wait()\n"
    )
    argv = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        began_s = time.monotonic()
        status, errors = told(process)
    assert status == 1
    assert "endless" in errors
    assert time.monotonic() - began_s >= 0.5


def test_what_dies_of_a_signal_has_not_done_its_work() -> None:
    assert {name for name, entry in ENTRIES.items() if entry.stops == "signal"} == {
        "explainer",
        "job-item",
        "flow-run",
        "flow-deployments",
    }
