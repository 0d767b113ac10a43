"""The notebooks: they define nothing, keep no outputs, and run: two over a finished home, one over
a fresh folder of a template."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mlplatform.operations import wiring
from mlplatform.rollouts.drift.incidents import IncidentClaim, IncidentFinding
from mlplatform.runtime.configuration.settings import load
from support.credit_history import DAY_US, history
from support.home_world import MODEL, HomeWorld
from support.team_folder import command, team_folder

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ALLOWED = {"datetime", "matplotlib", "mlplatform", "pathlib", "pyarrow", "tempfile"}
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def cells(notebook: Path, kind: str) -> list[dict[str, Any]]:
    content = json.loads(notebook.read_text())
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    return [c for c in content["cells"] if c["cell_type"] == kind]


def code(notebook: Path) -> str:
    return "\n".join("".join(c["source"]) for c in cells(notebook, "code"))


@pytest.fixture(scope="module")
def finished_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two promotions, some decisions, and an incident that the second version answered."""
    root = tmp_path_factory.mktemp("home")
    world = HomeWorld(root)
    world.fill()
    world.promote(2)
    world.decide(3)
    world.close()

    incidents = wiring.Platform(load({"MLPLATFORM_HOME": str(root)})).incidents
    opened = incidents.open(
        IncidentFinding(MODEL, "drift", 2, 1, 1, {"reasons": ["amount moved: PSI 0.3"]}), now_ms=10
    )
    claimed = incidents.claim(opened.id, "drift-watch", until_ms=1000, now_ms=11)
    assert isinstance(claimed, IncidentClaim)
    incidents.answer(opened.id, claimed.claim, version=2, note="version 2", now_ms=12)
    incidents.close(opened.id, "version 2 replaced version 1", now_ms=13)
    return root


def executed(notebook: Path, home: Path) -> str:
    """What its cells print, run one after the other in one interpreter."""
    own = {"MLPLATFORM_HOME": str(home), "MPLBACKEND": "Agg", "TMPDIR": str(home.parent)}
    environment = {**os.environ, **own}
    told = subprocess.run(
        [sys.executable, "-c", code(notebook)], env=environment, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


def named(notebook: str) -> Path:
    return ROOT / "notebooks" / f"{notebook}.ipynb"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_fresh_folder_is_fitted_and_judged_step_by_step(tmp_path: Path) -> None:
    """The folder as `new-model` writes it, and a history; nothing is registered."""
    home, until_us = tmp_path / "var", time.time_ns() // 1000 // DAY_US * DAY_US
    pq.write_table(history(until_us, per_day=450, days=26), tmp_path / "history.parquet")
    with team_folder(tmp_path / "teams", home):
        command("new-model", "credit-default", "--into", str(tmp_path / "teams"))
        command("history", "import", "credit-default", str(tmp_path / "history.parquet"))
        told = executed(named("authoring"), home)

    assert "allowed: 0.0001" in told
    for gate in ("rows", "quality", "calibration", "onnx_parity", "golden", "small_model"):
        assert re.search(rf"^passed +{gate} ", told, re.MULTILINE)
    for outcome in ("grant", "refer", "refuse"):
        assert re.search(
            rf"^{outcome} +from 0\.\d{{4}}: +\d+\.\d\d% of the requests", told, re.MULTILINE
        )
    assert "a version would be registered" in told
    assert not list(home.glob("bundles/*"))


def test_a_promotion_is_explained_from_journal_and_log(finished_home: Path) -> None:
    told = executed(named("rollout"), finished_home)

    assert "fraud-v2-1 asked for by ana" in told
    assert "Opened" in told
    assert "Promoted" in told
    assert "11 records; whole" in told


def test_an_incident_is_followed_to_the_version_that_answers_it(finished_home: Path) -> None:
    told = executed(named("incident"), finished_home)

    assert "amount moved: PSI 0.3" in told
    assert "drift-watch" in told
    assert "v2 answers fraud-drift-1: promoted" in told


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_defines_nothing_and_imports_the_platform(notebook: Path) -> None:
    tree = ast.parse(code(notebook))
    assert not [n for n in ast.walk(tree) if isinstance(n, DEFINITIONS)]

    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    roots = {name.split(".")[0] for name in imported}
    assert {"matplotlib", "mlplatform"} <= roots <= ALLOWED


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_keeps_no_outputs(notebook: Path) -> None:
    for cell in cells(notebook, "code"):
        assert (cell["outputs"], cell["execution_count"]) == ([], None)


def test_the_notebooks_are_here() -> None:
    assert [n.stem for n in NOTEBOOKS] == ["authoring", "incident", "rollout"]
