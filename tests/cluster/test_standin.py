"""The stand-in makes what KServe's own controller makes."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from tests.cluster.layout import ROOT
from tests.cluster.standin.objects import (
    autoscaler,
    deployment,
    network_service,
    routes,
    variants,
)

RECORDINGS = ROOT.parent / "shared" / "recipes" / "controlplane" / "recordings"

LIMITS = {"cpu": "500m", "memory": "256Mi", "nvidia.com/gpu": "1"}
REQUESTS = {"cpu": "50m", "memory": "64Mi", "nvidia.com/gpu": "1"}
RUNTIME: dict[str, Any] = {
    "metadata": {"name": "fraud-runtime"},
    "spec": {
        "supportedModelFormats": [{"name": "fraud-onnx"}],
        "protocolVersions": ["v2"],
        "containers": [
            {
                "name": "kserve-container",
                "image": "mlpc.local/oip:1",
                "command": ["python3", "/app/server.py"],
                "args": ["--model_name={{.Name}}", "--model_dir=/mnt/models"],
                "env": [
                    {"name": "MODEL_NAME", "value": "{{.Name}}"},
                    {"name": "MODEL_VERSION", "value": "7"},
                ],
                "ports": [{"name": "http1", "containerPort": 8080, "protocol": "TCP"}],
                "readinessProbe": {
                    "httpGet": {"path": "/v2/models/{{.Name}}/ready", "port": 8080},
                    "periodSeconds": 1,
                },
                "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
            }
        ],
    },
}


def service(*, canary_percent: int | None = None, **labels: str) -> dict[str, Any]:
    model = {
        "modelFormat": {"name": "fraud-onnx"},
        "runtime": "fraud-runtime",
        "protocolVersion": "v2",
        "name": "",
        "storageUri": "pvc://models/fraud/7",
        "resources": {"limits": LIMITS, "requests": REQUESTS},
    }
    spec: dict[str, Any] = {
        "predictor": {
            "automountServiceAccountToken": False,
            "minReplicas": 1,
            "maxReplicas": 2,
            "model": model,
        }
    }
    if canary_percent is not None:
        own = {
            "storageUri": "pvc://models/fraud/8",
            "env": [{"name": "MODEL_VERSION", "value": "8"}],
        }
        predictor = {"name": "v8", "minReplicas": 1, "model": {**model, **own}}
        spec["canary"] = [{"trafficPercent": canary_percent, "predictor": predictor}]
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": "fraud",
            "namespace": "ml",
            "uid": "u",
            "labels": labels,
            "annotations": {
                "modelFormat": "fraud-onnx",
                "serving.kserve.io/deploymentMode": "Standard",
            },
        },
        "spec": spec,
    }


def made(canary_percent: int | None = 25) -> dict[str, dict[str, Any]]:
    """File name of a recording → what the stand-in makes in its place."""
    source = service(canary_percent=canary_percent)
    found: dict[str, dict[str, Any]] = {}
    for variant in variants(source):
        found[f"deploy-{variant.name}"] = deployment(source, variant, RUNTIME)
        found[f"svc-{variant.name}"] = network_service(source, variant, RUNTIME)
        scaler = autoscaler(source, variant, RUNTIME)
        assert scaler is not None
        found[f"hpa-{variant.name}"] = scaler
    for route in routes(source):
        found[f"httproute-{route['metadata']['name']}"] = route
    return found


def differences(made: Any, recorded: Any, path: str = "") -> list[str]:
    """What was made and stands otherwise in the recording, which has the server's defaults too."""
    if isinstance(made, dict):
        if not isinstance(recorded, dict):
            return [f"{path} is {recorded!r}"]
        pairs = [(f"{path}.{k}", v, recorded.get(k)) for k, v in made.items()]
    elif isinstance(made, list):
        if not isinstance(recorded, list) or len(made) != len(recorded):
            return [f"{path} is {recorded!r}, made {made!r}"]
        pairs = [
            (f"{path}[{n}]", a, b) for n, (a, b) in enumerate(zip(made, recorded, strict=True))
        ]
    else:
        return [] if made == recorded else [f"{path} is {recorded!r}, made {made!r}"]
    return [d for where, a, b in pairs for d in differences(a, b, where)]


@pytest.mark.parametrize("name", sorted(made()))
def test_it_makes_what_the_real_controller_made(name: str) -> None:
    path = RECORDINGS / f"{name}.json"
    if not RECORDINGS.is_dir():
        pytest.skip(f"NOT COMPARED WITH THE REAL CONTROLLER'S OBJECTS: {RECORDINGS} is not here")
    if not path.exists():
        pytest.skip(f"the real controller's {name} was not recorded")
    recorded = json.loads(path.read_text())
    own = made()[name]
    if name.startswith("deploy-"):
        # A webhook of KServe's adds the volume to each pod; the stand-in has none and does it here.
        own["spec"]["template"]["spec"].pop("volumes")
        own["spec"]["template"]["spec"]["containers"][0].pop("volumeMounts")
    for owner in own["metadata"]["ownerReferences"]:
        owner.pop("uid")

    assert differences(own, recorded) == []


def test_the_comparison_finds_a_difference() -> None:
    assert differences({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}], "c": 4}) == [
        ".a[1].b is 3, made 2"
    ]


def test_weights_are_the_canaries_and_what_they_leave() -> None:
    [rule] = made(25)["httproute-fraud"]["spec"]["rules"]

    weights = {b["name"]: b["weight"] for b in rule["backendRefs"]}
    assert weights == {"fraud-predictor": 75, "fraud-v8-predictor": 25}


def test_a_canary_differs_from_the_stable_predictor_in_what_it_says() -> None:
    found = made()["deploy-fraud-v8-predictor"]["spec"]["template"]["spec"]

    [container] = found["containers"]
    environment = {e["name"]: e["value"] for e in container["env"]}
    assert environment == {
        "MODEL_NAME": "fraud",
        "MODEL_VERSION": "8",
        "INFERENCE_SERVICE_NAME": "fraud",
    }
    assert container["volumeMounts"][0]["subPath"] == "fraud/8"


def test_a_cluster_local_service_gets_no_route() -> None:
    label = {"networking.kserve.io/visibility": "cluster-local"}

    assert routes(service(**label)) == []


def test_a_second_port_keeps_its_number_and_grpc_is_marked_as_http2() -> None:
    runtime = json.loads(json.dumps(RUNTIME))
    runtime["spec"]["containers"][0]["ports"].append({"name": "grpc-port", "containerPort": 8081})
    source = service()
    [variant] = variants(source)

    ports = network_service(source, variant, runtime)["spec"]["ports"]

    assert [(p["port"], p["targetPort"], p.get("appProtocol")) for p in ports] == [
        (80, 8080, None),
        (8081, 8081, "kubernetes.io/h2c"),
    ]


def test_without_an_autoscaler_the_replicas_are_written() -> None:
    source = service()
    source["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] = "none"
    [variant] = variants(source)

    assert autoscaler(source, variant, RUNTIME) is None
    assert deployment(source, variant, RUNTIME)["spec"]["replicas"] == 1


def test_it_fills_a_runtime_with_the_annotations_of_a_service() -> None:
    """As KServe's template does: one that is not there is empty."""
    runtime, source = copy.deepcopy(RUNTIME), service()
    source["metadata"]["annotations"]["team/for"] = "a"
    asked = ("--for={{index .Annotations `team/for`}}", "--no={{index .Annotations `no`}}")
    runtime["spec"]["containers"][0]["args"] = list(asked)
    [variant] = variants(source)
    pod = deployment(source, variant, runtime)["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"] == ["--for=a", "--no="]
