"""The Feast SDK over the platform's own files, for contract tests.

Importing Feast sets two variables of Prometheus, which would change every metric that the same
test process makes afterwards; prometheus_client is imported first and the variables taken back.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import prometheus_client  # noqa: F401  (before Feast)

VARIABLES = ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR")


def store(home: Path, model: str, online: dict[str, str] | None = None) -> Any:
    """A FeatureStore of the model folder's definitions over the platform's own files, applied.

    Feast's DuckDB store looks for the sources' relative paths in the working directory: be in
    `home` when it reads them.

    Args:
        online: Feast's settings of another store than the home folder's.
    """
    before = [name for name in VARIABLES if name in os.environ]
    import feast

    from mlplatform.learning.features.feast_repo import feast_objects
    from mlplatform.learning.features.feast_values import project_name

    for name in set(VARIABLES) - set(before):
        os.environ.pop(name, None)
    config = feast.RepoConfig(
        project=project_name(model),
        provider="local",
        repo_path=home,
        registry=str(home / "feast" / "registry.db"),
        online_store=online or {"type": "sqlite", "path": str(home / "online.db")},
        offline_store={"type": "duckdb"},
        entity_key_serialization_version=3,
    )
    result = feast.FeatureStore(config=config)
    result.apply(feast_objects(model))
    return result
