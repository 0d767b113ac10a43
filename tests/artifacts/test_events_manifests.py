"""platform/manifests/components/events: who tells webhooks and Slack, and what it may reach."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlplatform.observing.events.addresses import refusal
from mlplatform.observing.events.sender import SEND_S
from mlplatform.process import ENTRIES
from mlplatform.runtime.configuration import settings
from support.kustomize import MANIFESTS, has_kubectl, installation
from support.manifest_schemas import unknown
from support.pod_security import violations

COMPONENT = MANIFESTS / "components" / "events"
METADATA = ("169.254.169.254", "100.100.100.200", "192.0.0.192")


def documents(folder: Path) -> list[dict[str, Any]]:
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    return [d for name in listed for d in yaml.safe_load_all((folder / name).read_text())]


def found(kind: str, name: str, folder: Path = COMPONENT) -> dict[str, Any]:
    [one] = [d for d in documents(folder) if (d["kind"], d["metadata"]["name"]) == (kind, name)]
    return one


def template() -> dict[str, Any]:
    one: dict[str, Any] = found("Deployment", "events")["spec"]["template"]
    return one


@pytest.mark.parametrize("document", documents(COMPONENT), ids=lambda d: d["kind"])
def test_every_field_is_one_that_kubernetes_has(document: dict[str, Any]) -> None:
    assert unknown(document, f"V1{document['kind']}", "") == []
    assert document["metadata"]["namespace"] == "mlplatform"


def test_every_file_is_listed() -> None:
    listed = yaml.safe_load((COMPONENT / "kustomization.yaml").read_text())["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(p.name for p in COMPONENT.iterdir())


def test_the_pod_is_admitted_by_the_restricted_standard_and_has_no_token() -> None:
    spec = template()["spec"]
    assert violations(spec) == []
    assert spec["automountServiceAccountToken"] is False
    assert spec["terminationGracePeriodSeconds"] > SEND_S


def test_it_is_told_settings_that_hold_and_files_that_are_mounted() -> None:
    [container] = template()["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["resources"].keys() == {"requests", "limits"}
    assert container["command"][:3] == ["python", "-m", "mlplatform.process"]
    assert container["command"][3] in ENTRIES
    shared = found("ConfigMap", "platform", MANIFESTS / "workloads")["data"]
    loaded = settings.load(shared | {e["name"]: e["value"] for e in container["env"]})
    mounts = {m["name"]: Path(m["mountPath"]) for m in container["volumeMounts"]}
    assert loaded.receivers is not None
    assert loaded.receivers.parent == mounts["receivers"]
    assert loaded.postgres is not None  # so that nothing is written below its home
    assert loaded.postgres.password_file == mounts["secrets"] / "postgres-password"


def test_it_may_reach_its_database_and_receivers_and_no_credentials_of_a_node() -> None:
    policy = found("NetworkPolicy", "events")["spec"]
    chosen = policy["podSelector"]["matchLabels"].items()
    assert chosen <= template()["metadata"]["labels"].items()
    assert policy["policyTypes"] == ["Egress"]
    state, receivers = policy["egress"]
    assert [p["port"] for p in state["ports"]] == [5432]
    assert [p["port"] for p in receivers["ports"]] == [443]
    [block] = [to["ipBlock"] for to in receivers["to"]]
    closed = [ipaddress.ip_network(one) for one in block["except"]]
    for address in METADATA:
        assert refusal(address, loopback=False) != ""
        assert any(ipaddress.ip_address(address) in one for one in closed)


@has_kubectl
def test_an_installation_with_it_is_built_whole(tmp_path: Path) -> None:
    built = installation(tmp_path, "events")
    assert ("Deployment", "events") in built
