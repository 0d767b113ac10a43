"""Every setting of an installation: name, type, default, meaning and readers, once.

`docs/settings.md` is rendered from this table, a variable that is not in it ends a start, and
`settings.load` parses each by its type. No setting holds a secret: a secret is a file, which a
setting names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from mlplatform.runtime.configuration import kinds
from mlplatform.runtime.configuration.kinds import address, number, text

PREFIX: Final = "MLPLATFORM_"
EVERY: Final = ("every process",)
INSTALLED: Final = ("every process but predictor, jobs and explainer",)
"""Those that get settings: the options of the three say all but log level, profile and
folders of models."""
_UP: Final = "supervisor"
_WORK: Final = ("flow-run", "commands")
"""Processes that get ports from `operations/wiring.py`, without the page."""
_TOPICS: Final = ("worker", "outbox", "log-publisher", "log-replicator", "commands")
_STATE: Final = (
    *("gateway", "worker", "prefect", "flows", "exporter", "events", "page", _UP),
    *_WORK,
)
_FEATURES: Final = ("gateway", "worker", "page", _UP, *_WORK)


@dataclass(frozen=True, slots=True)
class Setting:
    """An environment variable.

    Args:
        name: the variable's name without `PREFIX`.
        type: the type of its value, one of `kinds`.
        default: the default as text; empty if it is not set.
        read_by: names, in `process.ENTRIES`, of the processes whose own code reads its value;
            `supervisor` is `mlplatform up`.
        meaning: what the setting does, in Markdown.
        place: the field of `Settings` with its value, with dots; empty: the field with the same
            name; None: there is no such field.
        needs: names of settings that must also be set.
        shown: the default in words, if its text is not clear enough.
        in_cluster: whether profile `cluster` requires it.
        unless: a setting that can be given instead in that profile.
    """

    name: str
    type: Any
    default: str
    read_by: tuple[str, ...]
    meaning: str
    place: str | None = ""
    needs: tuple[str, ...] = ()
    shown: str = ""
    in_cluster: bool = False
    unless: str = ""

    @property
    def variable(self) -> str:
        return PREFIX + self.name

    @property
    def field(self) -> str | None:
        return self.name.lower() if self.place == "" else self.place


@dataclass(frozen=True, slots=True)
class Group:
    """Settings about one subject, with a sentence about all of them."""

    title: str
    settings: tuple[Setting, ...]
    note: str = ""


# Each row begins with the setting's properties; its meaning stands below them.
# fmt: off
GROUPS: Final = (
    Group("One machine", (
        Setting("PROFILE", kinds.Profile, "embedded", EVERY,
                "`cluster`: every server must be named, and what is missing is listed (`up "
                "--profile cluster`)"),
        Setting("HOME", kinds.FOLDER, "var", INSTALLED,
                "the one folder that holds all state (made 0700)", place="home.root"),
        Setting("MODELS", kinds.FOLDERS, "", EVERY,
                "folders that hold model folders, with `:` between them; `examples` stands for "
                "the models that come with the platform, `installed` for those of installed "
                "packages (`docs/adding-a-model.md`)",
                shown="`examples`"),
        Setting("GATEWAY_PORT", kinds.PORT, "8080", ("gateway", _UP, "worker", "page", "commands"),
                "scoring API; the first API key is in `secrets/api.key` of the home folder"),
        Setting("GATEWAY_GRPC_PORT", number(0, 65_535, "a port"), "0", ("gateway", _UP, "commands"),
                "scoring and the Open Inference Protocol over gRPC", shown="off"),
        Setting("PREFECT_PORT", kinds.PORT, "4200",
                ("prefect", "flows", "flow-deployments", _UP, "page", *_WORK),
                "Prefect UI: flows, forms, approvals, reports; log in with name and key, or as "
                "`operator` with `run/prefect.token`"),
        Setting("PAGE_PORT", kinds.PORT, "8090", ("page", _UP, "events", "flows", *_WORK),
                "the platform's own page: what happens and why, and what people answer, pause and "
                "stop; sign in with name and key, or only to look with `run/page.token`"),
        Setting("MLFLOW_PORT", kinds.PORT, "5000", ("mlflow", "flows", _UP, "page", *_WORK),
                "registry; its token of this start is in `run/mlflow.token`"),
        Setting("CLOCK", kinds.ClockMode,
                "system", ("gateway", "exporter", "flows", "flow-deployments", "page", _UP, *_WORK),
                "`replay`: event time is that of the recorded traffic"),
        Setting("JOB_PROCESSES", number(0, 64, "processes of jobs"), "1", (_UP, *_WORK),
                "processes of heavy jobs (fits, batch scoring) at a time; 0: each flow run's own"),
        Setting("TRAINING_ENGINE", kinds.TrainingEngine, "duckdb", ("flow-run",),
                "what joins the training sets of retrains: `spark` (`docs/training.md`) where one "
                "machine takes too long"),
        Setting("KEY_FILE", kinds.SECRET_FILE, "", ("commands",),
                "your key, for commands that ask who you are", place=None),
    ), note=(
        "A home remembers the settings of its last start (`run/settings.json`): commands from any "
        "shell find the platform\nthat runs there, if they are given in the folder of the start, "
        "or `MLPLATFORM_HOME` names the home by its absolute\npath. The next start takes over "
        "ports, profile and clock where no variable is set. A variable that differs from the\n"
        "running platform's is refused, with the way out."
    )),
    Group("Scoring and recording", (
        Setting("GATEWAYS", number(1, 64, "gateway processes"), "1", ("gateway", _UP, "commands"),
                "gateway processes that answer together on the gateway's port, about one a core"),
        Setting("DURABILITY", kinds.Durability, "process",
                ("gateway", "worker", "log-replicator", "page", *_WORK),
                "`disk`: an answer survives a power cut too"),
        Setting("KEY_CLAIMS", kinds.KeyClaims, "own", ("gateway", "commands"),
                "which gateways know an idempotency key. `own`: those of this home. `shared`: "
                "those of all homes, by a claim on the Redis server; while Redis does not answer, "
                "the home's own keys decide. `strict`: as `shared`, but while Redis does not "
                "answer, a request is refused with 503 (`docs/cluster.md`)"),
        Setting("SPILL_MAX_MIB", number(1, 65_536, "MiB"), "256", ("gateway",),
                "what a gateway process may keep while the decision log is down"),
        Setting("PSEUDONYM_KEY_FILE", kinds.SECRET_FILE, "", ("gateway", "worker", "page", *_WORK),
                "the key of pseudonyms that several homes share; empty: the home's own",
                place="home.shared_pseudonym_key"),
    )),
    Group("Logs and traces", (
        Setting("LOG_LEVEL", kinds.Level, "info", EVERY,
                "debug: also a tenth of the decisions, a line each; warning: less"),
        Setting("OTLP_ENDPOINT", kinds.ENDPOINT, "", ("gateway", "worker", "job-item", *_WORK),
                "the collector that gets spans; empty: files of the home folder"),
        Setting("TRACE_SHARE", kinds.SHARE, "0.01", ("gateway", "worker"),
                "share of ordinary requests (answered, not slow, not degraded) whose traces are "
                "kept"),
    ), note="`docs/signals.md` lists what is emitted."),
    Group("Tokens of an OpenID Connect issuer", (
        Setting("OIDC_ISSUER", kinds.ISSUER, "", ("gateway",),
                "the issuer, as it stands in the claim `iss`", place="oidc.url",
                needs=("OIDC_AUDIENCE",)),
        Setting("OIDC_AUDIENCE", text(r"[\s\S]*\S[\s\S]*", "the name of this API at the issuer"),
                "", ("gateway",),
                "what must stand in the claim `aud`", place="oidc.audience",
                needs=("OIDC_ISSUER",)),
        Setting("OIDC_JWKS_URL", kinds.ISSUER, "", ("gateway",),
                "where its public keys are; empty: as its discovery document says",
                place="oidc.jwks_url", needs=("OIDC_ISSUER",)),
        Setting("OIDC_CLIENT_CLAIM", kinds.CLAIM, "client_id", ("gateway",),
                "the claim that names the client", place="oidc.client_claim"),
        Setting("OIDC_SCOPES_CLAIM", kinds.CLAIM, "scope", ("gateway",),
                "the claim that holds its scopes", place="oidc.scopes_claim"),
    ), note=(
        "They are taken beside API keys once issuer and audience are set; `docs/security.md` "
        "says what a token must have."
    )),
    Group("Sign-in by an identity provider", (
        Setting("SIGN_IN_ISSUER", kinds.ISSUER, "", ("page",),
                "the OpenID Connect provider at which people sign in to the page, as it stands in "
                "the claim `iss`", place="identity_provider.url",
                needs=("SIGN_IN_CLIENT_ID", "SIGN_IN_ROLES")),
        Setting("SIGN_IN_CLIENT_ID", text(r"[\x21-\x7e]{1,256}", "the page's client id there"),
                "", ("page",),
                "the page's client there, which stands in the claim `aud`",
                place="identity_provider.client_id", needs=("SIGN_IN_ISSUER",)),
        Setting("SIGN_IN_ROLES", kinds.FILE, "", ("page",),
                "YAML that says which scopes a group of the provider has here",
                place="identity_provider.roles", needs=("SIGN_IN_ISSUER",)),
        Setting("SIGN_IN_CLIENT_SECRET_FILE", kinds.SECRET_FILE, "", ("page",),
                "the client's secret; empty: a public client, with PKCE alone",
                place="identity_provider.client_secret_file", needs=("SIGN_IN_ISSUER",)),
        Setting("SIGN_IN_SCOPE",
                text(r"openid( [\x21\x23-\x5b\x5d-\x7e]{1,64}){0,16}",
                     "openid, and other scopes after spaces"),
                "openid profile email groups", ("page",),
                "what the provider is asked for", place="identity_provider.scope"),
        Setting("SIGN_IN_GROUPS_CLAIM", kinds.CLAIM, "groups", ("page",),
                "the claim that lists a person's groups", place="identity_provider.groups_claim"),
        Setting("SIGN_IN_NAME_CLAIM", kinds.CLAIM, "preferred_username", ("page",),
                "the claim that has a person's name", place="identity_provider.name_claim"),
    ), note=(
        "People sign in there beside those with keys of this platform; `docs/security.md` says "
        "what a token must have and what the file of roles holds. Not set: keys alone."
    )),
    Group("Events", (
        Setting("RECEIVERS", kinds.FILE, "", ("events", _UP, "commands"),
                "YAML of webhooks and Slack channels that are notified of rollouts and incidents; "
                "empty: nobody is notified (`docs/events.md`)"),
    )),
    Group("Servers", (
        Setting("POSTGRES", address("postgresql://user@host:5432/database"), "", _STATE,
                "rollouts, routes, incidents and keys", place="postgres.url", in_cluster=True),
        Setting("POSTGRES_PASSWORD_FILE", kinds.SECRET_FILE, "", _STATE,
                "its password", place="postgres.password_file"),
        Setting("REDIS", address("rediss://host:6379/0"), "", _FEATURES,
                "online features, real-time windows and rate limits", place="redis.url",
                in_cluster=True),
        Setting("REDIS_PASSWORD_FILE", kinds.SECRET_FILE, "", _FEATURES,
                "its password", place="redis.password_file"),
        Setting("KAFKA", address("kafka+ssl://user@host:9093,host:9093, or host:9092,host:9092"),
                "", _TOPICS,
                "the topics; brokers without TLS get no password", place="kafka.url",
                in_cluster=True),
        Setting("KAFKA_PASSWORD_FILE", kinds.SECRET_FILE, "", _TOPICS,
                "its password", place="kafka.password_file"),
        Setting("MLFLOW_POSTGRES", address("postgresql://user@host:5432/mlflow"),
                "", ("mlflow", "commands"),
                "a database of MLflow's own", place="mlflow_postgres.url", in_cluster=True,
                unless="MLFLOW_URL"),
        Setting("MLFLOW_POSTGRES_PASSWORD_FILE", kinds.SECRET_FILE, "", ("mlflow", "commands"),
                "its password", place="mlflow_postgres.password_file"),
        Setting("MLFLOW_ARTIFACTS", text(r"s3://[a-z0-9.-]+(/[^\s?#]*)?", "s3://bucket/prefix"),
                "", ("mlflow", "commands"),
                "the registry's bundles; keys and server come from the variables of AWS's SDK",
                in_cluster=True, unless="MLFLOW_URL"),
        Setting("GATEWAY_URL", kinds.SERVER, "", ("worker", "page", "flows", _UP, *_WORK),
                "the scoring API", place="servers.gateway"),
        Setting("PREFECT_URL", kinds.SERVER,
                "", ("prefect", "flows", "flow-deployments", "page", _UP, *_WORK),
                "Prefect's server; `PREFECT_API_AUTH_STRING`, a secret, is then `platform:token`",
                place="servers.prefect"),
        Setting("MLFLOW_URL", kinds.SERVER, "", ("mlflow", "flows", "page", _UP, *_WORK),
                "the registry", place="servers.mlflow"),
        Setting("MLFLOW_TOKEN_FILE", kinds.SECRET_FILE, "", ("mlflow", "flows", "page", *_WORK),
                "the registry's token", place="servers.mlflow_token_file"),
        Setting("PAGE_URL", kinds.SERVER, "", ("page", "events", "flows", _UP, *_WORK),
                "the page", place="servers.page"),
        Setting("ALERTMANAGER_URL", kinds.ENDPOINT, "", ("page",),
                "the Alertmanager whose firing alerts the page shows; empty: it shows none",
                place="servers.alertmanager"),
        Setting("PROMETHEUS_URL", kinds.ENDPOINT, "", ("page",),
                "the Prometheus with the platform's rules, which knows what is spent of the "
                "availability's budget; empty: the page shows no such figure",
                place="servers.prometheus"),
        Setting("GRAFANA_URL", kinds.ENDPOINT, "", ("page",),
                "the Grafana with the data source of traces, as readers of the page reach it; "
                "empty: a decision's trace has no link", place="servers.grafana"),
    ), note=(
        "`docs/cluster.md` says when to use which. What no setting names is in the home folder or "
        "on this machine."
    )),
    Group("Bundles", (
        Setting("BUNDLE_STORE",
                text(r"s3://[a-z0-9][a-z0-9.-]+(/[^\s?#]*)?|/[^\0]+",
                     "s3://bucket/prefix, or the absolute path of a folder"),
                "", ("gateway", "page", _UP, *_WORK),
                "where every machine fetches bundles from and puts them; the variables of AWS's "
                "SDK give a bucket's address and keys; empty: the folder of bundles has them all"),
        Setting("BUNDLE_CACHE_MIB", number(1, 16_777_216, "MiB"), "20480",
                ("gateway", "page", _UP, *_WORK),
                "the most that the folder of bundles holds of those in the store; the least "
                "recently used are removed first, and never those that routes name"),
        Setting("BUNDLE_VOLUME_MIB", number(0, 16_777_216, "MiB"), "0",
                ("gateway", "page", _UP, *_WORK),
                "what the volume of that folder holds, where it has a limit of its own, as an "
                "`emptyDir` with a `sizeLimit` has; 0: what is free on the disk counts"),
        Setting("BUNDLES", kinds.FOLDER, "", ("gateway", "page", _UP, *_WORK),
                "the folder of bundles, such as a volume that predictors read too; empty: in the "
                "home folder", place="home.shared_bundles"),
    )),
    Group("Kubernetes", (
        Setting("KSERVE_NAMESPACE", kinds.NAMESPACE, "", ("gateway", "flows", _UP, *_WORK),
                "the namespace of predictors on KServe", place="kserve.namespace",
                needs=("KSERVE_BUNDLES",), in_cluster=True),
        Setting("KSERVE_BUNDLES", kinds.VOLUME, "", ("gateway", "flows", _UP, *_WORK),
                "the volume of bundles, as predictors' pods name it; not needed where "
                "`MLPLATFORM_BUNDLE_STORE` is a bucket", place="kserve.bundles",
                needs=("KSERVE_NAMESPACE",), in_cluster=True, unless="BUNDLE_STORE"),
        Setting("KSERVE_REPLICAS", number(1, 64, "pods"), "", _WORK,
                "pods of each version; empty: as many as the model's tier asks for",
                place="kserve.replicas", needs=("KSERVE_NAMESPACE",)),
        Setting("KSERVE_PROMETHEUS", kinds.ENDPOINT, "", (_UP, *_WORK),
                "the Prometheus that KEDA reads, for pods by queue and latency; empty: no "
                "autoscaler", place="kserve.prometheus", needs=("KSERVE_NAMESPACE",)),
        Setting("ARGO_NAMESPACE", kinds.NAMESPACE, "", ("flows", _UP, *_WORK),
                "where heavy jobs run as workflows of Argo", place="argo.namespace",
                needs=("ARTIFACTS",)),
        Setting("ARTIFACTS", text("s3://[^@]+|file:///.+", "s3://bucket, without credentials"),
                "", ("flows", _UP, *_WORK),
                "files of those jobs", place="argo.artifacts", needs=("ARGO_NAMESPACE",)),
        Setting("RAW_GATEWAY", kinds.ENTRANCE, "", _WORK,
                "the Gateway of callers that send tensors to KServe themselves",
                place="entrance.reference", needs=("RAW_DOMAIN", "KSERVE_NAMESPACE")),
        Setting("RAW_DOMAIN", kinds.DOMAIN, "", _WORK,
                "the domain that those callers use", place="entrance.domain",
                needs=("RAW_GATEWAY",)),
    )),
)
# fmt: on

SETTINGS: Final = tuple(s for group in GROUPS for s in group.settings)
DEFAULTS: Final = {s.name: s.default for s in SETTINGS}
"""Name without `PREFIX` → default."""

CONSTANTS: Final = {"MAX_IN_FLIGHT": "1024", "OIDC_LEEWAY_S": "30"}
"""Settings of earlier releases → their only value now. A variable with that value is no mistake: a
running supervisor of such a release hands it down to children of this one."""

PORTS: Final = tuple(s for s in SETTINGS if s.name.endswith("_PORT"))
