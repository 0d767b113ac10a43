"""The environment variables of this platform: a misspelt one is an error, not a default."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from mlplatform.errors import ConfigInvalid

PREFIX = "MLPLATFORM_"
SETTINGS = frozenset(
    PREFIX + name
    for name in (
        *(
            "PROFILE",
            "HOME",
            "CLOCK",
            "DURABILITY",
            "SPILL_MAX_MIB",
            "MAX_IN_FLIGHT",
            "JOB_PROCESSES",
        ),
        *("GATEWAYS", "GATEWAY_PORT", "GATEWAY_GRPC_PORT", "PREFECT_PORT", "MLFLOW_PORT"),
        *("PAGE_PORT", "KEY_FILE"),
        *("KAFKA", "KAFKA_PASSWORD_FILE", "ARGO_NAMESPACE", "ARTIFACTS"),
        *("OTLP_ENDPOINT", "TRACE_SHARE", "LOG_LEVEL"),
        *("OIDC_ISSUER", "OIDC_AUDIENCE", "OIDC_JWKS_URL", "OIDC_LEEWAY_S"),
        *("OIDC_CLIENT_CLAIM", "OIDC_SCOPES_CLAIM"),
        *("POSTGRES", "POSTGRES_PASSWORD_FILE", "REDIS", "REDIS_PASSWORD_FILE"),
        *("MLFLOW_POSTGRES", "MLFLOW_POSTGRES_PASSWORD_FILE", "MLFLOW_ARTIFACTS"),
        *("KSERVE_NAMESPACE", "KSERVE_BUNDLES", "KSERVE_REPLICAS", "KSERVE_PROMETHEUS"),
        *("BUNDLES", "PSEUDONYM_KEY_FILE", "RAW_GATEWAY", "RAW_DOMAIN"),
        *("GATEWAY_URL", "PREFECT_URL", "MLFLOW_URL", "MLFLOW_TOKEN_FILE", "PAGE_URL"),
    )
)
HANDED_DOWN = frozenset({"MLPLATFORM_LIFELINE_FD", "MLPLATFORM_LISTEN_FD"})
"""From the supervisor to its children."""
OF_TESTS = re.compile(r"MLPLATFORM_(TEST_\w+|CLUSTER_CACHE|OBSERVABILITY_TOOLS|TRANSACTIONS)")
OF_SERVICES = re.compile(r"\w+_(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP|SCTP))(_\w+)?")
OF_A_PORT = re.compile(r"(tcp|udp|sctp)://.+")
"""Names, and values of names that end in PORT, that a pod is given for each service of its
namespace: one that is called mlplatform-… looks like our settings.

Source: Kubernetes, "Accessing the Service", environment variables.
"""


def check(environment: Mapping[str, str]) -> None:
    """Refuse a variable of our prefix that nothing here reads.

    Raises:
        ConfigInvalid: names it and the setting that is nearest to it, never its value.
    """
    for name in sorted(environment):
        if name.startswith(PREFIX) and not _known(name, environment[name]):
            settings = [known.removeprefix(PREFIX) for known in sorted(SETTINGS)]
            near = difflib.get_close_matches(name.removeprefix(PREFIX), settings, n=1)
            wanted = f"{PREFIX}{near[0]}" if near else "a setting that docs/settings.md names"
            raise ConfigInvalid("a variable of the environment", name, f"{wanted}, or none")


def _known(name: str, value: str) -> bool:
    ours = name in SETTINGS or name in HANDED_DOWN or OF_TESTS.fullmatch(name)
    return bool(ours or OF_SERVICES.fullmatch(name) or OF_A_PORT.fullmatch(value))
