"""platform/manifests/components/gateways: more gateways, and what replicates their logs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlplatform.decisions.replication.publisher import DRAIN_LIMIT_S
from mlplatform.decisions.replication.publisher import parser as publisher_parser
from mlplatform.runtime.configuration import settings
from mlplatform.scoring.gateway.process import parser as gateway_parser
from support.kustomize import MANIFESTS, has_kubectl, installation
from support.manifest_schemas import unknown
from support.pod_security import violations

COMPONENT = MANIFESTS / "components" / "gateways"
BACKUPS_APART_H = 24


def documents(folder: Path) -> list[dict[str, Any]]:
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    return [d for name in listed for d in yaml.safe_load_all((folder / name).read_text())]


def found(kind: str, name: str, folder: Path = COMPONENT) -> dict[str, Any]:
    [one] = [d for d in documents(folder) if (d["kind"], d["metadata"]["name"]) == (kind, name)]
    return one


def pods() -> dict[str, dict[str, Any]]:
    return {
        d["metadata"]["name"]: d["spec"]["template"]
        for d in documents(COMPONENT)
        if d["kind"] in ("StatefulSet", "Deployment")
    }


def containers() -> dict[str, dict[str, Any]]:
    every = [
        c
        for p in pods().values()
        for c in (*p["spec"].get("initContainers", ()), *p["spec"]["containers"])
    ]
    return {c["name"]: c for c in every}


def told(container: dict[str, Any]) -> dict[str, str]:
    shared: dict[str, str] = found("ConfigMap", "platform", MANIFESTS / "workloads")["data"]
    return shared | {e["name"]: e["value"] for e in container["env"] if "value" in e}


@pytest.mark.parametrize("document", documents(COMPONENT), ids=lambda d: d["metadata"]["name"])
def test_every_field_is_one_that_kubernetes_has(document: dict[str, Any]) -> None:
    assert unknown(document, f"V1{document['kind']}", "") == []
    assert document["metadata"]["namespace"] == "mlplatform"


def test_every_file_is_listed() -> None:
    listed = yaml.safe_load((COMPONENT / "kustomization.yaml").read_text())["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(p.name for p in COMPONENT.iterdir())


@pytest.mark.parametrize("name", pods())
def test_a_pod_is_admitted_by_the_restricted_standard_and_has_no_token(name: str) -> None:
    spec = pods()[name]["spec"]
    assert violations(spec) == []
    assert spec["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", containers())
def test_a_container_is_bounded_and_told_settings_that_hold(name: str) -> None:
    container = containers()[name]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["resources"].keys() == {"requests", "limits"}
    assert container["command"][:2] == ["python", "-m"]
    assert importlib.util.find_spec(container["command"][2])
    loaded = settings.load(told(container))
    assert loaded.kafka
    mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    assert loaded.home.root.parent == Path(mounts["home"])
    reads_bundles = name == "gateway"
    assert mounts.get("bundles") == (str(loaded.home.bundles) if reads_bundles else None)


def test_one_more_gateway_is_as_the_first_but_for_its_log_and_the_key_that_they_share() -> None:
    first = found("StatefulSet", "gateway", MANIFESTS / "workloads")["spec"]
    more = found("StatefulSet", "gateway-more")["spec"]
    a, b = first["template"]["spec"], more["template"]["spec"]
    [own], [other] = a.pop("containers"), b.pop("containers")
    key = {
        "name": "MLPLATFORM_PSEUDONYM_KEY_FILE",
        "value": "/run/secrets/mlplatform/pseudonym-key",
    }
    other["env"].remove(key)
    assert own == other
    [secrets] = [v for v in b["volumes"] if v["name"] == "secrets"]
    secret = {"name": "pseudonym", "items": [{"key": "key", "path": "pseudonym-key"}]}
    secrets["projected"]["sources"].remove({"secret": secret})
    del a["affinity"]  # the home's volume is the first one's
    del b["initContainers"]
    b["volumes"] = [v for v in b["volumes"] if v["name"] != "brokers"]  # the publisher's
    assert a == b
    for name in ("serviceName", "podManagementPolicy", "persistentVolumeClaimRetentionPolicy"):
        assert first[name] == more[name]
    [of_first], [of_more] = first["volumeClaimTemplates"], more["volumeClaimTemplates"]
    assert of_first == of_more


def test_all_gateways_are_one_service_and_none_but_the_first_is_taken_for_the_home() -> None:
    labels = pods()["gateway-more"]["metadata"]["labels"]
    workloads = MANIFESTS / "workloads"
    for name in ("gateway", "gateways"):
        assert found("Service", name, workloads)["spec"]["selector"].items() <= labels.items()
    budget = found("PodDisruptionBudget", "gateway", workloads)["spec"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()
    assert budget["maxUnavailable"] == 1
    first = found("StatefulSet", "gateway", workloads)["spec"]["template"]["metadata"]["labels"]
    only = found("Service", "gateway-first")["spec"]["selector"].items()
    assert only <= first.items()
    assert not only <= labels.items()
    selector = found("StatefulSet", "gateway-more")["spec"]["selector"]["matchLabels"].items()
    assert selector <= labels.items()
    assert not selector <= first.items()


def test_the_replicator_is_where_the_homes_volume_is() -> None:
    """As exporter and page are; and never where another gateway alone is."""
    exporter = found("Deployment", "exporter", MANIFESTS / "workloads")["spec"]["template"]["spec"]
    replicator = found("Deployment", "replicator")["spec"]
    spec = replicator["template"]["spec"]
    assert spec["affinity"] == exporter["affinity"]
    [term] = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    beside = term["labelSelector"]["matchLabels"].items()
    assert not beside <= pods()["gateway-more"]["metadata"]["labels"].items()
    assert replicator["template"]["metadata"]["labels"]["mlplatform/home"] == "gateway-0"
    volumes = {v["name"]: v for v in spec["volumes"]}
    assert volumes["home"]["persistentVolumeClaim"]["claimName"] == "home-gateway-0"
    assert (replicator["replicas"], replicator["strategy"]) == (1, {"type": "Recreate"})


def test_a_publisher_has_its_gateways_name_and_ends_after_it() -> None:
    publisher, gateway = containers()["publisher"], containers()["gateway"]
    assert publisher["restartPolicy"] == "Always"  # so it is ended last
    options = publisher_parser().parse_args(publisher["args"])
    assert options.name == gateway_parser().parse_args(gateway["args"]).name == "$(POD_NAME)"
    assert options.keep_h > BACKUPS_APART_H
    assert publisher["env"][0] == gateway["env"][0]
    stop = gateway["lifecycle"]["preStop"]["sleep"]["seconds"] + 10 + 2
    assert stop + DRAIN_LIMIT_S < pods()["gateway-more"]["spec"]["terminationGracePeriodSeconds"]


@pytest.mark.parametrize(
    ("pod", "name"), [("gateway-more", "publisher"), ("replicator", "replicator")]
)
def test_who_speaks_to_the_brokers_has_their_password_and_does_without_where_none_is(
    pod: str, name: str
) -> None:
    container = containers()[name]
    kafka = settings.load(told(container)).kafka
    assert kafka is not None
    [mount] = [m for m in container["volumeMounts"] if m["name"] == "brokers"]
    [volume] = [v for v in pods()[pod]["spec"]["volumes"] if v["name"] == "brokers"]
    [secret] = [s["secret"] for s in volume["projected"]["sources"]]
    assert secret["optional"] is True
    paths = {f"{mount['mountPath']}/{item['path']}" for item in secret["items"]}
    assert str(kafka.password_file) in paths


def test_the_replicator_reaches_the_brokers_and_nobody_reaches_it() -> None:
    policy = found("NetworkPolicy", "replicator")["spec"]
    assert (
        policy["podSelector"]["matchLabels"].items()
        <= pods()["replicator"]["metadata"]["labels"].items()
    )
    assert policy["policyTypes"] == ["Egress"]
    [rule] = policy["egress"]
    kafka = settings.load(told(containers()["replicator"])).kafka
    assert kafka is not None
    assert {int(host.rpartition(":")[2]) for host in kafka.hosts} < {
        p["port"] for p in rule["ports"]
    }


@has_kubectl
def test_an_installation_with_it_is_built_whole(tmp_path: Path) -> None:
    built = installation(tmp_path, "gateways")

    assert built["Service", "gateway"]["spec"]["sessionAffinity"] == "ClientIP"
    more = built["StatefulSet", "gateway-more"]["spec"]
    shared = built["ConfigMap", "platform"]["data"]
    assert int(shared["MLPLATFORM_GATEWAYS"]) == more["replicas"] + 1
    assert "MLPLATFORM_POSTGRES" in shared
    assert settings.load(shared).key_claims == "shared"
    [worker] = built["Deployment", "worker-fraud"]["spec"]["template"]["spec"]["containers"]
    env = {e["name"]: e["value"] for e in worker["env"]}
    service = built["Service", "gateway-first"]["metadata"]
    url = f"http://{service['name']}.{service['namespace']}"
    assert settings.load(env).gateway_url == url
