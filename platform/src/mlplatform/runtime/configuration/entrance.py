"""What raw callers come through: a Gateway of the cluster, and a domain of theirs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mlplatform.runtime.configuration.declarations import PREFIX
from mlplatform.runtime.errors import ConfigInvalid


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

    def environment(self) -> dict[str, str]:
        """The variables that say the same to a child process."""
        return {
            f"{PREFIX}RAW_GATEWAY": f"{self.namespace}/{self.gateway}",
            f"{PREFIX}RAW_DOMAIN": self.domain,
        }


def entrance(environment: Mapping[str, str]) -> Entrance | None:
    """As MLPLATFORM_RAW_GATEWAY and MLPLATFORM_RAW_DOMAIN say; None: neither is set.

    Raises:
        ConfigInvalid: one without the other, or without predictors on KServe.
    """
    gateway, domain = (environment.get(f"{PREFIX}RAW_{name}", "") for name in ("GATEWAY", "DOMAIN"))
    if not gateway and not domain:
        return None
    if not re.fullmatch(r"[a-z0-9][-a-z0-9]{0,62}/[a-z0-9][-a-z0-9.]{0,252}", gateway):
        raise ConfigInvalid(f"{PREFIX}RAW_GATEWAY", gateway, "namespace/name of a Gateway")
    if not re.fullmatch(r"[a-z0-9][-a-z0-9]*(\.[a-z0-9][-a-z0-9]*)*", domain):
        raise ConfigInvalid(f"{PREFIX}RAW_DOMAIN", domain, "a domain, such as models.example.com")
    if not environment.get(f"{PREFIX}KSERVE_NAMESPACE"):
        raise ConfigInvalid(f"{PREFIX}RAW_GATEWAY", gateway, "predictors on KServe, or none of it")
    namespace, _, name = gateway.partition("/")
    return Entrance(namespace, name, domain)
