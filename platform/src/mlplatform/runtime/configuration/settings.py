"""`Settings`, parsed from environment variables.

Names and defaults are in `declarations`. A new setting takes a row there, a field of `Settings`, a
variable in `Settings.environment` (for child processes), and a reader in `load`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from mlplatform.runtime.configuration import variables
from mlplatform.runtime.configuration.declarations import DEFAULTS, PREFIX
from mlplatform.runtime.configuration.entrance import Entrance, entrance
from mlplatform.runtime.configuration.issuer import Issuer, issuer
from mlplatform.runtime.configuration.profile import VARIABLE as PROFILE
from mlplatform.runtime.configuration.profile import Profile, profile
from mlplatform.runtime.configuration.servers import HERE, Servers, servers
from mlplatform.runtime.errors import Busy, ConfigInvalid
from mlplatform.runtime.storage import addresses, private_folder
from mlplatform.runtime.storage.addresses import Address, Brokers

Level = Literal["debug", "info", "warning"]
MAX_GATEWAYS = 64
MAX_SPILL_MIB = 65_536
MAX_IN_FLIGHT = 100_000
MAX_JOB_PROCESSES = 64
MAX_REPLICAS = 64


@dataclass(frozen=True, slots=True)
class Home:
    """The one folder that holds all state (0700), and the names of what lies in it.

    Args:
        shared_bundles: a folder outside of it, on a volume that predictors read too; None: within.
        shared_pseudonym_key: the file of a key that several homes have in common; None: its own.
        has_neighbours: whether other users may work on its machine; in a pod there are none.
    """

    root: Path
    shared_bundles: Path | None = None
    shared_pseudonym_key: Path | None = None
    has_neighbours: bool = True

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def traces(self) -> Path:
        return self.root / "traces"

    @property
    def decisions(self) -> Path:
        return self.root / "decisions"

    @property
    def rollouts_db(self) -> Path:
        return self.root / "rollouts.db"

    @property
    def online_db(self) -> Path:
        return self.root / "online.db"

    @property
    def admission_db(self) -> Path:
        return self.root / "admission.db"

    @property
    def topics_db(self) -> Path:
        return self.root / "topics.db"

    @property
    def bundles(self) -> Path:
        return self.shared_bundles or self.root / "bundles"

    @property
    def serving(self) -> Path:
        return self.root / "serving"

    @property
    def mlflow(self) -> Path:
        return self.root / "mlflow"

    @property
    def prefect(self) -> Path:
        return self.root / "prefect"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def staging(self) -> Path:
        """Inputs of jobs, until they have ended."""
        return self.root / "staging"

    @property
    def batches(self) -> Path:
        return self.root / "batches"

    @property
    def measured(self) -> Path:
        """What flows saw last, for whoever scrapes: small files that the next run replaces."""
        return self.root / "measured"

    @property
    def counted(self) -> Path:
        """What passes have counted of the decision log: it follows from the log."""
        return self.root / "counted"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def audit(self) -> Path:
        """What was refused, and by which rule."""
        return self.root / "audit"

    @property
    def demo(self) -> Path:
        return self.root / "demo"

    @property
    def restoring(self) -> Path:
        """What a restore has not put in its place yet; while it is there, the rest is not whole."""
        return self.root / ".restoring"

    @property
    def pseudonym_key(self) -> Path:
        return self.shared_pseudonym_key or self.secrets / "pseudonym.key"

    @property
    def api_key(self) -> Path:
        return self.secrets / "api.key"

    @property
    def predictor_token(self) -> Path:
        return self.run / "predictor.token"

    @property
    def worker_token(self) -> Path:
        return self.run / "worker.token"

    @property
    def exporter_token(self) -> Path:
        return self.run / "exporter.token"

    @property
    def mlflow_token(self) -> Path:
        return self.run / "mlflow.token"

    @property
    def prefect_token(self) -> Path:
        return self.run / "prefect.token"

    @property
    def approval_key(self) -> Path:
        return self.secrets / "approval.key"

    @property
    def page_token(self) -> Path:
        return self.run / "page.token"

    def offline(self, model: str) -> Path:
        return self.root / "offline" / model

    def create(self) -> None:
        """Make the folder, readable by its owner alone, as is all that this process makes.

        Raises:
            ConfigInvalid: it can't be made, belongs to somebody else, or lies where somebody else
                may put another in its place.
            Busy: a restore is under way here, or was cut off.
        """
        if self.restoring.exists():
            raise Busy(
                f"a restore into {self.root} is under way or was cut off: wait for it, or empty"
                " the folder and restore again"
            )
        os.umask(private_folder.OTHERS)
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            private_folder.claim(self.root, f"{PREFIX}HOME", has_neighbours=self.has_neighbours)
        except OSError as error:
            wanted = f"a folder that can be made and is yours ({error.strerror})"
            raise ConfigInvalid(f"{PREFIX}HOME", str(self.root), wanted) from error
        for folder in (self.secrets, self.run, self.logs, self.bundles):
            folder.mkdir(mode=0o700, exist_ok=True)

    def close_to_others(self) -> None:
        """Close what an earlier version, or a person, left open within. Bundles are read by who
        may read the folder that they lie in, and say so themselves.

        Raises:
            ConfigInvalid: something within belongs to somebody else.
        """
        private_folder.narrow(self.root, left_alone=("bundles",))


@dataclass(frozen=True, slots=True)
class Argo:
    """Where jobs run as workflows of Argo.

    Args:
        namespace: of the workflows and their templates (`argo/`).
        artifacts: URI of what the namespace's default artifact repository names: s3://bucket.
    """

    namespace: str
    artifacts: str


@dataclass(frozen=True, slots=True)
class OnKServe:
    """Where a cluster's predictors are.

    Args:
        namespace: of their InferenceServices.
        bundles: `pvc://claim` or `pvc://claim/folder`: the shared volume that is mounted as this
            platform's `<home>/bundles` (or where `MLPLATFORM_BUNDLES` says), as pods of that
            namespace name it.
        replicas: pods of each version, on a cluster that has no room for as many as the model's
            tier asks for; None: as many as that.
        prometheus: URL of the Prometheus that scrapes the predictors, as KEDA's operator reaches
            it; None: no autoscaler.
    """

    namespace: str
    bundles: str
    replicas: int | None = None
    prometheus: str | None = None

    def storage_uri(self, folder: Path) -> str:
        """Of a bundle's folder."""
        return f"{self.bundles}/{folder.name}"

    def environment(self) -> dict[str, str]:
        return {
            f"{PREFIX}KSERVE_NAMESPACE": self.namespace,
            f"{PREFIX}KSERVE_BUNDLES": self.bundles,
            f"{PREFIX}KSERVE_REPLICAS": str(self.replicas or ""),
            **({f"{PREFIX}KSERVE_PROMETHEUS": self.prometheus} if self.prometheus else {}),
        }


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that may differ between two installations.

    Args:
        profile: `cluster` where every server was to be named, and is.
        gateways: processes that answer together on `gateway_port`; about one for each core.
        durability: what an answer that was given survives: the death of any process, or the loss of
            power as well (an fsync for each commit).
        spill_max_mib: how much each gateway process may keep while the decision log is down.
        gateway_grpc_port: of gRPC scoring, shared by the gateway processes; 0: none listens.
        kafka: brokers of the topics; None: the embedded topics.
        oidc: whose tokens are taken beside API keys.
        otlp_endpoint: of the collector that gets spans, http://host:port; empty: they are kept in
            files of the home folder, of bounded size.
        trace_share: of the requests that nothing else speaks for, whose spans are built.
        log_level: from which on lines are written; of debug lines a tenth (`retention`).
        job_processes: how many processes of heavy jobs run at a time; 0: no pool runs them, and
            each flow run starts one of its own, which ends with it.
        argo: who runs heavy jobs; None: a pool of processes on this machine.
        postgres: of rollouts, routes, incidents and keys; None: SQLite in the home folder.
        redis: of online features and token buckets; None: SQLite in the home folder.
        kserve: of the predictors; None: processes of this machine.
        entrance: of clients that call KServe's predictors past the gateway; None: there are none.
        mlflow_postgres: a database of MLflow's own; None: SQLite in the home folder.
        mlflow_artifacts: s3://bucket/prefix of bundles; empty: the home folder.
        servers: of this platform that are not on this machine.
        receivers: the file of who is told of rollouts and incidents; None: nobody is.
    """

    home: Home
    clock: Literal["system", "replay"]
    gateway_port: int
    prefect_port: int
    mlflow_port: int
    page_port: int = int(DEFAULTS["PAGE_PORT"])
    gateways: int = int(DEFAULTS["GATEWAYS"])
    durability: Literal["process", "disk"] = "process"
    spill_max_mib: int = int(DEFAULTS["SPILL_MAX_MIB"])
    max_in_flight: int = int(DEFAULTS["MAX_IN_FLIGHT"])
    """Requests that one gateway process answers at a time."""
    kafka: Brokers | None = None
    gateway_grpc_port: int = 0
    oidc: Issuer | None = None
    otlp_endpoint: str = ""
    trace_share: float = float(DEFAULTS["TRACE_SHARE"])
    log_level: Level = "info"
    job_processes: int = int(DEFAULTS["JOB_PROCESSES"])
    argo: Argo | None = None
    postgres: Address | None = None
    redis: Address | None = None
    kserve: OnKServe | None = None
    entrance: Entrance | None = None
    mlflow_postgres: Address | None = None
    mlflow_artifacts: str = ""
    servers: Servers = HERE
    receivers: Path | None = None
    profile: Profile = "embedded"

    @property
    def gateway_url(self) -> str:
        return self.servers.gateway or f"http://127.0.0.1:{self.gateway_port}"

    @property
    def gateway_grpc_target(self) -> str | None:
        """As clients of gRPC take it; None where none listens."""
        return f"127.0.0.1:{self.gateway_grpc_port}" if self.gateway_grpc_port else None

    @property
    def prefect_url(self) -> str:
        return self.servers.prefect or f"http://127.0.0.1:{self.prefect_port}"

    @property
    def mlflow_url(self) -> str:
        return self.servers.mlflow or f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def page_url(self) -> str:
        return self.servers.page or f"http://127.0.0.1:{self.page_port}"

    @property
    def mlflow_token_file(self) -> Path:
        return self.servers.mlflow_token_file or self.home.mlflow_token

    def environment(self) -> dict[str, str]:
        """The variables that give a child process these same settings."""
        return {
            PROFILE: self.profile,
            f"{PREFIX}HOME": str(self.home.root),
            f"{PREFIX}CLOCK": self.clock,
            f"{PREFIX}GATEWAY_PORT": str(self.gateway_port),
            f"{PREFIX}PREFECT_PORT": str(self.prefect_port),
            f"{PREFIX}MLFLOW_PORT": str(self.mlflow_port),
            f"{PREFIX}PAGE_PORT": str(self.page_port),
            f"{PREFIX}DURABILITY": self.durability,
            f"{PREFIX}SPILL_MAX_MIB": str(self.spill_max_mib),
            f"{PREFIX}GATEWAYS": str(self.gateways),
            f"{PREFIX}MAX_IN_FLIGHT": str(self.max_in_flight),
            f"{PREFIX}JOB_PROCESSES": str(self.job_processes),
            f"{PREFIX}GATEWAY_GRPC_PORT": str(self.gateway_grpc_port),
            f"{PREFIX}OTLP_ENDPOINT": self.otlp_endpoint,
            f"{PREFIX}TRACE_SHARE": f"{self.trace_share:.6f}",
            f"{PREFIX}LOG_LEVEL": self.log_level,
            **(_argo_variables(self.argo) if self.argo else {}),
            **(self.oidc.environment() if self.oidc else {}),
            **addresses.variables(f"{PREFIX}POSTGRES", self.postgres),
            **addresses.variables(f"{PREFIX}REDIS", self.redis),
            **addresses.variables(f"{PREFIX}KAFKA", self.kafka),
            **(self.kserve.environment() if self.kserve else {}),
            **(self.entrance.environment() if self.entrance else {}),
            **addresses.variables(f"{PREFIX}MLFLOW_POSTGRES", self.mlflow_postgres),
            f"{PREFIX}MLFLOW_ARTIFACTS": self.mlflow_artifacts,
            **self.servers.environment(),
            f"{PREFIX}RECEIVERS": str(self.receivers or ""),
            f"{PREFIX}BUNDLES": str(self.home.shared_bundles or ""),
            f"{PREFIX}PSEUDONYM_KEY_FILE": str(self.home.shared_pseudonym_key or ""),
        }


def load(environment: Mapping[str, str]) -> Settings:
    """Settings from MLPLATFORM_* variables; every one has a default.

    Raises:
        ConfigInvalid: names the variable, its value and what is wanted; or a variable that nothing
            reads; or two that name one port.
    """
    variables.check(environment)
    asked = profile(environment)
    clock = environment.get(f"{PREFIX}CLOCK", DEFAULTS["CLOCK"])
    if clock not in ("system", "replay"):
        raise ConfigInvalid(f"{PREFIX}CLOCK", clock, "system or replay")
    durability = environment.get(f"{PREFIX}DURABILITY", DEFAULTS["DURABILITY"])
    if durability not in ("process", "disk"):
        raise ConfigInvalid(f"{PREFIX}DURABILITY", durability, "process or disk")
    settings = Settings(
        home=_home(environment),
        clock="replay" if clock == "replay" else "system",
        gateway_port=_port(environment, "GATEWAY_PORT"),
        prefect_port=_port(environment, "PREFECT_PORT"),
        mlflow_port=_port(environment, "MLFLOW_PORT"),
        page_port=_port(environment, "PAGE_PORT"),
        durability="disk" if durability == "disk" else "process",
        spill_max_mib=_number(environment, "SPILL_MAX_MIB", most=MAX_SPILL_MIB, wanted="MiB"),
        gateways=_number(environment, "GATEWAYS", most=MAX_GATEWAYS, wanted="gateway processes"),
        max_in_flight=_number(
            environment, "MAX_IN_FLIGHT", most=MAX_IN_FLIGHT, wanted="requests at a time"
        ),
        job_processes=_number(
            environment,
            "JOB_PROCESSES",
            least=0,
            most=MAX_JOB_PROCESSES,
            wanted="processes of jobs",
        ),
        argo=_argo(environment),
        kafka=addresses.kafka(f"{PREFIX}KAFKA", environment),
        gateway_grpc_port=(
            0
            if environment.get(f"{PREFIX}GATEWAY_GRPC_PORT", "0") == "0"
            else _port(environment, "GATEWAY_GRPC_PORT")
        ),
        oidc=issuer(environment),
        otlp_endpoint=_endpoint(environment),
        trace_share=_share(environment),
        log_level=log_level(environment),
        postgres=addresses.postgres(f"{PREFIX}POSTGRES", environment),
        redis=addresses.redis(f"{PREFIX}REDIS", environment),
        kserve=_kserve(environment),
        entrance=entrance(environment),
        mlflow_postgres=addresses.postgres(f"{PREFIX}MLFLOW_POSTGRES", environment),
        mlflow_artifacts=_artifacts(environment),
        servers=servers(environment),
        receivers=_path(environment, "RECEIVERS"),
        profile=asked,
    )
    _check_ports(settings)
    return settings


def _home(environment: Mapping[str, str]) -> Home:
    return Home(
        Path(environment.get(f"{PREFIX}HOME", DEFAULTS["HOME"])).absolute(),
        _path(environment, "BUNDLES"),
        _path(environment, "PSEUDONYM_KEY_FILE"),
        has_neighbours=profile(environment) == "embedded",
    )


def _path(environment: Mapping[str, str], name: str) -> Path | None:
    value = environment.get(f"{PREFIX}{name}", "")
    return Path(value).absolute() if value else None


def _check_ports(settings: Settings) -> None:
    ports = {
        "GATEWAY_PORT": settings.gateway_port,
        "GATEWAY_GRPC_PORT": settings.gateway_grpc_port,
        "PREFECT_PORT": settings.prefect_port,
        "MLFLOW_PORT": settings.mlflow_port,
        "PAGE_PORT": settings.page_port,
    }
    owners: dict[int, str] = {}
    for name, port in ports.items():
        other = owners.setdefault(port, name)
        if other != name and port != 0:
            wanted = f"another port than that of {PREFIX}{other}"
            raise ConfigInvalid(PREFIX + name, port, wanted)


def _argo(environment: Mapping[str, str]) -> Argo | None:
    namespace, artifacts = (
        environment.get(f"{PREFIX}{name}", "") for name in ("ARGO_NAMESPACE", "ARTIFACTS")
    )
    if not namespace and not artifacts:
        return None
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", namespace):
        raise ConfigInvalid(f"{PREFIX}ARGO_NAMESPACE", namespace, "a namespace of Kubernetes")
    if not re.fullmatch(r"s3://[^@]+|file:///.+", artifacts):
        raise ConfigInvalid(f"{PREFIX}ARTIFACTS", artifacts, "s3://bucket, without credentials")
    return Argo(namespace, artifacts)


def _argo_variables(argo: Argo) -> dict[str, str]:
    return {
        f"{PREFIX}ARGO_NAMESPACE": argo.namespace,
        f"{PREFIX}ARTIFACTS": argo.artifacts,
    }


def _kserve(environment: Mapping[str, str]) -> OnKServe | None:
    namespace = environment.get(f"{PREFIX}KSERVE_NAMESPACE", "")
    bundles = environment.get(f"{PREFIX}KSERVE_BUNDLES", "")
    prometheus = environment.get(f"{PREFIX}KSERVE_PROMETHEUS", "")
    if not namespace and not bundles and not prometheus:
        return None
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", namespace):
        raise ConfigInvalid(f"{PREFIX}KSERVE_NAMESPACE", namespace, "a namespace of the cluster")
    if not re.fullmatch(r"pvc://[a-z0-9][-a-z0-9.]*(/[-A-Za-z0-9._]+)*", bundles):
        raise ConfigInvalid(f"{PREFIX}KSERVE_BUNDLES", bundles, "pvc://claim or pvc://claim/folder")
    if prometheus and not re.fullmatch(r"https?://[^/@\s]+(/[^\s?#]*)?", prometheus):
        raise ConfigInvalid(f"{PREFIX}KSERVE_PROMETHEUS", prometheus, "http(s)://host:port")
    if not environment.get(f"{PREFIX}KSERVE_REPLICAS"):
        return OnKServe(namespace, bundles, prometheus=prometheus or None)
    replicas = _number(environment, "KSERVE_REPLICAS", most=MAX_REPLICAS, wanted="pods")
    if prometheus:
        wanted = "nothing beside KSERVE_PROMETHEUS: an autoscaler chooses the number"
        raise ConfigInvalid(f"{PREFIX}KSERVE_REPLICAS", replicas, wanted)
    return OnKServe(namespace, bundles, replicas)


def _endpoint(environment: Mapping[str, str]) -> str:
    url = environment.get(f"{PREFIX}OTLP_ENDPOINT", "")
    if url and not re.fullmatch(r"https?://[^/\s?#@]+(/[^\s?#]*)?", url):
        raise ConfigInvalid(f"{PREFIX}OTLP_ENDPOINT", url, "the collector's http://host:port")
    return url


def _artifacts(environment: Mapping[str, str]) -> str:
    place = environment.get(f"{PREFIX}MLFLOW_ARTIFACTS", "")
    if place and not re.fullmatch(r"s3://[a-z0-9.-]+(/[^\s?#]*)?", place):
        raise ConfigInvalid(f"{PREFIX}MLFLOW_ARTIFACTS", place, "s3://bucket/prefix")
    return place


def _share(environment: Mapping[str, str]) -> float:
    text = environment.get(f"{PREFIX}TRACE_SHARE", DEFAULTS["TRACE_SHARE"])
    if not re.fullmatch(r"[01]?\.?[0-9]{1,6}", text) or not 0 <= float(text) <= 1:
        raise ConfigInvalid(f"{PREFIX}TRACE_SHARE", text, "a share, 0 to 1")
    return float(text)


def log_level(environment: Mapping[str, str]) -> Level:
    """From which on a process writes lines, for one that needs no other setting.

    Raises:
        ConfigInvalid: it is none.
    """
    text = environment.get(f"{PREFIX}LOG_LEVEL", DEFAULTS["LOG_LEVEL"])
    for level in get_args(Level):
        if text == level:
            return level  # type: ignore[no-any-return]
    raise ConfigInvalid(f"{PREFIX}LOG_LEVEL", text, "debug, info or warning")


def _port(environment: Mapping[str, str], name: str) -> int:
    return _number(environment, name, most=65_535, wanted="a port")


def _number(
    environment: Mapping[str, str],
    name: str,
    *,
    least: int = 1,
    most: int,
    wanted: str,
) -> int:
    text = environment.get(PREFIX + name, DEFAULTS[name])
    if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
        raise ConfigInvalid(PREFIX + name, text, f"{wanted}, {least} to {most}")
    return int(text)
