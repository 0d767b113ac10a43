"""The templates of jobs as they lie in `argo/`, and what an accelerator changes in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import yaml

from mlplatform.model.definition import ModelDefinition
from mlplatform.model.folders import load_definition, model_names
from mlplatform.model.policies.training import GpuPolicy
from mlplatform.operations.compute.argo import POOLS, SETTINGS, workflow
from mlplatform.operations.compute.jobs import Job, Work
from mlplatform.operations.compute.templates import GENERATED, LOG_LEVEL, render_files, template
from mlplatform.operations.compute.work import PROGRAMS, parser
from mlplatform.runtime.configuration.settings import log_level

ROOT = Path(__file__).parents[2]
FRAUD = load_definition("fraud")


def item_of(rendered: dict[str, Any]) -> dict[str, Any]:
    return next(t for t in rendered["spec"]["templates"] if t["name"] == "item")


@pytest.mark.parametrize("path", sorted(render_files()))
def test_a_committed_template_is_what_its_model_says(path: str) -> None:
    text = (ROOT / path).read_text()
    assert text == render_files()[path]
    assert text.startswith(GENERATED)


def test_each_model_has_a_template() -> None:
    wanted = {f"argo/{name}-{work}.yaml" for name in model_names() for work in get_args(Work)}
    assert wanted == set(render_files())


@pytest.mark.parametrize("work", get_args(Work))
def test_the_command_is_one_that_the_program_takes(work: Work) -> None:
    container = item_of(template(FRAUD, work))["container"]
    assert container["command"] == ["python", "-m", "mlplatform.process", "job-item"]
    options = parser().parse_args(container["args"])
    assert (options.work, options.model) == (work, "fraud")
    assert work in PROGRAMS


def test_items_are_told_their_level_by_a_config_map_beside_them() -> None:
    [variable] = item_of(template(FRAUD, "score"))["container"]["env"]
    access = yaml.safe_load_all((ROOT / "argo" / "access.yaml").read_text())
    [told] = [d for d in access if (d["kind"], d["metadata"]["name"]) == ("ConfigMap", SETTINGS)]

    place = {"name": SETTINGS, "key": LOG_LEVEL, "optional": True}
    assert variable == {"name": LOG_LEVEL, "valueFrom": {"configMapKeyRef": place}}
    assert log_level(told["data"]) == "info"


def test_only_what_is_transient_is_tried_again() -> None:
    retry = item_of(template(FRAUD, "score"))["retryStrategy"]
    assert (retry["retryPolicy"], retry["limit"]) == ("OnTransientError", 3)


def test_a_model_on_the_cpu_asks_for_no_gpu() -> None:
    item = item_of(template(FRAUD, "score"))
    assert "nvidia.com/gpu" not in item["container"]["resources"]["limits"]
    assert "synchronization" not in item


@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "tensorrt"])
def test_a_model_on_a_gpu_takes_one_from_the_pool(accelerator: Any) -> None:
    definition = msgspec.structs.replace(FRAUD, accelerator=accelerator)
    item = item_of(template(definition, "score"))
    assert item["container"]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert item["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    [semaphore] = item["synchronization"]["semaphores"]
    assert semaphore == {"configMapKeyRef": {"name": POOLS, "key": "gpu"}}
    access = yaml.safe_load_all((ROOT / "argo" / "access.yaml").read_text())
    [pools] = [d for d in access if d["metadata"]["name"] == POOLS]
    assert int(pools["data"]["gpu"]) > 0


def test_a_job_asks_for_the_kind_of_gpu_that_the_model_names() -> None:
    gpu = GpuPolicy(resource="nvidia.com/mig-1g.10gb", product="NVIDIA-H100")
    item = item_of(template(msgspec.structs.replace(FRAUD, accelerator="cuda", gpu=gpu), "score"))
    limits = item["container"]["resources"]["limits"]
    assert (limits["nvidia.com/mig-1g.10gb"], "nvidia.com/gpu" in limits) == ("1", False)
    assert item["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H100"}


def test_a_fit_may_hold_another_gpu_than_the_models_pods() -> None:
    slice_of = GpuPolicy(resource="nvidia.com/mig-1g.10gb")
    serving = msgspec.structs.replace(FRAUD, accelerator="cuda", gpu=slice_of)
    trained = msgspec.structs.replace(
        FRAUD.training, gpu=GpuPolicy(resource="nvidia.com/gpu", count=2, product="NVIDIA-H100")
    )
    both = msgspec.structs.replace(serving, training=trained)
    on_cpu = msgspec.structs.replace(FRAUD, training=trained)

    def held(definition: ModelDefinition, work: Work) -> dict[str, str]:
        limits = item_of(template(definition, work))["container"]["resources"]["limits"]
        return {k: v for k, v in limits.items() if k.startswith("nvidia.com")}

    assert held(serving, "fit") == held(serving, "score") == {"nvidia.com/mig-1g.10gb": "1"}
    assert held(both, "fit") == held(on_cpu, "fit") == {"nvidia.com/gpu": "2"}
    assert held(both, "score") == {"nvidia.com/mig-1g.10gb": "1"}
    assert held(on_cpu, "score") == {}
    fit = item_of(template(on_cpu, "fit"))
    assert fit["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H100"}
    [semaphore] = fit["synchronization"]["semaphores"]
    assert semaphore["configMapKeyRef"] == {"name": POOLS, "key": "gpu"}


def test_a_job_names_its_template_its_items_and_its_deadline(tmp_path: Path) -> None:
    job = Job("nightly", "score", "fraud", tmp_path, ("a.parquet", "b.parquet"), 60)
    made = workflow(job)
    assert made["metadata"]["name"] == "nightly"
    assert made["spec"]["workflowTemplateRef"] == {"name": "fraud-score"}
    assert made["spec"]["activeDeadlineSeconds"] == 60
    rendered = template(FRAUD, "score")["spec"]["arguments"]["parameters"]
    given = made["spec"]["arguments"]["parameters"]
    assert [p["name"] for p in given] == [p["name"] for p in rendered]
