"""What lies in kserve/ is what the installed KServe package understands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlplatform.serving.manifest import MODEL_FORMAT, RUNTIME, read, render_examples
from support.manifest_schemas import unknown

ROOT = Path(__file__).parents[2]
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


def test_the_runtime_passes_arguments_that_the_predictor_takes() -> None:
    from mlplatform.predictor.__main__ import parser

    [container] = content(ROOT / "kserve/runtimes/mlplatform-onnx.yaml")["spec"]["containers"]

    options = parser().parse_args(container["args"])
    assert (options.host, options.port) == ("0.0.0.0", 8080)
    assert re.search(r":[0-9]+\.[0-9]+\.[0-9]+$", container["image"])


def test_no_manifest_splits_traffic() -> None:
    for path in manifests():
        assert not re.search("canary", path.read_text(), re.IGNORECASE)
