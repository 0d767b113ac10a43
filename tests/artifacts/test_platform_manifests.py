"""What lies in platform/manifests is what Kubernetes understands, and gives no needless right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from mlplatform.rollouts.serving.placement import DEVELOPMENT, PRODUCTION
from support.manifest_schemas import unknown

BASE = Path(__file__).parents[2] / "platform" / "manifests" / "base"


def documents() -> list[dict[str, Any]]:
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    return [d for name in listed for d in yaml.safe_load_all((BASE / name).read_text())]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [d for d in documents() if d["kind"] == kind]


def named(document: dict[str, Any]) -> str:
    metadata = document["metadata"]
    return f"{document['kind']} {metadata.get('namespace', '')}/{metadata['name']}"


@pytest.mark.parametrize("document", documents(), ids=named)
def test_every_field_is_one_that_kubernetes_has(document: dict[str, Any]) -> None:
    assert unknown(document, f"V1{document['kind']}", "") == []


def test_a_field_that_kubernetes_does_not_have_is_found() -> None:
    quota = {"kind": "ResourceQuota", "apiVersion": "v1", "spec": {"hart": {}}}

    with pytest.raises(ValidationError, match=r"spec\.hart"):
        unknown(quota, "V1ResourceQuota", "")


def test_no_number_is_octal_which_kubernetes_and_terraform_read_differently() -> None:
    """`0440` is 288 for YAML 1.1 (kubectl), and 440 for YAML 1.2 (Terraform's yamldecode)."""
    numbers = [
        f"{path.relative_to(BASE.parent)}: {found}"
        for path in sorted(BASE.parent.rglob("*.yaml"))
        for found in re.findall(r"^[^#\n\"]*: (0[0-9]+)\b", path.read_text(), re.M)
    ]

    assert numbers == []


def test_every_file_is_listed() -> None:
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]

    assert sorted([*listed, "kustomization.yaml"]) == sorted(p.name for p in BASE.iterdir())


def test_every_namespace_enforces_the_restricted_standard_and_denies_by_default() -> None:
    for namespace in of_kind("Namespace"):
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        denied = [
            p["spec"]
            for p in of_kind("NetworkPolicy")
            if p["metadata"]["namespace"] == namespace["metadata"]["name"]
            and p["metadata"]["name"] == "default-deny"
        ]
        assert denied == [{"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}]


def test_no_right_is_given_by_a_star_and_no_secret_is_readable() -> None:
    for role in of_kind("Role") + of_kind("ClusterRole"):
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            assert "secrets" not in rule["resources"]
            assert not any("/" in resource for resource in rule["resources"])


def test_a_token_is_for_who_asks_an_api_server_passes_batches_and_who_makes_their_jobs() -> None:
    with_token = [
        a["metadata"]["name"]
        for a in of_kind("ServiceAccount")
        if a.get("automountServiceAccountToken") is not False
    ]
    bound = {
        s["name"]
        for b in of_kind("RoleBinding") + of_kind("ClusterRoleBinding")
        for s in b["subjects"]
    }

    assert with_token == ["batches", "rollouts"]
    assert bound == {"rollouts", "prefect-worker"}


def test_the_priorities_that_manifests_name_are_there_and_development_displaces_nobody() -> None:
    found = {p["metadata"]["name"]: p for p in of_kind("PriorityClass")}

    assert set(found) == {PRODUCTION, DEVELOPMENT}
    assert found[PRODUCTION]["value"] > found[DEVELOPMENT]["value"]
    assert found[DEVELOPMENT]["preemptionPolicy"] == "Never"
