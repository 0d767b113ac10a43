"""The name of the service for one bundle version."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from mlplatform.model.definition import dns_name

DIGEST_CHARACTERS: Final = 8
_PATTERN: Final = re.compile(
    rf"(?P<model>[a-z][a-z0-9-]*)-v(?P<version>[1-9][0-9]*)-(?P<digest>[0-9a-f]{{{DIGEST_CHARACTERS}}})"
)


@dataclass(frozen=True, slots=True)
class ServiceName:
    """`<model>-v<version>-<the first eight characters of the bundle's digest>`.

    Args:
        model: name of the model with `-` in place of `_`, as Kubernetes requires.
    """

    model: str
    version: int
    digest8: str

    def __str__(self) -> str:
        return f"{self.model}-v{self.version}-{self.digest8}"

    @classmethod
    def of(cls, model: str, version: int, digest: str) -> ServiceName:
        """The name of the service for a version, from its full bundle digest."""
        return cls(dns_name(model), version, digest[:DIGEST_CHARACTERS])

    @classmethod
    def parse(cls, text: str) -> ServiceName | None:
        """The parts of a service's name; None for a name of another form."""
        match = _PATTERN.fullmatch(text)
        if match is None:
            return None
        return cls(match["model"], int(match["version"]), match["digest"])

    def names(self, model: str, digest: str) -> bool:
        """Whether this is the name of a service for that bundle."""
        return self.is_of(model) and digest.startswith(self.digest8)

    def is_of(self, model: str) -> bool:
        """Whether this is a service of that model."""
        return self.model == dns_name(model)


def cluster_url(service: str, namespace: str) -> str:
    """The URL of a service for pods of the cluster: that of the Service that KServe makes for
    it."""
    return f"http://{service}-predictor.{namespace}.svc.cluster.local:80"
