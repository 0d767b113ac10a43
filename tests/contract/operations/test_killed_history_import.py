"""An import that is killed where it begins to build windows is finished by the same import."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.model_folders import windowed

from mlplatform.decisions.records.tables import DATABASE
from mlplatform.model.folders import model_folder
from mlplatform.operations import wiring
from mlplatform.operations.actions.features import build_windows, history_is_whole
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.units import DAY_MS
from models.fraud.generator import Population, generate

KILLED = """
import os, signal
from mlplatform import commands
from mlplatform.learning.features.windows import build

build.build = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
commands.app()
"""


def tiles(home: Path) -> list[tuple[str, object, bytes]]:
    query = (
        "SELECT s.declaration, t.key, t.tiles FROM window_tiles t"
        " JOIN window_series s ON s.id = t.series ORDER BY 1, 2"
    )
    with closing(sqlite3.connect(home / "decisions" / DATABASE)) as db:
        return db.execute(query).fetchall()


def test_an_import_killed_where_it_builds_windows_is_finished_by_the_same_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, file, models = tmp_path / "home", tmp_path / "own.parquet", tmp_path / "models"
    models.mkdir(mode=0o700)
    windowed(models, "windowed")
    folders = os.pathsep.join((str(models), str(model_folder("fraud").parent)))
    monkeypatch.setenv("MLPLATFORM_MODELS", folders)
    monkeypatch.setenv("MLPLATFORM_HOME", str(home))
    population = Population(customers=20, payments_per_day=30)
    table = generate(seed=1, start_ms=20_000 * DAY_MS, days=3, population=population)
    pq.write_table(table.set_column(0, "request_id", pa.array(range(len(table)))), file)
    words = ["history", "import", "windowed", str(file)]

    killed = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    platform = wiring.Platform(load({"MLPLATFORM_HOME": str(home)}))
    assert not history_is_whole(platform, "windowed")

    again = subprocess.run(
        [sys.executable, "-m", "mlplatform.commands", *words], capture_output=True
    )
    assert again.returncode == 0, again.stderr
    assert history_is_whole(platform, "windowed")
    finished = tiles(home)
    assert finished
    assert build_windows(platform, "windowed") == len(finished)
    assert tiles(home) == finished
