"""`python -m tests.cluster.standin.gateway KUBECONFIG FOLDER`: HTTPRoutes to Envoy, and back.

A gateway controller in small: Envoy is the real one. It says that it follows a route once Envoy
itself says that it routes by it.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

from tests.cluster.standin import envoy

from mlplatform.rollouts.kubernetes.api import HTTP_ROUTES, SERVICES, KubernetesApi
from mlplatform.runtime.errors import NotFound, PlatformError

EVERY_S: Final = 0.2
NAMESPACE: Final = "edge"
NAME: Final = "public"
FOLLOWED: Final = frozenset({(NAMESPACE, NAME), ("kserve", "kserve-ingress-gateway")})
"""Ours, and the one that KServe's own routes name: both are this Envoy."""
PORT: Final = 8000
ADMIN_PORT: Final = 9901
CONTROLLER: Final = "mlplatform.test/gateway"
ALL_ROUTES: Final = "/apis/gateway.networking.k8s.io/v1/httproutes"
SLICES: Final = "/apis/discovery.k8s.io/v1/endpointslices"

Object = dict[str, Any]


def main() -> None:
    api, folder = KubernetesApi.connect(sys.argv[1]), Path(sys.argv[2])
    translator = Translator(folder)
    while True:
        try:
            follow(api, translator)
        except (PlatformError, OSError) as error:
            print(f"gateway: {error}", flush=True)
        time.sleep(EVERY_S)


def follow(api: KubernetesApi, translator: Translator) -> None:
    """Endpoints and routes to Envoy; then what has become of them to each route's status."""
    routes = [route for route in api.items(ALL_ROUTES) if _is_ours(route)]
    lost = {_key(route): _lost(api, route) for route in routes}
    names = {envoy.cluster_name(r, b): b for r in routes for b in envoy.backends(r)}
    slices = api.items(SLICES)
    where = {name: _addresses(name, slices) for name in names}
    applied = translator.write(routes, where)
    for route in routes:
        if applied:
            _write_status(api, route, lost[_key(route)])


class Translator:
    """Writes Envoy's files, each whole and only when it changes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: dict[str, str] = {}

    def write(self, routes: list[Object], where: dict[str, set[envoy.Address]]) -> bool:
        """Whether Envoy routes by these by now.

        Backends and their endpoints come before the routes that use them: a service that
        was ready for an earlier route would else get requests of this one.
        """
        for name, addresses in where.items():
            self._put(f"endpoints-{name}.json", envoy.endpoints(name, addresses))
        text = json.dumps([(_key(r), r["metadata"]["generation"]) for r in routes])
        kept = set(where) | self._clusters()
        self._put("clusters.json", envoy.clusters(kept, self._folder, json.dumps(sorted(kept))))
        if not set(where) <= self._clusters():
            return False
        hosts = _hosts()
        if any(hosts.get(name, set()) != addresses for name, addresses in where.items()):
            return False
        self._put("routes.json", envoy.routes(routes, text))
        return _said("dynamic_route_configs", "version_info") == {text}

    def _clusters(self) -> set[str]:
        """What Envoy has ready. A cluster that no route uses any more is kept: the requests in
        flight there are to end."""
        return _said("dynamic_active_clusters", "cluster", "name")

    def _put(self, name: str, content: Object) -> None:
        text = json.dumps(content)
        if self._written.get(name) == text:
            return
        draft = self._folder / f".{name}"
        draft.write_text(text)
        draft.rename(self._folder / name)
        self._written[name] = text


def _said(resource: str, *keys: str) -> set[str]:
    """Values of this kind in what Envoy says of itself."""
    found: list[Any] = _admin(f"config_dump?resource={resource}").get("configs", [])
    for key in keys:
        found = [item[key] for item in found if key in item]
    return set(found)


def _hosts() -> dict[str, set[envoy.Address]]:
    """Where Envoy reaches each of its backends now."""
    found: dict[str, set[envoy.Address]] = {}
    for each in _admin("clusters?format=json").get("cluster_statuses", []):
        places = [h["address"]["socket_address"] for h in each.get("host_statuses", [])]
        found[each["name"]] = {(p["address"], p["port_value"]) for p in places}
    return found


def _admin(path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{ADMIN_PORT}/{path}", timeout=5) as answer:
        return json.load(answer)


def _is_ours(route: Object) -> bool:
    return any(_names_us(p) for p in route["spec"].get("parentRefs", []))


def _names_us(parent: Object) -> bool:
    return (parent.get("namespace"), parent["name"]) in FOLLOWED


def _key(route: Object) -> str:
    return f"{route['metadata']['namespace']}/{route['metadata']['name']}"


def _lost(api: KubernetesApi, route: Object) -> list[str]:
    """Backends whose Service is not there."""
    namespace = route["metadata"]["namespace"]
    names = {(b.get("namespace", namespace), b["name"]) for b in envoy.backends(route)}
    return sorted(name for space, name in names if api.find(SERVICES.path(space, name)) is None)


def _addresses(name: str, slices: list[Object]) -> set[envoy.Address]:
    """The ready endpoints of a backend. A Service's port 80 is the one that is called http1."""
    namespace, service, number = name.split(".")
    found = set()
    for each in slices:
        metadata = each["metadata"]
        labels = metadata.get("labels", {})
        if (metadata["namespace"], labels.get("kubernetes.io/service-name")) != (
            namespace,
            service,
        ):
            continue
        named = {p["name"]: p["port"] for p in each["ports"]}
        port = named.get("http1", 0) if number == "80" else int(number)
        ready = [e for e in each["endpoints"] or [] if e.get("conditions", {}).get("ready", True)]
        found |= {(address, port) for e in ready for address in e["addresses"]}
    return found


def _write_status(api: KubernetesApi, route: Object, lost: list[str]) -> None:
    metadata = route["metadata"]
    generation = metadata["generation"]
    told = [
        p
        for p in route.get("status", {}).get("parents", [])
        if p["controllerName"] == CONTROLLER
        and all(c["observedGeneration"] == generation for c in p["conditions"])
    ]
    wanted = ["Accepted", *([] if lost else ["ResolvedRefs"])]
    holds = [c["type"] for p in told for c in p["conditions"] if c["status"] == "True"]
    if holds == wanted:
        return
    status = {"parents": [_parent(p, generation, lost) for p in route["spec"]["parentRefs"]]}
    try:
        path = HTTP_ROUTES.path(metadata["namespace"], metadata["name"])
        api.merge(f"{path}/status", {"status": status})
    except NotFound:
        return


def _parent(reference: Object, generation: int, lost: list[str]) -> Object:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    message = f"no Service {', '.join(lost)}" if lost else ""
    facts = (
        ("Accepted", True, "Accepted", ""),
        ("ResolvedRefs", not lost, "BackendNotFound" if lost else "ResolvedRefs", message),
    )
    conditions = [
        {
            "type": kind,
            "status": str(holds),
            "reason": reason,
            "message": text,
            "observedGeneration": generation,
            "lastTransitionTime": now,
        }
        for kind, holds, reason, text in facts
    ]
    return {"parentRef": reference, "controllerName": CONTROLLER, "conditions": conditions}


if __name__ == "__main__":
    main()
