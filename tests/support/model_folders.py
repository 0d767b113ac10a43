"""Model folders of a team's, made from the example's."""

from __future__ import annotations

import shutil
from pathlib import Path

from mlplatform.commands.authoring import templates
from mlplatform.runtime.configuration.kinds import SHIPPED

SKLEARN = Path(templates.__path__[0]) / "sklearn" / "training.py.txt"


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


def with_sklearn(folder: Path) -> None:
    """Has a copy of a folder fitted with the template's scikit-learn, which each set-up has."""
    shutil.copyfile(SKLEARN, folder / "training.py")


WINDOWS = """
windows:
  - {name: customer_payments_10m, entity: customer, aggregate: count, window: 10m, resolution: 1m}
  - {name: customer_mean_today, entity: customer, aggregate: mean, of: amount, window: 1d,
     resolution: 1h}
  - {name: customer_since_s, entity: customer, aggregate: seconds_since, window: 1d,
     resolution: 1h}
  - {name: terminal_large_1h, entity: terminal, aggregate: count, window: 1h, resolution: 1m,
     where: {field: amount, op: ">=", value: 100}, missing: degrade, default: 0}
"""
OF_WINDOWS = {
    "customer_payments_10m": "customer",
    "customer_since_s": "customer",
    "terminal_large_1h": "terminal",
}


def windowed(root: Path, name: str) -> Path:
    """A copy of the fraud model's folder whose last inputs are real-time windows, with a deadline
    that a busy machine keeps."""
    folder = copied(root, name)
    model, reasons = folder / "model.yaml", folder / "reasons.yaml"
    last = "  - {name: amount_to_mean_30d, kind: ratio, of: amount, to: customer_mean_30d}\n"
    text = model.read_text().replace("deadline_ms: 50\n", "deadline_ms: 2000\n")
    assert last in text
    inputs = [f"  - {{name: {n}, kind: window, of: {of}}}\n" for n, of in OF_WINDOWS.items()]
    ratio = "  - {name: to_mean_of_today, kind: ratio, of: amount, to: customer_mean_today}\n"
    model.write_text(text.replace(last, last + "".join(inputs) + ratio) + WINDOWS)
    told = "".join(
        f"{n}: {{code: {n.upper()}, customer: About {n}., analyst: See {n}.}}\n"
        for n in (*OF_WINDOWS, "to_mean_of_today")
    )
    reasons.write_text(reasons.read_text() + told)
    return folder
