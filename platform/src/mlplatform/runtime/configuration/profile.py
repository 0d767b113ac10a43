"""Whether a profile's servers are all named: in a cluster nothing is left out by oversight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

from mlplatform.runtime.configuration.declarations import DEFAULTS, PREFIX
from mlplatform.runtime.errors import ConfigInvalid

Profile = Literal["embedded", "cluster"]
VARIABLE: Final = f"{PREFIX}PROFILE"

NEEDED: Final[Mapping[str, str]] = {
    "POSTGRES": "postgresql://user@host:5432/database, for rollouts, routes, incidents and keys",
    "REDIS": "rediss://host:6379/0, for online features and rate limits",
    "KAFKA": "kafka+ssl://user@host:9093,host:9093 of brokers, for the topics",
    "KSERVE_NAMESPACE": "the namespace of the InferenceServices",
    "KSERVE_BUNDLES": "pvc://claim, the volume in that namespace from which predictors read",
}
"""Setting → what to put there, and what for."""
OF_THE_REGISTRY: Final[Mapping[str, str]] = {
    "MLFLOW_POSTGRES": "postgresql://user@host:5432/mlflow, a database of MLflow's own",
    "MLFLOW_ARTIFACTS": "s3://bucket/prefix, for the registry's bundles",
}
"""Only where the registry runs on this machine: elsewhere it has its own settings."""


def profile(environment: Mapping[str, str]) -> Profile:
    """The profile that the environment asks for; embedded, where it asks for none.

    In the embedded profile each server may be named or not, and what is not named is on this
    machine.

    Raises:
        ConfigInvalid: there is no such profile; or what the cluster profile needs is not named:
            the message has every variable that is missing, and what to put there.
    """
    asked = environment.get(VARIABLE, DEFAULTS["PROFILE"])
    if asked == "embedded":
        return "embedded"
    if asked != "cluster":
        raise ConfigInvalid(VARIABLE, asked, " or ".join(get_args(Profile)))
    lacking = missing(environment)
    if lacking:
        lines = "".join(f"\n  {PREFIX}{name}: {what}" for name, what in lacking.items())
        raise ConfigInvalid(
            VARIABLE, asked, f"these too, which are not set (docs/cluster.md):{lines}"
        )
    return "cluster"


def missing(environment: Mapping[str, str]) -> dict[str, str]:
    """What the cluster profile needs and the environment does not name."""
    needed = dict(NEEDED)
    if not environment.get(f"{PREFIX}MLFLOW_URL"):
        needed |= OF_THE_REGISTRY
    return {name: what for name, what in needed.items() if not environment.get(PREFIX + name)}
