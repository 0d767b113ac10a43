"""platform/chart by Helm: the objects that kustomize builds, and what values change of them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.layout import layout

from support.chart import COMPONENTS, built, of_kustomize, rendered, template
from support.kserve_world import any_cluster
from support.kustomize import MANIFESTS

EXAMPLE = MANIFESTS / "overlays" / "example"


@pytest.fixture(scope="module")
def helm() -> Path:
    path = layout().bin / "helm"
    if not path.exists():
        pytest.skip("HELM IS NOT BUILT: make cluster-build FULL=1")
    return path


@pytest.fixture(scope="module")
def kubectl() -> Sequence[str]:
    return [str(layout().bin / "kubectl")]


@pytest.mark.parametrize(
    "components", [[], *([name] for name in COMPONENTS), COMPONENTS], ids="+".join
)
def test_a_release_has_the_objects_that_kustomize_builds(
    helm: Path, kubectl: Sequence[str], components: list[str], tmp_path: Path
) -> None:
    """Whatever the components: not a field more or less."""
    chosen = {"components": dict.fromkeys(components, True), "runtimes": False}
    assert rendered(helm, chosen, tmp_path) == built(kubectl, components, tmp_path)


def test_values_make_the_installation_of_the_example(
    helm: Path, kubectl: Sequence[str], tmp_path: Path
) -> None:
    """Images, addresses and a team's quota: what its overlay says by patches and replacements."""
    overlay = yaml.safe_load((EXAMPLE / "kustomization.yaml").read_text())
    values: dict[str, Any] = {
        "components": {Path(name).name: True for name in overlay["components"]},
        "images": {one["name"]: f"{one['newName']}:{one['newTag']}" for one in overlay["images"]},
        "settings": yaml.safe_load((EXAMPLE / "addresses.yaml").read_text())["data"],
        "extra": list(yaml.safe_load_all((EXAMPLE / "teams.yaml").read_text())),
        "runtimes": False,
    }
    assert rendered(helm, values, tmp_path) == of_kustomize(kubectl, EXAMPLE)


