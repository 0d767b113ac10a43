"""What raw callers come through: a Gateway of the cluster, and a domain of theirs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entrance:
    """The Gateway that raw callers come through.

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
