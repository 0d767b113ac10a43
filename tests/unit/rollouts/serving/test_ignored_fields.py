"""Fields that KServe would take and do nothing by are refused, with what does it instead."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mlplatform.model.folders import load_definition
from mlplatform.rollouts.serving.companions import disruption_budget
from mlplatform.rollouts.serving.ignored_fields import refuse_ignored
from mlplatform.rollouts.serving.manifest import render
from mlplatform.runtime.errors import Refused

MANIFEST = render(load_definition("fraud"), 7, "0123456789abcdef" * 4, "s3://bundles/x")


def changed(path: str, value: object) -> dict[str, Any]:
    manifest = copy.deepcopy(MANIFEST)
    *parents, key = path.split("/")
    part = manifest
    for parent in parents:
        part = part[parent]
    part[key] = value
    return manifest


def test_what_is_rendered_says_nothing_in_vain() -> None:
    refuse_ignored(MANIFEST)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("spec/predictor/containerConcurrency", 4, "containerConcurrency does nothing"),
        ("spec/predictor/timeout", 60, "timeout does nothing"),
        ("spec/predictor/batcher", {"maxBatchSize": 8}, "the predictor batches by itself"),
        ("spec/predictor/logger", {"mode": "all"}, "the decision log is the gateway's"),
        ("spec/predictor/minReplicas", 0, "nothing starts a pod again"),
        ("spec/predictor/scaleTarget", 80, "'none'"),
        ("spec/predictor/autoScaling", {"metrics": []}, "'none'"),
        ("spec/transformer", {"containerConcurrency": 1}, "spec.transformer"),
    ],
)
def test_a_field_without_effect_is_refused_by_name(path: str, value: object, told: str) -> None:
    with pytest.raises(Refused, match=told):
        refuse_ignored(changed(path, value))


@pytest.mark.parametrize("mode", ["Knative", "RawDeployment", None])
def test_another_mode_is_refused(mode: str | None) -> None:
    annotations = {**MANIFEST["metadata"]["annotations"], "serving.kserve.io/deploymentMode": mode}

    with pytest.raises(Refused, match="only 'Standard'"):
        refuse_ignored(changed("metadata/annotations", annotations))


def test_an_annotation_of_knatives_is_refused() -> None:
    annotations = {**MANIFEST["metadata"]["annotations"], "autoscaling.knative.dev/target": "10"}

    with pytest.raises(Refused, match="Knative's"):
        refuse_ignored(changed("metadata/annotations", annotations))


def test_scaling_is_allowed_where_something_scales() -> None:
    manifest = changed("spec/predictor/scaleTarget", 80)
    manifest["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] = "hpa"

    refuse_ignored(manifest)


def test_scaling_by_kserve_is_refused_where_it_is_left_to_others() -> None:
    manifest = changed("spec/predictor/scaleTarget", 80)
    manifest["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] = "external"

    with pytest.raises(Refused, match="'external'"):
        refuse_ignored(manifest)


def test_a_budget_keeps_all_but_one_pod_and_goes_with_its_service() -> None:
    budget = disruption_budget(MANIFEST, "uid-1")
    assert budget is not None

    name = MANIFEST["metadata"]["name"]
    assert budget["spec"] == {
        "maxUnavailable": 1,
        "selector": {"matchLabels": {"app": f"isvc.{name}-predictor"}},
    }
    [owner] = budget["metadata"]["ownerReferences"]
    assert (owner["name"], owner["uid"]) == (name, "uid-1")


def test_a_service_of_one_pod_gets_no_budget_that_would_keep_its_node_for_ever() -> None:
    assert disruption_budget(changed("spec/predictor/minReplicas", 1), "uid-1") is None
