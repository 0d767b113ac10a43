"""What KServe makes of an InferenceService in Standard mode, and of its runtime; pure."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

Object = dict[str, Any]

CONTAINER: Final = "kserve-container"
VISIBILITY: Final = "networking.kserve.io/visibility"
AUTOSCALER: Final = "serving.kserve.io/autoscalerClass"
OF_SERVICE: Final = "serving.kserve.io/inferenceservice"
SOURCE: Final = "internal.serving.kserve.io/storage-initializer-sourceuri"
DOMAIN: Final = "example.com"
GATEWAY: Final = {
    "group": "gateway.networking.k8s.io",
    "kind": "Gateway",
    "name": "kserve-ingress-gateway",
    "namespace": "kserve",
}
IN_MODEL: Final = {
    "modelFormat",
    "runtime",
    "protocolVersion",
    "storageUri",
    "storage",
    "runtimeVersion",
}
"""Keys of `predictor.model` that are about the model; the others are a container's."""
OF_COMPONENT: Final = {
    *("model", "minReplicas", "maxReplicas", "labels", "annotations", "deploymentStrategy", "name"),
    *("scaleTarget", "scaleMetric", "canaryTrafficPercent", "containerConcurrency", "timeout"),
}
"""Keys of `predictor` that are KServe's; the others are a pod's."""


@dataclass(frozen=True, slots=True)
class Variant:
    """The stable predictor, or a canary beside it."""

    name: str
    predictor: Object
    percent: int
    canary: str | None = None


def variants(service: Object) -> list[Variant]:
    """Stable first; the canaries' percents are taken from its hundred.

    A predictor that was promoted under a canary's name keeps that name, and so its pods.
    """
    name, spec = service["metadata"]["name"], service["spec"]
    canaries = spec.get("canary", [])
    rest = 100 - sum(c["trafficPercent"] for c in canaries)
    own = spec["predictor"].get("name")
    stable = Variant(
        f"{name}-{own}-predictor" if own else f"{name}-predictor", spec["predictor"], rest
    )
    return [stable, *(_canary(name, spec["predictor"], c) for c in canaries)]


def _canary(service: str, stable: Object, canary: Object) -> Variant:
    own = canary["predictor"]
    merged = {**stable, **own, "model": {**stable["model"], **own.get("model", {})}}
    merged.pop("maxReplicas", None)
    return Variant(
        f"{service}-{own['name']}-predictor", merged, canary["trafficPercent"], own["name"]
    )


def deployment(service: Object, variant: Variant, runtime: Object) -> Object:
    """The Deployment of a variant."""
    metadata = _metadata(service, variant, runtime)
    spec: Object = {
        "selector": {"matchLabels": {"app": f"isvc.{variant.name}"}},
        "progressDeadlineSeconds": 600,
        "revisionHistoryLimit": 10,
        "strategy": variant.predictor.get("deploymentStrategy", _ROLLING),
        "template": {
            "metadata": {
                "labels": {**metadata["labels"], "app": f"isvc.{variant.name}"},
                "annotations": metadata["annotations"],
            },
            "spec": _pod(service, variant, runtime),
        },
    }
    if service["metadata"].get("annotations", {}).get(AUTOSCALER) == "none":
        spec["replicas"] = variant.predictor.get("minReplicas", 1)
    metadata["labels"]["app"] = f"isvc.{variant.name}"
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def network_service(service: Object, variant: Variant, runtime: Object) -> Object:
    """The Service of a variant: the first port at 80, the others at their own."""
    metadata = _metadata(service, variant, runtime)
    metadata["labels"]["app"] = f"isvc.{variant.name}"
    [container] = _pod(service, variant, runtime)["containers"]
    ports = []
    for number, port in enumerate(container["ports"]):
        made = {
            "name": port["name"],
            "port": port["containerPort"] if number else 80,
            "targetPort": port["containerPort"],
            "protocol": port.get("protocol", "TCP"),
        }
        if "grpc" in port["name"] or "h2c" in port["name"]:
            made["appProtocol"] = "kubernetes.io/h2c"
        ports.append(made)
    spec = {"selector": {"app": f"isvc.{variant.name}"}, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def autoscaler(service: Object, variant: Variant, runtime: Object) -> Object | None:
    """The HorizontalPodAutoscaler of a variant; None where the service asks for none."""
    if service["metadata"].get("annotations", {}).get(AUTOSCALER) in ("none", "external"):
        return None
    low = variant.predictor.get("minReplicas", 1)
    target = {"type": "Utilization", "averageUtilization": variant.predictor.get("scaleTarget", 80)}
    metadata = _metadata(service, variant, runtime)
    metadata["labels"]["app"] = f"isvc.{variant.name}"
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata,
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": variant.name},
            "minReplicas": low,
            "maxReplicas": max(low, variant.predictor.get("maxReplicas", low)),
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    }


