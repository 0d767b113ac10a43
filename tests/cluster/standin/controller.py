"""`python -m tests.cluster.standin.controller KUBECONFIG`: reconciles until it is killed."""

from __future__ import annotations

import sys
import time
from typing import Any, Final

from tests.cluster.standin.objects import (
    GATEWAY,
    OF_SERVICE,
    Object,
    Variant,
    autoscaler,
    deployment,
    grpc_port_of,
    network_service,
    routes,
    variants,
)

from mlplatform.rollouts.kubernetes.api import HTTP_ROUTES, KubernetesApi, Resource
from mlplatform.runtime.errors import NotFound, PlatformError

EVERY_S: Final = 0.3
MANAGER: Final = "kserve-standin"
SERVICES: Final = "/apis/serving.kserve.io/v1beta1/inferenceservices"
_SERVING: Final = "/apis/serving.kserve.io/v1alpha1"
RUNTIMES: Final = f"{_SERVING}/clusterservingruntimes"
MADE: Final = {
    "Deployment": Resource("apps/v1", "deployments"),
    "Service": Resource("v1", "services"),
    "HorizontalPodAutoscaler": Resource("autoscaling/v2", "horizontalpodautoscalers"),
    "HTTPRoute": HTTP_ROUTES,
}


def main() -> None:
    """Everything again and again: a few services at most, and no cache to be wrong."""
    api = KubernetesApi.connect(sys.argv[1])
    seen: dict[str, str] = {}
    while True:
        try:
            found = api.items(SERVICES)
        except PlatformError as error:
            print(f"services: {error}", flush=True)
            found = []
        for service in found:
            name = service["metadata"]["name"]
            try:
                reconcile(api, service)
                problem = ""
            except PlatformError as error:
                problem = str(error)
            if seen.get(name) != problem:
                print(f"{name}: {problem or 'reconciled'}", flush=True)
            seen[name] = problem
        time.sleep(EVERY_S)


def reconcile(api: KubernetesApi, service: Object) -> None:
    """Make what a service asks for, in KServe's order: what is superfluous goes first.

    A canary's Service is deleted before the route that sends traffic to it is written anew: whoever
    drops a canary that still has traffic loses requests, here as there.
    """
    if service["metadata"].get("deletionTimestamp"):
        return
    try:
        runtime = _runtime(api, service)
    except NotFound as error:
        _write_status(api, service, _invalid(str(error)))
        return
    wanted = variants(service)
    _delete_others(api, service, {v.name for v in wanted})
    for variant in wanted:
        for made in _objects(service, variant, runtime):
            _apply(api, made)
    found = {v.name: _available(api, service, v) for v in wanted}
    if found[wanted[0].name]:
        unready = frozenset(v.canary for v in wanted[1:] if v.canary and not found[v.name])
        port = grpc_port_of(network_service(service, wanted[0], runtime))
        for route in routes(service, port, unready):
            _apply(api, route)
    _write_status(api, service, _status(api, service, wanted))


def _runtime(api: KubernetesApi, service: Object) -> Object:
    """The one of the service's namespace, where there is one; else the cluster's."""
    model, namespace = service["spec"]["predictor"]["model"], service["metadata"]["namespace"]
    own = f"{_SERVING}/namespaces/{namespace}/servingruntimes/{model['runtime']}"
    runtime = api.find(own) or api.find(f"{RUNTIMES}/{model['runtime']}")
    if runtime is None:
        raise NotFound("Waiting for runtime to become available")
    if model.get("protocolVersion", "v1") not in runtime["spec"]["protocolVersions"]:
        raise NotFound("Specified runtime does not support specified protocol version")
    formats = {f["name"] for f in runtime["spec"]["supportedModelFormats"]}
    if model["modelFormat"]["name"] not in formats:
        raise NotFound("Specified runtime does not support specified framework/version")
    return runtime


def _available(api: KubernetesApi, service: Object, variant: Variant) -> bool:
    path = MADE["Deployment"].path(service["metadata"]["namespace"], variant.name)
    return bool(api.get(path).get("status", {}).get("availableReplicas", 0))


def _objects(service: Object, variant: Variant, runtime: Object) -> list[Object]:
    made = [deployment(service, variant, runtime), network_service(service, variant, runtime)]
    scaler = autoscaler(service, variant, runtime)
    return made if scaler is None else [*made, scaler]


def _apply(api: KubernetesApi, made: Object) -> None:
    metadata = made["metadata"]
    path = MADE[made["kind"]].path(metadata["namespace"], metadata["name"])
    api.apply(path, made, force=True, manager=MANAGER)


