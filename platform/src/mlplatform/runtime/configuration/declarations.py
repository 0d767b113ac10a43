"""Every setting of an installation: its name, its default and its meaning, once.

`docs/settings.md` is rendered from this table, a variable that is not in it ends a start, and
`settings.load` takes its defaults from it. No setting holds a secret: a secret is a file, which a
setting names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PREFIX: Final = "MLPLATFORM_"


@dataclass(frozen=True, slots=True)
class Setting:
    """An environment variable, every process of the platform reads them all.

    Args:
        name: without `PREFIX`.
        default: as text; empty: not set.
        meaning: what it decides, in Markdown.
        shown: the default in words, where its text says little.
    """

    name: str
    default: str
    meaning: str
    shown: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Settings that are about one thing, with a sentence about all of them."""

    title: str
    settings: tuple[Setting, ...]
    said: str = ""


GROUPS: Final = (
    Group(
        "One machine",
        (
            Setting(
                "PROFILE",
                "embedded",
                "`cluster`: every server must be named, and what is missing is told (`up "
                "--profile cluster`)",
            ),
            Setting("HOME", "var", "the one folder that holds all state (made 0700)"),
            Setting(
                "GATEWAY_PORT",
                "8080",
                "scoring API; the first API key is in `secrets/api.key` of the home folder",
            ),
            Setting(
                "GATEWAY_GRPC_PORT",
                "0",
                "scoring and the Open Inference Protocol over gRPC",
                shown="off",
            ),
            Setting(
                "PREFECT_PORT",
                "4200",
                "Prefect UI: flows, forms, approvals, reports; log in with name and key, or as "
                "`operator` with `run/prefect.token`",
            ),
            Setting(
                "PAGE_PORT",
                "8090",
                "the platform's own page, read-only: what happens and why; its password is in "
                "`run/page.token`",
            ),
            Setting(
                "MLFLOW_PORT",
                "5000",
                "registry; its token of this start is in `run/mlflow.token`",
            ),
            Setting("CLOCK", "system", "`replay`: event time is that of the recorded traffic"),
            Setting(
                "JOB_PROCESSES",
                "1",
                "processes of heavy jobs (fits, batch scoring) at a time; 0: each flow run's own",
            ),
            Setting("KEY_FILE", "", "a file with your key, for commands that ask who you are"),
        ),
    ),
    Group(
        "Scoring and recording",
        (
            Setting(
                "GATEWAYS",
                "1",
                "gateway processes that answer together on the gateway's port, about one a core",
            ),
            Setting("MAX_IN_FLIGHT", "1024", "requests that one gateway process answers at a time"),
            Setting("DURABILITY", "process", "`disk`: an answer survives a power cut too"),
            Setting(
                "SPILL_MAX_MIB",
                "256",
                "what a gateway process may keep while the decision log is down",
            ),
            Setting(
                "PSEUDONYM_KEY_FILE",
                "",
                "the key of pseudonyms that several homes share; empty: the home's own",
            ),
        ),
    ),
    Group(
        "Logs and traces",
        (
            Setting(
                "LOG_LEVEL",
                "info",
                "debug: also a tenth of the decisions, a line each; warning: less",
            ),
            Setting(
                "OTLP_ENDPOINT",
                "",
                "`http://host:port` of a collector that gets spans; empty: files of the home "
                "folder",
            ),
            Setting(
                "TRACE_SHARE",
                "0.01",
                "share of ordinary requests (answered, not slow, not degraded) whose traces are "
                "kept",
            ),
        ),
        said="`docs/signals.md` lists what is emitted.",
    ),
    Group(
        "Tokens of an OpenID Connect issuer",
        (
            Setting("OIDC_ISSUER", "", "its https URL, as it stands in the claim `iss`"),
            Setting("OIDC_AUDIENCE", "", "the name of this API at the issuer"),
            Setting(
                "OIDC_JWKS_URL",
                "",
                "where its public keys are; empty: as its discovery document says",
            ),
            Setting("OIDC_LEEWAY_S", "30", "how far the issuer's clock and this one may differ"),
            Setting("OIDC_CLIENT_CLAIM", "client_id", "the claim that names the client"),
            Setting("OIDC_SCOPES_CLAIM", "scope", "the claim that holds its scopes"),
        ),
        said=(
            "They are taken beside API keys once issuer and audience are set; "
            "`docs/security.md` says what a token must have."
        ),
    ),
    Group(
        "Events",
        (
            Setting(
                "RECEIVERS",
                "",
                "a YAML file of webhooks and Slack channels that are told of rollouts and "
                "incidents; empty: nobody is told (`docs/events.md`)",
            ),
        ),
    ),
    Group(
        "Servers",
        (
            Setting(
                "POSTGRES",
                "",
                "`postgresql://user@host/database` of rollouts, routes, incidents, keys",
            ),
            Setting("POSTGRES_PASSWORD_FILE", "", "its password"),
            Setting("REDIS", "", "`rediss://host:6379/0` of online features and rate limits"),
            Setting("REDIS_PASSWORD_FILE", "", "its password"),
            Setting("KAFKA", "", "`kafka+ssl://user@host:9093,…` of the topics, or `host:9092,…`"),
            Setting("KAFKA_PASSWORD_FILE", "", "its password"),
            Setting("MLFLOW_POSTGRES", "", "a database of MLflow's own"),
            Setting("MLFLOW_POSTGRES_PASSWORD_FILE", "", "its password"),
            Setting(
                "MLFLOW_ARTIFACTS",
                "",
                "`s3://bucket/prefix` of bundles; who and where by the variables of AWS's SDK",
            ),
            Setting("GATEWAY_URL", "", "`http://host:port` of the scoring API"),
            Setting(
                "PREFECT_URL",
                "",
                "of Prefect's server; `PREFECT_API_AUTH_STRING` is then `platform:token`",
            ),
            Setting("MLFLOW_URL", "", "of the registry"),
            Setting("MLFLOW_TOKEN_FILE", "", "a file with the registry's token"),
            Setting("PAGE_URL", "", "of the page"),
        ),
        said=(
            "`docs/cluster.md` says when to use which. Left empty, each is in the home folder"
            " or on this machine."
        ),
    ),
    Group(
        "Kubernetes",
        (
            Setting("KSERVE_NAMESPACE", "", "the namespace of predictors on KServe"),
            Setting(
                "KSERVE_BUNDLES",
                "",
                "`pvc://claim` or `pvc://claim/folder`: the volume of bundles, as its pods name it",
            ),
            Setting(
                "KSERVE_REPLICAS",
                "",
                "pods of each version; empty: as many as the model's tier asks for",
            ),
            Setting(
                "KSERVE_PROMETHEUS",
                "",
                "the Prometheus that KEDA reads, for pods by queue and latency; empty: no "
                "autoscaler",
            ),
            Setting("BUNDLES", "", "a folder of bundles on a volume that predictors read too"),
            Setting("ARGO_NAMESPACE", "", "where heavy jobs run as workflows of Argo"),
            Setting("ARTIFACTS", "", "`s3://bucket` of those jobs"),
            Setting(
                "RAW_GATEWAY",
                "",
                "`namespace/name` of the Gateway that raw callers come through",
            ),
            Setting("RAW_DOMAIN", "", "the domain of raw callers"),
        ),
    ),
)

DEFAULTS: Final = {s.name: s.default for group in GROUPS for s in group.settings}
"""Name without `PREFIX` → default."""
