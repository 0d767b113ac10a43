"""components/spark of the manifests: where flow runs find Spark, and who may reach them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mlplatform.operations.prefect_server import cluster_flows
from mlplatform.runtime.configuration import settings
from support.kustomize import MANIFESTS, has_kubectl, installation
from support.manifest_schemas import unknown

COMPONENT = MANIFESTS / "components" / "spark"
MASTER, DRIVER, BLOCKS = 7077, 7078, 7079


def policy() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((COMPONENT / "access.yaml").read_text())
    return found


def ports(rule: dict[str, Any]) -> set[int]:
    return {one["port"] for one in rule["ports"]}


def test_every_field_is_one_that_kubernetes_has_and_every_file_is_listed() -> None:
    assert unknown(policy(), "V1NetworkPolicy", "") == []
    listed = yaml.safe_load((COMPONENT / "kustomization.yaml").read_text())["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(p.name for p in COMPONENT.iterdir())


def test_flow_runs_and_workers_reach_each_other_by_the_ports_that_the_document_names() -> None:
    spec = policy()["spec"]
    [into], [out] = spec["ingress"], spec["egress"]
    assert (ports(into), ports(out)) == ({DRIVER, BLOCKS}, {MASTER, BLOCKS})
    [asks], [answers] = into["from"], out["to"]
    assert asks == answers == {"namespaceSelector": {"matchLabels": {"mlplatform/spark": "true"}}}
    document = (MANIFESTS.parents[1] / "docs" / "cluster.md").read_text()
    assert f"`spark.driver.port {DRIVER}`" in document
    assert f"`spark.blockManager.port {BLOCKS}`" in document


@has_kubectl
def test_an_installation_with_it_tells_flow_runs_the_engine_and_the_mounted_file(
    tmp_path: Path,
) -> None:
    built = installation(tmp_path, "spark")
    told = built["ConfigMap", "platform"]["data"]
    assert settings.load(told).training_engine == "spark"
    run = cluster_flows.template(MANIFESTS / "workloads" / "flow-run.yaml", "flows:2")
    pod = run["job_configuration"]["job_manifest"]["spec"]["template"]
    chosen = policy()["spec"]["podSelector"]["matchLabels"].items()
    assert chosen <= pod["metadata"]["labels"].items()
    [container] = pod["spec"]["containers"]
    [mount] = [m for m in container["volumeMounts"] if m["name"] == "spark"]
    [volume] = [v for v in pod["spec"]["volumes"] if v["name"] == "spark"]
    assert (mount["mountPath"], mount["readOnly"]) == (told["SPARK_CONF_DIR"], True)
    assert volume["secret"] == {"secretName": "spark", "defaultMode": 0o440, "optional": True}
    assert {"configMapRef": {"name": "platform"}} in container["envFrom"]
