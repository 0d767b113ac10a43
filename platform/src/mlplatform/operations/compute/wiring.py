"""Wiring of heavy work: where jobs run, and the engine that joins training sets."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlplatform.learning.training.packages import import_problems
from mlplatform.learning.training_sets import join
from mlplatform.learning.training_sets.port import TrainingJoin
from mlplatform.operations.compute.jobs import Jobs
from mlplatform.operations.compute.local import LocalJobs
from mlplatform.operations.compute.private_pool import PrivatePool
from mlplatform.runtime.configuration.kinds import TrainingEngine
from mlplatform.runtime.configuration.settings import Settings

if TYPE_CHECKING:  # imports the Kubernetes client
    from mlplatform.rollouts.kubernetes.api import KubernetesApi

ENGINE: Final = "MLPLATFORM_TRAINING_ENGINE"


def jobs(settings: Settings, kubernetes: Callable[[], KubernetesApi]) -> Jobs:
    """Where heavy jobs run.

    Args:
        kubernetes: makes a client of a cluster's API, for jobs that run there.
    """
    argo = settings.argo
    if argo is None and settings.job_processes == 0:
        return PrivatePool(Path(tempfile.mkdtemp(prefix="jobs.")))
    if argo is None:
        return LocalJobs(settings.home.jobs)
    from mlplatform.operations.compute.argo import ArgoJobs  # imports the Kubernetes client
    from mlplatform.operations.compute.artifacts import Artifacts

    return ArgoJobs(kubernetes(), argo.namespace, Artifacts(argo.artifacts), settings.home.jobs)


def training_join(engine: TrainingEngine) -> TrainingJoin:
    """The join of a retrain's training sets.

    Raises:
        ConfigInvalid: the engine is not installed here; the message says how to install it.
    """
    if engine == "duckdb":
        return join.training_join
    with import_problems(ENGINE, "docs/training.md"):
        # a package of its own lock, which few installations have
        from mlplatform.learning.training_sets.spark_join import SparkJoin
    return SparkJoin()
