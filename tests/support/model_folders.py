"""Model folders outside of the package, made from the one that comes with it."""

from __future__ import annotations

import shutil
from pathlib import Path

from mlplatform.model.folders import SHIPPED


def copied(root: Path, name: str) -> Path:
    """A copy of the fraud model's folder under another name, below `root`."""
    folder = root / name
    shutil.copytree(SHIPPED / "fraud", folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file, before, after in (
        ("model.yaml", "name: fraud\n", f"name: {name}\n"),
        ("features.json", '"model": "fraud"', f'"model": "{name}"'),
    ):
        text = (folder / file).read_text()
        assert before in text
        (folder / file).write_text(text.replace(before, after, 1))
    return folder
