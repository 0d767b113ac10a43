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
    """A FeatureStore of the model folder's definitions, applied; be in `home` to use it.

    Args:
        online: Feast's settings of another store than the home folder's.
    """
    before = [name for name in VARIABLES if name in os.environ]
    import feast

    from mlplatform.learning.features.feast_repo import feast_objects, repo_config

    for name in set(VARIABLES) - set(before):
        os.environ.pop(name, None)
    result = feast.FeatureStore(config=repo_config(home, model, online))
    result.apply(feast_objects(model))
    return result
