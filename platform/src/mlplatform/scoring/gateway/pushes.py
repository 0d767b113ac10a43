"""Pushes in one gateway process: every external view of its models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from mlplatform.model.definition import ModelDefinition
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.scoring import backends
from mlplatform.scoring.pushes.pushes import FeaturePushes, PushTarget
from mlplatform.scoring.pushes.rows import RowsBody


def feature_pushes(
    settings: Settings,
    definitions: Sequence[ModelDefinition],
    pseudonym_key: bytes,
    event_ms: Callable[[], int],
) -> FeaturePushes:
    """The pushes of these models; the journal is opened at the first push."""
    targets = backends.push_targets(settings, definitions, pseudonym_key)
    by_view: dict[str, list[PushTarget]] = defaultdict(list)
    for target in targets:
        by_view[target.view.name].append(target)
    return FeaturePushes(by_view, backends.push_entry(settings, targets, event_ms))


def bodies(pushes: FeaturePushes) -> Mapping[str, Sequence[RowsBody]]:
    """View → the form of its rows, for each model that has the view."""
    return {view: [one.body for one in group] for view, group in pushes.targets.items()}
