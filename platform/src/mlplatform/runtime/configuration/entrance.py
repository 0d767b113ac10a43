"""The entrance of raw callers: a Gateway of the cluster, and a domain."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entrance:
    """The Gateway through which raw callers come.

    Args:
        namespace, gateway: namespace and name of the Gateway.
        domain: end of the host names: raw callers of a model use the host `<model>.<domain>`.
    """

    namespace: str
    gateway: str
    domain: str

    @property
    def reference(self) -> str:
        return f"{self.namespace}/{self.gateway}"
