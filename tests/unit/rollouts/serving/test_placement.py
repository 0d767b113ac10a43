"""Where a model's pods may run: from model.yaml to fields of the pod."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from mlplatform.model.folders import load_definition, model_folder, parse
from mlplatform.model.policies.training import GpuPolicy
from mlplatform.rollouts.kubernetes.capacity import Scope
from mlplatform.rollouts.kubernetes.supply import scopes_of
from mlplatform.rollouts.serving.manifest import render
from mlplatform.runtime.errors import ConfigInvalid
from support.manifest_schemas import unknown

FRAUD = load_definition("fraud")
TEXT = (model_folder("fraud") / "model.yaml").read_text()


def predictor(**changes: Any) -> dict[str, Any]:
    definition = msgspec.structs.replace(FRAUD, **changes)
    found: dict[str, Any] = render(definition, 7, "0123456789abcdef" * 4, "s3://b/x")["spec"]
    return dict(found["predictor"])


@pytest.mark.parametrize(
    ("gpu", "held"),
    [
        (None, {"nvidia.com/gpu": "1"}),
        (GpuPolicy(resource="nvidia.com/gpu", count=2), {"nvidia.com/gpu": "2"}),
        (GpuPolicy(resource="nvidia.com/mig-1g.10gb"), {"nvidia.com/mig-1g.10gb": "1"}),
        (GpuPolicy(resource="nvidia.com/gpu.shared"), {"nvidia.com/gpu.shared": "1"}),
    ],
)
def test_a_gpu_is_held_as_request_and_limit_alike(
    gpu: GpuPolicy | None, held: dict[str, str]
) -> None:
    resources = predictor(accelerator="cuda", gpu=gpu)["model"]["resources"]

    for part in ("requests", "limits"):
        assert {k: v for k, v in resources[part].items() if k.startswith("nvidia.com/")} == held


def test_a_teams_predictors_have_its_own_priority_class_and_others_the_common_one() -> None:
    assert predictor(team="payments")["priorityClassName"] == "mlplatform-production-payments"
    assert predictor()["priorityClassName"] == "mlplatform-production"


def test_an_example_of_a_teams_quota_is_about_its_class_and_displaces_nobody() -> None:
    manifests = Path(__file__).parents[4] / "platform" / "manifests"
    kind, quota = yaml.safe_load_all((manifests / "overlays/example/teams.yaml").read_text())
    common = yaml.safe_load_all((manifests / "base" / "priorities.yaml").read_text())
    name = predictor(team="payments")["priorityClassName"]

    assert kind["metadata"]["name"] == name
    assert kind["value"] == max(c["value"] for c in common)
    assert scopes_of(quota["spec"]) == [Scope("In", frozenset({name}))]
    assert unknown(kind, "V1PriorityClass", "") == unknown(quota, "V1ResourceQuota", "") == []


@pytest.mark.parametrize("team", ["Payments", "team of payments", "payments-", ""])
def test_a_team_is_named_so_that_a_priority_class_can_be(team: str) -> None:
    with pytest.raises(ConfigInvalid, match="team"):
        parse(f"team: {team!r}\n{TEXT}", "model.yaml")


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_processors_and_memory_that_a_model_names_are_held_as_request_and_limit(
    accelerator: str,
) -> None:
    serving = msgspec.structs.replace(FRAUD.serving, cpus=2.5, memory_mib=8192)

    resources = predictor(accelerator=accelerator, serving=serving)["model"]["resources"]

    for part in ("requests", "limits"):
        assert (resources[part]["cpu"], resources[part]["memory"]) == ("2500m", "8192Mi")


@pytest.mark.parametrize("line", ["cpus: 0", "memory_mib: 64", "memory_mib: 6Gi"])
def test_amounts_that_no_predictor_runs_with_are_refused(line: str) -> None:
    changed = TEXT.replace("  load_deadline_s: 60", f"  {line}\n  load_deadline_s: 60")

    with pytest.raises(ConfigInvalid, match=line.partition(":")[0]):
        parse(changed, "model.yaml")


def test_a_model_on_cpus_neither_asks_for_a_gpu_nor_goes_where_they_are() -> None:
    found = predictor()

    assert "nvidia.com" not in str(found)
    assert "tolerations" not in found
    assert "deploymentStrategy" not in found


def test_with_a_gpu_an_old_pod_ends_before_its_successor_starts() -> None:
    strategy = predictor(accelerator="cuda")["deploymentStrategy"]["rollingUpdate"]

    assert strategy == {"maxSurge": 0, "maxUnavailable": 1}


def test_a_kind_of_gpu_is_a_label_of_its_nodes() -> None:
    gpu = GpuPolicy(resource="nvidia.com/gpu", product="NVIDIA-L4")

    found = predictor(accelerator="tensorrt", gpu=gpu)

    assert found["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert found["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_pods_are_spread_over_zones_and_then_nodes() -> None:
    found = predictor()["topologySpreadConstraints"]

    assert [s["topologyKey"] for s in found] == [
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    ]
    assert {s["labelSelector"]["matchLabels"]["app"] for s in found} == {
        "isvc.fraud-v7-01234567-predictor"
    }


def written(gpu: str, accelerator: str = "cuda") -> str:
    return TEXT.replace("accelerator: cpu", f"accelerator: {accelerator}\ngpu: {gpu}")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (written("{resource: nvidia.com/gpu}", "cpu"), "accelerator is cpu"),
        (written("{resource: nvidia.com/mig-1g.10gb, count: 2}"), "1, where it is a slice"),
        (written("{resource: nvidia.com/gpu.shared, count: 2}"), "1, where it is a slice"),
        (written("{resource: amd.com/gpu}"), "gpu.resource"),
        (written("{resource: nvidia.com/gpu, count: 0}"), "gpu.count"),
    ],
)
def test_a_gpu_that_can_not_be_is_refused_by_its_key(text: str, told: str) -> None:
    with pytest.raises(ConfigInvalid, match=told):
        parse(text, "model.yaml")


def test_a_slice_is_taken_from_model_yaml() -> None:
    definition = parse(written("{resource: nvidia.com/mig-3g.40gb, product: H100}"), "model.yaml")

    assert definition.gpu == GpuPolicy(resource="nvidia.com/mig-3g.40gb", product="H100")
