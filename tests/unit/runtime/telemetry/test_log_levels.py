"""From which level on a process writes its lines is said in one place, for all of them."""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mlplatform.operations.compute.local import LOCK_FILE
from mlplatform.operations.prefect_server.flow_run import lines_as_json

TOLD = """
import atexit, logging, runpy, sys
atexit.register(lambda: print(logging.getLogger("mlplatform").level))
runpy.run_module("mlplatform.process", run_name="__main__", alter_sys=True)
"""
"""Runs a process, and says at its end from which level on our lines were written."""

ENDS_EARLY = {
    "exporter": lambda at: ["--token-file", at / "none"],
    "page": lambda at: [],
    "predictor": lambda at: [
        *("--model-dir", at / "none", "--model-name", "fraud", "--token-file", at / "none")
    ],
    "jobs": lambda at: ["--folder", at / "jobs"],
    "job-item": lambda at: [
        *("score", "--model", "fraud", "--shared", at / "none", "--item", at / "none"),
        *("--output", at / "none"),
    ],
}
"""Programs, and how they are called so that they end at once, for what is not there."""


@pytest.fixture
def ended(tmp_path: Path) -> Callable[[str, str], subprocess.CompletedProcess[str]]:
    """Runs a program to its early end under a level."""
    (tmp_path / "jobs").mkdir()

    def run(name: str, level: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-c", TOLD, name, *map(str, ENDS_EARLY[name](tmp_path))]
        home = {"MLPLATFORM_HOME": str(tmp_path / "home"), "MLPLATFORM_LOG_LEVEL": level}
        with (tmp_path / "jobs" / LOCK_FILE).open("ab") as lock:  # a pool has them already
            fcntl.flock(lock, fcntl.LOCK_EX)
            return subprocess.run(
                argv, env={**os.environ, **home}, capture_output=True, text=True, timeout=60
            )

    return run


@pytest.mark.parametrize("name", ENDS_EARLY)
def test_the_level_reaches_every_process(
    ended: Callable[[str, str], subprocess.CompletedProcess[str]], name: str
) -> None:
    run = ended(name, "debug")
    assert run.returncode != 0
    assert run.stdout.split()[-1:] == [str(logging.DEBUG)], run.stderr


@pytest.mark.parametrize("name", ENDS_EARLY)
def test_a_level_that_is_none_is_said(
    ended: Callable[[str, str], subprocess.CompletedProcess[str]], name: str
) -> None:
    run = ended(name, "loud")
    assert run.returncode != 0
    assert "MLPLATFORM_LOG_LEVEL" in run.stderr


def test_lines_of_flows_begin_where_they_are_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the level was before."""
    root, ours = logging.getLogger(), logging.getLogger("mlplatform")
    monkeypatch.setattr(root, "handlers", [])
    before = root.level, ours.level
    try:
        lines_as_json("served", "warning")
        assert (root.level, ours.level) == (logging.WARNING, logging.WARNING)
    finally:
        root.setLevel(before[0])
        ours.setLevel(before[1])
        logging.captureWarnings(False)
