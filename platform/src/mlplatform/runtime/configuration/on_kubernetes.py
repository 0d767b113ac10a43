"""Parts of an installation on Kubernetes: namespaces, volumes and object stores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlplatform.runtime.errors import Refused


@dataclass(frozen=True, slots=True)
class Argo:
    """The namespace and the artifacts of Argo, for jobs that run as its workflows.

    Args:
        namespace: namespace of the workflows and their templates (`argo/`).
        artifacts: URI of the namespace's default artifact repository: s3://bucket.
    """

    namespace: str
    artifacts: str


@dataclass(frozen=True, slots=True)
class OnKServe:
    """The predictors of a cluster, on KServe.

    Args:
        namespace: namespace of their InferenceServices.
        bundles: `pvc://claim` or `pvc://claim/folder`, as pods of that namespace name the shared
            volume. It is mounted here as `<home>/bundles`, or where `MLPLATFORM_BUNDLES` says.
            Empty: there is no such volume, and bundles come from the bundle store.
        replicas: number of pods of each version, for a cluster with little room; None: as many as
            the model's tier requires.
        prometheus: URL of the Prometheus that scrapes the predictors, as KEDA's operator reaches
            it; None if there is no autoscaler.
    """

    namespace: str
    bundles: str = ""
    replicas: int | None = None
    prometheus: str | None = None

    def storage_uri(self, folder: Path) -> str:
        """The URI of a folder on the volume of bundles.

        Raises:
            Refused: there is no such volume.
        """
        if not self.bundles:
            raise Refused(
                f"{folder.name} is a model repository of Triton, which is mounted from a volume:"
                " set MLPLATFORM_KSERVE_BUNDLES too, or serving.runtime: mlplatform in model.yaml"
            )
        return f"{self.bundles}/{folder.name}"
