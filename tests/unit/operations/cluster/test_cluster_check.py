"""What a cluster lacks, from what was read of it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlplatform.commands.cluster import IMAGES, POLICY
from mlplatform.operations.cluster.check import check
from mlplatform.operations.cluster.facts import version_of
from mlplatform.operations.cluster.finding import (
    CheckFinding,
    ClusterFacts,
    ClusterRequirements,
    Controller,
    Gpu,
    UnreadableObject,
    VolumeClaim,
)
from mlplatform.operations.cluster.installation import LET_IN, SECRETS
from mlplatform.operations.cluster.rights import RIGHTS
from mlplatform.rollouts.serving.manifest import GPU_RUNTIME, RUNTIME

IMAGE = IMAGES[RUNTIME]
OURS, OURS_ON_GPUS = (f"serving runtime {name}" for name in (RUNTIME, GPU_RUNTIME))
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
SHARED = VolumeClaim("Bound", frozenset({"ReadWriteMany"}), "files")
CLOSED = UnreadableObject("this user may not get it")
WHOLE = ClusterFacts(
    version="v1.34.4",
    kinds={
        "inferenceservices.serving.kserve.io": frozenset({"v1beta1"}),
        "clusterservingruntimes.serving.kserve.io": frozenset({"v1alpha1"}),
        "httproutes.gateway.networking.k8s.io": frozenset({"v1", "v1beta1"}),
        "scaledobjects.keda.sh": frozenset({"v1alpha1"}),
        "workflows.argoproj.io": frozenset({"v1alpha1"}),
    },
    controller=Controller(1, "v0.20.0"),
    default_mode="Standard",
    runtimes=IMAGES,
    namespaces={"models": RESTRICTED, "platform": RESTRICTED},
    labelled={label: frozenset({"somewhere"}) for label in LET_IN},
    priorities=frozenset({"high", "low", "high-cards"}),
    policies=frozenset({POLICY}),
    storage_classes={"files": True},
    claims={("models", "bundles"): SHARED, ("platform", "bundles"): SHARED},
    secrets=SECRETS,
    workloads=True,
    quota_classes=frozenset({"high-cards"}),
    gpus={"nvidia.com/gpu": 4},
    gpu_products=frozenset({"NVIDIA-L4"}),
    rights=dict.fromkeys(RIGHTS, True),
)
WANTED = ClusterRequirements(
    models="models",
    platform="platform",
    kserve="kserve",
    jobs="jobs",
    priorities=("high", "low"),
    team_priorities=("high-cards",),
    policy=POLICY,
    images=IMAGES,
    bundles="bundles",
    gpus=(Gpu("vision", "nvidia.com/gpu", "NVIDIA-L4"),),
)


def judged(wanted: ClusterRequirements = WANTED, **changes: Any) -> list[CheckFinding]:
    return check(dataclasses.replace(WHOLE, **changes), wanted)


def claim(phase: str = "Bound", mode: str = "ReadWriteMany", of: str = "files") -> dict[str, Any]:
    """Facts in which the models' claim is so."""
    found = VolumeClaim(phase, frozenset({mode}), of)
    return {"claims": {("models", "bundles"): found, ("platform", "bundles"): SHARED}}


def without(*words: str) -> dict[str, Any]:
    """Facts in which rights that have these words lack."""
    return {"rights": {r: not any(w in str(r) for w in words) for r in RIGHTS}}


def secret(name: str, keys: Any) -> dict[str, Any]:
    return {"secrets": dict(SECRETS) | {name: keys}}


def test_a_whole_cluster_lacks_nothing_and_everything_looked_at_is_told() -> None:
    found = judged()

    assert {f.state for f in found} == {"ok"}
    assert all(f.seen and not f.do for f in found)


def test_bundles_from_a_store_need_no_claim() -> None:
    found = judged(dataclasses.replace(WANTED, bundles=""), claims={})

    assert {f.state for f in found} == {"ok"}
    assert [f.what for f in found if "claim" in f.what] == ["claims for bundles"]


