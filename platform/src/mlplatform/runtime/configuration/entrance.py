"""The entrance of raw callers: a Gateway of the cluster, and a domain."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entrance:
    """The Gateway through which raw callers come.

    Args:
        namespace, gateway: of the Gateway.
        domain: raw callers of a model ask for the host `<model>.<domain>`.
    """

    namespace: str
    gateway: str
    domain: str

    @property
    def reference(self) -> str:
        return f"{self.namespace}/{self.gateway}"
