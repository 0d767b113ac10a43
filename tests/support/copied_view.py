"""Two folders of which one copies the other's external view and widens its tag."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.external_world import model_with_table

from mlplatform.model.features.views import source_digest

OWNED, COPY, VIEW = "card-fraud", "credit-b", "bureau"
FRAUD, CREDIT = "fraud-prevention", "credit-decision"


def declared(
    root: Path, name: str, purpose: str, allowed: str, topic: str | None = None, view: str = VIEW
) -> Path:
    """A folder below `root` with the view, for one purpose, whose tag allows these.

    Args:
        topic: of the view.
        view: the view's name.
    """
    folder = model_with_table(root / f".{name}", topic)
    folder = folder.rename(root / name)
    for file in ("model.yaml", "features.json", "features.py"):
        path = folder / file
        text = path.read_text().replace("scored-by-bureau", name)
        text = text.replace('"fraud-prevention, credit-decision"', f'"{allowed}"')
        text = text.replace('PURPOSES = ("fraud-prevention",)', f'PURPOSES = ("{purpose}",)')
        text = text.replace('name="bureau",', f'name="{view}",').replace(
            "of: bureau", f"of: {view}"
        )
        path.write_text(text)
    rendered(folder, purpose, allowed, view)
    return folder


def rendered(folder: Path, purpose: str, allowed: str, view: str = VIEW) -> None:
    """Write what rendering its features.py would."""
    listed = json.loads((folder / "features.json").read_text())
    own = next(one for one in listed["views"] if one.get("external"))
    own["name"] = view
    own["external"]["purposes"] = allowed.split(", ")
    listed |= {"purposes": [purpose], "source": source_digest(folder)}
    (folder / "features.json").write_text(json.dumps(listed))
