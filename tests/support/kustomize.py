"""An installation of the workloads with some components, as kustomize builds it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

MANIFESTS: Final = Path(__file__).parents[2] / "platform" / "manifests"
has_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here")


def installation(folder: Path, *components: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Its objects by kind and name; written to an empty folder first."""
    write_overlay(folder, components)
    return built(folder)


def built(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The objects of a kustomization by kind and name."""
    made = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return {(d["kind"], d["metadata"]["name"]): d for d in yaml.safe_load_all(made.stdout)}


def write_overlay(
    folder: Path, components: Sequence[str], resources: Sequence[str] = ("base", "workloads")
) -> None:
    """Write a kustomization of these resources and components to a folder."""

    def place(name: str) -> str:
        return os.path.relpath(MANIFESTS / name, folder.resolve())

    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [place(name) for name in resources],
        "components": [place(f"components/{name}") for name in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
