"""Two versions of fraud in a real registry, for pages that show a version or compare two."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mlplatform.learning.registry.mlflow import MlflowRegistry
from mlplatform.learning.registry.versions import Version
from mlplatform.model.folders import folder_digest, model_folder
from mlplatform.runtime.configuration.settings import Home
from support import carded_version
from support.mlflow_process import mlflow_server
from support.scoring_world import write_amount_bundle

TOKEN: Final = "a token of this start"
OFFSETS: Final = {1: 0.0, 2: 0.01}
"""Version → what its model adds to every score."""


@contextmanager
def registered_versions(home: Home) -> Iterator[dict[str, str]]:
    """The setting by which a page finds a registry that has versions 1 and 2.

    Version 2 was fitted by the present state of the model's folder, version 1 by another one. Their
    bundles lie in the home folder, as after a retrain on this machine.
    """
    with mlflow_server({"MLPLATFORM_HOME": str(home.root)}, TOKEN) as uri:
        registry = MlflowRegistry(uri, TOKEN)
        for number, offset in OFFSETS.items():
            _register(registry, home, number, offset)
        yield {"MLPLATFORM_MLFLOW_PORT": uri.rpartition(":")[2]}


def _register(registry: MlflowRegistry, home: Home, number: int, offset: float) -> None:
    made = home.bundles / f"made-{number}"
    bundle = write_amount_bundle(made, offset)
    folder = home.bundles / bundle
    if folder.exists():
        shutil.rmtree(made)
    else:
        made.rename(folder)
    fitted_by = folder_digest(model_folder("fraud")) if number == 2 else carded_version.FOLDER
    changes = {"data_digest": f"{number:x}" * 64, "seed": number, "folder": fitted_by}
    facts = carded_version.version(bundle, number, **changes).facts
    found = registry.register(folder, facts)
    assert isinstance(found, Version), found
    assert found.version == number
