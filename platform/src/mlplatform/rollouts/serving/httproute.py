"""HTTPRoutes of raw callers in a cluster: read, and replaced only in the state that was read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlplatform.rollouts.kubernetes.api import HTTP_ROUTES, KubernetesApi, Object
from mlplatform.rollouts.serving.raw_route import route_name
from mlplatform.runtime.configuration.entrance import Entrance


class HttpRoutes:
    """`rollouts.passes.ports.RawRoutes` over the Gateway API.

    Args:
        namespace: namespace of the routes and of the services behind them. It is the same, so no
            ReferenceGrant is needed.
    """

    def __init__(self, api: KubernetesApi, namespace: str, entrance: Entrance) -> None:
        self._api = api
        self._namespace = namespace
        self.entrance = entrance

    def find(self, model: str) -> Object | None:
        return self._api.find(HTTP_ROUTES.path(self._namespace, route_name(model)))

    def write(self, body: Mapping[str, Any], version: str | None) -> None:
        # Created by the same kind of write that changes it; otherwise its fields would have two
        # owners of one name.
        looked_at = {} if version is None else {"resourceVersion": version}
        metadata = {**body["metadata"], **looked_at}
        path = HTTP_ROUTES.path(self._namespace, metadata["name"])
        self._api.apply(path, {**body, "metadata": metadata})