def _delete_others(api: KubernetesApi, service: Object, names: set[str]) -> None:
    metadata = service["metadata"]
    for kind in ("Deployment", "Service"):
        resource = MADE[kind]
        chosen = f"{OF_SERVICE}={metadata['name']}"
        for made in api.items(resource.path(metadata["namespace"]), labelSelector=chosen):
            if made["metadata"]["name"] not in names:
                api.delete(resource.path(metadata["namespace"], made["metadata"]["name"]))


def _status(api: KubernetesApi, service: Object, wanted: list[Variant]) -> Object:
    metadata = service["metadata"]
    namespace, name = metadata["namespace"], metadata["name"]
    found = {v.name: api.get(MADE["Deployment"].path(namespace, v.name)) for v in wanted}
    predictor = _predictor_condition(found[wanted[0].name])
    ingress = _ingress_condition(api, service)
    bad = next((c for c in (predictor, ingress) if c["status"] != "True"), None)
    ready = {"type": "Ready", "status": "True"} if bad is None else {**bad, "type": "Ready"}
    canaries = [
        {
            "name": v.canary,
            "ready": found[v.name].get("status", {}).get("availableReplicas", 0) > 0,
            "trafficPercent": v.percent,
        }
        for v in wanted[1:]
    ]
    status: Object = {
        "conditions": [predictor, ingress, ready],
        "deploymentMode": "Standard",
        "canaryStatuses": canaries,
        "modelStatus": {"transitionStatus": "UpToDate" if bad is None else "InProgress"},
        # Not this object's generation: KServe and this stand-in write its Deployment's here.
        "observedGeneration": found[wanted[0].name]["metadata"]["generation"],
    }
    if canaries:
        all_ready = all(c["ready"] for c in canaries)
        reason = "AllCanariesReady" if all_ready else "CanariesNotReady"
        condition = {"type": "CanaryPredictorReady", "status": str(all_ready), "reason": reason}
        status["conditions"].append({**condition, "severity": "Info"})
    if bad is None:
        host = f"{wanted[0].name}.{namespace}.svc.cluster.local"
        status["address"] = {"url": f"http://{host}"}
        status["url"] = (
            f"http://{name}-{namespace}.example.com" if routes(service) else f"http://{host}"
        )
    return status


def _predictor_condition(made: Object) -> Object:
    told = {c["type"]: c for c in made.get("status", {}).get("conditions", [])}
    available = told.get("Available")
    if available is None:
        return {"type": "PredictorReady", "status": "Unknown", "reason": "Deploying"}
    said = {key: available[key] for key in ("status", "reason", "message") if key in available}
    return {"type": "PredictorReady", **said}


def _ingress_condition(api: KubernetesApi, service: Object) -> Object:
    """As KServe says it: a route counts when a gateway has accepted it."""
    for route in routes(service):
        metadata = route["metadata"]
        found = api.find(HTTP_ROUTES.path(metadata["namespace"], metadata["name"]))
        if found is None:
            return {
                "type": "IngressReady",
                "status": "False",
                "reason": "Predictor Deployment NotReady",
                "message": "Predictor HTTPRoute not created",
            }
        parents = found.get("status", {}).get("parents", [])
        accepted = any(
            c["type"] == "Accepted" and c["status"] == "True"
            for p in parents
            if p["parentRef"]["name"] == GATEWAY["name"]
            for c in p["conditions"]
        )
        if not accepted:
            return {
                "type": "IngressReady",
                "status": "False",
                "reason": "ParentStatusNotAvailable",
                "message": "Predictor HttpRouteNotReady",
            }
    return {"type": "IngressReady", "status": "True"}


def _invalid(message: str) -> Object:
    told = {"reason": "NoSupportingRuntime", "message": message}
    return {
        "conditions": [
            {"type": "PredictorReady", "status": "Unknown"},
            {"type": "IngressReady", "status": "Unknown"},
            {"type": "Ready", "status": "Unknown"},
        ],
        "modelStatus": {"transitionStatus": "InvalidSpec", "lastFailureInfo": told},
    }


def _write_status(api: KubernetesApi, service: Object, status: Object) -> None:
    if _same(service.get("status", {}), status):
        return
    metadata = service["metadata"]
    resource = Resource("serving.kserve.io/v1beta1", "inferenceservices")
    try:
        path = resource.path(metadata["namespace"], metadata["name"])
        api.merge(f"{path}/status", {"status": status})
    except NotFound:
        return


def _same(present: Any, wanted: Object) -> bool:
    return all(present.get(key) == value for key, value in wanted.items())


if __name__ == "__main__":
    main()
