"""Every process that the entry names can start, and says alike what is wrong."""

from __future__ import annotations

import argparse
import importlib
import inspect
import string
import subprocess
import sys
from pathlib import Path

import pytest

from mlplatform.operations.compute.pool import Pool
from mlplatform.process import ENTRIES
from mlplatform.runtime.processes.commands import PYTHON, command


@pytest.mark.parametrize("name", ENTRIES)
def test_a_process_has_a_command_line_and_a_life(name: str) -> None:
    entry = ENTRIES[name]
    module = importlib.import_module(entry.module)
    parser = module.parser()
    assert isinstance(parser, argparse.ArgumentParser)
    assert parser.description
    assert callable(module.run)
    options = {action.dest for action in parser._actions}
    fields = {f.split(".")[0] for _, f, *_ in string.Formatter().parse(entry.instance or "") if f}
    assert fields <= options


def test_an_unknown_process_is_told_with_those_that_there_are() -> None:
    done = subprocess.run(command("gatway"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "'gateway', 'predictor'" in done.stderr


def test_a_process_that_cannot_start_says_so_in_one_line() -> None:
    words = [sys.executable, "-m", "mlplatform.process", "outbox", "--model=none-such"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "outbox outbox-none-such ends: no model 'none-such'"
    )


@pytest.mark.parametrize("name", ["gateway", "predictor", "page", "jobs", "job-item"])
def test_nothing_is_imported_from_the_working_folder(name: str, tmp_path: Path) -> None:
    """Whoever may write into it would have their code run by who starts the platform there."""
    for module in ("msgspec", "json", "mlplatform", "argparse"):
        (tmp_path / f"{module}.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    words = command(name, "--help")
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, (tmp_path / "ran").exists()) == (0, False), done.stderr


def test_a_pool_starts_its_items_in_the_same_way() -> None:
    assert inspect.signature(Pool).parameters["python"].default == PYTHON
    assert command("job-item", python=PYTHON) == command("job-item")
