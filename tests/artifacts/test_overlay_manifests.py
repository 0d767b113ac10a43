"""The components and the example overlay: built by kustomize, and in the words of their systems."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cloudcoil.models.istio.security.v1 import AuthorizationPolicy, PeerAuthentication
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from pydantic import BaseModel, RootModel

from support.manifest_schemas import unknown

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "platform" / "manifests"
ISTIO = {"AuthorizationPolicy": AuthorizationPolicy, "PeerAuthentication": PeerAuthentication}
ACCOUNT = "cluster.local/ns/{}/sa/{}"


def of(folder: str) -> list[dict[str, Any]]:
    """Documents of the resources that a component lists."""
    place = MANIFESTS / folder
    listed = yaml.safe_load((place / "kustomization.yaml").read_text())["resources"]
    return [d for name in listed for d in yaml.safe_load_all((place / name).read_text())]


def named(document: dict[str, Any]) -> str:
    metadata = document["metadata"]
    return f"{document['kind']} {metadata['namespace']}/{metadata['name']}"


def foreign(data: Any, model: BaseModel, path: str = "") -> list[str]:
    """Keys of a document that its model took without knowing them."""
    if isinstance(model, RootModel):  # one of several forms
        return foreign(data, model.root, path)
    if isinstance(data, list):
        return [f for i, d in enumerate(data) for f in foreign(d, model[i], f"{path}[{i}]")]  # type: ignore[index]
    if not isinstance(data, dict) or not isinstance(model, BaseModel):
        return []
    known = {(f.alias or name): name for name, f in type(model).model_fields.items()}
    found = [f"{path}.{key}" for key in data if key not in known]
    return found + [
        f
        for key in data.keys() & known.keys() - {"metadata"}
        for f in foreign(data[key], getattr(model, known[key]), f"{path}.{key}")
    ]


def istio(kind: str) -> list[dict[str, Any]]:
    return [d for d in of("components/istio") if d["kind"] == kind]


@pytest.mark.parametrize("document", of("components/istio"), ids=named)
def test_every_field_of_the_mesh_is_one_that_istio_has(document: dict[str, Any]) -> None:
    if document["kind"] == "NetworkPolicy":
        assert unknown(document, "V1NetworkPolicy", "") == []
        return
    assert foreign(document, ISTIO[document["kind"]].model_validate(document)) == []


def test_a_field_that_istio_does_not_have_is_found() -> None:
    [wrong] = [d for d in istio("AuthorizationPolicy") if d["metadata"]["name"] == "mlflow"]
    wrong["spec"]["rules"][0]["from"][0]["source"]["principal"] = ["x"]
    wrong["spec"]["selektor"] = {}

    found = foreign(wrong, AuthorizationPolicy.model_validate(wrong))
    assert sorted(found) == [".spec.rules[0].from[0].source.principal", ".spec.selektor"]


def test_every_namespace_is_encrypted_and_closed_before_anything_is_let_in() -> None:
    for namespace in ("mlplatform", "mlplatform-models"):
        [peers] = [
            d for d in istio("PeerAuthentication") if d["metadata"]["namespace"] == namespace
        ]
        closed = [
            d
            for d in istio("AuthorizationPolicy")
            if d["metadata"]["namespace"] == namespace and d["spec"] == {}
        ]
        assert peers["spec"] == {"mtls": {"mode": "STRICT"}}
        assert len(closed) == 1


def test_each_permission_names_a_caller_and_a_port() -> None:
    """A rule without `from` lets everybody in, one without `to` everywhere."""
    for policy in istio("AuthorizationPolicy"):
        for rule in policy["spec"].get("rules", []):
            assert rule["from"]
            assert all(s["source"] for s in rule["from"])
            assert all(t["operation"]["ports"] for t in rule["to"])


def test_the_accounts_that_may_call_are_there() -> None:
    accounts = [
        d
        for d in yaml.safe_load_all((MANIFESTS / "base" / "accounts.yaml").read_text())
        if d["kind"] == "ServiceAccount"
    ]
    known = {ACCOUNT.format(a["metadata"]["namespace"], a["metadata"]["name"]) for a in accounts}
    named_ = {
        p
        for policy in istio("AuthorizationPolicy")
        for rule in policy["spec"].get("rules", [])
        for source in rule["from"]
        for p in source["source"].get("principals", [])
    }

    assert named_ <= known
    assert ACCOUNT.format("mlplatform", "gateway") in named_


def test_the_mesh_lets_through_what_the_network_policies_let_through() -> None:
    """For each server of the platform: the same ports in both."""
    network = yaml.safe_load_all((MANIFESTS / "base" / "network.yaml").read_text())
    by_pods = {
        str(p["spec"]["podSelector"]): {
            str(port["port"]) for rule in p["spec"]["ingress"] for port in rule["ports"]
        }
        for p in network
        if "ingress" in p["spec"] and p["metadata"]["namespace"] == "mlplatform"
    }
    for policy in istio("AuthorizationPolicy"):
        if policy["metadata"]["namespace"] == "mlplatform" and policy["spec"]:
            ports = {
                p for r in policy["spec"]["rules"] for t in r["to"] for p in t["operation"]["ports"]
            }
            assert ports == by_pods[str(policy["spec"]["selector"])]


@pytest.mark.parametrize("document", of("components/external-secrets"), ids=named)
def test_a_secret_comes_whole_and_stays_when_its_source_is_away(document: dict[str, Any]) -> None:
    spec, name = document["spec"], document["metadata"]["name"]

    assert (document["apiVersion"], document["kind"]) == (
        "external-secrets.io/v1",
        "ExternalSecret",
    )
    assert document["metadata"]["namespace"] == "mlplatform"
    assert spec.keys() == {"refreshInterval", "secretStoreRef", "target", "data"}
    assert spec["secretStoreRef"] == {"kind": "ClusterSecretStore", "name": "bank"}
    assert spec["target"] == {"name": name, "creationPolicy": "Owner", "deletionPolicy": "Retain"}
    for entry in spec["data"]:
        assert entry.keys() == {"secretKey", "remoteRef"}
        assert entry["remoteRef"].keys() == {"key", "property"}


def test_the_secrets_are_those_that_workloads_take() -> None:
    given = {
        d["metadata"]["name"]: {e["secretKey"] for e in d["spec"]["data"]}
        for d in of("components/external-secrets")
    }
    page = (ROOT / "docs" / "cluster.md").read_text().splitlines()
    rows = [line for line in page if line.startswith("| Secret `")]

    assert len(given) == len(rows) > 0
    for name, keys in given.items():
        [row] = [r for r in rows if r.startswith(f"| Secret `{name}`")]
        assert all(f"`{key}`" in row for key in keys)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here")
def test_the_example_is_built_whole() -> None:
    made = subprocess.run(
        ["kubectl", "kustomize", str(MANIFESTS / "overlays" / "example")],
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    built = list(yaml.safe_load_all(made.stdout))
    namespaces = [d for d in built if d["kind"] == "Namespace"]
    [worker] = [
        d
        for d in built
        if d["metadata"]["name"] == "prefect-worker" and "template" in d.get("spec", {})
    ]
    pod = worker["spec"]["template"]["spec"]
    [register] = pod["initContainers"]
    told = {e["name"]: e.get("value") for e in register["env"]}

    assert {d["metadata"]["labels"]["istio.io/dataplane-mode"] for d in namespaces} == {"ambient"}
    assert pod["containers"][0]["image"].startswith("registry.example/")
    assert told["FLOW_RUN_IMAGE"] == register["image"] == pod["containers"][0]["image"]
    [shared] = [
        d for d in built if d["kind"] == "ConfigMap" and d["metadata"]["name"] == "platform"
    ]
    assert "bank.example" in shared["data"]["MLPLATFORM_POSTGRES"]
    assert "MLPLATFORM_MLFLOW_URL" in shared["data"]


OWN = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: mlflow, namespace: mlplatform}
spec:
  template:
    spec:
      containers:
        - name: mlflow
          env:
            - {name: MLPLATFORM_MLFLOW_POSTGRES, value: "postgresql://x@here/y"}
            - {name: MLPLATFORM_MLFLOW_ARTIFACTS, value: "s3://other/place"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: platform, namespace: mlplatform}
data: {MLPLATFORM_LOG_LEVEL: debug}
"""


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here")
def test_what_an_installation_says_once_reaches_everything_that_it_is_about(tmp_path: Path) -> None:
    """MLflow's database and bucket its backups, and the level of lines the predictors."""
    shutil.copytree(MANIFESTS, tmp_path / "manifests")
    example = tmp_path / "manifests" / "overlays" / "example"
    kustomization = yaml.safe_load((example / "kustomization.yaml").read_text())
    kustomization["patches"].append({"path": "own.yaml"})
    (example / "own.yaml").write_text(OWN)
    (example / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    made = subprocess.run(["kubectl", "kustomize", str(example)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    built = {(d["kind"], d["metadata"]["name"]): d for d in yaml.safe_load_all(made.stdout)}

    job = built["CronJob", "backup"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    env = {e["name"]: e["value"] for e in job["containers"][0]["env"]}
    assert env["MLPLATFORM_MLFLOW_POSTGRES"] == "postgresql://x@here/y"
    assert env["MLPLATFORM_MLFLOW_ARTIFACTS"] == "s3://other/place"
    assert env["MLPLATFORM_MLFLOW_POSTGRES_PASSWORD_FILE"].startswith("/run/secrets/")
    told = built["ConfigMap", "mlplatform-predictors"]["data"]
    assert told == {"MLPLATFORM_LOG_LEVEL": "debug"}


def test_autoscalers_are_in_the_words_of_keda() -> None:
    for path in sorted((ROOT / "kserve" / "models").glob("*-scaling.yaml")):
        document = yaml.safe_load(path.read_text())
        assert foreign(document, ScaledObject.model_validate(document)) == []
