"""What lies in kserve/ is what the installed KServe package understands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlplatform.model.folders import load_definition, model_names
from mlplatform.model.policies.model_server import ModelServer
from mlplatform.rollouts.serving.ignored_fields import refuse_ignored
from mlplatform.rollouts.serving.manifest import (
    DIGEST_ANNOTATION,
    MODEL_FORMAT,
    PREDICTORS,
    RUNTIME,
    example,
    read,
    render,
    render_examples,
)
from mlplatform.rollouts.serving.triton import config
from mlplatform.runtime.configuration.declarations import PREFIX
from mlplatform.runtime.configuration.settings import log_level
from support.manifest_schemas import unknown
from support.pod_security import violations

ROOT = Path(__file__).parents[2]
LOG_LEVEL = f"{PREFIX}LOG_LEVEL"
KINDS = {
    "InferenceService": "V1beta1InferenceService",
    "ClusterServingRuntime": "V1alpha1ClusterServingRuntime",
}


def manifests() -> list[Path]:
    """Those of KServe's own kinds."""
    found = sorted((ROOT / "kserve").rglob("*.yaml"))
    return [path for path in found if yaml.safe_load(path.read_text())["kind"] in KINDS]


def content(path: Path) -> dict[str, Any]:
    loaded = yaml.safe_load(path.read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize("path", manifests(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_field_is_one_that_kserve_has(path: Path) -> None:
    manifest = content(path)

    assert unknown(manifest, KINDS[manifest["kind"]], "") == []


def test_a_field_that_kserve_does_not_have_is_found() -> None:
    manifest = content(ROOT / "kserve/models/fraud.yaml")
    manifest["spec"]["predictor"]["model"]["storageURI"] = "s3://x"
    manifest["spec"]["predictor"]["minReplicas"] = "2"

    assert sorted(unknown(manifest, KINDS[manifest["kind"]], "")) == [
        ".spec.predictor.minReplicas is no int",
        ".spec.predictor.model.storageURI is unknown to V1beta1ModelSpec",
    ]


def test_generated_examples_are_current() -> None:
    for name, text in render_examples().items():
        assert (ROOT / name).read_text() == text


def test_an_example_is_a_manifest_that_planes_take() -> None:
    for name in render_examples():
        assert read(content(ROOT / name)).model == Path(name).stem


def test_the_runtime_takes_the_format_that_manifests_name() -> None:
    runtime = content(ROOT / "kserve/runtimes/mlplatform-onnx.yaml")

    assert runtime["metadata"]["name"] == RUNTIME
    assert [f["name"] for f in runtime["spec"]["supportedModelFormats"]] == [MODEL_FORMAT]


def test_the_runtime_is_ready_only_when_the_model_is() -> None:
    [container] = content(ROOT / "kserve/runtimes/mlplatform-onnx.yaml")["spec"]["containers"]

    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/models/{{.Name}}/ready"


def test_a_process_that_cannot_drain_is_not_waited_for() -> None:
    """A pod's 30 s are for what is in flight: there is nothing of it before a model is ready, and
    a process that gives no sign of life brings none of it to an end."""
    [container] = content(ROOT / "kserve/runtimes/mlplatform-onnx.yaml")["spec"]["containers"]

    assert container["startupProbe"]["terminationGracePeriodSeconds"] <= 5
    assert container["livenessProbe"]["terminationGracePeriodSeconds"] <= 5
    assert "terminationGracePeriodSeconds" not in container["readinessProbe"]  # refused there


def test_predictors_are_told_their_level_by_the_runtime_and_no_service_changes_by_it() -> None:
    """A service never changes: one that named its level would keep it as long as it runs."""
    [container] = content(ROOT / "kserve/runtimes/mlplatform-onnx.yaml")["spec"]["containers"]
    told = content(ROOT / "platform/manifests/base/predictors.yaml")
    [variable] = container["env"]
    source = variable["valueFrom"]["configMapKeyRef"]

    assert (variable["name"], source["key"]) == (LOG_LEVEL, LOG_LEVEL)
    assert source["optional"] is True  # without it lines are written from info on
    assert (source["name"], list(told["data"])) == (told["metadata"]["name"], [LOG_LEVEL])
    assert told["metadata"]["namespace"] == "mlplatform-models"
    assert log_level(told["data"]) == "info"
    for name in model_names():
        assert "env" not in example(load_definition(name))["spec"]["predictor"]["model"]


def filled(args: list[str], annotations: dict[str, str]) -> list[str]:
    """As KServe's template fills them from a service's metadata."""
    pattern = re.compile(r"\{\{index \.Annotations `([^`]+)`\}\}")
    return [pattern.sub(lambda found: annotations.get(found[1], ""), arg) for arg in args]


def test_the_runtime_asks_for_the_digest_that_manifests_say() -> None:
    """Of services that run too: they have the annotation, and a runtime may change."""
    [container] = content(ROOT / "kserve/runtimes/mlplatform-onnx.yaml")["spec"]["containers"]
    for name in model_names():
        metadata = example(load_definition(name))["metadata"]
        args = filled(container["args"], metadata["annotations"])
        assert f"--digest={metadata['annotations'][DIGEST_ANNOTATION]}" in args


def test_the_runtime_passes_arguments_that_the_predictor_takes() -> None:
    from mlplatform.scoring.predictor.process import parser

    [container] = content(ROOT / "kserve/runtimes/mlplatform-onnx.yaml")["spec"]["containers"]

    with pytest.raises(SystemExit):  # a placeholder that is left is no digest
        parser().parse_args(container["args"])
    options = parser().parse_args(filled(container["args"], {DIGEST_ANNOTATION: "a" * 64}))
    assert options.digest == "a" * 64
    assert parser().parse_args(filled(container["args"], {})).digest == ""
    assert (options.host, options.port) == ("0.0.0.0", 8080)
    assert re.search(r":[0-9]+\.[0-9]+\.[0-9]+$", container["image"])


def test_no_manifest_splits_traffic() -> None:
    for path in manifests():
        assert not re.search("canary", path.read_text(), re.IGNORECASE)


def runtimes() -> dict[str, dict[str, Any]]:
    return {p.stem: content(p) for p in sorted((ROOT / "kserve/runtimes").glob("*.yaml"))}


def examples() -> dict[str, dict[str, Any]]:
    """One InferenceService for each runtime that is not the platform's own, named as it."""
    return {p.stem: content(p) for p in sorted((ROOT / "kserve/examples").glob("*.yaml"))}


@pytest.mark.parametrize("name", runtimes())
def test_a_runtime_is_taken_only_by_name_and_pinned_to_a_version(name: str) -> None:
    spec = runtimes()[name]["spec"]
    [container] = spec["containers"]

    assert runtimes()[name]["metadata"]["name"] == f"mlplatform-{name.removeprefix('mlplatform-')}"
    assert not any(f["autoSelect"] for f in spec["supportedModelFormats"])
    assert re.fullmatch(r"[a-z]+/[a-z-]+:[0-9]+\.[0-9]+(\.[0-9]+)?(-py3)?", container["image"])


@pytest.mark.parametrize("name", runtimes())
def test_a_runtimes_pods_are_admitted_by_the_restricted_standard(name: str) -> None:
    assert violations(runtimes()[name]["spec"]) == []


@pytest.mark.parametrize("name", runtimes())
def test_a_runtime_is_ready_when_its_model_is_and_writes_nothing_beside_it(name: str) -> None:
    [container] = runtimes()[name]["spec"]["containers"]
    protocol = runtimes()[name]["spec"]["protocolVersions"][0]
    path = {
        "v2": "/v2/models/{{.Name}}/ready",
        "v1": "/v1/models/{{.Name}}",  # TensorFlow Serving answers 404 until a version is served
    }[protocol]

    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": path, "port": 8080}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {"requests", "limits"} == container["resources"].keys()


@pytest.mark.parametrize("name", examples())
def test_an_example_asks_its_runtime_for_what_it_has(name: str) -> None:
    service = examples()[name]
    model = service["spec"]["predictor"]["model"]
    runtime = runtimes()[name]["spec"]

    assert model["runtime"] == f"mlplatform-{name}"
    assert model["protocolVersion"] in runtime["protocolVersions"]
    assert model["modelFormat"] in [
        {"name": f["name"], "version": f["version"]} for f in runtime["supportedModelFormats"]
    ]
    assert model["resources"].keys() == {"requests", "limits"}
    refuse_ignored(service)
    for label in re.findall(r"\{\{\.Labels\.(\w+)\}\}", str(runtime)):
        assert label in service["metadata"]["labels"]


def test_every_other_runtime_has_an_example() -> None:
    assert examples().keys() == runtimes().keys() - {*PREDICTORS}


def test_triton_serves_what_is_laid_out_for_it() -> None:
    """Its model goes by the service's name, which requests and probes use."""
    service = examples()["triton"]
    name = service["metadata"]["name"]
    [container] = runtimes()["triton"]["spec"]["containers"]

    assert "--model-repository=/mnt/models" in container["args"]
    assert service["spec"]["predictor"]["model"]["storageUri"].endswith(f"/{name}")
    fraud = load_definition("fraud")
    assert f'name: "{name}"' in config(fraud, name, len(fraud.inputs))


def test_a_bundles_own_server_gets_a_manifest_that_its_runtime_and_kserve_take() -> None:
    server = ModelServer(
        runtime="mlplatform-mlserver",
        format="xgboost/2",
        storage="s3://models/fraud/3",
        labels={"modelClass": "mlserver_xgboost.XGBoostModel"},
        tolerance=1e-4,
    )
    service = render(load_definition("fraud"), 7, "0" * 64, "pvc://bundles/x", server=server)
    model = service["spec"]["predictor"]["model"]
    runtime = runtimes()["mlserver"]

    assert unknown(service, KINDS["InferenceService"], "") == []
    refuse_ignored(service)
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["modelFormat"] in [
        {"name": f["name"], "version": f["version"]}
        for f in runtime["spec"]["supportedModelFormats"]
    ]
    read_by_runtime = set(re.findall(r"\{\{\.Labels\.(\w+)\}\}", str(runtime)))
    assert read_by_runtime <= service["metadata"]["labels"].keys()


def test_a_manifest_that_asks_for_triton_is_one_that_its_runtime_and_kserve_take() -> None:
    service = render(load_definition("fraud"), 7, "0" * 64, "pvc://bundles/x", triton=True)
    model = service["spec"]["predictor"]["model"]
    runtime = runtimes()["triton"]

    assert unknown(service, KINDS["InferenceService"], "") == []
    refuse_ignored(service)
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["modelFormat"] in [
        {"name": f["name"], "version": f["version"]}
        for f in runtime["spec"]["supportedModelFormats"]
    ]
