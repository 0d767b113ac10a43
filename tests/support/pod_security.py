"""What Kubernetes' restricted Pod Security Standard refuses in a pod, without a cluster to ask."""

from __future__ import annotations

from typing import Any

VOLUMES = frozenset(
    {
        *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
        *("persistentVolumeClaim", "projected", "secret"),
    }
)
OF_HOST = ("hostNetwork", "hostPID", "hostIPC")


def violations(pod: dict[str, Any]) -> list[str]:
    """In words; empty: it is admitted.

    Source: Kubernetes, "Pod Security Standards", Restricted.
    """
    found = [f"uses {name}" for name in OF_HOST if pod.get(name)]
    for volume in pod.get("volumes", []):
        found += [f"mounts {kind}" for kind in volume.keys() - {"name"} - VOLUMES]
    of_pod = pod.get("securityContext", {})
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        own = container.get("securityContext", {})
        merged = {**of_pod, **own}
        wrong = {
            "may run as root": merged.get("runAsNonRoot") is not True,
            "runs as root": merged.get("runAsUser") == 0,
            "may gain privileges": own.get("allowPrivilegeEscalation") is not False,
            "is privileged": bool(own.get("privileged")),
            "keeps capabilities": own.get("capabilities", {}).get("drop") != ["ALL"],
            "adds capabilities": bool(set(own.get("capabilities", {}).get("add", []))),
            "has no seccomp profile": merged.get("seccompProfile", {}).get("type")
            not in ("RuntimeDefault", "Localhost"),
            "takes a port of the node": any("hostPort" in p for p in container.get("ports", [])),
        }
        found += [f"{container['name']} {what}" for what, is_so in wrong.items() if is_so]
    return found
