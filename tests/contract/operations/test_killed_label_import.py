"""A file of labels whose import is killed anywhere is finished by the same import, and no label is
recorded twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlplatform.decisions.records.port import RecordQuery
from mlplatform.operations import wiring
from mlplatform.operations.actions.features import import_history
from mlplatform.runtime.configuration.settings import load
from mlplatform.runtime.units import DAY_MS
from models.fraud.generator import Population, generate

KILLED = """
import os, signal, sys
from mlplatform import commands
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.operations.labels import label_import

left, append = [int(sys.argv.pop(1))], SqliteDecisionLog.append

def appended(log, writer, entries):
    before, left[0] = left[0], left[0] - 1
    if before == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return append(log, writer, entries)

SqliteDecisionLog.append = appended
label_import.PORTION = 10
commands.app()
"""


@pytest.mark.parametrize("portions", [0, 1, 4])
def test_a_killed_import_is_finished_by_the_same_file(tmp_path: Path, portions: int) -> None:
    home, file = tmp_path / "home", tmp_path / "labels.parquet"
    platform = wiring.Platform(load({"MLPLATFORM_HOME": str(home)}))
    platform.settings.home.create()
    population = Population(customers=20, payments_per_day=30)
    history = generate(seed=1, start_ms=20_000 * DAY_MS, days=3, population=population)
    import_history(platform, "fraud", history, "history")
    ids = history.column("request_id").to_pylist()[:60]
    pq.write_table(pa.table({"request_id": ids, "label": pa.array([1] * 60, pa.int8())}), file)
    environment = {**os.environ, "MLPLATFORM_HOME": str(home)}
    words = ["labels", "import", "fraud", str(file)]

    def run(*command: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([sys.executable, *command], env=environment, capture_output=True)

    def recorded() -> Counter[str]:
        query = RecordQuery("fraud", ("label",), columns=("decision_id",))
        return Counter(platform.log.read(query).column(0).to_pylist())

    killed = run("-c", KILLED, str(portions), *words)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert recorded().total() == 10 * portions
    again = run("-m", "mlplatform.commands", *words)
    assert again.returncode == 0, again.stderr
    assert recorded() == Counter(ids)
