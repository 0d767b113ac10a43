"""The HTTPRoute of a model's raw callers, and whether it may be written now: pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from mlplatform.model.definition import dns_name
from mlplatform.model.routes import VERSION_HEADER, Arm, Routes
from mlplatform.rollouts.serving.manifest import MODEL_LABEL
from mlplatform.runtime.configuration.entrance import Entrance
from mlplatform.runtime.errors import ConfigInvalid

API_VERSION: Final = "gateway.networking.k8s.io/v1"
GROUP: Final = "gateway.networking.k8s.io"
GENERATION: Final = "mlplatform/routes-generation"
"""Annotation with the generation of the routes that an HTTPRoute shows. It never decreases."""
ANSWERED_BY: Final = "mlplatform-answered-by"
"""Header of a mirrored request and of its copy: the service that answers. A service of another name
that receives the header has received the copy. On other requests it is removed, because no caller
may set it."""
HTTP_PORT: Final = 80

Object = dict[str, Any]


def route_name(model: str) -> str:
    """The name of the HTTPRoute of a model's raw callers."""
    return f"{dns_name(model)}-raw-callers"


@dataclass(frozen=True, slots=True)
class RouteObservation:
    """A route as it is in the cluster.

    Args:
        generation: generation of the routes from which it was rendered.
        services: all services that the route may send a request or a copy to.
        version: resourceVersion of the object; a write requires that it has not changed.
        problem: reason why the Gateway does not follow this spec yet; empty if it does.
    """

    generation: int
    services: frozenset[str]
    spec: Object
    version: str
    problem: str


@dataclass(frozen=True, slots=True)
class Write:
    """Write the route; `version` is that of the object that the decision was based on, None if
    there was none."""

    body: Object
    version: str | None


@dataclass(frozen=True, slots=True)
class Keep:
    """Leave the route; it is as it should be."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait, because the route can't be changed now; the reason says for what."""

    reason: str


def render(routes: Routes, entrance: Entrance) -> Object | None:
    """The HTTPRoute that routes raw callers as these routes do the gateway's callers; None without
    a champion.

    It holds every field that an API server would fill in, so that it can be compared with what is
    there. Its shares are of requests, because an HTTPRoute knows no customers.
    """
    if routes.champion is None:
        return None
    parent = {"group": GROUP, "kind": "Gateway"}
    return {
        "apiVersion": API_VERSION,
        "kind": "HTTPRoute",
        "metadata": {
            "name": route_name(routes.model),
            "labels": {MODEL_LABEL: routes.model},
            "annotations": {GENERATION: str(routes.generation)},
        },
        "spec": {
            "parentRefs": [{**parent, "name": entrance.gateway, "namespace": entrance.namespace}],
            "hostnames": [f"{dns_name(routes.model)}.{entrance.domain}"],
            # Testers' rules win wherever they stand, because they match a header. Envoy Gateway
            # names a rule's cluster by its place, and removes clusters before routes. So
            # everybody's rule keeps its place in all phases; otherwise a step back loses requests.
            "rules": [_everybody(routes, routes.champion), *_tester_rules(routes)],
        },
    }


def read(route: Object) -> RouteObservation:
    """The observation of a route in the cluster.

    Raises:
        ConfigInvalid: somebody else made the route, because it has no generation of the platform.
    """
    metadata = route["metadata"]
    written = (metadata.get("annotations") or {}).get(GENERATION, "")
    if not written.isdecimal():
        key = f"HTTPRoute {metadata['name']}: metadata.annotations.{GENERATION}"
        raise ConfigInvalid(key, written, "a route that this platform made; rename the other one")
    return RouteObservation(
        generation=int(written),
        services=frozenset(_services(route["spec"])),
        spec=route["spec"],
        version=metadata["resourceVersion"],
        problem=_problem(route),
    )


