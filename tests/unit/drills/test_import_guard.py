"""The folders platform/ and kserve/ shadow neither the standard library nor KServe's package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_both_names_resolve_outside_the_repository() -> None:
    code = "import platform, kserve; print(platform.__file__); print(kserve.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )

    standard, installed = map(Path, found.stdout.split())
    assert ROOT / "platform" not in standard.parents
    assert ROOT / "kserve" not in installed.parents


def test_no_folder_of_those_names_is_a_package() -> None:
    for name in ("platform", "kserve"):
        for folder in (ROOT / name, *(ROOT / "tests").rglob(name)):
            assert not (folder / "__init__.py").exists()
