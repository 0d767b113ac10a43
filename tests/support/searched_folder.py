"""A copy of a template's folder whose training is searched for the number of its trees."""

from __future__ import annotations

import re
import shutil
from pathlib import Path


def searched(folder: Path, name: str, measure: str) -> Path:
    """A copy beside the folder, under another name, with `training.search` by a measure."""
    made = folder.parent / name
    shutil.copytree(folder, made, ignore=shutil.ignore_patterns("__pycache__"))
    search = (
        "training:\n  search:\n    space: {trees: {type: int, low: 1, high: 60}}\n    trials: 4\n"
        f"    budget_s: 600\n    folds: 1\n    measure: {measure}\n"
    )
    _change(made / "model.yaml", r"(?m)^name: .*$", f"name: {name}")
    _change(made / "model.yaml", r"(?m)^training:\n", search)
    _change(made / "training.py", r"max_iter=\d+", 'max_iter=context.parameters["trees"]')
    return made


def _change(file: Path, before: str, after: str) -> None:
    text, times = re.subn(before, after, file.read_text(), count=1)
    assert times == 1
    file.write_text(text)