def test_a_patch_reaches_one_object_and_what_follows_from_it(helm: Path, tmp_path: Path) -> None:
    """MLflow's database is the backups' too, the level of lines the predictors'."""
    env = [{"name": "MLPLATFORM_MLFLOW_POSTGRES", "value": "postgresql://x@here/y"}]
    mlflow = {"containers": [{"name": "mlflow", "env": env}], "hostNetwork": None}
    claim = {"name": "home", "emptyDir": {}}
    values = {
        "components": {"backup": True},
        "settings": {"MLPLATFORM_LOG_LEVEL": "debug"},
        "images": {"mlplatform/predictor": "registry/predictor@sha256:ab"},
        "namespaces": False,
        "patches": [
            {
                "kind": "Deployment",
                "metadata": {"name": "mlflow", "labels": {"bank/owner": "ml"}},
                "spec": {"replicas": 2, "template": {"spec": mlflow}},
            },
            {
                "kind": "Deployment",
                "metadata": {"name": "page"},
                "spec": {"template": {"spec": {"volumes": [claim]}}},
            },
        ],
    }
    plain = rendered(helm, {"components": {"backup": True}}, tmp_path)
    found = rendered(helm, values, tmp_path)

    assert {name for name in plain if name not in found} == {
        ("Namespace", "", "mlplatform"),
        ("Namespace", "", "mlplatform-models"),
    }
    one, before = (all_["Deployment", "mlplatform", "mlflow"] for all_ in (found, plain))
    assert (one["spec"]["replicas"], one["metadata"]["labels"]["bank/owner"]) == (2, "ml")
    held = {
        e["name"]: e.get("value") for e in one["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    assert held["MLPLATFORM_MLFLOW_POSTGRES"] == "postgresql://x@here/y"
    assert len(held) == len(before["spec"]["template"]["spec"]["containers"][0]["env"])
    job = found["CronJob", "mlplatform", "backup"]["spec"]["jobTemplate"]["spec"]["template"]
    held = {e["name"]: e.get("value") for e in job["spec"]["containers"][0]["env"]}
    assert held["MLPLATFORM_MLFLOW_POSTGRES"] == "postgresql://x@here/y"
    levels = found["ConfigMap", "mlplatform-models", "mlplatform-predictors"]["data"]
    assert levels["MLPLATFORM_LOG_LEVEL"] == "debug"
    runtime = found["ClusterServingRuntime", "", "mlplatform-onnx"]["spec"]["containers"][0]
    assert runtime["image"] == "registry/predictor@sha256:ab"
    same = set(plain) & set(found) - {
        ("Deployment", "mlplatform", "mlflow"),
        ("Deployment", "mlplatform", "page"),
        ("CronJob", "mlplatform", "backup"),
        ("ConfigMap", "mlplatform", "platform"),
        ("ConfigMap", "mlplatform-models", "mlplatform-predictors"),
        ("ClusterServingRuntime", "", "mlplatform-onnx"),
    }
    assert all(plain[name] == found[name] for name in same)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"patches": [{"kind": "Deployment", "metadata": {"name": "gateway"}}]},
            "there is no Deployment gateway; wanted one of .*StatefulSet gateway",
        ),
        ({"components": {"kafka": True}}, "kafka"),
        ({"settings": {"MLPLATFORM_GATEWAYS": 3}}, "MLPLATFORM_GATEWAYS"),
    ],
    ids=["patch", "component", "setting"],
)
def test_a_mistake_is_named(helm: Path, tmp_path: Path, values: dict[str, Any], said: str) -> None:
    made = template(helm, values, tmp_path)
    assert made.returncode != 0
    assert re.search(said, made.stderr), made.stderr


def test_a_release_stays_when_it_is_removed(helm: Path, tmp_path: Path) -> None:
    """The namespaces hold the decision log's volume."""
    made = template(helm, {"components": {"backup": True}}, tmp_path)
    kept = {
        (one["kind"], one["metadata"]["name"])
        for one in yaml.safe_load_all(made.stdout)
        if one["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    }
    assert kept >= {("Namespace", "mlplatform"), ("Namespace", "mlplatform-models")}


def test_pods_start_anew_when_the_template_of_flow_runs_changes(helm: Path, tmp_path: Path) -> None:
    """Its ConfigMap keeps its name, other than with kustomize; a digest marks the pods."""
    objects = yaml.safe_load_all(template(helm, {}, tmp_path).stdout)
    [worker] = [
        one
        for one in objects
        if (one["kind"], one["metadata"]["name"]) == ("Deployment", "prefect-worker")
    ]
    mark = worker["spec"]["template"]["metadata"]["annotations"]["mlplatform/flow-runs"]
    assert re.fullmatch("[0-9a-f]{64}", mark)


def test_an_api_server_takes_the_objects_of_a_release(helm: Path, tmp_path: Path) -> None:
    """By schema and admission, as a strict dry run; nothing is created."""
    _, command = any_cluster()
    made = template(helm, {"components": {"backup": True, "gateways": True}}, tmp_path)
    objects = [
        one for one in yaml.safe_load_all(made.stdout) if one["kind"] != "ClusterServingRuntime"
    ]
    spaces = [one for one in objects if one["kind"] == "Namespace"]
    for some, how in ((spaces, []), (objects, ["--dry-run=server", "--validate=strict"])):
        (tmp_path / "objects.yaml").write_text(yaml.safe_dump_all(some))
        apply = [*command, "apply", "--server-side", "--force-conflicts", *how]
        asked = [*apply, "-f", str(tmp_path / "objects.yaml")]
        answer = subprocess.run(asked, capture_output=True, text=True)
        assert (answer.returncode, answer.stderr) == (0, "")
