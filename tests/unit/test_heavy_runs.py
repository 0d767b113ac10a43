"""One heavy run at a time, whatever became of the one before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mlplatform.jobs import heavy

HOLD = """
import sys, time
from pathlib import Path
from mlplatform.jobs.heavy import turn
with turn(Path(sys.argv[1]), "retrain of fraud", print):
    print("holds", flush=True)
    time.sleep(60)
"""


def nobody(text: str) -> None:
    raise AssertionError(f"there was nothing to wait for: {text}")


def test_a_second_run_waits_for_the_first_and_says_for_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heavy, "LOOK_AGAIN_S", 0.005)
    said: list[str] = []
    order: list[str] = []

    def second() -> None:
        with heavy.turn(tmp_path, "batch", said.append):
            order.append("second")

    thread = threading.Thread(target=second)
    with heavy.turn(tmp_path, "retrain of fraud", nobody):
        thread.start()
        while not said:
            time.sleep(0.005)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert said == ["waits for retrain of fraud: one heavy run at a time"]


def test_a_failed_run_leaves_its_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gate"), heavy.turn(tmp_path, "retrain", nobody):
        raise ValueError("gate")
    with heavy.turn(tmp_path, "batch", nobody):
        pass


def test_the_place_of_a_killed_run_is_free(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        os.kill(holder.pid, signal.SIGKILL)
    with heavy.turn(tmp_path, "batch", nobody):
        pass
