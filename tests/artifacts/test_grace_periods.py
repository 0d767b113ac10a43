"""Each pod has longer to end than a supervisor gives the same process, and no more than the limit
after which a process ends itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from mlplatform.operations.supervisor import platform
from mlplatform.operations.supervisor.spec import ChildSpec
from mlplatform.runtime.configuration.settings import Home, Settings
from mlplatform.runtime.processes.shutdown_signals import LIMIT_S

MANIFESTS: Final = Path(__file__).parents[2] / "platform" / "manifests"
DEFAULT_S: Final = 30
"""Of Kubernetes, where a pod says nothing."""
PROCESSES: Final = {
    "gateway": "gateway-0",
    "gateway-more": "gateway-0",
    "worker-fraud": "worker-fraud",
    "exporter": "exporter",
    "page": "page",
    "mlflow": "mlflow",
    "prefect": "prefect",
    "events": "events",
}
"""Workload → the process of one machine that does the same."""


def pods(value: Any, name: str = "") -> dict[str, dict[str, Any]]:
    """What makes a pod → the pod's spec, at any depth of a document."""
    if isinstance(value, list):
        return {k: spec for one in value for k, spec in pods(one, name).items()}
    if not isinstance(value, dict):
        return {}
    named = name or value.get("metadata", {}).get("name", "")
    if "containers" in value:
        return {named: value}
    return {k: spec for one in value.values() for k, spec in pods(one, named).items()}


def all_pods() -> dict[str, dict[str, Any]]:
    files = [p for p in sorted(MANIFESTS.rglob("*.yaml")) if "overlays" not in p.parts]
    found = ((path, pods([*yaml.safe_load_all(path.read_text())])) for path in files)
    return {name or path.stem: spec for path, here in found for name, spec in here.items()}


def grace_s(spec: dict[str, Any]) -> int:
    return int(spec.get("terminationGracePeriodSeconds", DEFAULT_S))


def supervised(tmp_path: Path) -> dict[str, ChildSpec]:
    settings = Settings(Home(tmp_path), "system", 1, prefect_port=2, mlflow_port=3)
    specs = (*platform.children(settings), platform.events(settings))
    return {spec.name: spec for spec in specs}


def test_no_wait_is_longer_than_the_limit_of_a_process(tmp_path: Path) -> None:
    found = {name: grace_s(spec) for name, spec in all_pods().items()}
    assert {*PROCESSES, "replicator", "prefect-worker", "flow-run"} <= found.keys()
    assert {name: wait_s for name, wait_s in found.items() if not 0 < wait_s <= LIMIT_S} == {}
    specs = supervised(tmp_path).values()
    assert {s.name: s.stop_grace_s for s in specs if not 0 < s.stop_grace_s < LIMIT_S} == {}


@pytest.mark.parametrize(("workload", "process"), PROCESSES.items())
def test_a_pod_has_longer_to_end_than_the_process_on_one_machine(
    workload: str, process: str, tmp_path: Path
) -> None:
    spec = all_pods()[workload]
    asleep_s = [
        container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        for container in spec["containers"]
    ]
    assert grace_s(spec) - max(asleep_s) > supervised(tmp_path)[process].stop_grace_s
