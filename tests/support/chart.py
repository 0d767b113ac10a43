"""platform/chart as Helm renders it, beside what kustomize builds of the same manifests."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from support.kustomize import MANIFESTS, write_overlay

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "platform" / "chart"
COMPONENTS: Final = sorted(folder.name for folder in (MANIFESTS / "components").iterdir())
_KEYS: Final = ("name", "mountPath")
_HASHED: Final = re.compile(r"\bflow-runs-[a-z0-9]{10}\b")
"""A generated ConfigMap's name ends in its hash with kustomize; Helm marks the pods instead."""

Object = dict[str, Any]
Name = tuple[str, str, str]


def rendered(helm: Path, values: Mapping[str, Any], folder: Path) -> dict[Name, Object]:
    """The objects of a release by kind, namespace and name, without what only Helm needs."""
    made = template(helm, values, folder)
    assert made.returncode == 0, made.stderr
    return {name: _as_applied(one) for name, one in _by_name(made.stdout).items()}


def template(
    helm: Path, values: Mapping[str, Any], folder: Path
) -> subprocess.CompletedProcess[str]:
    """`helm template` with these values, which are written to the folder."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(dict(values)))
    command = [str(helm), "template", "mlplatform", str(CHART), "--kube-version", "1.34.0"]
    return subprocess.run([*command, "--values", str(file)], capture_output=True, text=True)


def built(kubectl: Sequence[str], components: Sequence[str], folder: Path) -> dict[Name, Object]:
    """The same by kustomize, of base, workloads and these components."""
    write_overlay(folder, components)
    return of_kustomize(kubectl, folder)


def of_kustomize(kubectl: Sequence[str], folder: Path) -> dict[Name, Object]:
    """What kustomize builds of a folder."""
    made = subprocess.run([*kubectl, "kustomize", str(folder)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return _by_name(_HASHED.sub("flow-runs", made.stdout))


def _by_name(text: str) -> dict[Name, Object]:
    found = {}
    for one in filter(None, yaml.safe_load_all(text)):
        metadata = one["metadata"]
        name = one["kind"], metadata.get("namespace", ""), metadata["name"]
        assert name not in found, f"{name} is there twice"
        found[name] = _in_order(one)
    return found


def _in_order(value: Any) -> Any:
    """Lists of named items by their names: the two append differently, and their order is free."""
    if isinstance(value, dict):
        return {key: _in_order(one) for key, one in value.items()}
    if not isinstance(value, list):
        return value
    items = [_in_order(one) for one in value]
    for key in _KEYS:
        if items and all(isinstance(one, dict) and key in one for one in items):
            return sorted(items, key=lambda one: str(one[key]))
    return items


def _as_applied(one: Object) -> Object:
    holders = [one["metadata"]]
    if one["kind"] in ("Deployment", "StatefulSet"):
        holders.append(one["spec"]["template"]["metadata"])
    for metadata in holders:
        notes = metadata.get("annotations", {})
        for name in ("helm.sh/resource-policy", "mlplatform/flow-runs"):
            notes.pop(name, None)
        if not notes:
            metadata.pop("annotations", None)
    return one