def routes(
    service: Object, grpc_port: int | None = None, unready: frozenset[str] = frozenset()
) -> list[Object]:
    """Its HTTPRoutes; none where it is to be seen inside the cluster alone.

    Args:
        grpc_port: of the predictor's Service; None: it has none (`grpc_port_of`).
        unready: canaries that get nothing yet; the stable predictor has their share.
    """
    if service["metadata"].get("labels", {}).get(VISIBILITY) == "cluster-local":
        return []
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    shares = _shares(service, unready)
    rules = [_rule(service, shares, _EVERYTHING, 80)]
    if grpc_port is not None:
        rules.insert(0, _rule(service, shares, _GRPC, grpc_port))
    return [
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {**_owned(service), "name": host},
            "spec": {
                "hostnames": [f"{host}-{namespace}.{DOMAIN}"],
                "parentRefs": [GATEWAY],
                "rules": rules,
            },
        }
        for host in (f"{name}-predictor", name)
    ]


def grpc_port_of(network_service: Object) -> int | None:
    """The port that gets a rule of its own."""
    marked = [p["port"] for p in network_service["spec"]["ports"] if p.get("appProtocol")]
    return marked[0] if marked else None


def _shares(service: Object, unready: frozenset[str]) -> dict[str, int]:
    """Backend → weight; where nothing is split, the one that an API server fills in."""
    stable, *canaries = variants(service)
    if not canaries:
        return {stable.name: 1}
    ready = [canary for canary in canaries if canary.canary not in unready]
    rest = 100 - sum(canary.percent for canary in ready)
    return {stable.name: rest} | {canary.name: canary.percent for canary in ready}


_EVERYTHING: Final = {"path": {"type": "RegularExpression", "value": "^/.*$"}}
_GRPC: Final = {
    "path": {"type": "RegularExpression", "value": "^/inference\\.GRPCInferenceService/.*$"},
    "headers": [
        {"type": "RegularExpression", "name": "content-type", "value": "^application/grpc.*"}
    ],
}


