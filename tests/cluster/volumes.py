"""Volumes of namespace `mlplatform`: folders of this machine behind claims of its manifests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Final

from tests.cluster.layout import Layout

NAMESPACE: Final = "mlplatform"
USER: Final = 65532
CLAIMS: Final = {
    "home-gateway-0": ("ReadWriteOnce", "20Gi"),
    "home-gateway-more-0": ("ReadWriteOnce", "20Gi"),
    "home-gateway-more-1": ("ReadWriteOnce", "20Gi"),
    "bundles": ("ReadWriteMany", "10Gi"),
    "backups": ("ReadWriteOnce", "100Gi"),
}
"""Access and size, as the manifests ask for them."""


def empty_folder(place: Layout, name: str) -> Path:
    """What a volume of this name holds, emptied."""
    folder = place.volumes / f"{NAMESPACE}-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.chown(folder, 0, USER)  # as fsGroup does it to volumes of a storage class
    folder.chmod(0o2775)
    return folder


def of_claim(place: Layout, claim: str) -> dict[str, Any]:
    """The volume that a claim of the manifests gets, and no other one."""
    mode, size = CLAIMS[claim]
    reference = {"namespace": NAMESPACE, "name": claim}
    return _volume(place, claim, mode, size, claimRef=reference)


def of_any_claim(place: Layout, name: str) -> dict[str, Any]:
    """The volume of one claim whose name nobody knows before, as of a pod's own."""
    return _volume(place, name, "ReadWriteOnce", "20Gi")


def _volume(place: Layout, name: str, mode: str, size: str, **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{NAMESPACE}-{name}"},
        "spec": {
            "capacity": {"storage": size},
            "accessModes": [mode],
            "hostPath": {"path": str(place.volumes / f"{NAMESPACE}-{name}")},
            "storageClassName": "",
            **more,
        },
    }
