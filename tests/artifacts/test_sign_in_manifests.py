"""components/sign-in of the manifests: where people sign in to the page, and what it may reach."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from mlplatform.observing.page.process import accepted_hosts
from mlplatform.runtime.configuration import settings
from support.kustomize import MANIFESTS, has_kubectl, installation
from support.manifest_schemas import unknown

COMPONENT = MANIFESTS / "components" / "sign-in"
METADATA = ("169.254.169.254", "100.100.100.200", "192.0.0.192")


def policy() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((COMPONENT / "access.yaml").read_text())
    return found


def test_every_field_is_one_that_kubernetes_has_and_every_file_is_listed() -> None:
    assert unknown(policy(), "V1NetworkPolicy", "") == []
    listed = yaml.safe_load((COMPONENT / "kustomization.yaml").read_text())["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(p.name for p in COMPONENT.iterdir())


def test_the_page_may_reach_a_provider_and_no_credentials_of_a_node() -> None:
    [provider] = policy()["spec"]["egress"]
    assert [p["port"] for p in provider["ports"]] == [443]
    [block] = [to["ipBlock"] for to in provider["to"]]
    closed = [ipaddress.ip_network(one) for one in block["except"]]
    for address in METADATA:
        assert any(ipaddress.ip_address(address) in one for one in closed)


@has_kubectl
def test_an_installation_with_it_names_a_provider_and_a_page_that_its_probes_find(
    tmp_path: Path,
) -> None:
    built = installation(tmp_path, "sign-in")
    told = settings.load(built["ConfigMap", "platform"]["data"])
    spec = built["Deployment", "page"]["spec"]["template"]["spec"]
    [container] = spec["containers"]
    assert told.identity_provider is not None
    assert urlsplit(told.page_url).scheme == "https"
    mounts = {m["name"]: Path(m["mountPath"]) for m in container["volumeMounts"]}
    files = (told.identity_provider.roles, told.identity_provider.client_secret_file)
    assert [f and f.parent for f in files] == [mounts["sign-in"]] * 2
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        [header] = container[probe]["httpGet"]["httpHeaders"]
        assert [header["value"]] == accepted_hosts(told)