def _rule(service: Object, shares: dict[str, int], match: Object, port: int) -> Object:
    namespace = service["metadata"]["namespace"]
    headers = [
        {"name": "KServe-Isvc-Name", "value": service["metadata"]["name"]},
        {"name": "KServe-Isvc-Namespace", "value": namespace},
    ]
    backend = {"group": "", "kind": "Service", "namespace": namespace, "port": port}
    return {
        "backendRefs": [{**backend, "name": n, "weight": share} for n, share in shares.items()],
        "filters": [
            {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": headers}},
        ],
        "matches": [match],
        "timeouts": {"request": "60s"},
    }


def _metadata(service: Object, variant: Variant, runtime: Object) -> Object:
    own = service["metadata"]
    uri = variant.predictor["model"].get("storageUri")
    annotations = {
        **runtime["spec"].get("annotations", {}),
        **_annotations(own),
        **({SOURCE: uri} if uri else {}),
        **variant.predictor.get("annotations", {}),
    }
    labels = {
        **runtime["spec"].get("labels", {}),
        **own.get("labels", {}),
        **variant.predictor.get("labels", {}),
        OF_SERVICE: own["name"],
        "component": "predictor",
    }
    return {**_owned(service), "name": variant.name, "labels": labels, "annotations": annotations}


def _annotations(metadata: Object) -> Object:
    return {
        k: v
        for k, v in metadata.get("annotations", {}).items()
        if k != "kubectl.kubernetes.io/last-applied-configuration" and k != "modelFormat"
    }


def _owned(service: Object) -> Object:
    own = service["metadata"]
    owner = {
        "apiVersion": service["apiVersion"],
        "kind": service["kind"],
        "name": own["name"],
        "uid": own.get("uid", ""),
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "namespace": own["namespace"],
        "ownerReferences": [owner],
        "annotations": {"serving.kserve.io/deploymentMode": "Standard"},
    }


def _pod(service: Object, variant: Variant, runtime: Object) -> Object:
    model = variant.predictor["model"]
    [base] = [c for c in runtime["spec"]["containers"] if c["name"] == CONTAINER]
    container = _merged(base, {k: v for k, v in model.items() if k not in IN_MODEL and v != ""})
    container = json.loads(_filled(json.dumps(container), service["metadata"]))
    mark = {"name": "INFERENCE_SERVICE_NAME", "value": service["metadata"]["name"]}
    container["env"] = [*container.get("env", []), mark]
    container.setdefault("imagePullPolicy", "IfNotPresent")
    runtime_pod = {k: v for k, v in runtime["spec"].items() if k not in _OF_RUNTIME}
    own_pod = {k: v for k, v in variant.predictor.items() if k not in OF_COMPONENT}
    pod = {"terminationGracePeriodSeconds": 30, **runtime_pod, **own_pod, "containers": [container]}
    _mount(pod, container, model.get("storageUri", ""))
    return pod


def _filled(text: str, metadata: Object) -> str:
    """A runtime's container with what it asks of the service's metadata, as KServe's template
    writes it: an annotation that is not there is empty."""
    annotations = metadata.get("annotations", {})
    text = text.replace("{{.Name}}", metadata["name"])
    return _ANNOTATION.sub(lambda found: annotations.get(found[1], ""), text)


_ANNOTATION: Final = re.compile(r"\{\{index \.Annotations `([^`]+)`\}\}")
_OF_RUNTIME: Final = {
    *("annotations", "labels", "supportedModelFormats", "protocolVersions", "containers"),
    *("multiModel", "disabled", "grpcEndpoint", "grpcDataEndpoint"),
}
_ROLLING: Final = {
    "type": "RollingUpdate",
    "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
}


def _merged(base: Object, own: Mapping[str, Any]) -> Object:
    """The runtime's container with the service's own settings over it; arguments add up."""
    merged = copy.deepcopy(base)
    for key, value in own.items():
        if key == "args":
            merged["args"] = [*merged.get("args", []), *value]
        elif key == "env":
            taken = {e["name"] for e in value}
            merged["env"] = [*(e for e in merged.get("env", []) if e["name"] not in taken), *value]
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = (
                {**merged[key], **value} if key != "resources" else _resources(merged[key], value)
            )
        else:
            merged[key] = value
    return merged


def _resources(base: Object, own: Object) -> Object:
    return {k: {**base.get(k, {}), **own.get(k, {})} for k in {*base, *own}}


def _mount(pod: Object, container: Object, uri: str) -> None:
    """Claims are mounted, as KServe's webhook does; other schemes need its storage initializer."""
    if not uri.startswith("pvc://"):
        return
    claim, _, path = uri.removeprefix("pvc://").partition("/")
    volume = {"name": "kserve-pvc-source", "persistentVolumeClaim": {"claimName": claim}}
    pod["volumes"] = [*pod.get("volumes", []), volume]
    mount = {
        "name": "kserve-pvc-source",
        "mountPath": "/mnt/models",
        "readOnly": True,
        "subPath": path,
    }
    container["volumeMounts"] = [*container.get("volumeMounts", []), mount]
