"""components/bundle-store of the manifests: caches of pods in place of a volume of many nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlplatform.operations.prefect_server import cluster_flows
from mlplatform.rollouts.kubernetes.quantities import quantity
from mlplatform.runtime.configuration import settings
from mlplatform.runtime.units import MIB
from mlplatform.scoring.wiring import storage_uri
from support.kustomize import MANIFESTS, built, has_kubectl, installation, write_overlay
from support.manifest_schemas import unknown
from support.pod_security import violations

COMPONENT = MANIFESTS / "components" / "bundle-store"
ORDERS = [
    ("gateways", "backup", "model-folders", "bundle-store"),
    ("bundle-store", "gateways", "backup", "model-folders"),
]
"""All that it changes comes before it, or after."""
FETCH = {"gateway", "gateway-more", "page", "flow-run"}
CLAIM = {"claimName": "bundles"}
KEYS = {"secretRef": {"name": "s3", "optional": True}}
Manifests = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module", params=ORDERS, ids="+".join)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Manifests:
    return installation(tmp_path_factory.mktemp("overlay"), *request.param)


def pods(made: Manifests) -> dict[str, dict[str, Any]]:
    """Pods by what makes them, those of flow runs too."""
    found = {
        name: one["spec"]["template"]
        for (kind, name), one in made.items()
        if kind in ("StatefulSet", "Deployment")
    }
    for (kind, name), one in made.items():
        if kind == "CronJob":
            found[name] = one["spec"]["jobTemplate"]["spec"]["template"]
    run = run_template(made)["job_configuration"]["job_manifest"]
    return {**found, "flow-run": run["spec"]["template"]}


def run_template(made: Manifests) -> dict[str, Any]:
    """The template of flow runs, as the worker's first container registers it."""
    [register] = made["Deployment", "prefect-worker"]["spec"]["template"]["spec"]["initContainers"]
    options = cluster_flows.parser().parse_args(register["args"])
    assert not options.follow
    path = MANIFESTS / "workloads" / options.template.name
    return cluster_flows.template(path, options.image, options.bundle_cache)


def caches(made: Manifests) -> dict[str, dict[str, Any]]:
    return {
        name: volume
        for name, pod in pods(made).items()
        for volume in pod["spec"].get("volumes", ())
        if volume["name"] == "bundles"
    }