def next_write(
    routes: Routes,
    observed: RouteObservation | None,
    entrance: Entrance,
    ready: Callable[[str], bool],
) -> Write | Keep | Wait:
    """The next action on the route of raw callers, in an order that loses no request.

    A service gets its first request only when it is ready; one that the new route leaves out stays
    until the Gateway follows that route (`applied_generation`).

    Args:
        ready: tells whether a service answers; it is called only for services that are new in the
            route.
    """
    wanted = render(routes, entrance)
    if wanted is None:
        return Keep()
    if observed is not None and observed.generation > routes.generation:
        return Wait(
            f"the HTTPRoute {route_name(routes.model)} is of generation {observed.generation}, "
            f"the journal only at {routes.generation}"
        )
    if (
        observed is not None
        and observed.generation == routes.generation
        and observed.spec == wanted["spec"]
    ):
        return Keep()
    known = frozenset() if observed is None else observed.services
    cold = sorted(s for s in set(_services(wanted["spec"])) - known if not ready(s))
    if cold:
        return Wait(f"raw callers are left where they are: {', '.join(cold)} is not ready")
    return Write(wanted, None if observed is None else observed.version)


def applied_generation(observed: RouteObservation | None) -> int | None:
    """The generation by which raw callers are certainly routed; None if nobody can tell."""
    return None if observed is None or observed.problem else observed.generation


def _everybody(routes: Routes, champion: Arm) -> Object:
    shadow = routes.challenger if routes.phase == "shadow" else None
    filters = [_without_mark()] if shadow is None else [_marked(champion), _mirror(shadow)]
    return {
        "matches": [_match(routes.model)],
        "filters": filters,
        "backendRefs": _weighted(routes, champion),
    }


def _tester_rules(routes: Routes) -> Iterator[Object]:
    """Rules by which a tester reaches a version by number: the champion, or a challenger that
    answers nobody yet."""
    for arm in (routes.champion, routes.challenger):
        if arm is None:
            continue
        header = {"type": "Exact", "name": VERSION_HEADER, "value": str(arm.version)}
        yield {
            "matches": [{**_match(routes.model), "headers": [header]}],
            "filters": [_marked(arm)],
            "backendRefs": [{**_backend(arm), "weight": 1}],
        }


def _weighted(routes: Routes, champion: Arm) -> list[Object]:
    if routes.challenger is None or routes.phase != "canary":
        return [{**_backend(champion), "weight": 100}]
    percent = routes.challenger_percent
    parts = 1 if float(percent).is_integer() else 1000  # weights are whole numbers
    share = round(percent * parts)
    return [
        {**_backend(champion), "weight": 100 * parts - share},
        {**_backend(routes.challenger), "weight": share},
    ]


def _match(model: str) -> Object:
    return {"path": {"type": "PathPrefix", "value": f"/v2/models/{model}"}}


def _backend(arm: Arm) -> Object:
    return {"group": "", "kind": "Service", "name": f"{arm.service}-predictor", "port": HTTP_PORT}


def _mirror(arm: Arm) -> Object:
    return {"type": "RequestMirror", "requestMirror": {"backendRef": _backend(arm)}}


def _marked(arm: Arm) -> Object:
    modifier = {"set": [{"name": ANSWERED_BY, "value": arm.service}]}
    return {"type": "RequestHeaderModifier", "requestHeaderModifier": modifier}


def _without_mark() -> Object:
    return {"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": [ANSWERED_BY]}}


def _services(spec: Object) -> Iterator[str]:
    """Names of the services of backends with a weight and of mirrors."""
    for rule in spec.get("rules", []):
        backends = [b for b in rule.get("backendRefs", []) if b.get("weight", 1)]
        mirrors = [f["requestMirror"]["backendRef"] for f in rule.get("filters", []) if _copies(f)]
        for backend in (*backends, *mirrors):
            yield backend["name"].removesuffix("-predictor")


def _copies(route_filter: Object) -> bool:
    return bool(route_filter["type"] == "RequestMirror")


def _problem(route: Object) -> str:
    """Why the Gateway does not follow this spec; conditions of an older spec are ignored."""
    generation = route["metadata"]["generation"]
    parents = route.get("status", {}).get("parents", [])
    wanted = route["spec"]["parentRefs"]
    for reference in wanted:
        own = [p for p in parents if _same_parent(p["parentRef"], reference)]
        conditions = {c["type"]: c for p in own for c in p.get("conditions", [])}
        for kind in ("Accepted", "ResolvedRefs"):
            condition = conditions.get(kind)
            if condition is None or condition.get("observedGeneration") != generation:
                return f"Gateway {reference['name']} has not looked at it yet ({kind})"
            if condition["status"] != "True":
                return f"{kind} is {condition['status']}: {condition.get('message', '')}"
    return ""


def _same_parent(other: Object, wanted: Object) -> bool:
    return all(other.get(key) == wanted.get(key) for key in ("name", "namespace"))
