"""The step of a pass by which raw callers follow the routes, and what it must wait for."""

from __future__ import annotations

from typing import assert_never

from mlplatform.model.routes import Routes
from mlplatform.rollouts.journal.journal import GatewayLease
from mlplatform.rollouts.passes.ports import Ports
from mlplatform.rollouts.serving.raw_route import (
    Keep,
    RouteObservation,
    Wait,
    Write,
    applied_generation,
    next_write,
    read,
    route_name,
)
from mlplatform.runtime.errors import Busy, NotFound, Refused, Unavailable


def follow_routes(ports: Ports, model: str) -> list[str]:
    """Bring the HTTPRoute to what the journal says. Returns what it waits for, in words.

    A pass that has lost its lease can't turn the route back: the route is written over exactly the
    object that was read, and never by an older generation. If two passes create it at once, the
    older may come last; the next pass sees that by the generation.
    """
    if ports.raw is None:
        return []
    try:
        observed = _observed(ports, model)
        step = next_write(
            ports.rollouts.routes(model),
            observed,
            ports.raw.entrance,
            lambda name: _ready(ports, name),
        )
        match step:
            case Write():
                ports.raw.write(step.body, step.version)
                return []
            case Wait():
                return [step.reason]
            case Keep():
                return []
            case _:
                assert_never(step)
    except (Busy, NotFound, Refused, Unavailable) as error:
        return [f"raw callers, for a later pass: {error}"]


def gateways(ports: Ports, model: str) -> list[GatewayLease]:
    """All that route a model's requests, each with the generation that it applies: the platform's
    gateways, and the Gateway of raw callers, which counts as one."""
    found = ports.passes.gateways(model)
    if ports.raw is None or ports.rollouts.routes(model).champion is None:
        return found
    applied = applied_generation(_observed(ports, model))
    return [*found, GatewayLease(f"the HTTPRoute {route_name(model)}", applied)]


def unrouted_reason(ports: Ports, routes: Routes) -> str | None:
    """Why raw callers are not routed by these routes; None if they are, or if there are no raw
    callers."""
    if ports.raw is None:
        return None
    observed = _observed(ports, routes.model)
    if applied_generation(observed) == routes.generation:
        return None
    problem = (
        "there is none"
        if observed is None
        else observed.problem or f"it is at {observed.generation}"
    )
    return (
        f"the HTTPRoute {route_name(routes.model)} does not follow generation "
        f"{routes.generation}: {problem}"
    )


def lists(ports: Ports, model: str, service: str) -> bool:
    """Whether the HTTPRoute may still send requests to a service."""
    observed = _observed(ports, model)
    return observed is not None and service in observed.services


def _observed(ports: Ports, model: str) -> RouteObservation | None:
    found = None if ports.raw is None else ports.raw.find(model)
    return None if found is None else read(found)


def _ready(ports: Ports, service: str) -> bool:
    try:
        return ports.plane.status(service).ready
    except NotFound:
        return False
