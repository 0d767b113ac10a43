"""Whether other users may work on the machine of a process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mlplatform.runtime.configuration.declarations import PREFIX

_POD: Final = "KUBERNETES_SERVICE_HOST"
"""A kubelet tells each container where the API server is.

Source: Kubernetes, "Accessing the Kubernetes API from a Pod".
"""


def has_neighbours(environment: Mapping[str, str]) -> bool:
    """False in a pod and with the profile of a cluster: there owners and modes of folders are what
    volumes bring, and other users are none."""
    return _POD not in environment and environment.get(f"{PREFIX}PROFILE", "embedded") == "embedded"
