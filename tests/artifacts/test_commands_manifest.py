"""platform/manifests/commands: a pod to type commands in, which reaches what flow runs reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mlplatform.operations.prefect_server import cluster_flows
from mlplatform.runtime.configuration import settings
from support.manifest_schemas import unknown
from support.pod_security import violations

MANIFESTS = Path(__file__).parents[2] / "platform" / "manifests"
FOLDER = MANIFESTS / "commands"


def documents() -> list[dict[str, Any]]:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    return [d for name in listed for d in yaml.safe_load_all((FOLDER / name).read_text())]


def spec() -> dict[str, Any]:
    [pod] = [d for d in documents() if d["kind"] == "Pod"]
    return dict(pod["spec"])


def flow_run() -> dict[str, Any]:
    found = cluster_flows.template(MANIFESTS / "workloads" / "flow-run.yaml", "flows:2")
    return dict(found["job_configuration"]["job_manifest"]["spec"]["template"]["spec"])


@pytest.mark.parametrize("document", documents(), ids=lambda d: d["metadata"]["name"])
def test_every_field_is_one_that_kubernetes_has(document: dict[str, Any]) -> None:
    assert unknown(document, f"V1{document['kind']}", "") == []
    assert document["metadata"]["namespace"] == "mlplatform"


def test_the_restricted_standard_admits_it() -> None:
    assert violations(spec()) == []


def test_it_lies_beside_the_gateway_with_the_volumes_of_flow_runs() -> None:
    own, run = spec(), flow_run()

    assert own["affinity"] == run["affinity"]
    assert own["securityContext"] == run["securityContext"]
    assert own["containers"][0]["volumeMounts"] == run["containers"][0]["volumeMounts"]
    kafka = own["volumes"][-1]["projected"]["sources"].pop()
    assert kafka["secret"]["name"] == "kafka"  # `features status` asks topics
    assert own["volumes"] == run["volumes"]


def test_it_has_no_token_and_says_its_settings_by_names_that_exist() -> None:
    [container] = spec()["containers"]
    known = {f"MLPLATFORM_{s.name}" for s in settings.SETTINGS}
    named = {e["name"] for e in container["env"] if e["name"].startswith("MLPLATFORM_")}

    assert not spec()["automountServiceAccountToken"]
    assert named <= known
    assert {"configMapRef": {"name": "platform"}} in container["envFrom"]
