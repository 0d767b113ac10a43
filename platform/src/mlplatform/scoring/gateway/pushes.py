"""Pushes in one gateway process: every external view of its models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from mlplatform.scoring.pushes.pushes import PushTarget
from mlplatform.scoring.pushes.rows import RowsBody


def targets_by_view(targets: Iterable[PushTarget]) -> Mapping[str, Sequence[PushTarget]]:
    """View → where its rows go, for each model that has the view."""
    found: dict[str, list[PushTarget]] = defaultdict(list)
    for target in targets:
        found[target.view.name].append(target)
    return found


def bodies(targets: Mapping[str, Sequence[PushTarget]]) -> Mapping[str, Sequence[RowsBody]]:
    """View → the form of its rows, for each model that has the view."""
    return {view: [one.body for one in group] for view, group in targets.items()}