@pytest.mark.parametrize(
    ("changes", "state", "what", "do"),
    [
        ({"version": "v1.29.3"}, "lacking", "Kubernetes", "1.32"),
        ({"version": "v1.32.0-eks-5"}, "ok", "Kubernetes", ""),
        ({"kinds": {}}, "lacking", "inferenceservices.serving.kserve.io", "install KServe"),
        ({"kinds": {}}, "optional", "httproutes.gateway.networking.k8s.io", "raw callers"),
        ({"controller": Controller(0, "v0.20.0")}, "lacking", "KServe's controller", "logs"),
        ({"controller": None}, "unknown", "KServe's controller", "--kserve-namespace"),
        ({"controller": None}, "unknown", "KServe's version", "0.20"),
        ({"controller": Controller(1, None)}, "unknown", "KServe's version", "0.20"),
        ({"controller": Controller(1, "v0.15.2")}, "lacking", "KServe's version", "0.20"),
        ({"controller": Controller(1, "0.21.0-rc0")}, "ok", "KServe's version", ""),
        ({"controller": CLOSED}, "unknown", "KServe's version", "--kubeconfig"),
        ({"default_mode": "Knative"}, "optional", "KServe's default mode", "Standard"),
        ({"runtimes": {}}, "lacking", OURS, "kserve/runtimes"),
        (
            {"runtimes": {RUNTIME: "own/predictor:0.0.9"}},
            "lacking",
            OURS,
            IMAGE,
        ),
        ({"runtimes": {RUNTIME: f"bank.example/{IMAGE}"}}, "ok", OURS, ""),
        (
            {"runtimes": {RUNTIME: IMAGE}},
            "lacking",
            OURS_ON_GPUS,
            "kserve/runtimes",
        ),
        ({"namespaces": {"models": None}}, "lacking", "namespace models", "platform/manifests"),
        ({"namespaces": {"platform": {}}}, "lacking", "namespace platform", "platform/manifests"),
        ({"priorities": CLOSED}, "unknown", "PriorityClass low", "--kubeconfig"),
        ({"priorities": frozenset({"high"})}, "lacking", "PriorityClass low", "platform/manifests"),
        ({"priorities": frozenset()}, "lacking", "PriorityClass high-cards", "teams.yaml"),
        ({"quota_classes": frozenset()}, "optional", "quota of PriorityClass high-cards", "teams"),
        ({"quota_classes": CLOSED}, "unknown", "quota of PriorityClass high-cards", "--context"),
        ({"policies": frozenset()}, "lacking", f"admission policy {POLICY}", "platform/manifests"),
        ({"storage_classes": {"slow": False}}, "optional", "default StorageClass", "default"),
        ({"storage_classes": {}} | claim("Pending"), "lacking", "claim models/bundles", "files"),
        (claim("Pending"), "lacking", "claim models/bundles", "kubectl describe pvc bundles"),
        (claim(mode="ReadWriteOnce"), "lacking", "claim models/bundles", "ReadOnlyMany"),
        (claim(mode="ReadOnlyMany"), "ok", "claim models/bundles", ""),
        ({"claims": {}}, "lacking", "claim models/bundles", "PersistentVolumeClaim bundles"),
        ({"claims": {}}, "lacking", "claim platform/bundles", "ReadWriteMany"),
        ({"claims": {}, "workloads": False}, "optional", "claim platform/bundles", "workloads"),
        (secret("mlflow", frozenset({"token"})), "lacking", "Secret platform/mlflow", "postgres-p"),
        (secret("redis", None), "lacking", "Secret platform/redis", "password"),
        (secret("redis", None) | {"workloads": False}, "optional", "Secret platform/redis", "pass"),
        (secret("redis", CLOSED), "unknown", "Secret platform/redis", "--kubeconfig"),
        (secret("s3", None), "optional", "Secret platform/s3", "identity"),
        (secret("kafka", None), "optional", "Secret platform/kafka", "brokers"),
        ({"labelled": {}}, "optional", "namespaces labelled mlplatform/telemetry", "collector"),
        ({"labelled": CLOSED}, "unknown", "namespaces labelled mlplatform/state", "--kubeconfig"),
        ({"gpus": {}}, "optional", "GPUs", "GPU operator"),
        ({"gpus": {}}, "lacking", "GPUs of model vision", "offer nvidia.com/gpu"),
        ({"gpus": CLOSED}, "unknown", "GPUs", "--kubeconfig"),
        ({"gpu_products": frozenset()}, "optional", "GPUs", "feature discovery"),
        ({"gpu_products": frozenset({"T4"})}, "lacking", "GPUs of model vision", "gpu.product"),
        (without("list pods"), "lacking", "rights for services", "mlplatform/rollouts"),
        (without("nodes"), "lacking", "rights for GPUs", "mlplatform-capacity"),
        (without("scaledobjects"), "lacking", "rights for autoscaling", "KEDA"),
        (without("httproutes"), "optional", "rights for raw callers", "MLPLATFORM_RAW_GATEWAY"),
        (without("workflows"), "lacking", "rights for heavy jobs", "argo/access.yaml"),
        (without("get services"), "optional", "rights for addresses", "profile cluster"),
    ],
)
def test_what_is_lacking_says_what_to_do(
    changes: dict[str, Any], state: str, what: str, do: str
) -> None:
    [finding] = [f for f in judged(**changes) if f.what == what]

    assert finding.state == state
    assert do in finding.do


