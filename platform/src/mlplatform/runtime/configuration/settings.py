"""`Settings`, parsed from environment variables.

Each setting's name, type and default are in `declarations`. A new one takes a row there and the
field of `Settings` that the row names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Final

from mlplatform.runtime.configuration import home_marks, variables
from mlplatform.runtime.configuration.declarations import PORTS, PREFIX, SETTINGS
from mlplatform.runtime.configuration.entrance import Entrance
from mlplatform.runtime.configuration.identity_provider import IdentityProvider
from mlplatform.runtime.configuration.issuer import Issuer
from mlplatform.runtime.configuration.kinds import (
    NO_FOLDERS,
    ClockMode,
    Durability,
    Folders,
    KeyClaims,
    Level,
    Profile,
    TrainingEngine,
)
from mlplatform.runtime.configuration.neighbours import has_neighbours
from mlplatform.runtime.configuration.on_kubernetes import Argo, OnKServe
from mlplatform.runtime.configuration.servers import HERE, PREFECT_AUTH, Servers
from mlplatform.runtime.errors import (
    Busy,
    ConfigInvalid,
    MissingHere,
    PlatformError,
    SettingsInvalid,
)
from mlplatform.runtime.storage import addresses, private_folder
from mlplatform.runtime.storage.addresses import Address, Brokers

_DEFAULTS: Final[Mapping[str, Any]] = {s.name: variables.value(s, {}) for s in SETTINGS}


@dataclass(frozen=True, slots=True)
class Home:
    """The folder that holds all state (0700), and the names within it.

    Args:
        shared_bundles: a folder for bundles outside of the home folder, on a volume that predictors
            also read; None: bundles are in the home folder.
        shared_pseudonym_key: file with a key that several home folders share; None: the home folder
            has its own.
        has_neighbours: whether other users may work on this machine; not so in a pod.
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
    def pushes_db(self) -> Path:
        return self.root / "pushes.db"

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
        """The folder of inputs of jobs, until the jobs have ended."""
        return self.root / "staging"

    @property
    def batches(self) -> Path:
        return self.root / "batches"

    @property
    def measured(self) -> Path:
        """The folder of what flows saw last, for the exporter: small files that the next run
        replaces."""
        return self.root / "measured"

    @property
    def interim_analyses(self) -> Path:
        """The folder of interim analyses, a file for each step of a rollout, for pictures."""
        return self.root / "looks"

    @property
    def counted(self) -> Path:
        """The folder of passes' counts of the decision log; it can be computed again from the
        log."""
        return self.root / "counted"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def audit(self) -> Path:
        """The folder of refusals, each with the rule that refused."""
        return self.root / "audit"

    @property
    def demo(self) -> Path:
        return self.root / "demo"

    @property
    def restoring(self) -> Path:
        """The folder of a restore's files that are not in their places yet; while it exists, the
        home is incomplete."""
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

    @property
    def is_made(self) -> bool:
        """Whether a platform, or a command that brings it data, has made this folder a home."""
        return home_marks.is_home(self.root)

    def absence(self) -> PlatformError:
        """Error for a home that is not made: it names the folder, and how to name another one."""
        if self.root.is_file():
            wanted = "the folder of a platform; this is a file"
            return ConfigInvalid(f"{PREFIX}HOME", str(self.root), wanted)
        other = home_marks.other_content(self.root, f"{PREFIX}HOME")
        return other or MissingHere("platform", self.root)

    def create(self) -> None:
        """Make the folder, readable by its owner alone, as is all that this process makes, and left
        out by git. A volume of bundles is left as it is: not every process that is told of it has
        it.

        Raises:
            ConfigInvalid: the folder can't be made, belongs to somebody else, lies where somebody
                else can replace it, or holds other files and is no home; nothing was changed.
            Busy: a restore into this home is under way, or was interrupted.
        """
        if self.restoring.exists():
            raise Busy(
                f"a restore into {self.root} is under way or was cut off: wait for it, or empty"
                " the folder and restore again"
            )
        os.umask(private_folder.OTHERS)
        try:
            if other := home_marks.other_content(self.root, f"{PREFIX}HOME"):
                raise other
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            private_folder.claim(self.root, f"{PREFIX}HOME", has_neighbours=self.has_neighbours)
            ignored = self.root / ".gitignore"
            if not self.run.exists() and not ignored.exists():
                ignored.write_text("*\n")  # first: secrets follow, which are for no repository
        except OSError as error:
            wanted = f"a folder that can be made and is yours ({error.strerror})"
            raise ConfigInvalid(f"{PREFIX}HOME", str(self.root), wanted) from error
        within = () if self.shared_bundles else ("bundles",)
        for name in (*home_marks.FOLDERS, *within):
            (self.root / name).mkdir(mode=0o700, exist_ok=True)

    @contextmanager
    def created(self) -> Iterator[None]:
        """Make the folder for the work of the block. If the block fails, a home that was not there
        before, and in which nothing was stored, is removed.

        Raises:
            ConfigInvalid, Busy: for the same reasons as in `create`.
        """
        was_there, was_made = self.root.exists(), self.is_made
        self.create()
        try:
            yield
        except BaseException:
            if not was_made:
                home_marks.remove_unused(self.root, keeps_root=was_there)
            raise

    def close_to_others(self) -> None:
        """Close to others what an earlier version, or a person, left open in the folder.

        Raises:
            ConfigInvalid: something within belongs to somebody else.
        """
        private_folder.narrow(self.root, left_alone=("bundles",))


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of an installation.

    A field means what its row of `declarations` says, and has the row's default.

    Args:
        kafka: None means the embedded topics.
        oidc: None means that only API keys are accepted.
        identity_provider: None means that people sign in with their keys only.
        argo: None means that a pool of processes on this machine runs heavy jobs.
        bundle_store: empty means that the folder of bundles has all there are.
        postgres, redis, mlflow_postgres: None means SQLite in the home folder.
        kserve: None means that predictors are processes of this machine.
        entrance: entrance for clients that call KServe's predictors directly; None if there are
            none.
        servers: parts of this platform that run on other machines.
    """

    home: Home
    clock: ClockMode
    gateway_port: int
    prefect_port: int
    mlflow_port: int
    page_port: int = _DEFAULTS["PAGE_PORT"]
    gateways: int = _DEFAULTS["GATEWAYS"]
    durability: Durability = _DEFAULTS["DURABILITY"]
    key_claims: KeyClaims = _DEFAULTS["KEY_CLAIMS"]
    spill_max_mib: int = _DEFAULTS["SPILL_MAX_MIB"]
    kafka: Brokers | None = None
    gateway_grpc_port: int = _DEFAULTS["GATEWAY_GRPC_PORT"]
    oidc: Issuer | None = None
    identity_provider: IdentityProvider | None = None
    otlp_endpoint: str = ""
    trace_share: float = _DEFAULTS["TRACE_SHARE"]
    log_level: Level = _DEFAULTS["LOG_LEVEL"]
    job_processes: int = _DEFAULTS["JOB_PROCESSES"]
    training_engine: TrainingEngine = _DEFAULTS["TRAINING_ENGINE"]
    argo: Argo | None = None
    postgres: Address | None = None
    redis: Address | None = None
    kserve: OnKServe | None = None
    entrance: Entrance | None = None
    mlflow_postgres: Address | None = None
    mlflow_artifacts: str = ""
    bundle_store: str = ""
    bundle_cache_mib: int = _DEFAULTS["BUNDLE_CACHE_MIB"]
    bundle_volume_mib: int = _DEFAULTS["BUNDLE_VOLUME_MIB"]
    servers: Servers = HERE
    receivers: Path | None = None
    models: Folders = NO_FOLDERS
    profile: Profile = _DEFAULTS["PROFILE"]

    @property
    def gateway_url(self) -> str:
        return self.servers.gateway or f"http://127.0.0.1:{self.gateway_port}"

    @property
    def gateway_grpc_target(self) -> str | None:
        """The target for clients of gRPC; None if nothing listens."""
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
    def is_elsewhere(self) -> bool:
        """Whether a server of the platform is named, so that it needs no home folder here."""
        found = (self.servers.gateway, self.servers.prefect, self.servers.mlflow)
        return self.postgres is not None or any(found)

    @property
    def mlflow_token_file(self) -> Path:
        return self.servers.mlflow_token_file or self.home.mlflow_token

    def environment(self) -> dict[str, str]:
        """The variables that give a child process these same settings."""
        return {
            s.variable: s.default if (found := _at(self, s.field)) is None else str(found)
            for s in SETTINGS
            if s.field is not None
        }


def load(environment: Mapping[str, str]) -> Settings:
    """Settings from MLPLATFORM_* variables; every one has a default.

    Raises:
        ConfigInvalid: variables are wrong; the message has the name and the value of each, and what
            is wanted. It is also an error if nothing reads a variable, if a variable needs another
            one that is missing, if two variables name one port, or if a variable that the cluster
            profile needs is missing.
    """
    values, problems = variables.parse(environment)
    problems += _conflicts(values)
    servers: dict[str, Any] = {}
    for name, parse in _SERVERS.items():
        try:
            servers[name] = parse(f"{PREFIX}{name.upper()}", environment)
        except ConfigInvalid as error:
            problems.append(error)
    auth = environment.get(PREFECT_AUTH, "")
    if auth and ":" not in auth:
        problems.append(ConfigInvalid(PREFECT_AUTH, "...", "user:password"))
    if problems:
        raise problems[0] if len(problems) == 1 else SettingsInvalid(problems)
    oidc, argo, kserve = (_below(values, name) for name in ("oidc", "argo", "kserve"))
    provider = _below(values, "identity_provider")
    gateway, _, name = (values["RAW_GATEWAY"] or "").partition("/")
    return Settings(
        home=home_of(environment),
        oidc=Issuer(**oidc) if "url" in oidc else None,
        identity_provider=IdentityProvider(**provider) if "url" in provider else None,
        argo=Argo(**argo) if argo else None,
        kserve=OnKServe(**kserve) if kserve else None,
        entrance=Entrance(gateway, name, values["RAW_DOMAIN"]) if gateway else None,
        servers=Servers(**_below(values, "servers"), prefect_auth=auth),
        **servers,
        **_below(values, ""),
    )


def home_of(environment: Mapping[str, str]) -> Home:
    """The home folder, for code that needs no other setting.

    Raises:
        ConfigInvalid: the profile, or a variable that gives the place of the home, is wrong.
    """
    of_home = (s for s in SETTINGS if s.name == "PROFILE" or (s.field or "").startswith("home."))
    values = {s.name: variables.value(s, environment) for s in of_home}
    return Home(**_below(values, "home"), has_neighbours=has_neighbours(environment))


def log_level(environment: Mapping[str, str]) -> Level:
    """The level from which a process writes log lines, for one that needs no other setting.

    Raises:
        ConfigInvalid: the variable names no level.
    """
    (setting,) = (s for s in SETTINGS if s.name == "LOG_LEVEL")
    level: Level = variables.value(setting, environment)
    return level


_SERVERS: dict[str, Callable[[str, Mapping[str, str]], Address | Brokers | None]] = {
    "postgres": addresses.postgres,
    "redis": addresses.redis,
    "kafka": addresses.kafka,
    "mlflow_postgres": addresses.postgres,
}


def _at(settings: object, field: str) -> Any:
    """The value of a field, named with dots; None if a part on the way is None."""
    return reduce(
        lambda o, name: None if o is None else getattr(o, name), field.split("."), settings
    )


def _below(values: Mapping[str, Any], parent: str) -> dict[str, Any]:
    """The values of the fields of one part of the settings; of the settings themselves for ""."""
    named = (
        (*s.field.rpartition("."), values[s.name]) for s in SETTINGS if s.field and s.name in values
    )
    return {name: value for of, _, name, value in named if of == parent and value is not None}


def _conflicts(values: Mapping[str, Any]) -> Iterator[ConfigInvalid]:
    """The errors of values that exclude each other."""
    if values["KSERVE_PROMETHEUS"] and values["KSERVE_REPLICAS"]:
        wanted = "nothing beside KSERVE_PROMETHEUS: an autoscaler chooses the number"
        yield ConfigInvalid(f"{PREFIX}KSERVE_REPLICAS", values["KSERVE_REPLICAS"], wanted)
    if values["KEY_CLAIMS"] != "own" and not values["REDIS"]:
        wanted = f"own, or {PREFIX}REDIS with the server where gateways claim keys"
        yield ConfigInvalid(f"{PREFIX}KEY_CLAIMS", values["KEY_CLAIMS"], wanted)
    in_bucket = (values["BUNDLE_STORE"] or "").startswith("s3://")
    if values["KSERVE_NAMESPACE"] and not (values["KSERVE_BUNDLES"] or in_bucket):
        wanted = f"s3://bucket/prefix, or {PREFIX}KSERVE_BUNDLES with a volume that pods mount"
        yield ConfigInvalid(f"{PREFIX}BUNDLE_STORE", values["BUNDLE_STORE"], wanted)
    folder = values["BUNDLES"] or (values["HOME"] or Path()) / "bundles"
    if values["BUNDLE_STORE"] and Path(values["BUNDLE_STORE"]) == folder:
        wanted = "another folder than that of this machine's bundles, which is emptied at times"
        yield ConfigInvalid(f"{PREFIX}BUNDLE_STORE", values["BUNDLE_STORE"], wanted)
    owners: dict[int, str] = {}
    for name in (port.name for port in PORTS):
        other = owners.setdefault(values[name] or 0, name)
        if other != name and values[name]:
            wanted = f"another port than that of {PREFIX}{other}"
            yield ConfigInvalid(PREFIX + name, values[name], wanted)
