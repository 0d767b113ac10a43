"""Backups on a cluster: what the component and the Job that restores are, and are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mlplatform.commands import app
from mlplatform.runtime.configuration import settings
from support.manifest_schemas import unknown
from support.pod_security import violations

MANIFESTS = Path(__file__).parents[2] / "platform" / "manifests"
FOLDERS = ("components/backup", "restore")
JOBS = {"backup": FOLDERS[0], "restore": FOLDERS[1]}
GATEWAY_HOME = "home-gateway-0"


def documents(folder: str) -> list[dict[str, Any]]:
    place = MANIFESTS / folder
    listed = yaml.safe_load((place / "kustomization.yaml").read_text())["resources"]
    return [d for name in listed for d in yaml.safe_load_all((place / name).read_text())]


def found(folder: str, kind: str, name: str) -> dict[str, Any]:
    [one] = [d for d in documents(folder) if (d["kind"], d["metadata"]["name"]) == (kind, name)]
    return one


def job(name: str) -> dict[str, Any]:
    """The spec of what makes the pod."""
    if name == "restore":
        return dict(found("restore", "Job", name)["spec"])
    return dict(found(FOLDERS[0], "CronJob", name)["spec"]["jobTemplate"]["spec"])


def pod(name: str) -> dict[str, Any]:
    return dict(job(name)["template"])


def container(name: str) -> dict[str, Any]:
    [one] = pod(name)["spec"]["containers"]
    return dict(one)


def told(name: str) -> dict[str, str]:
    shared: dict[str, str] = found("workloads", "ConfigMap", "platform")["data"]
    return shared | {e["name"]: e["value"] for e in container(name)["env"]}


@pytest.mark.parametrize(
    "document", [d for f in FOLDERS for d in documents(f)], ids=lambda d: d["metadata"]["name"]
)
def test_every_field_is_one_that_kubernetes_has(document: dict[str, Any]) -> None:
    assert unknown(document, f"V1{document['kind']}", "") == []
    assert document["metadata"]["namespace"] == "mlplatform"


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_is_listed(folder: str) -> None:
    place = MANIFESTS / folder
    listed = yaml.safe_load((place / "kustomization.yaml").read_text())["resources"]

    assert sorted([*listed, "kustomization.yaml"]) == sorted(p.name for p in place.iterdir())


@pytest.mark.parametrize("name", JOBS)
def test_the_pod_is_admitted_by_the_restricted_standard_and_has_no_token(name: str) -> None:
    spec = pod(name)["spec"]

    assert violations(spec) == []
    assert container(name)["securityContext"]["readOnlyRootFilesystem"] is True
    assert container(name)["resources"].keys() == {"requests", "limits"}
    assert spec["automountServiceAccountToken"] is False
    assert (
        found(FOLDERS[0], "ServiceAccount", spec["serviceAccountName"])[
            "automountServiceAccountToken"
        ]
        is False
    )


def test_one_backup_is_taken_at_a_time_and_ends_before_the_next_is_due() -> None:
    spec = found(FOLDERS[0], "CronJob", "backup")["spec"]

    assert (spec["concurrencyPolicy"], spec["timeZone"]) == ("Forbid", "Etc/UTC")
    within = spec["startingDeadlineSeconds"] + job("backup")["activeDeadlineSeconds"]
    assert within < 24 * 3600
    assert job("backup")["backoffLimit"] == 1
    assert spec["successfulJobsHistoryLimit"] > 0
    assert spec["failedJobsHistoryLimit"] > 0
    assert job("restore")["backoffLimit"] == 0


@pytest.mark.parametrize("name", JOBS)
def test_the_commands_are_those_of_the_command_line(name: str) -> None:
    command, args = container(name)["command"], container(name)["args"]

    assert command == ["python", "-m", "mlplatform.commands"]
    assert args[0] == name
    page = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output
    assert all(a.partition("=")[0] in page for a in args if a.startswith("--"))
    assert args[1].startswith(mounts(name)["backups"])


def mounts(name: str) -> dict[str, str]:
    return {m["name"]: m["mountPath"] for m in container(name)["volumeMounts"]}


@pytest.mark.parametrize("name", JOBS)
def test_it_is_told_all_of_the_state_that_the_installation_has(name: str) -> None:
    """The gateway's home and servers, and MLflow's own: what is not named is not in a backup."""
    of_job = settings.load({k: v for k, v in told(name).items() if k.startswith("MLPLATFORM_")})
    [mlflow] = found("workloads", "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    of_mlflow = {e["name"]: e["value"] for e in mlflow["env"]}
    shared = found("workloads", "ConfigMap", "platform")["data"]
    stateful = found("workloads", "StatefulSet", "gateway")["spec"]["template"]["spec"]
    of_gateway = {e["name"]: e.get("value") for e in stateful["containers"][0]["env"]}

    for variable in ("MLFLOW_POSTGRES", "MLFLOW_POSTGRES_PASSWORD_FILE", "MLFLOW_ARTIFACTS"):
        assert told(name)[f"MLPLATFORM_{variable}"] == of_mlflow[f"MLPLATFORM_{variable}"]
    assert of_job.postgres == settings.load(shared).postgres
    assert str(of_job.home.root) == of_gateway["MLPLATFORM_HOME"]
    assert of_job.home.root.is_relative_to(mounts(name)["home"])
    assert str(of_job.home.bundles) == mounts(name)["bundles"]
    assert told(name)["TMPDIR"] == mounts(name)["checked"]
    assert {"secretRef": {"name": "s3", "optional": True}} in container(name)["envFrom"]


@pytest.mark.parametrize("name", JOBS)
def test_passwords_lie_where_settings_read_them(name: str) -> None:
    [volume] = [v for v in pod(name)["spec"]["volumes"] if v["name"] == "secrets"]
    items = [i for s in volume["projected"]["sources"] for i in s["secret"]["items"]]
    lie = {f"{mounts(name)['secrets']}/{i['path']}" for i in items}

    files = ("MLPLATFORM_POSTGRES_PASSWORD_FILE", "MLPLATFORM_MLFLOW_POSTGRES_PASSWORD_FILE")
    assert lie == {told(name)[f] for f in files}


def test_it_goes_where_the_gateways_volume_is_held_and_keeps_the_gateway_beside_it() -> None:
    gateway = found("workloads", "StatefulSet", "gateway")["spec"]["template"]
    affinity = pod("backup")["spec"]["affinity"]["podAffinity"]
    [term] = affinity["requiredDuringSchedulingIgnoredDuringExecution"]

    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"]["matchLabels"].items() <= gateway["metadata"]["labels"].items()
    assert "affinity" not in pod("restore")["spec"]  # there is no gateway then
    for name in JOBS:
        claims = {
            v["name"]: v["persistentVolumeClaim"]["claimName"]
            for v in pod(name)["spec"]["volumes"]
            if "persistentVolumeClaim" in v
        }
        assert claims == {"home": GATEWAY_HOME, "bundles": "bundles", "backups": "backups"}
        assert pod(name)["metadata"]["labels"]["mlplatform/home"] == "gateway-0"
    assert found(FOLDERS[0], "PersistentVolumeClaim", "backups")


def test_its_policy_lets_it_to_postgresql_and_objects_and_nowhere_else() -> None:
    policy = found(FOLDERS[0], "NetworkPolicy", "backup")["spec"]
    [rule] = policy["egress"]

    assert policy["policyTypes"] == ["Egress"]
    for name in JOBS:
        labels = pod(name)["metadata"]["labels"]
        assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert rule["to"] == [{"namespaceSelector": {"matchLabels": {"mlplatform/state": "true"}}}]
    assert {p["port"] for p in rule["ports"]} == {5432, 443}
