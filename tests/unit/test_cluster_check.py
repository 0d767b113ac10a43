"""What a cluster lacks, from what was read of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlplatform.cli.cluster import IMAGE, POLICY
from mlplatform.cluster.check import Facts, Finding, check

WHOLE = Facts(
    version="v1.34.4",
    kinds={
        "inferenceservices.serving.kserve.io": frozenset({"v1beta1"}),
        "clusterservingruntimes.serving.kserve.io": frozenset({"v1alpha1"}),
        "httproutes.gateway.networking.k8s.io": frozenset({"v1", "v1beta1"}),
        "scaledobjects.keda.sh": frozenset({"v1alpha1"}),
        "workflows.argoproj.io": frozenset({"v1alpha1"}),
    },
    controller_replicas=1,
    default_mode="Standard",
    runtime_image=IMAGE,
    namespace="models",
    namespace_labels={"pod-security.kubernetes.io/enforce": "restricted"},
    priorities=frozenset({"high", "low"}),
    policies=frozenset({POLICY}),
    storage_classes={"fast": True},
    gpus={"nvidia.com/gpu": 4},
    gpu_products=frozenset({"NVIDIA-L4"}),
    rights={"get inferenceservices": True},
)


def judged(**changes: Any) -> list[Finding]:
    facts = dataclasses.replace(WHOLE, **changes)
    return check(facts, priorities=("high", "low"), policy=POLICY, image=IMAGE)


def test_a_whole_cluster_lacks_nothing_and_everything_looked_at_is_told() -> None:
    found = judged()

    assert {f.state for f in found} == {"ok"}
    assert all(f.seen and not f.do for f in found)


@pytest.mark.parametrize(
    ("changes", "state", "what", "do"),
    [
        ({"version": "v1.29.3"}, "lacking", "Kubernetes", "1.32"),
        ({"version": "v1.32.0-eks-5"}, "ok", "Kubernetes", ""),
        ({"kinds": {}}, "lacking", "inferenceservices.serving.kserve.io", "install KServe"),
        ({"kinds": {}}, "optional", "httproutes.gateway.networking.k8s.io", "raw callers"),
        ({"controller_replicas": 0}, "lacking", "KServe's controller", "logs"),
        ({"controller_replicas": None}, "optional", "KServe's controller", "see that it runs"),
        ({"default_mode": "Knative"}, "optional", "KServe's default mode", "Standard"),
        ({"runtime_image": None}, "lacking", "serving runtime", "kserve/runtimes"),
        ({"runtime_image": "own/predictor:0.0.9"}, "lacking", "serving runtime", IMAGE),
        ({"runtime_image": f"bank.example/{IMAGE}"}, "ok", "serving runtime", ""),
        ({"namespace_labels": None}, "lacking", "namespace models", "platform/manifests"),
        ({"namespace_labels": {}}, "lacking", "namespace models", "platform/manifests"),
        ({"priorities": frozenset({"high"})}, "lacking", "PriorityClass low", "platform/manifests"),
        ({"policies": frozenset()}, "lacking", f"admission policy {POLICY}", "platform/manifests"),
        ({"storage_classes": {"slow": False}}, "optional", "default StorageClass", "default"),
        ({"gpus": {}}, "optional", "GPUs", "GPU operator"),
        ({"gpu_products": frozenset()}, "optional", "GPUs", "feature discovery"),
        ({"rights": {"get pods": False}}, "lacking", "right", "mlplatform/rollouts"),
    ],
)
def test_what_is_lacking_says_what_to_do(
    changes: dict[str, Any], state: str, what: str, do: str
) -> None:
    [finding] = [f for f in judged(**changes) if f.what == what]

    assert finding.state == state
    assert do in finding.do


def test_names_are_those_of_the_manifests() -> None:
    root = Path(__file__).parents[2]
    policies = yaml.safe_load_all((root / "platform/manifests/base/immutable.yaml").read_text())
    runtime = yaml.safe_load((root / "kserve/runtimes/mlplatform-onnx.yaml").read_text())

    assert POLICY in {p["metadata"]["name"] for p in policies}
    assert runtime["spec"]["containers"][0]["image"] == IMAGE
