"""A model's features for Feast's own commands, over what this platform keeps and reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mlplatform.learning.features.feast_folder import folder as files
from mlplatform.learning.features.feast_folder.registry import registry
from mlplatform.learning.features.feast_values import project_name
from mlplatform.runtime.errors import NotFound

if TYPE_CHECKING:
    from mlplatform.operations.wiring import Platform


def feast_folder(platform: Platform, model: str, into: Path | None = None) -> Path:
    """The folder for `feast -c`, rendered anew.

    Args:
        into: None for `feast/`model in the home folder.

    Raises:
        NotFound: the model has no feature views.
        Refused: the folder has a feature_store.yaml of somebody else's.
    """
    settings, definition = platform.settings, platform.definition(model)
    views = platform.views(model)
    if not views:
        raise NotFound(f"{model} has no feature views: its folder has no features.py")
    folder = (into or settings.home.root / "feast" / model).absolute()
    files.write_folder(
        folder,
        store=files.store_text(project_name(model), settings.redis),
        registry=registry(
            project_name(model),
            views,
            owner=definition.owner,
            description=definition.purpose,
            snapshots=settings.home.offline(model).absolute() / "snapshots",
            made_ms=platform.clock.wall_ms(),
        ),
        online_db=settings.home.online_db if settings.redis is None else None,
    )
    return folder
