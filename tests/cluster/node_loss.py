"""A second node that has the first gateway's home and all that works on it, and its loss."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

from tests.cluster.gateway_pods import FIRST, MORE
from tests.cluster.platform_pods import Platform
from tests.cluster.second_node import OUT_OF_SERVICE
from tests.cluster.volumes import NAMESPACE

from mlplatform.rollouts.kubernetes.api import PODS
from support.platform_process import wait

HOME: Final = "mlplatform/home=gateway-0"
"""Pods that mount the first gateway's volume."""
NOTICED_S: Final = 120.0
"""Kubernetes takes a node for lost after 50 s without a sign of it."""


@contextlib.contextmanager
def second_node(platform: Platform) -> Iterator[str]:
    """Its name. It has joined, and nothing is left of it afterwards."""
    second = platform.cluster.second
    name = second.layout.node
    try:
        second.join(sorted(platform.place.flow_images.glob("*.tar")))
        yield name
    finally:
        second.forget()
        platform.kubectl("delete", "node", name, "--ignore-not-found")


def move_home(platform: Platform, to: str) -> None:
    """As a drain of the other node does it; returns once all of it is ready there."""
    here = platform.place.node
    platform.kubectl("cordon", here)
    try:
        platform.kubectl("delete", "pods", "-n", NAMESPACE, "-l", HOME, "--timeout=120s")
        platform.apply_overlay()  # the pod of commands is nobody's but ours
        platform.until_ready(*MORE, "replicator")
    finally:
        platform.kubectl("uncordon", here)
    assert _nodes(platform)[FIRST] == to


def until_noticed(platform: Platform, name: str) -> None:
    """Returns once Kubernetes knows that the node is lost, and sends no request there."""

    def is_noticed() -> bool:
        conditions = platform.api.get(f"/api/v1/nodes/{name}")["status"]["conditions"]
        return any(c["type"] == "Ready" and c["status"] != "True" for c in conditions)

    wait(is_noticed, f"the loss of {name}", within_s=NOTICED_S)


def give_up(platform: Platform, name: str) -> None:
    """Mark it out of service, as a person does who knows that it is off: pods start elsewhere."""
    platform.kubectl("taint", "nodes", name, f"{OUT_OF_SERVICE}=nodeshutdown:NoExecute")
    wait(lambda: name not in _nodes(platform).values(), "the end of its pods", within_s=NOTICED_S)
    platform.apply_overlay()  # the pod of commands again
    platform.until_ready(*MORE, "replicator")


def _nodes(platform: Platform) -> dict[str, str]:
    """Pod → the node that it is on."""
    found: list[dict[str, Any]] = platform.api.items(PODS.path(NAMESPACE))
    return {pod["metadata"]["name"]: pod["spec"].get("nodeName", "") for pod in found}
