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

from mlplatform.operations.actions import one_at_a_time

HOLD = """
import sys, time
from pathlib import Path
from mlplatform.operations.actions.one_at_a_time import turn
with turn(Path(sys.argv[1]), "retrain of fraud", print):
    print("holds", flush=True)
    time.sleep(60)
"""


def nobody(text: str) -> None:
    raise AssertionError(f"there was nothing to wait for: {text}")


def test_a_second_run_waits_for_the_first_and_says_for_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_at_a_time, "LOOK_AGAIN_S", 0.005)
    said: list[str] = []
    order: list[str] = []

    def second() -> None:
        with one_at_a_time.turn(tmp_path, "batch", said.append):
            order.append("second")

    thread = threading.Thread(target=second)
    with one_at_a_time.turn(tmp_path, "retrain of fraud", nobody):
        thread.start()
        while not said:
            time.sleep(0.005)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert said == ["waits for retrain of fraud: one heavy run at a time"]


def test_a_failed_run_leaves_its_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gate"), one_at_a_time.turn(tmp_path, "retrain", nobody):
        raise ValueError("gate")
    with one_at_a_time.turn(tmp_path, "batch", nobody):
        pass


def test_the_place_of_a_killed_run_is_free(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        os.kill(holder.pid, signal.SIGKILL)
    with one_at_a_time.turn(tmp_path, "batch", nobody):
        pass


def test_others_may_have_the_place_of_a_run_that_leaves_it(tmp_path: Path) -> None:
    said: list[str] = []
    with one_at_a_time.turn(tmp_path, "retrain of fraud", said.append) as place:
        with place.left(), one_at_a_time.turn(tmp_path, "batch", nobody):
            pass
        other = threading.Thread(target=_hold, args=(tmp_path, said))
        other.start()
        while not said:
            time.sleep(0.005)
    other.join(10)
    assert said == ["waits for retrain of fraud: one heavy run at a time"]


def test_a_run_that_left_its_place_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_at_a_time, "LOOK_AGAIN_S", 0.005)
    order: list[str] = []
    taken, said = threading.Event(), threading.Event()

    def second() -> None:
        with one_at_a_time.turn(tmp_path, "batch", nobody):
            taken.set()
            said.wait(10)
            order.append("second")

    thread = threading.Thread(target=second)
    with one_at_a_time.turn(tmp_path, "retrain", lambda text: said.set()) as place:
        with place.left():
            thread.start()
            taken.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["second", "first"]


def _hold(folder: Path, said: list[str]) -> None:
    with one_at_a_time.turn(folder, "batch", said.append):
        pass
