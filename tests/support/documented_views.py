"""Copies of the shipped models' folders, changed by the lines that docs/features.md shows."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import yaml

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "features.md"


def with_documented_view(models: Path, shipped: str) -> Path:
    """A copy below `models` of a shipped folder, named by its path in the repository."""
    folder = models / Path(shipped).name
    shutil.copytree(ROOT / shipped, folder, ignore=shutil.ignore_patterns("__pycache__"))
    definitions = folder / "features.py"
    before = definitions.read_text() if definitions.exists() else ""
    definitions.write_text(before + shown(f"{shipped}/features.py"))
    reasons = folder / "reasons.yaml"
    reasons.write_text(reasons.read_text() + shown(f"{shipped}/reasons.yaml"))
    model = folder / "model.yaml"
    model.write_text(changed(model.read_text(), shown(f"{shipped}/model.yaml")))
    return folder


def shown(path: str) -> str:
    """The one block of the document whose first line begins with that file's name."""
    pattern = rf"^```\w+\n(# {re.escape(path)}\b.*?)^```"
    (found,) = re.findall(pattern, DOCUMENT.read_text(), re.S | re.M)
    return str(found)


def changed(model: str, lines: str) -> str:
    """model.yaml with a block's request fields in place of its own, and its inputs behind them."""
    names = yaml.safe_load(lines).get("request", {})
    for line in lines.splitlines(keepends=True):
        name = line.split(":")[0].strip()
        if name in names:
            model, count = re.subn(rf"^  {name}: .*\n", line, model, flags=re.M)
            assert count == 1, line
    inputs = "".join(line for line in lines.splitlines(keepends=True) if line.startswith("  - "))
    last = list(re.finditer(r"^  - \{name: .*, kind: .*\}\n", model, re.M))[-1].end()
    return model[:last] + inputs + model[last:]


def known_rows(
    asked: pd.DataFrame, raw: pd.DataFrame, key: str, times: tuple[str, str], ttl: pd.Timedelta
) -> pd.DataFrame:
    """For each request, in order, the raw row that was the newest of those known then; its columns
    are missing where there was none, or one that is too old.

    Args:
        asked: `key` and `at`, by a unique index.
        times: the raw columns of event and availability time.
    """
    event, known = times
    both = asked.reset_index(names="asked_").merge(raw, on=key)
    valid = both[(both[known] <= both["at"]) & (both[event] >= both["at"] - ttl)]
    newest = valid.sort_values([event, known]).groupby("asked_").tail(1).set_index("asked_")
    return newest.drop(columns=[key, "at"]).reindex(asked.index)
