"""The example models lie in models/ of the repository, and a wheel carries them as data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

from hatchling.builders.wheel import WheelBuilder

ROOT: Final = Path(__file__).parents[2]
PROGRAM: Final = """
import json
from mlplatform.model.folder_code import load_module
from mlplatform.model.folders import load_definition, model_folder, model_names
load_module("fraud", "sources")
print(json.dumps([[n, load_definition(n).name, str(model_folder(n))] for n in model_names()]))
"""


def test_an_installed_wheel_finds_them_without_a_setting(tmp_path: Path) -> None:
    [built] = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    installed = tmp_path / "site-packages"
    with zipfile.ZipFile(built) as wheel:
        wheel.extractall(installed)
    environment = {n: v for n, v in os.environ.items() if not n.startswith("MLPLATFORM_")}
    printed = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM],
        env=environment | {"PYTHONPATH": str(installed)},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=120,
    ).stdout
    names = sorted(path.parent.name for path in (ROOT / "models").glob("*/model.yaml"))
    assert "fraud" in names
    assert json.loads(printed) == [
        [name, name, str(installed / "mlplatform/examples" / name)] for name in names
    ]
    assert {path.name for path in installed.iterdir() if path.suffix == ""} == {"mlplatform"}
    promised = installed / "mlplatform/observing/slo/slo.yaml"
    assert promised.read_bytes() == (ROOT / "observability/slo.yaml").read_bytes()
