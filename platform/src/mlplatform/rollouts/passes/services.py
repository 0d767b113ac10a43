"""The services of a model: started, stopped, and why one can't be started or stopped now."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import assert_never

from mlplatform.model.definition import ModelDefinition
from mlplatform.model.routes import Arm
from mlplatform.model.weights.load_time import folder_bytes
from mlplatform.rollouts.passes.next_step import Deploy, Hold, Retire, reconciled_services
from mlplatform.rollouts.passes.ports import Ports
from mlplatform.rollouts.passes.raw_callers import gateways, lists
from mlplatform.rollouts.passes.step_text import step_text
from mlplatform.rollouts.serving.manifest import render
from mlplatform.rollouts.serving.triton import lay_out, sweep
from mlplatform.runtime.errors import Refused, StaleFence


def reconcile_services(definition: ModelDefinition, ports: Ports, steps: list[str]) -> list[str]:
    """Start the services that the routes list and stop those that nothing needs. Returns what it
    waits for, in words.

    Args:
        steps: list to which a text about each step is appended.
    """
    waits = []
    for step in service_changes(definition, ports):
        match step:
            case Deploy():
                refusal = refusal_of(partial(deploy, definition, ports, step.arm))
            case Retire():
                refusal = refusal_of(partial(retire, ports, definition.name, step.service))
            case Hold():
                waits.append(step.reason)
                continue
            case _:
                assert_never(step)
        if refusal is None:
            steps.append(step_text(step))
        else:
            waits.append(f"can't {step_text(step)}: {refusal}")
    if ports.repositories is not None:
        sweep(definition.name, ports.repositories, _needed_services(definition.name, ports))
    return waits


def service_changes(
    definition: ModelDefinition, ports: Ports
) -> tuple[Deploy | Retire | Hold, ...]:
    """The services to start and to stop now."""
    return reconciled_services(
        ports.rollouts.routes(definition.name),
        ports.rollouts.active(definition.name),
        ports.plane.names(),
        gateways(ports, definition.name),
    )


def deploy(definition: ModelDefinition, ports: Ports, arm: Arm) -> None:
    """Start the service of an arm, unless it runs.

    Raises:
        Refused: the plane or the registry refuses the service now; the error has the numbers.
        Unavailable, Corrupt: the bundle can't be fetched.
    """
    folder = ports.versions.fetch(definition.name, arm.version, ports.bundles / arm.bundle)
    server = ports.server_of(folder)
    bundle_bytes = folder_bytes(folder)
    is_triton = server is None and definition.serving.runtime == "triton"
    repositories = ports.repositories if is_triton else None
    if repositories is not None:
        folder = lay_out(definition, arm.service, folder, repositories)
    manifest = render(
        definition,
        arm.version,
        arm.bundle,
        ports.storage_uri(folder),
        ports.replicas,
        bundle_bytes=bundle_bytes,
        scales=ports.scales,
        triton=repositories is not None,
        server=server,
    )
    ports.plane.apply(manifest)


def retire(ports: Ports, model: str, service: str) -> None:
    """Stop a service.

    Raises:
        Refused: the routes list the service, a rollout is about to list it, or callers of the raw
            route still reach it.
    """
    ramping = {s.challenger.service for s in ports.rollouts.active(model) if s.ramping}
    if service in ports.rollouts.routes(model).services | ramping:
        raise Refused(f"{service} is in use: take it out of the routes first")
    if lists(ports, model, service):
        raise Refused(f"{service} is in use: raw callers still reach it")
    ports.plane.remove(service)


def _needed_services(model: str, ports: Ports) -> set[str]:
    """Names of the services that run and of those that are to be started."""
    ramping = {s.challenger.service for s in ports.rollouts.active(model) if s.ramping}
    return {*ports.plane.names(), *ports.rollouts.routes(model).services, *ramping}


def refusal_of(act: Callable[[], None]) -> str | None:
    """Run an act. Returns why it was refused; None if it was done."""
    try:
        act()
    except StaleFence:
        raise
    except Refused as refused:
        return str(refused)
    return None
