"""Whether other users may work on the machine of a process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mlplatform.runtime.configuration.declarations import PREFIX

_POD: Final = "KUBERNETES_SERVICE_HOST"
"""Variable by which a kubelet tells each container where the API server is.

Source: Kubernetes, "Accessing the Kubernetes API from a Pod".
"""


def has_neighbours(environment: Mapping[str, str]) -> bool:
    """Whether other users may work on this machine. False in a pod and with the cluster's profile:
    there volumes decide on owners and modes of folders, and there are no other users."""
    return _POD not in environment and environment.get(f"{PREFIX}PROFILE", "embedded") == "embedded"