def mounts(pod: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
        for mount in container.get("volumeMounts", ()):
            if mount["name"] == "bundles":
                yield mount


def told(made: Manifests) -> settings.Settings:
    return settings.load(made["ConfigMap", "platform"]["data"])


def test_every_file_is_listed_and_every_field_is_one_that_kubernetes_has() -> None:
    listed = yaml.safe_load((COMPONENT / "kustomization.yaml").read_text())["resources"]
    files = {p.name for p in COMPONENT.iterdir()}
    assert files == {*listed, "kustomization.yaml", "by-hand"}
    for path in (COMPONENT / "access.yaml", MANIFESTS.parents[1] / "kserve" / "bundle-store.yaml"):
        document = yaml.safe_load(path.read_text())
        assert unknown(document, f"V1{document['kind']}", "") == []


@has_kubectl
def test_no_pod_waits_for_a_claim_of_bundles_whatever_the_order_of_components(
    made: Manifests,
) -> None:
    assert ("PersistentVolumeClaim", "bundles") not in made
    assert caches(made).keys() == FETCH | {"backup"}
    for name, volume in caches(made).items():
        assert volume.keys() == {"name", "emptyDir"}, name
    text = yaml.safe_dump([p["spec"] for p in pods(made).values()])
    assert "claimName: bundles" not in text
    for name, pod in pods(made).items():
        assert violations(pod["spec"]) == []
        if name != "flow-run":  # parts of it are names of variables
            assert unknown(pod, "V1PodTemplateSpec", "") == []


@has_kubectl
def test_without_it_the_pods_that_read_bundles_mount_the_claim(tmp_path: Path) -> None:
    plain = installation(tmp_path, "gateways", "backup")
    assert plain["PersistentVolumeClaim", "bundles"]["spec"]["accessModes"] == ["ReadWriteMany"]
    held = {name: volume["persistentVolumeClaim"] for name, volume in caches(plain).items()}
    assert held == dict.fromkeys(FETCH | {"backup"}, CLAIM)
    assert [name for name, pod in pods(plain).items() if list(mounts(pod))] == list(held)


@has_kubectl
def test_a_volume_has_room_for_the_cache_and_a_fetch_beside_it(made: Manifests) -> None:
    """A pod is evicted whose volume outgrows its limit, or whose containers' limits are outgrown
    by all of its volumes."""
    cache = told(made).bundle_cache_mib * MIB
    assert cache < settings.load({}).bundle_cache_mib * MIB
    for name, volume in caches(made).items():
        assert quantity(volume["emptyDir"]["sizeLimit"]) == told(made).bundle_volume_mib * MIB, name
    assert told(made).bundle_volume_mib * MIB >= 1.5 * cache
    for name in ("gateway", "gateway-more"):
        spec = pods(made)[name]["spec"]
        [container] = spec["containers"]
        empty = (v["emptyDir"]["sizeLimit"] for v in spec["volumes"] if "emptyDir" in v)
        resources = container["resources"]
        assert quantity(resources["limits"]["ephemeral-storage"]) > sum(map(quantity, empty))
        assert quantity(resources["requests"]["ephemeral-storage"]) >= cache


@has_kubectl
def test_who_fetches_writes_its_cache_and_has_the_stores_keys(made: Manifests) -> None:
    for name in FETCH:
        [mount] = mounts(pods(made)[name])
        assert not mount.get("readOnly"), name
        assert mount["mountPath"] == str(told(made).home.bundles)
        [container] = pods(made)[name]["spec"]["containers"]
        assert {"configMapRef": {"name": "platform"}} in container["envFrom"]
        if name != "flow-run":
            assert KEYS in container["envFrom"], name
    template = run_template(made)
    [container] = pods(made)["flow-run"]["spec"]["containers"]
    assert {"secretRef": {"name": "{{ keys_secret }}", "optional": True}} in container["envFrom"]
    assert template["variables"]["properties"]["keys_secret"]["default"] == "s3"
    keyless = {n for n in ("exporter", "worker-fraud", "replicator") if "s3" in str(pods(made)[n])}
    assert keyless == set()


@has_kubectl
def test_settings_name_a_bucket_and_predictors_get_its_addresses(made: Manifests) -> None:
    found = told(made)
    assert found.kserve is not None
    assert found.kserve.bundles == ""
    digest = "a" * 64
    assert storage_uri(found)(found.home.bundles / digest) == f"{found.bundle_store}/{digest}"
    assert found.bundle_store.startswith("s3://")
    assert "MLPLATFORM_POSTGRES" in made["ConfigMap", "platform"]["data"]


@has_kubectl
def test_the_pods_homes_and_other_volumes_stay_as_they_were(
    made: Manifests, tmp_path: Path
) -> None:
    def others(pod: dict[str, Any]) -> list[str]:
        volumes = pod["spec"].get("volumes", ())
        return sorted(str(volume) for volume in volumes if volume["name"] != "bundles")

    plain = pods(installation(tmp_path, "gateways", "backup", "model-folders"))
    assert {n: others(p) for n, p in pods(made).items()} == {n: others(p) for n, p in plain.items()}


@has_kubectl
@pytest.mark.parametrize(("folder", "kind"), [("commands", "Pod"), ("restore", "Job")])
def test_what_is_applied_by_hand_has_a_cache_too_and_takes_nothing_along(
    tmp_path: Path, folder: str, kind: str
) -> None:
    """`kubectl delete -k` of that folder leaves the component's other objects."""
    write_overlay(tmp_path, ["bundle-store/by-hand"], [folder])
    made = built(tmp_path)
    (tmp_path / "plain").mkdir()
    write_overlay(tmp_path / "plain", [], [folder])
    assert made.keys() == built(tmp_path / "plain").keys()
    spec = made[kind, folder]["spec"]
    spec = spec["template"]["spec"] if kind == "Job" else spec
    [volume] = [v for v in spec["volumes"] if v["name"] == "bundles"]
    assert volume.keys() == {"name", "emptyDir"}
    assert violations(spec) == []
    [container] = spec["containers"]
    [mount] = [m for m in container["volumeMounts"] if m["name"] == "bundles"]
    assert not mount.get("readOnly")
    assert KEYS in container["envFrom"]


def test_kserve_finds_the_keys_by_the_account_of_predictors() -> None:
    """Their manifests name no account, so it is the namespace's default one."""
    account = yaml.safe_load((MANIFESTS.parents[1] / "kserve" / "bundle-store.yaml").read_text())
    assert (account["metadata"]["name"], account["metadata"]["namespace"]) == (
        "default",
        "mlplatform-models",
    )
    [secret] = account["secrets"]
    document = (MANIFESTS.parents[1] / "docs" / "cluster.md").read_text()
    assert f"Secret `{secret['name']}` of `mlplatform-models`" in " ".join(document.split())