def test_rights_that_no_model_and_no_setting_needs_are_no_lack() -> None:
    wanted = dataclasses.replace(WANTED, gpus=(), jobs=None)
    rights = {r: False for r in RIGHTS if r.use in ("GPUs", "autoscaling")}

    found = {f.what: f for f in judged(wanted, rights=rights, kinds={}) if "rights" in f.what}

    assert {f.state for f in found.values()} == {"optional"}
    assert "may not get priorityclasses.scheduling.k8s.io" in found["rights for GPUs"].seen


def deployment(image: str, **labels: str) -> dict[str, Any]:
    pod = {
        "containers": [{"name": "proxy", "image": "p:v9.9"}, {"name": "manager", "image": image}]
    }
    return {"metadata": {"labels": labels}, "spec": {"template": {"spec": pod}}}


@pytest.mark.parametrize(
    ("image", "labelled", "expected"),
    [
        ("kserve/kserve-controller:v0.20.0", "", "v0.20.0"),
        ("registry.bank:5000/kserve-controller:0.21.0-rc0@sha256:aa", "", "0.21.0-rc0"),
        ("registry.bank:5000/kserve-controller@sha256:aa", "v0.19.1", "v0.19.1"),
        ("registry.bank:5000/kserve-controller@sha256:aa", "", None),
        ("registry.bank:5000/kserve-controller", "main", None),
        ("kserve/kserve-controller:latest", "", None),
    ],
)
def test_kserves_version_is_what_says_one(image: str, labelled: str, expected: str | None) -> None:
    labels = {"app.kubernetes.io/version": labelled} if labelled else {}

    assert version_of(deployment(image, **labels)) == expected


def test_secrets_are_those_of_the_installations_page() -> None:
    page = (Path(__file__).parents[4] / "docs" / "cluster.md").read_text().splitlines()
    rows = {r.split("`")[1]: r for r in page if r.startswith("| Secret `")}

    assert rows.keys() == SECRETS.keys()
    for name, keys in SECRETS.items():
        assert all(f"`{key}`" in rows[name] for key in keys)


def test_labels_are_those_that_policies_let_in() -> None:
    text = (Path(__file__).parents[4] / "platform/manifests/base/network.yaml").read_text()
    selectors = str(list(yaml.safe_load_all(text)))

    assert {
        f"mlplatform/{w}" for w in re.findall(r"'mlplatform/([a-z-]+)': 'true'", selectors)
    } == {
        *LET_IN,
        "mlplatform/flow-run",  # of pods
        "mlplatform/asks-api-server",
        "mlplatform/asks-predictors",
    }


def test_names_are_those_of_the_manifests() -> None:
    root = Path(__file__).parents[4]
    policies = yaml.safe_load_all((root / "platform/manifests/base/immutable.yaml").read_text())
    assert POLICY in {p["metadata"]["name"] for p in policies}
    for name, image in IMAGES.items():
        runtime = yaml.safe_load((root / f"kserve/runtimes/{name}.yaml").read_text())
        assert runtime["metadata"]["name"] == name
        assert runtime["spec"]["containers"][0]["image"] == image
